import json
from pathlib import Path
from typing import Any

import pytest
from rocrate.rocrate import ROCrate

from em_platform.catalog.export import METADATA, write_crate
from em_platform.catalog.repository import Found, found_at
from em_platform.errors import StorageError

RECORD: dict[str, Any] = {
    "schema_version": "3.0",
    "id": "84709295-8367-45a4-b299-e887cb77c18c",
    "source": "ebi",
    "source_id": "EMPIAR-11759",
    "key": "11759",
    "status": "complete",
    "created_at": "2026-05-06T12:00:00Z",
    "updated_at": "2026-05-06T13:00:00Z",
    "aliases": ["mouse synapse"],
    "metadata": {
        "core": {
            "description": "Zebrafish, 55 hpf",
            "dataset_title": "Developing retina",
            "volume_shape": [16, 5500, 5496],
            "voxel_size_nm": [50.0, 8.0, 8.0],
            "data_type": "uint8",
            "modality": "SBF-SEM",
            "license": "CC0",
            "doi": "https://doi.org/10.6019/EMPIAR-11759",
            "citation": "W.-B. M. (2024) Developing retina.",
        },
        "technical": {"file_size_bytes": 483648000, "file_format": "OME-Zarr 0.5"},
        "provenance": {"download_url": "https://example.org/11759/data"},
    },
    "files": {"volume": "https://data.example.org/volumes/ebi/11759.zarr"},
    "additional_metadata": {
        "EMPIAR-11759": {
            "authors": [
                {"author": {"name": "M W", "author_orcid": "0000-0002-1825-0097"}},
                {"author": {"name": "A Other", "author_orcid": None}},
            ]
        }
    },
}
STUB: dict[str, Any] = {
    "schema_version": "3.0",
    "id": "14e5dbe6-98f7-40e7-aaf1-9de92ff4aad0",
    "source": "flyem",
    "source_id": "hemibrain",
    "key": "0_0_0_64_64_64",
    "status": "pending",
    "created_at": "2026-05-06T12:00:00Z",
    "metadata": {"core": {"description": "a crop"}},
}
FOUND = [Found(place="a", content=RECORD), Found(place="b", content=STUB)]


def test_a_crate_can_be_read_back_with_all_that_was_said(tmp_path: Path) -> None:
    assert write_crate(FOUND, tmp_path / "crate") == 2
    crate = ROCrate(tmp_path / "crate")
    assert crate.metadata.version == "1.1"
    assert str(crate.root_dataset["datePublished"]).startswith("2026-05-06")
    [dataset] = [e for e in crate.data_entities if e.get("name") == "Developing retina"]
    assert dataset.id.rstrip("/") == RECORD["files"]["volume"]
    assert dataset.type == "Dataset"
    assert dataset["measurementTechnique"] == "SBF-SEM"
    assert dataset["identifier"] == [
        "EMPIAR-11759",
        "https://doi.org/10.6019/EMPIAR-11759",
    ]
    assert dataset["alternateName"] == ["mouse synapse"]
    assert dataset["isBasedOn"] == "https://example.org/11759/data"
    assert dataset["license"].id.endswith("publicdomain/zero/1.0/")
    assert dataset["citation"].id == "https://doi.org/10.6019/EMPIAR-11759"
    assert dataset["citation"]["name"] == "W.-B. M. (2024) Developing retina."
    assert [person["name"] for person in dataset["author"]] == ["M W", "A Other"]
    assert dataset["author"][0].id == "https://orcid.org/0000-0002-1825-0097"
    assert dataset["publisher"]["name"].startswith("EMPIAR")
    measured = {each["name"]: each["value"] for each in dataset["variableMeasured"]}
    assert measured["voxel size (z, y, x)"] == "50.0, 8.0, 8.0"
    assert dataset["subjectOf"].id == "records/ebi/11759.json"
    lying = tmp_path / "crate/records/ebi/11759.json"
    assert json.loads(lying.read_text()) == RECORD
    parts = {part.id.rstrip("/") for part in crate.root_dataset["hasPart"]}
    assert f"urn:uuid:{STUB['id']}" in parts


def test_every_reference_in_a_crate_leads_somewhere(tmp_path: Path) -> None:
    write_crate(FOUND, tmp_path / "crate")
    graph = json.loads((tmp_path / "crate" / METADATA).read_text())["@graph"]
    names = {entity["@id"] for entity in graph}
    assert len(names) == len(graph)

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            if set(value) == {"@id"}:
                return {value["@id"]}
            return set().union(*map(references, value.values()), set())
        if isinstance(value, list):
            return set().union(*map(references, value), set())
        return set()

    outside = {"https://w3id.org/ro/crate/1.1"}
    assert references(graph) - names <= outside


def test_the_same_records_give_the_same_crate(tmp_path: Path) -> None:
    for name in ("one", "other", "one"):
        write_crate(FOUND, tmp_path / name)
    files = [
        {str(p.relative_to(tmp_path / n)): p.read_bytes() for p in paths}
        for n in ("one", "other")
        if (paths := [p for p in (tmp_path / n).rglob("*") if p.is_file()])
    ]
    assert files[0] == files[1]
    assert len(files[0]) == 4  # with the mark by which the folder is known


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StorageError, match="is not an RO-Crate of em-platform"):
        write_crate(FOUND, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_real_records_become_a_crate(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "api/macroscope/metadata_catalog_20250611_221633.json"
    write_crate(found_at([path]), tmp_path / "crate")
    crate = ROCrate(tmp_path / "crate")
    datasets = [e for e in crate.data_entities if e.type == "Dataset"]
    assert len(datasets) == 5
    assert all(len(dataset["author"]) == 1 for dataset in datasets)


def test_a_crate_takes_the_verdict_with_it(tmp_path: Path) -> None:
    bad = json.loads(json.dumps(RECORD)) | {"status": "needs_review"}
    bad["metadata"]["quality"] = {"review_reasons": ["Missing: 1 of 4 tiles."]}
    write_crate([Found(place="a", content=bad)], tmp_path / "crate")
    crate = ROCrate(tmp_path / "crate")
    [dataset] = [e for e in crate.data_entities if e.get("name") == "Developing retina"]
    assert dataset["creativeWorkStatus"] == "needs_review"
    assert dataset["description"] == (
        "Zebrafish, 55 hpf. Needs review: Missing: 1 of 4 tiles."
    )
