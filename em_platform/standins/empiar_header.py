"""The XML header that lies beside the files of an EMPIAR entry."""

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

_SPACE = "http://pdbe.org/empiar"
_SCHEMA = "https://ftp.ebi.ac.uk/pub/databases/emtest/empiar/schema/empiar.xsd"
_INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"

_PERSON = {
    "first_name": "firstName",
    "last_name": "lastName",
    "organization": "organization",
    "street": "street",
    "town_or_city": "townOrCity",
    "state_or_province": "stateOrProvince",
    "country": "country",
    "post_or_zip": "postOrZipCode",
}
_IMAGE_SET = {
    "name": "name",
    "directory": "directory",
    "category": "category",
    "header_format": "headerFormat",
    "data_format": "dataFormat",
    "num_images_or_tilt_series": "numImagesOrTiltSeries",
    "frames_per_image": "framesPerImage",
    "voxel_type": "voxelType",
}
_DIMENSIONS = {
    "image_width": "imageWidth",
    "pixel_width": "pixelWidth",
    "image_height": "imageHeight",
    "pixel_height": "pixelHeight",
}


def header_of(accession: str, entry: Mapping[str, Any]) -> bytes:
    """The header of an entry, by what the API says of it.

    Its elements are those of recorded headers; it writes folders as `/data/...`.
    """
    root = Element(
        "entry",
        {
            "xmlns": _SPACE,
            "xmlns:xsi": _INSTANCE,
            "xsi:schemaLocation": _SCHEMA,
            "accessionCode": accession,
            "public": "true",
        },
    )
    _admin(SubElement(root, "admin"), entry)
    references = SubElement(root, "crossReferences")
    cited = SubElement(references, "citationList")
    for citation in entry["citation"]:
        _citation(SubElement(cited, "universalCitation"), citation)
    for image_set in entry["imagesets"]:
        _image_set(SubElement(root, "imageSet"), image_set)
    indent(root, "    ")
    written: bytes = tostring(root, encoding="utf-8")
    return written + b"\n"


def _admin(admin: Element, entry: Mapping[str, Any]) -> None:
    _put(admin, "currentStatus", entry["status"])
    dates = SubElement(admin, "keyDates")
    for name in ("deposition", "release", "update"):
        _put(dates, f"{name}Date", entry[f"{name}_date"])
    _put(admin, "title", entry["title"])
    author = SubElement(admin, "correspondingAuthor")
    _person(author, entry["corresponding_author"]["author"])
    for person in entry["principal_investigator"]:
        _person(SubElement(admin, "principalInvestigator"), person)
    authors = SubElement(admin, "authorsList")
    for each in entry["authors"]:
        _put(authors, "author", each["author"]["name"])
    amount, _, unit = entry["dataset_size"].partition(" ")
    _put(admin, "datasetSize", amount).set("units", unit)
    _put(admin, "entryDOI", entry["entry_doi"])
    _put(admin, "experimentType", entry["experiment_type"])


def _person(element: Element, person: Mapping[str, Any]) -> None:
    for field, name in _PERSON.items():
        if person[field] is not None:
            written = _put(element, name, person[field])
            if name == "organization":
                written.set("type", "academic")


def _citation(element: Element, citation: Mapping[str, Any]) -> None:
    flags = {
        name: str(bool(citation[name])).lower() for name in ("published", "preprint")
    }
    paper = SubElement(element, "journalCitation", flags)
    for order, author in enumerate(citation["authors"], 1):
        _put(paper, "author", author["name"]).set("order", str(order))
    for name in ("title", "country"):
        _put(paper, name, citation[name])


def _image_set(element: Element, image_set: Mapping[str, Any]) -> None:
    for field, name in _IMAGE_SET.items():
        before = "/" if field == "directory" else ""
        _put(element, name, f"{before}{image_set[field]}")
    dimensions = SubElement(element, "dimensions")
    for field, name in _DIMENSIONS.items():
        _put(dimensions, name, image_set[field])
    if image_set["details"]:
        _put(element, "details", image_set["details"])
    for name in ("segmentationList", "micrographsFilePattern"):
        SubElement(element, name)


def _put(parent: Element, name: str, value: Any) -> Element:
    child = SubElement(parent, name)
    child.text = str(value)
    return child
