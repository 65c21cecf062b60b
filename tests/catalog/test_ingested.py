from datetime import UTC, date, datetime
from typing import Any

import pytest

from em_platform.catalog.ingested import record_of_item, record_of_volume
from em_platform.catalog.record_files import content_of
from em_platform.catalog.records import record_id
from em_platform.catalog.validate import judge_record
from em_platform.model import Check, Severity
from em_platform.model.dataset import CoreMetadata
from em_platform.model.ingest import (
    Entry,
    FetchedFile,
    RawItem,
    RemoteArray,
    RemoteFile,
)
from em_platform.model.volume import LevelInfo, VoxelStatistics, WrittenVolume

NOON = datetime(2026, 5, 6, 12, tzinfo=UTC)
FOLDER = "https://files.example.org/11759/data"
ENTRY = Entry(
    source="ebi",
    key="11759",
    source_id="EMPIAR-11759",
    title="Developing retina",
    description="Zebrafish, 55 hpf",
    url="https://www.example.org/EMPIAR-11759",
    modality="SBF-SEM",
    dtype="uint8",
    imaging_start_date=date(2018, 6, 10),
    organism="Danio rerio",
    license="CC0",
    doi="10.6019/EMPIAR-11759",
    aliases=("mouse synapse",),
    files=tuple(RemoteFile(name=n, url=f"{FOLDER}/{n}") for n in ("a.dm3", "b.dm3")),
    additional={"scale": "tissue"},
)
RAW = RawItem(
    files=tuple(
        FetchedFile(
            name=n, url=f"{FOLDER}/{n}", size_bytes=9, sha256=c * 64, etag=f"e{c}"
        )
        for n, c in (("a.dm3", "a"), ("b.dm3", "b"))
    ),
    size_bytes=18,
)
WRITTEN = WrittenVolume(
    url="file:///data/volumes/ebi/11759.zarr",
    dtype="uint8",
    voxel_size_nm=(50, 8, 4),
    origin_nm=(0, 16, 0),
    levels=(
        LevelInfo(path="0", shape=(16, 20, 30), voxel_size_nm=(50, 8, 4)),
        LevelInfo(path="1", shape=(16, 10, 15), voxel_size_nm=(50, 16, 8)),
    ),
    chunk_shape=(16, 16, 16),
    shard_shape=(16, 32, 32),
    compression="zstd",
    size_bytes=4000,
    statistics=VoxelStatistics(
        minimum=3,
        maximum=250,
        mean=100.5,
        std=9.5,
        histogram=(0,) * 256,
        histogram_range=(0, 255),
        content_sha256="c" * 64,
    ),
    seconds=2.5,
)
BAD = Check(
    name="volume_is_not_blank",
    passed=False,
    severity=Severity.ERROR,
    sentence="3 of 16 sections are blank",
    value=0.1875,
)
GOOD = Check(
    name="files_are_whole", passed=True, severity=Severity.ERROR, sentence="ok"
)


def content(entry: Entry = ENTRY, raw: RawItem = RAW, **more: Any) -> dict[str, Any]:
    return content_of(record_of_item(entry, raw, WRITTEN, created_at=NOON, **more))


def test_a_record_says_all_that_the_steps_know() -> None:
    made = content(
        checks=(GOOD, BAD),
        raw_folder="/data/raw/ebi/11759",
        snapshot_url="file:///data/ingest/ebi/11759/entry.json",
        volume_json_url="file:///data/ingest/ebi/11759/volume.json",
        preview="file:///data/ingest/ebi/11759/preview.png",
    )
    assert judge_record(made).errors == ()
    assert judge_record(made).warnings == ()
    core, technical = made["metadata"]["core"], made["metadata"]["technical"]
    assert core["volume_shape"] == [16, 20, 30]
    assert core["voxel_size_nm"] == [50, 8, 4]
    assert core["origin_nm"] == [0, 16, 0]
    assert (core["modality"], core["organism"]) == ("SBF-SEM", "Danio rerio")
    assert core["imaging_start_date"] == "2018-06-10"
    assert technical["dimensions_nm"] == [800, 160, 120]
    assert (technical["compression"], technical["container"]) == ("zstd", "dm3")
    assert (technical["min"], technical["max"], technical["std"]) == (3, 250, 9.5)
    assert [file["etag"] for file in technical["files"]] == ["ea", "eb"]
    assert "sha256" not in technical, "no single file is the dataset"
    assert technical["content_sha256"] == "c" * 64
    assert technical["histogram"].endswith("volume.json#written.statistics.histogram")
    provenance, quality = made["metadata"]["provenance"], made["metadata"]["quality"]
    assert provenance["download_url"] == FOLDER
    assert provenance["snapshot"].endswith("entry.json")
    assert quality["validation_errors"] == ["3 of 16 sections are blank"]
    assert quality["metrics"] == {"volume_is_not_blank": 0.1875}
    assert made["files"]["preview"].endswith("preview.png")
    assert made["aliases"] == ["mouse synapse"]
    assert made["id"] == str(record_id("ebi", "11759"))


def test_the_same_item_gives_the_same_record() -> None:
    assert content(checks=(BAD,)) == content(checks=(BAD,))


def test_one_file_gives_its_digest_and_address_to_the_whole() -> None:
    entry = ENTRY.model_copy(update={"files": ENTRY.files[:1]})
    made = content(entry, RAW.model_copy(update={"files": RAW.files[:1]}))
    assert made["metadata"]["technical"]["sha256"] == "a" * 64
    assert made["metadata"]["provenance"]["download_url"] == f"{FOLDER}/a.dm3"


def test_a_crop_of_an_array_keeps_its_corner_and_the_holes_of_its_source() -> None:
    array = RemoteArray(
        url="s3://bucket/a.zarr/s2", format="zarr", crop=((1, 2, 3), (16, 20, 30))
    )
    entry = ENTRY.model_copy(update={"files": (), "array": array})
    made = content(entry, RawItem(expected_chunks=8, missing_chunks=2))
    provenance, quality = made["metadata"]["provenance"], made["metadata"]["quality"]
    assert provenance["parameters"] == {
        "crop_start_zyx": [1, 2, 3],
        "crop_shape_zyx": [16, 20, 30],
    }
    assert provenance["download_url"] == "s3://bucket/a.zarr/s2"
    assert quality["completeness_score"] == 0.75
    assert quality["metrics"] == {"expected_chunks": 8, "missing_chunks": 2}


def test_a_modality_without_a_word_in_the_schema_is_kept_beside() -> None:
    made = content(ENTRY.model_copy(update={"modality": "helium ion"}))
    assert made["metadata"]["core"]["modality"] == "EM"
    assert made["additional_metadata"]["stated_modality"] == "helium ion"


def test_what_is_not_known_is_said_and_not_made_up() -> None:
    entry = Entry(source="ebi", key="1", source_id="EMPIAR-1", title="", url="/page")
    made = content(entry, RawItem())
    assert made["metadata"]["core"]["description"] == "EMPIAR-1"
    assert "download_url" not in made["metadata"]["provenance"]
    assert made["metadata"]["quality"]["validation_errors"] == [
        "imaging_start_date is not known",
        "license is not known",
    ]
    assert judge_record(made).errors == ()


@pytest.mark.parametrize(
    ("source", "modality"), [("simulation", "FIB-SEM"), ("cryoem", "cryo-ET")]
)
def test_any_volume_can_enter_the_catalog(source: str, modality: Any) -> None:
    record = record_of_volume(
        source,
        "run-7",
        WRITTEN,
        core=CoreMetadata(description="a volume of our own", modality=modality),
        created_at=NOON,
        parents=("urn:uuid:84709295-8367-45a4-b299-e887cb77c18c",),
        additional={"seed": 7},
    )
    assert judge_record(content_of(record)).errors == ()
    assert record.key == "run-7"
    assert record.metadata.core.volume_shape == (16, 20, 30)
    assert record.metadata.provenance.parents[0].startswith("urn:uuid:")
