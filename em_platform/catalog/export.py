"""Records as an RO-Crate 1.1: metadata that any reader of JSON-LD understands.

The crate holds no pixels. Each dataset is an entity whose id is where its volume lies;
its record, in full, lies in the crate beside.
"""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from em_platform.catalog.record_files import Parts, Record, at, json_bytes
from em_platform.catalog.repository import Found, changed_at
from em_platform.catalog.summary import review_reasons
from em_platform.model.dataset import is_uri
from em_platform.storage.guard import whole_folder

# Of the RO-Crate specification.
VERSION = "1.1"
# The name that the specification asks for.
METADATA = "ro-crate-metadata.json"
# As sources write them -> the address by which a crate names a licence.
LICENSES = {
    "cc0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "cc0 1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "cc by 4.0": "https://creativecommons.org/licenses/by/4.0/",
    "cc-by-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "cc by-sa 4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "cc by-nc 4.0": "https://creativecommons.org/licenses/by-nc/4.0/",
}
# Source -> who publishes it, and the address that identifies them.
PUBLISHERS = {
    "ebi": ("EMPIAR, EMBL-EBI", "https://www.ebi.ac.uk/empiar/"),
    "epfl": ("CVLab, EPFL", "https://www.epfl.ch/labs/cvlab/"),
    "flyem": (
        "FlyEM, Janelia Research Campus",
        "https://www.janelia.org/project-team/flyem",
    ),
    "idr": ("Image Data Resource", "https://idr.openmicroscopy.org/"),
    "openorganelle": (
        "OpenOrganelle, Janelia Research Campus",
        "https://openorganelle.janelia.org/",
    ),
}
# QUDT has an address for each unit; a crate refers to it.
_UNIT_NM = "http://qudt.org/vocab/unit/NanoM"
# The form of an ORCID iD; its last digit is a checksum, where X is ten.
_ORCID = re.compile(r"(\d{4}-){3}\d{3}[\dX]")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Making:
    """A crate in the making: its people, licences and papers, and addresses in use."""

    crate: Any
    contexts: Parts = field(default_factory=dict)
    used: set[str] = field(default_factory=set)


def write_crate(found: Sequence[Found], folder: Path) -> int:
    """Write the crate of some records of version 3; returns the number of datasets.

    The same records give the same crate. A crate that this program has written to
    `folder`, and nobody has changed, is replaced.

    Raises
    ------
    OutputRefused
        Something else stands at `folder`.
    StorageError
        It cannot be written.
    """
    crate = _crate_of(found)
    with whole_folder(folder.absolute(), "RO-Crate") as own:
        crate.write(own)
    return len(found)


def _crate_of(found: Sequence[Found]) -> Any:
    from rocrate.rocrate import ROCrate

    crate = ROCrate(version=VERSION)
    crate.name = "Catalog of electron microscopy datasets"
    crate.description = (
        f"{len(found)} datasets of electron microscopy: where each lies, what it "
        "shows, and how it was made. The records in full are in the folder records."
    )
    newest = max((changed_at(each.content) for each in found), default="")
    # RO-Crate asks for a date, also where there is no record.
    crate.datePublished = newest or "1970-01-01T00:00:00Z"
    making = _Making(crate=crate)
    licenses = []
    for each in found:
        dataset = _add_dataset(making, each)
        licenses += [dataset["license"]] if dataset.get("license") else []
    distinct = {each.id: each for each in licenses if not isinstance(each, str)}
    # Sorted, so that the same records give the same crate.
    crate.license = [distinct[name] for name in sorted(distinct)] or (
        "Each dataset has the licence that it names."
    )
    return crate


def _add_dataset(making: _Making, found: Found) -> Any:
    from rocrate.model.dataset import Dataset

    class Linked(Dataset):  # type: ignore[misc]
        """Its id is the address as it is; the library would end it with a slash."""

        def format_id(self, identifier: str) -> str:
            return identifier

    record = found.content
    url = at(record, "files", "volume")
    # An id stands once in a crate; two records may name one volume.
    known = isinstance(url, str) and is_uri(url) and url not in making.used
    name = url if known else f"urn:uuid:{record.get('id')}"
    making.used.add(name)
    dataset = Linked(making.crate, name, properties=_properties(record))
    making.crate.add(dataset)
    _add_people_and_papers(making, dataset, record)
    for number, measured in enumerate(_measured(record)):
        dataset.append_to(
            "variableMeasured",
            _context(making, f"#{record.get('id')}-{number}", measured),
        )
    place = f"records/{record.get('source')}/{_file_name(record)}.json"
    file = making.crate.add_file(
        io.BytesIO(json_bytes(record)),
        place,
        properties={
            "name": f"Catalog record of {_title(record)}",
            "encodingFormat": "application/json",
        },
    )
    file["about"] = dataset
    dataset["subjectOf"] = file
    return dataset


def _properties(record: Record) -> Parts:
    core, technical = (
        at(record, "metadata", "core"),
        at(record, "metadata", "technical"),
    )
    download = at(record, "metadata", "provenance", "download_url")
    doi = _doi(core)
    names = [record.get("source_id"), f"https://doi.org/{doi}" if doi else None]
    size = at(technical, "file_size_bytes")
    stated = {
        "name": _title(record),
        "description": _description(record),
        "identifier": [name for name in names if name],
        "alternateName": record.get("aliases"),
        "measurementTechnique": at(core, "modality"),
        "temporalCoverage": at(core, "imaging_start_date"),
        "about": [n for n in (at(core, "organism"), at(core, "sample")) if n],
        "creditText": at(core, "citation"),
        "dateCreated": record.get("created_at"),
        "dateModified": record.get("updated_at"),
        "creativeWorkStatus": record.get("status"),
        "contentSize": str(size) if size is not None else None,
        "encodingFormat": at(technical, "file_format"),
        "sha256": at(technical, "sha256"),
        "isBasedOn": download if isinstance(download, str) else None,
    }
    return {key: value for key, value in stated.items() if value not in (None, "", [])}


def _description(record: Record) -> Any:
    """What it is; a crate leaves the catalog, so that it takes the verdict with it."""
    stated = at(record, "metadata", "core", "description")
    reasons = review_reasons(record)
    return f"{stated}. Needs review: {' '.join(reasons)}" if reasons else stated


def _measured(record: Record) -> Iterator[Parts]:
    """Shape, voxel size and type as property values."""
    core = at(record, "metadata", "core")
    named = (
        ("volume shape (z, y, x)", "volume_shape", None),
        ("voxel size (z, y, x)", "voxel_size_nm", _UNIT_NM),
        ("data type", "data_type", None),
    )
    for name, key, unit in named:
        value = at(core, key)
        if value is None:
            continue
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        stated = {"@type": "PropertyValue", "name": name, "value": text}
        yield {**stated, "unitCode": unit} if unit else stated


def _add_people_and_papers(making: _Making, dataset: Any, record: Record) -> None:
    core = at(record, "metadata", "core")
    license_name = at(core, "license")
    if license_name:
        dataset["license"] = _license(making, str(license_name))
    if record.get("source") in PUBLISHERS:
        name, url = PUBLISHERS[record["source"]]
        about = {"@type": "Organization", "name": name, "url": url}
        dataset["publisher"] = _context(making, url, about)
    citation, doi = at(core, "citation"), _doi(core)
    if doi or citation:
        address = f"https://doi.org/{doi}" if doi else f"#citation-{record.get('id')}"
        about = {"@type": "CreativeWork", "name": citation or f"doi:{doi}"}
        dataset["citation"] = _context(making, address, about)
    people = [
        _context(making, address, {"@type": "Person", "name": name})
        for name, address in _authors(record)
    ]
    if people:
        dataset["author"] = people


def _authors(record: Record) -> Iterator[tuple[str, str]]:
    """Name and id of each author, from the source's own metadata."""
    more = at(record, "additional_metadata") or {}
    places = [more, *(v for v in more.values() if isinstance(v, dict))]
    found: Any = next((p["authors"] for p in places if p.get("authors")), [])
    if isinstance(found, str):
        found = [name.strip() for name in found.split(";")]
    for each in found if isinstance(found, list) else []:
        about = each.get("author", each) if isinstance(each, dict) else {"name": each}
        name = about.get("name") if isinstance(about, dict) else None
        if not isinstance(name, str) or not name:
            continue
        orcid = _ORCID.search(str(about.get("author_orcid") or about.get("orcid")))
        slug = re.sub(r"\W+", "-", name.lower()).strip("-")
        yield name, f"https://orcid.org/{orcid[0]}" if orcid else f"#{slug}"


def _license(making: _Making, name: str) -> Any:
    url = name if is_uri(name) else LICENSES.get(name.lower())
    slug = re.sub(r"\W+", "-", name.lower()).strip("-")
    about = {"@type": "CreativeWork", "name": name}
    return _context(making, url or f"#license-{slug}", about)


def _context(making: _Making, name: str, about: Parts) -> Any:
    """The entity of that name; the crate's own look-up searches all of them."""
    from rocrate.model.contextentity import ContextEntity

    known = making.contexts
    if name not in known:
        entity = ContextEntity(making.crate, name, properties=about)
        known[name] = making.crate.add(entity)
    return known[name]


def _doi(core: Any) -> str:
    """The bare DOI, also of one that is written as a link."""
    return re.sub(r"^(https?://(dx\.)?doi\.org/|doi:)", "", str(at(core, "doi") or ""))


def _title(record: Record) -> str:
    core = at(record, "metadata", "core")
    stated = at(core, "dataset_title") or at(core, "description")
    return str(stated or record.get("source_id") or record.get("id"))


def _file_name(record: Record) -> str:
    name = str(record.get("key") or record.get("id"))
    # Older records have no key, and ids of any letters.
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)
