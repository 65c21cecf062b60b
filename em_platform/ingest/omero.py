"""What an OMERO server says of its images, over its JSON API."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

from em_platform.errors import FormatError, SourceRefused
from em_platform.ingest.crawl import from_any
from em_platform.ingest.http_answers import Answer
from em_platform.ingest.web import Web
from em_platform.model.ingest import RemoteFile

_UNITS_NM = {
    "METER": 1e9,
    "CENTIMETER": 1e7,
    "MILLIMETER": 1e6,
    "MICROMETER": 1e3,
    "NANOMETER": 1.0,
    "ANGSTROM": 0.1,
    "PICOMETER": 1e-3,
}
"""Units of lengths; PIXEL and REFERENCEFRAME are none."""
# OMERO's usual page; its `maxLimit` is 500.
_PAGE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class OmeroImage:
    """One image; `shape` is z, y, x and `voxel_nm` has 0 for what is not known."""

    number: str
    name: str
    shape: tuple[int, int, int]
    dtype: str
    channels: int = 1
    times: int = 1
    voxel_nm: tuple[float, float, float] | None = None
    acquired: date | None = None
    description: str = ""
    answer: Answer = field(default_factory=dict, repr=False)


class Omero:
    """Asks one server; public images need no login.

    Raises
    ------
    FormatError
        An answer is not what the API promises.
    """

    def __init__(self, web: Web, url: str) -> None:
        self._web = web
        self._url = url.rstrip("/")

    def image(self, number: str) -> OmeroImage:
        """One image; some servers answer with a list of one."""
        answer = self._web.json(f"{self._url}/api/v0/m/images/{number}/")
        found = answer.get("data") if isinstance(answer, Mapping) else None
        if isinstance(found, list):
            found = found[0] if found else None
        return image_of(found, number)

    def image_numbers(self, dataset: str) -> Iterator[str]:
        """The numbers of all images of a dataset, page by page."""
        for found in self._all("images", dataset=dataset):
            yield str(found["@id"])

    def projects(self, number: str) -> tuple[str, ...]:
        """Names of the projects that hold an image; () where none is stated."""
        try:
            datasets = [d["@id"] for d in self._all("datasets", image=number)]
            return tuple(
                str(project.get("Name", ""))
                for dataset in datasets
                for project in self._all("projects", dataset=dataset)
            )
        except SourceRefused:
            return ()

    def annotations(self, number: str) -> dict[str, str]:
        """Key-value pairs of an image, such as Organism; {} where there are none."""
        url = f"{self._url}/webclient/api/annotations/"
        try:
            answer = self._web.json(url, {"type": "map", "image": number})
        except SourceRefused:
            return {}
        pairs: dict[str, str] = {}
        for annotation in answer.get("annotations", ()):
            for pair in annotation.get("values", ()):
                if len(pair) == 2:
                    pairs.setdefault(str(pair[0]), str(pair[1]))
        return pairs

    def imported_paths(self, number: str) -> tuple[str, ...]:
        """Paths from which an image's files were imported; () where IDR names none."""
        url = f"{self._url}/webgateway/original_file_paths/{number}/"
        try:
            answer = self._web.json(url)
        except SourceRefused:
            return ()
        return tuple(str(path) for path in answer.get("client") or ())

    def _all(self, kind: str, **filters: Any) -> Iterator[Answer]:
        url = f"{self._url}/api/v0/m/{kind}/"
        offset = 0
        while True:
            asked = {**filters, "limit": _PAGE, "offset": offset}
            answer = self._web.json(url, asked)
            found = answer.get("data") if isinstance(answer, Mapping) else None
            if not isinstance(found, list):
                raise FormatError(
                    f"{self._web.who}: {url} answered no list of {kind}; check the "
                    f"address in ingest.{self._web.who}.api_url",
                    url=url,
                )
            yield from found
            # Not by `_PAGE`: a server may have a smaller `maxLimit`.
            offset += len(found)
            # An empty page ends it also where `totalCount` is wrong.
            if not found or offset >= int(answer.get("meta", {}).get("totalCount", 0)):
                return


def image_of(answer: Any, number: str) -> OmeroImage:
    """The image in an answer; what is null there is left out, and so is not required.

    Raises
    ------
    FormatError
        It has no name, size or type.
    """
    try:
        pixels = answer["Pixels"]
        return OmeroImage(
            number=number,
            name=str(answer["Name"]),
            shape=(int(pixels["SizeZ"]), int(pixels["SizeY"]), int(pixels["SizeX"])),
            dtype=_dtype(str(pixels["Type"]["value"])),
            channels=int(pixels.get("SizeC", 1)),
            times=int(pixels.get("SizeT", 1)),
            voxel_nm=_voxel_nm(pixels),
            acquired=_day(answer.get("AcquisitionDate")),
            description=str(answer.get("Description") or ""),
            answer=answer,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"idr {number}: the server's answer is no image with name, size and type "
            f"({error!r} is missing or wrong); check ingest.idr.api_url",
            key=number,
        ) from error


def _voxel_nm(pixels: Answer) -> tuple[float, float, float] | None:
    z, y, x = (_length_nm(pixels.get(f"PhysicalSize{axis}")) for axis in "ZYX")
    return (z, y, x) if any((z, y, x)) else None


def _length_nm(answer: Answer | None) -> float:
    """A length with its unit; 0 where there is none or it is counted in pixels."""
    # Micrometres are the OME schema's default.
    if not answer or answer.get("Unit", "MICROMETER") not in _UNITS_NM:
        return 0.0
    length = (
        float(answer.get("Value") or 0) * _UNITS_NM[answer.get("Unit", "MICROMETER")]
    )
    # Drops what floats add to products of decimal fractions.
    return round(length, 6) if length > 0 else 0.0


def _dtype(value: str) -> str:
    # OMERO's words where numpy has others; a bit takes a byte here.
    return {"float": "float32", "double": "float64", "bit": "uint8"}.get(value, value)


def _day(milliseconds: Any) -> date | None:
    """The day of a moment in milliseconds since 1970."""
    if not isinstance(milliseconds, int | float) or not 0 < milliseconds < 4e12:
        return None  # a clock after 2096 is damage
    return datetime.fromtimestamp(milliseconds / 1000, UTC).date()


log = logging.getLogger(__name__)


def find_original(
    web: Web,
    roots: Sequence[str],
    *,
    image: str,
    name: str,
    paths: Sequence[str],
    folders: Sequence[str],
) -> RemoteFile:
    """The file at one of the `paths` below the roots of the archive.

    Where IDR names no path, or there is nothing, the file of the image's `name` is
    looked for in the `folders` of its study.

    Raises
    ------
    SourceRefused
        It is nowhere.
    SourceUnavailable
        The archive does not answer.
    """
    roots = [root.rstrip("/") for root in roots]
    named = [path for path in paths if PurePosixPath(path).name == name]
    for path in (named or paths)[:1]:
        try:
            # Quoted: a plus in a file's name is no blank.
            return _file(web, [f"{root}/{quote(path)}" for root in roots])
        except SourceRefused as error:
            log.info("%s; its folder is looked through", error)
    for folder in folders:
        places = [f"{root}/{quote(folder)}" for root in roots]
        _, listed = from_any(places, web.listing)
        if any(found.name == name and not found.is_folder for found in listed):
            return _file(web, [f"{place}/{quote(name)}" for place in places])
    where = ", ".join((*paths, *folders)) or "no folder of its study is known"
    raise SourceRefused(
        f"idr {image}: no original named {name!r} was found ({where}); check "
        "ingest.idr.files_urls",
        key=image,
    )


def _file(web: Web, urls: Sequence[str]) -> RemoteFile:
    url, head = from_any(urls, web.head)
    return RemoteFile(
        name=unquote(url.rpartition("/")[2]),
        url=url,
        mirrors=tuple(other for other in urls if other != url),
        size_bytes=head.size_bytes,
        etag=head.etag,
    )
