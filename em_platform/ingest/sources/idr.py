"""Image Data Resource: images by their number."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from em_platform.config import Settings
from em_platform.errors import SourceError, SourceRefused
from em_platform.formats import Volume
from em_platform.ingest.fetch import fetch_files
from em_platform.ingest.idr_study import (
    CODES,
    KNOWN,
    ImageMetadata,
    Study,
    ask_repository,
    code_of,
    public_path,
    together,
    voxel_of_name,
)
from em_platform.ingest.omero import Omero, OmeroImage, find_original
from em_platform.ingest.source import Progress
from em_platform.ingest.web import Web
from em_platform.model.ingest import Entry, RawItem, RemoteArray, RemoteFile
from em_platform.storage.layout import StorageOptions

log = logging.getLogger(__name__)

# Less than the difference of any two edges that the study's names state (3, 4, 20 nm).
_TOLERANCE = 0.02
_ALIASES = {
    # The source projects call this image so; it is a U2OS cell in an ImageJ TIFF.
    "9846137": ("IDR0086", "Hippocampus volume"),
}


class Idr:
    """Images of IDR, as originals or as OME-Zarr; see `ingest.source.Source`.

    An image that lies in IDR's bucket of OME-Zarr is read there, any other is fetched
    from the archive of originals.
    """

    name = "idr"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._idr = settings.ingest.idr
        self._web = Web(self.name, self._idr, settings.ingest.transfer)
        self._omero = Omero(self._web, self._idr.api_url)

    def list(self) -> tuple[str, ...]:
        keys = list(self._idr.items)
        if self._idr.discover:
            for dataset in self._idr.datasets:
                keys += self._omero.image_numbers(dataset)
        return tuple(dict.fromkeys(keys))

    def describe(self, key: str) -> Entry:
        if not key.isdigit():
            raise SourceRefused(
                f"idr: {key!r} is no image, expected its number such as 9846137; "
                "correct the item (--item, ingest.idr.items)",
                key=key,
            )
        image = self._omero.image(key)
        projects = [name for name in self._omero.projects(key) if code_of(name)]
        codes = [*map(code_of, projects), *filter(None, [CODES.get(key)])]
        published = ImageMetadata()
        if projects and self._idr.metadata_urls:
            published = ask_repository(
                self._web,
                self._idr.metadata_urls,
                project=projects[0],
                image=image.name,
            )
        annotations = {**published.annotations, **self._omero.annotations(key)}
        study = together(_study_of(codes, image), published.study)
        ngff = self._find_ngff(key, codes)
        files = () if ngff else (self._original(image, study, published),)
        one_channel = image.channels * image.times == 1
        return Entry(
            source=self.name,
            key=key,
            source_id=key,
            title=image.name,
            url=f"{self._idr.api_url.rstrip('/')}/webclient/?show=image-{key}",
            description=image.description or study.title or image.name,
            modality=study.modality,
            shape=image.shape if one_channel else None,
            dtype=image.dtype,
            voxel_size_nm=_voxel_nm(image),
            imaging_start_date=image.acquired,
            organism=annotations.get("Organism", study.organism),
            sample=_sample(annotations),
            license=study.license,
            citation=study.citation,
            doi=study.doi,
            aliases=_ALIASES.get(key, ()),
            files=files,
            array=_array(ngff, image) if ngff else None,
            estimated_bytes=files[0].size_bytes if files else _voxel_bytes(image),
            additional=_additional(image, study, codes),
            snapshot={"image": dict(image.answer), "annotations": annotations},
        )

    def fetch(self, entry: Entry, folder: Path, progress: Progress) -> RawItem:
        if entry.array is None:
            return fetch_files(
                entry, folder, web=self._web, settings=self._settings, progress=progress
            )
        from em_platform.formats import count_chunks

        counted = count_chunks(
            entry.array.url, format="zarr", options=self._options(entry.array)
        )
        return RawItem(
            expected_chunks=counted.expected,
            missing_chunks=counted.missing,
            missing=counted.missing_names,
            chunks_with_md5=counted.with_md5,
            size_bytes=counted.size_bytes or 0,
            digest=counted.digest,
        )

    def open(self, entry: Entry, folder: Path) -> Volume:
        from em_platform.formats import open_chunked, open_volume

        if entry.array is None:
            return open_volume(str(folder / entry.files[0].name))
        return open_chunked(
            entry.array.url, format="zarr", options=self._options(entry.array)
        )

    def _original(
        self, image: OmeroImage, study: Study, published: ImageMetadata
    ) -> RemoteFile:
        paths = [published.path] if published.path else self._imported_paths(image)
        return find_original(
            self._web,
            self._idr.files_urls,
            image=image.number,
            name=image.name,
            paths=paths,
            folders=study.folders,
        )

    def _imported_paths(self, image: OmeroImage) -> Sequence[str]:
        found = [*map(public_path, self._omero.imported_paths(image.number))]
        return [path for path in found if path]

    def _options(self, array: RemoteArray) -> StorageOptions:
        return {
            **array.options,
            "requests_at_once": self._idr.requests_at_once,
            "requests_per_second": self._idr.requests_per_second,
            "retries": self._settings.ingest.transfer.retries,
            "memory_limit_mb": self._idr.memory_limit_mb,
        }

    def _find_ngff(self, key: str, codes: Sequence[str]) -> str:
        """The image's address in the bucket of OME-Zarr; nothing where it is not."""
        for code in dict.fromkeys(codes):
            for root in self._idr.ngff_urls:
                url = f"{root.rstrip('/')}/v0.4/{code}/{key}.zarr"
                try:
                    # A bucket has no folders; each OME-Zarr 0.4 image has this file.
                    if self._web.has(f"{url}/.zattrs"):
                        return url
                except SourceError as error:
                    # No reason to fail: the original serves while the bucket is down.
                    log.warning("%s; the next address is asked", error)
        return ""


def _study_of(codes: Sequence[str], image: OmeroImage) -> Study:
    for code in codes:
        if code[:7] in KNOWN:
            return KNOWN[code[:7]]
    if not codes and "FIB-SEM" in image.name:
        return next(iter(KNOWN.values()))  # the only study with such images so far
    return Study(accession=codes[0][:7] if codes else "")


def _array(url: str, image: OmeroImage) -> RemoteArray:
    """The first channel at the first time, where there are several."""
    first: dict[str, int] = {}
    if image.channels > 1:
        first["channel"] = 0
    if image.times > 1:
        first["time"] = 0
    return RemoteArray(url=url, format="zarr", options=first)


def _voxel_bytes(image: OmeroImage) -> int:
    """Of one channel, uncompressed; what comes is less."""
    import numpy as np

    return math.prod(image.shape) * np.dtype(image.dtype).itemsize


def _voxel_nm(image: OmeroImage) -> tuple[float, float, float] | None:
    """OMERO's voxel, and where it has none that of the file's name.

    Where both state a length they should agree; the server's is used, for it is what
    the file says, too.
    """
    named = voxel_of_name(image.name)
    if image.voxel_nm is None or named is None:
        return image.voxel_nm or named
    pairs = list(zip(image.voxel_nm, named, strict=True))
    if any(stated and abs(stated - name) > _TOLERANCE * name for stated, name in pairs):
        log.warning(
            "idr %s: its voxel is %s nm (z, y, x), but its name %s says %s nm",
            *(image.number, image.voxel_nm, image.name, named),
        )
    z, y, x = (stated or name for stated, name in pairs)
    return z, y, x


def _sample(annotations: dict[str, str]) -> str:
    named = ("Cell Line", "Organism Part", "Tissue", "Cell Cycle Stage")
    return ", ".join(annotations[name] for name in named if annotations.get(name))


def _additional(
    image: OmeroImage, study: Study, codes: Sequence[str]
) -> dict[str, str | int | float | bool]:
    named = voxel_of_name(image.name)
    stated: dict[str, str | int | float | bool] = {
        "study": study.accession,
        "experiment": codes[0] if codes else "",
        "study_title": study.title,
        "paper_doi": study.paper_doi,
        "channels": image.channels,
        "times": image.times,
    }
    if named:
        stated["voxel_nm_in_name"] = " x ".join(f"{edge:g}" for edge in named)
    return {name: value for name, value in stated.items() if value != ""}
