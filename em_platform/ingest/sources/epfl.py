"""EPFL CVLab: the hippocampus by FIB-SEM, five TIFFs by their names."""

from pathlib import Path

from em_platform.config import Settings
from em_platform.errors import SourceRefused
from em_platform.formats import Volume
from em_platform.ingest.crawl import from_any
from em_platform.ingest.fetch import fetch_files
from em_platform.ingest.source import Progress
from em_platform.ingest.web import Web
from em_platform.model.ingest import Entry, RawItem, RemoteFile

_PAGE = "https://www.epfl.ch/labs/cvlab/data/data-em/"
_CITATION = (
    "Lucchi A, Smith K, Achanta R, Knott G, Fua P (2012). Supervoxel-based "
    "segmentation of mitochondria in EM image stacks with learned shape features. IEEE "
    "Transactions on Medical Imaging 31, 474-486. Lucchi A, Li Y, Fua P (2013). "
    "Learning for structured prediction using approximate subgradient descent with "
    "working sets. IEEE Conference on Computer Vision and Pattern Recognition, "
    "1987-1994."
)
_VOLUMES = {
    "volumedata": "the whole volume",
    "training": "training volume",
    "training_groundtruth": "mitochondria of the training volume",
    "testing": "testing volume",
    "testing_groundtruth": "mitochondria of the testing volume",
}


class Epfl:
    """The volumes of the hippocampus; see `ingest.source.Source`.

    The files state a resolution of 1 pixel per inch, and so no voxel size; that of the
    settings is taken.
    """

    name = "epfl"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._epfl = settings.ingest.epfl
        self._web = Web(self.name, self._epfl, settings.ingest.transfer)

    def list(self) -> tuple[str, ...]:
        found = tuple(_VOLUMES) if self._epfl.discover else ()
        return tuple(dict.fromkeys((*self._epfl.items, *found)))

    def describe(self, key: str) -> Entry:
        if key not in _VOLUMES:
            raise SourceRefused(
                f"epfl: no volume {key!r}, expected one of {', '.join(_VOLUMES)}; "
                "correct the item (--item, ingest.epfl.items)",
                key=key,
            )
        roots = [url.rstrip("/") for url in self._epfl.files_urls]
        urls = [f"{root}/{key}.tif" for root in roots]
        url, head = from_any(urls, self._web.head)
        file = RemoteFile(
            name=f"{key}.tif",
            url=url,
            mirrors=tuple(other for other in urls if other != url),
            size_bytes=head.size_bytes,
            etag=head.etag,
        )
        return Entry(
            source=self.name,
            key=key,
            source_id=key,
            title=f"CA1 hippocampus, {_VOLUMES[key]} (EPFL CVLab)",
            url=_PAGE,
            description=(
                "5 x 5 x 5 µm of the CA1 region of the hippocampus, imaged by FIB-SEM "
                f"with voxels of about 5 nm: {_VOLUMES[key]}."
            ),
            modality="FIB-SEM",
            content="labels" if key.endswith("groundtruth") else "grey",
            voxel_size_nm=self._epfl.voxel_size_nm,
            sample="CA1 region of the hippocampus",
            citation=_CITATION,
            doi="10.1109/CVPR.2013.259",
            aliases=("EPFL Hippocampus", "EPFL CVLab Hippocampus"),
            files=(file,),
            estimated_bytes=head.size_bytes,
            additional={
                "terms": "free for research; cite the papers",
                "mask": key.endswith("groundtruth"),
            },
            snapshot={
                "url": head.url,
                "size_bytes": head.size_bytes,
                "etag": head.etag,
                "modified": head.modified,
            },
        )

    def fetch(self, entry: Entry, folder: Path, progress: Progress) -> RawItem:
        return fetch_files(
            entry, folder, web=self._web, settings=self._settings, progress=progress
        )

    def open(self, entry: Entry, folder: Path) -> Volume:
        from em_platform.formats import open_volume

        return open_volume(str(folder / entry.files[0].name))
