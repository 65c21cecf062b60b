"""What EMPIAR says of an entry, in its API's JSON or in its archive's XML header."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from em_platform.errors import FormatError, SourceRefused
from em_platform.ingest.http_answers import Answer

_NUMBER = re.compile(
    r"(?:.*/world_availability/|.*/entry/|.*/)?(?:EMPIAR-)?(?P<number>\d{4,6})"
    r"(?:\.(?P<set>[1-9]\d?)(?:\.(?P<file>[1-9]\d*))?)?(?:/.*)?",
    re.IGNORECASE,
)
# ElementTree puts an element's namespace before its name, in braces.
_SPACE = re.compile(r"\{[^}]*\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """One set of images of an entry.

    `directory` is below the entry's folder and `pattern` too; `pixel_nm` is y, x. The
    `width_px`, `height_px` and `number` that are stated are not always true.
    """

    name: str
    directory: str
    category: str = ""
    formats: tuple[str, ...] = ()
    pattern: str = ""
    pixel_nm: tuple[float, float] | None = None
    voxel_type: str = ""
    width_px: int | None = None
    height_px: int | None = None
    number: int | None = None
    details: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmpiarEntry:
    """One entry of EMPIAR."""

    number: str
    title: str
    experiment_type: str
    release_date: str = ""
    doi: str = ""
    citation: str = ""
    citation_doi: str = ""
    authors: tuple[str, ...] = ()
    size: str = ""
    image_sets: tuple[ImageSet, ...] = ()

    @property
    def accession(self) -> str:
        """The entry's name, such as `EMPIAR-11759`."""
        return f"EMPIAR-{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An item of EMPIAR: an image set of an entry, or one file of it, each from 1."""

    number: str
    image_set: int = 1
    file: int | None = None

    @property
    def key(self) -> str:
        """The item's key: `11759`, `11759.2`, or `11759.1.3` for a third file."""
        if self.file is not None:
            return f"{self.number}.{self.image_set}.{self.file}"
        return self.number if self.image_set == 1 else f"{self.number}.{self.image_set}"


def wanted_of(text: str) -> Wanted:
    """The item that `text` names: its key, `EMPIAR-11759`, or a URL of EMPIAR.

    Raises
    ------
    SourceRefused
        It names none.
    """
    found = _NUMBER.fullmatch(text.strip())
    if found is None:
        raise SourceRefused(
            f"ebi: {text!r} is no entry of EMPIAR, expected 11759, EMPIAR-11759, or "
            "11759.2 for its second image set; correct the item (--item, "
            "ingest.ebi.items)",
            key=text,
        )
    return Wanted(
        number=found["number"],
        image_set=int(found["set"] or 1),
        file=int(found["file"]) if found["file"] else None,
    )


def entry_of_json(answer: Any, number: str) -> EmpiarEntry:
    """The entry in an answer of the API, which is nested under its accession.

    Raises
    ------
    FormatError
        It holds no such entry.
    """
    accession = f"EMPIAR-{number}"
    fields = answer.get(accession) if isinstance(answer, Mapping) else None
    if not isinstance(fields, Mapping) or not fields.get("title"):
        found = ", ".join(map(str, answer)) if isinstance(answer, Mapping) else ""
        raise FormatError(
            f"ebi: EMPIAR's answer holds {found[:100] or 'no object'}, expected the "
            f"entry {accession} with a title; check ingest.ebi.api_url",
            accession=accession,
        )
    citations = [each for each in fields.get("citation") or () if each]
    first: Answer = citations[0] if citations else {}
    return EmpiarEntry(
        number=number,
        title=_words(fields["title"]),
        experiment_type=_words(fields.get("experiment_type")),
        release_date=_words(fields.get("release_date")),
        doi=_words(fields.get("entry_doi")),
        citation=_citation(first, _names(first.get("authors"))),
        citation_doi=_words(first.get("doi")),
        authors=_names(fields.get("authors")),
        size=_words(fields.get("dataset_size")),
        image_sets=tuple(_set_of_json(each) for each in fields.get("imagesets") or ()),
    )


def entry_of_xml(text: str) -> EmpiarEntry:
    """The entry in an XML header of the archive.

    Raises
    ------
    FormatError
        It is none.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise FormatError(
            f"ebi: an XML header of EMPIAR cannot be read ({error}); fetch it again"
        ) from error
    for element in root.iter():
        element.tag = _SPACE.sub("", element.tag)
    number = root.get("accessionCode", "").removeprefix("EMPIAR-")
    if root.tag != "entry" or not number:
        raise FormatError(
            f"ebi: an XML header has {root.tag!r} at its top, expected EMPIAR's "
            "'entry' with an accessionCode; fetch it again"
        )
    size = root.find("admin/datasetSize")
    cited = root.find(".//journalCitation")
    authors = tuple(_texts(root, "admin/authorsList/author"))
    return EmpiarEntry(
        number=number,
        title=_text(root, "admin/title"),
        experiment_type=_text(root, "admin/experimentType"),
        release_date=_text(root, "admin/keyDates/releaseDate"),
        doi=_text(root, "admin/entryDOI"),
        citation="" if cited is None else _citation_of_xml(cited),
        citation_doi=_text(root, ".//journalCitation/*[@type='doi']"),
        authors=authors,
        size="" if size is None else f"{size.text} {size.get('units', '')}".strip(),
        image_sets=tuple(_set_of_xml(each) for each in root.findall("imageSet")),
    )


def modality_of(experiment_type: str) -> str:
    """The catalog's word for EMPIAR's type of experiment."""
    words = {
        "emdb": "cryo-EM",
        "sbf-sem": "SBF-SEM",
        "sbem": "SBF-SEM",
        "fib-sem": "FIB-SEM",
        "sstem": "ssTEM",
        "ss-tem": "ssTEM",
        "ssem": "SEM",
        # The schema has no word for sections on tape.
        "atum-sem": "SEM",
        "tem": "TEM",
        "sem": "SEM",
        "stem": "STEM",
        "cryo-et": "cryo-ET",
        "cryo-em": "cryo-EM",
    }
    return words.get(experiment_type.strip().lower(), "EM")


def _set_of_json(fields: Answer) -> ImageSet:
    return ImageSet(
        name=_words(fields.get("name")),
        directory=_words(fields.get("directory")).strip("/"),
        category=_words(fields.get("category")),
        formats=_formats(fields.get("data_format"), fields.get("header_format")),
        pattern=_words(fields.get("micrographs_file_pattern")).strip("/"),
        pixel_nm=_pixel_nm(fields.get("pixel_height"), fields.get("pixel_width")),
        voxel_type=_words(fields.get("voxel_type")),
        width_px=_whole(fields.get("image_width")),
        height_px=_whole(fields.get("image_height")),
        number=_whole(fields.get("num_images_or_tilt_series")),
        details=str(fields.get("details") or "").strip(),
    )


def _set_of_xml(element: ElementTree.Element) -> ImageSet:
    return ImageSet(
        name=_text(element, "name"),
        directory=_text(element, "directory").strip("/"),
        category=_text(element, "category"),
        formats=_formats(_text(element, "dataFormat"), _text(element, "headerFormat")),
        pattern=_text(element, "micrographsFilePattern").strip("/"),
        pixel_nm=_pixel_nm(
            _text(element, "dimensions/pixelHeight"),
            _text(element, "dimensions/pixelWidth"),
        ),
        voxel_type=_text(element, "voxelType"),
        width_px=_whole(_text(element, "dimensions/imageWidth")),
        height_px=_whole(_text(element, "dimensions/imageHeight")),
        number=_whole(_text(element, "numImagesOrTiltSeries")),
        details=_text(element, "details"),
    )


def _formats(*named: Any) -> tuple[str, ...]:
    # Data and headers mostly have the same format, such as DM3.
    return tuple(dict.fromkeys(_words(each).upper() for each in named if _words(each)))


def _pixel_nm(height_a: Any, width_a: Any) -> tuple[float, float] | None:
    """EMPIAR states pixels in Å."""
    try:
        height, width = float(height_a) / 10, float(width_a) / 10
    except (TypeError, ValueError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _whole(value: Any) -> int | None:
    text = _words(value)
    return int(text) if text.isdigit() else None


def _names(authors: Sequence[Any] | None) -> tuple[str, ...]:
    """Names of authors, who are nested or not."""
    given = (each.get("author") or each for each in authors or () if each)
    return tuple(_words(each.get("name")) for each in given if each.get("name"))


def _citation(fields: Answer, authors: tuple[str, ...]) -> str:
    """One line; as much of it as is there."""
    where = (fields.get("journal"), fields.get("volume"), fields.get("first_page"))
    parts = (
        ", ".join(authors),
        f"({fields['year']})" if fields.get("year") else "",
        _words(fields.get("title")).rstrip("."),
        " ".join(_words(each) for each in where if each),
    )
    return ". ".join(part for part in parts if part)


def _citation_of_xml(element: ElementTree.Element) -> str:
    names = ("journal", "volume", "year", "title", "firstPage")
    fields = {name: _text(element, name) for name in names}
    # The API and the archive's header spell it differently.
    fields["first_page"] = fields["firstPage"]
    return _citation(fields, tuple(_texts(element, "author")))


def _texts(element: ElementTree.Element, path: str) -> Iterator[str]:
    for found in element.findall(path):
        if found.text:
            yield _words(found.text)


def _text(element: ElementTree.Element, path: str) -> str:
    return next(_texts(element, path), "")


def _words(value: Any) -> str:
    return "" if value is None else " ".join(str(value).split())
