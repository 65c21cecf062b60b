import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from em_platform.catalog.migrate import migrate
from em_platform.catalog.repairs import UNDECLARED
from em_platform.catalog.validate import check_record, judge_record
from em_platform.errors import RecordError
from em_platform.model.dataset import DatasetRecord

FLAT: dict[str, Any] = {
    "source": "openorganelle",
    "source_id": "jrc_mus-nacc-2",
    "description": "Array 's8'",
    "modality": "electron microscopy",
    "download_url": "s3://janelia-cosem-datasets/jrc_mus-nacc-2/jrc_mus-nacc-2.zarr",
    "internal_zarr_path": "recon-2/em/fibsem-int16/s8",
    "imaging_start_date": "Mon Mar 09 2015",
    "voxel_size_nm": {"x": 1038.4, "y": 1120.0, "z": 834.72},
    "dimensions_nm": {"x": 10384, "y": 10080, "z": 1669.44},
    "timestamp": "2025-05-30T20:42:10.5Z",
    "local_paths": {"volume": "/data/s8.npy", "metadata": "/data/m.json", "log": "/l"},
    "status": "complete",
    "volume_shape": [2, 9, 10],
    "dtype": "<i2",
    "chunk_size": [2, 9, 10],
    "global_mean": 12.5,
    "processing_time_seconds": 0.02,
    "chunk_strategy": "direct_compute",
}
"""As macroscope's first loaders wrote it; values are made up."""
NESTED: dict[str, Any] = {
    "id": "84709295-8367-45a4-b299-e887cb77c18c",
    "source": "ebi",
    "source_id": "11759",
    "status": "complete",
    "created_at": "2025-06-11T21:21:01.091108",
    "updated_at": "2025-06-11T21:21:02+00:00",
    "metadata": {
        "core": {
            "description": "EMPIAR 11759",
            "volume_shape": [16, 20, 30],
            "voxel_size_nm": [50, 8, 8],
            "data_type": "uint8",
        },
        "technical": {
            "sha256": "not-a-hash-0815",
            "dimensions_nm": [240, 160, 800],
            "streaming_processed": True,
            "processing_time_seconds": 3.5,
        },
    },
    "files": {"volume": "/data/a.npy"},
    "local_paths": {"volume": "/data/b.npy"},
    "ci_metadata": {"commit_sha": None, "runner_os": "Linux"},
    "additional_metadata": {"EMPIAR-11759": {"scale": "tissue", "volume": None}},
}


def leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """Every innermost key with its value."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield key, each
            yield from leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each)


def test_a_flat_record_of_version_1_becomes_one_of_version_3() -> None:
    done = migrate(FLAT)
    assert check_record(done.content) == ()
    record = DatasetRecord.model_validate(done.content)
    core, technical = record.metadata.core, record.metadata.technical
    assert core.volume_shape == (2, 9, 10)
    assert core.voxel_size_nm == (834.72, 1120.0, 1038.4)
    assert (core.data_type, core.modality) == ("int16", "EM")
    assert str(core.imaging_start_date) == "2015-03-09"
    assert technical.dimensions_nm == (1669.44, 10080, 10384)
    assert (technical.dtype, technical.duration_s) == ("<i2", 0.02)
    assert record.created_at == datetime(2025, 5, 30, 20, 42, 10, 500000, UTC)
    assert record.files.volume == "/data/s8.npy"
    kept = record.additional_metadata[UNDECLARED]
    assert kept == {"chunk_strategy": "direct_compute", "local_paths": {"log": "/l"}}
    assert "imaging_start_date" in " ".join(done.remarks)


def test_version_2_with_keys_beside_its_schema_becomes_version_3() -> None:
    done = migrate(NESTED)
    assert check_record(done.content) == ()
    assert DatasetRecord.model_validate(done.content).schema_version == "3.0"
    assert done.content["created_at"] == "2025-06-11T21:21:01.091108+00:00"
    assert done.content["updated_at"] == NESTED["updated_at"]
    assert done.content["metadata"]["technical"]["dimensions_nm"] == [800, 160, 240]
    assert done.content["additional_metadata"][UNDECLARED] == {
        "local_paths": {"volume": "/data/b.npy"},
        "metadata.technical.sha256": "not-a-hash-0815",
        "metadata.technical.streaming_processed": True,
    }
    remarks = "\n".join(done.remarks)
    assert "created_at: '2025-06-11T21:21:01.091108' has no time zone" in remarks
    assert "'not-a-hash-0815' is no SHA-256" in remarks
    assert "dimensions_nm: was in the order x, y, z" in remarks


@pytest.mark.parametrize("record", [FLAT, NESTED])
def test_migrating_again_changes_nothing(record: dict[str, Any]) -> None:
    before = copy.deepcopy(record)
    once = migrate(record)
    assert record == before, "what is given is not touched"
    again = migrate(once.content)
    assert again.content == once.content
    assert again.remarks == ()


@pytest.mark.parametrize(
    "record",
    [
        FLAT,
        NESTED,
        {**NESTED, "metadata": "no object"},
        {**NESTED, "files": ["a"], "additional_metadata": [1, 2]},
        {**NESTED, "progress": {"percentage": 120}, "error": "it broke"},
        {**NESTED, "id": 7, "status": "done and dusted", "updated_at": "yesterday"},
        {**FLAT, "volume_shape": [0, 9], "voxel_size_nm": {"a": 1}, "sha256": None},
        {**FLAT, "dtype": "complex64", "imaging_start_date": "spring", "status": None},
        {**NESTED, "additional_metadata": {UNDECLARED: 5}},
    ],
)
def test_no_key_and_no_value_is_lost(record: dict[str, Any]) -> None:
    done = migrate(record)
    keys = {part for key, _ in leaves(done.content) for part in key.split(".")}
    moved = {"timestamp", "processing_time_seconds", "local_paths", "x", "y", "z"}
    assert {key for key, _ in leaves(record)} - keys <= moved
    content = json.dumps(done.content) + "\n".join(done.remarks)
    for _, value in leaves(record):
        if isinstance(value, str):
            assert value in content
    assert migrate(done.content).content == done.content
    errors = [e for e in check_record(done.content) if "complete record" not in e]
    assert errors == [], "what is wrong stands aside"


def test_what_nobody_knows_stays_missing_and_is_reported() -> None:
    done = migrate({"metadata": {"core": {}}})
    assert "source: is missing, and nothing else states it" in done.remarks
    errors = check_record(done.content)
    assert "the whole: 'source' is a required property" in errors
    dated = migrate(
        {"source": "ebi", "source_id": "1"},
        recorded_at=datetime(2025, 6, 1, tzinfo=UTC),
    )
    assert check_record(dated.content) == ()
    assert dated.content["status"] == "pending"
    assert dated.content["created_at"] == "2025-06-01T00:00:00+00:00"


def test_the_archive_s_name_becomes_that_of_its_institute() -> None:
    assert migrate({**NESTED, "source": "empiar"}).content["source"] == "ebi"


def test_levels_of_one_volume_get_ids_of_their_own() -> None:
    other = {**FLAT, "internal_zarr_path": "recon-2/em/fibsem-int16/s7"}
    assert migrate(FLAT).content["id"] == migrate(FLAT).content["id"]
    assert migrate(FLAT).content["id"] != migrate(other).content["id"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"schema_version": "4.0"}, "a record of version 4.0 was found"),
        ([1], "a list was found, a record was expected"),
    ],
)
def test_what_is_no_older_record_is_refused(content: Any, sentence: str) -> None:
    with pytest.raises(RecordError, match=sentence):
        migrate(content)


def test_the_records_of_a_real_catalog_become_valid(shared_data: Path) -> None:
    path = shared_data / "api/macroscope/metadata_catalog_20250611_221633.json"
    records = json.loads(path.read_text())["valid_records_sample"]
    assert len(records) == 5
    for record in records:
        done = migrate(record)
        assert done.remarks == ("schema_version: 3.0, was an older one",)
        findings = judge_record(done.content)
        assert findings.errors == ()
        DatasetRecord.model_validate(done.content)
        assert {**done.content, "schema_version": None} == {
            **record,
            "schema_version": None,
        }
