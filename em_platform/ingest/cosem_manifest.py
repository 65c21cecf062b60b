"""What OpenOrganelle's manifests say of a dataset.

Two shapes are published at https://github.com/janelia-cosem/fibsem-metadata: a manifest
with `metadata` and the images (`sources`), and the metadata alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from em_platform.errors import FormatError
from em_platform.formats import nm_of
from em_platform.ingest.http_answers import Answer

_DOI = "https://doi.org/"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFacts:
    """A dataset in words; text is empty where the manifest is silent."""

    title: str = ""
    description: str = ""
    organism: str = ""
    sample: str = ""
    license: str = ""
    citation: str = ""
    dois: tuple[tuple[str, str], ...] = ()
    """What it is of (`EM`, `Segmentations`), and the DOI."""
    imaging_start_date: date | None = None
    is_fibsem: bool = False
    voxel_size_nm: tuple[float, float, float] | None = None
    """z, y, x, as the microscope took it."""
    images: tuple[tuple[str, str], ...] = ()
    """The end of an image's URL behind the dataset, and what it is in words."""

    def doi(self, path: str) -> str:
        """The DOI of an image at that path in the dataset."""
        wanted = "segmentations" if "labels" in path.split("/") else "em"
        named = [doi for title, doi in self.dois if title.lower() == wanted]
        return (named or [doi for _, doi in self.dois] or [""])[0]

    def words_of(self, path: str) -> str:
        """What the image at that path (without its level) is."""
        return next((words for end, words in self.images if end == path), "")


def facts_of(manifest: Answer, *, url: str = "manifest") -> DatasetFacts:
    """The facts of a manifest, or of the metadata in one.

    Raises
    ------
    FormatError
        It is neither.
    """
    metadata = manifest.get("metadata", manifest)
    try:
        return _facts(metadata, manifest.get("sources") or {})
    # JSON of others: any part may be missing or of another type.
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"openorganelle: {url} is no manifest of a dataset ({error!r}), expected "
            "title, imaging and sample; correct metadata_url",
            url=url,
        ) from error


def _facts(metadata: Answer, sources: Answer) -> DatasetFacts:
    sample = metadata.get("sample") or {}
    imaging = metadata.get("imaging") or {}
    started = imaging.get("startDate")
    kinds = (*_texts(sample.get("type")), *_texts(sample.get("subtype")))
    return DatasetFacts(
        title=str(metadata["title"]),
        description=str(sample.get("description") or ""),
        organism=", ".join(_texts(sample.get("organism"))),
        sample=", ".join((*kinds, *_texts(sample.get("treatment")))),
        license=str(metadata.get("license") or ""),
        citation="; ".join(
            f"{each['title']}, {each['href']}"
            for each in metadata.get("publications") or ()
        ),
        dois=tuple(
            (str(each.get("title") or ""), str(each["href"]).removeprefix(_DOI))
            for each in metadata.get("DOI") or ()
        ),
        imaging_start_date=date.fromisoformat(started) if started else None,
        is_fibsem="primaryEnergy" in imaging,
        voxel_size_nm=_spacing(imaging.get("gridSpacing")),
        images=tuple(
            (_path_in_dataset(str(each["url"])), str(each.get("description") or ""))
            for each in sources.values()
        ),
    )


def _texts(value: str | Sequence[str] | None) -> tuple[str, ...]:
    if not value:
        return ()
    return (value,) if isinstance(value, str) else tuple(map(str, value))


def _spacing(
    spacing: Answer | None,
) -> tuple[float, float, float] | None:
    if not spacing:
        return None
    lengths = [nm_of(float(spacing["values"][a]), spacing["unit"]) for a in "zyx"]
    z, y, x = lengths
    return None if z is None or y is None or x is None else (z, y, x)


def _path_in_dataset(url: str) -> str:
    """`s3://bucket/ds/ds.n5/em/fibsem-uint16/` -> `em/fibsem-uint16`."""
    _, _, path = url.rstrip("/").partition("://")
    parts = path.split("/")
    inside = [n for n, part in enumerate(parts) if part.endswith((".n5", ".zarr"))]
    # Without a container, bucket and dataset come first.
    return "/".join(parts[inside[0] + 1 :] if inside else parts[2:])
