import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner, Result

from em_platform.catalog.record_files import mark
from em_platform.catalog.records import record_id
from em_platform.cli import cli
from em_platform.errors import PlatformError
from em_platform.model.dataset import (
    CoreMetadata,
    DatasetFiles,
    DatasetMetadata,
    DatasetRecord,
    Status,
)
from em_platform.storage import Store, layout, open_store

OLD: dict[str, Any] = {
    "source": "empiar",
    "source_id": "11759",
    "description": "a slice",
    "volume_shape": [20, 30],
    "dtype": "uint8",
    "timestamp": "2025-05-30T20:42:10",
    "local_paths": {"volume": "/data/a.npy"},
}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["catalog", *map(str, arguments)])


@pytest.fixture
def store(home: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(home)
    store = open_store(str(home / "data"))
    for source, key in (("ebi", "11759"), ("flyem", "0_0_0_64_64_64")):
        core = CoreMetadata(
            description=f"{source} volume",
            volume_shape=(16, 20, 30),
            voxel_size_nm=(50, 8, 8) if source == "ebi" else (8, 8, 8),
            data_type="uint8",
            modality="SBF-SEM" if source == "ebi" else "FIB-SEM",
        )
        record = DatasetRecord(
            id=record_id(source, key),
            source=source,
            source_id=f"{source} of record",
            key=key,
            status=Status.COMPLETE,
            created_at=datetime(2026, 5, 6, tzinfo=UTC),
            metadata=DatasetMetadata(core=core),
            files=DatasetFiles(volume=store.url(layout.volume(source, key))),
            aliases=("mouse synapse",) if source == "ebi" else (),
        )
        mark(store, source, key, "complete", record=record)
        store.write_bytes(f"{layout.volume(source, key)}/zarr.json", b"{}")
    return store


@pytest.mark.usefixtures("store")
def test_records_are_listed_and_found() -> None:
    assert "SBF-SEM   16x20x30  50x8x8" in run("list").stdout
    found = run("search", "modality=FIB-SEM", "voxel<10", "--json")
    assert [r["source"] for r in json.loads(found.stdout)] == ["flyem"]
    assert "ebi" not in run("search", "-source=ebi").stdout
    assert run("search", "voxel.z=50", "-flyem").stdout.count("\n") == 2


def test_damaged_records_are_counted_and_named(store: Store) -> None:
    """round3 1.3.5: they were missing from list and search, with status 0."""
    store.write_bytes(layout.record("idr", "half"), b'{"source": "id')
    store.write_bytes(layout.record("idr", "list"), b"[1]")
    for command in (("list",), ("search", "voxel<1000"), ("list", "--json")):
        result = run(*command)
        assert result.exit_code == 1
        assert "11759" in result.stdout
        assert "records/idr" not in result.stdout
        assert "records/idr/half.json: is not JSON" in result.stderr
        assert "records/idr/list.json: holds a list" in result.stderr
        assert "2 of 4 records cannot be read" in result.stderr


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    "name", ["11759", "ebi/11759", "ebi of record", "mouse synapse"]
)
def test_one_record_is_shown_by_any_of_its_names(name: str) -> None:
    assert json.loads(run("show", name).stdout)["key"] == "11759"


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("show", "flyem/11759"), "no record of 'flyem/11759'"),
        (("list", "nowhere"), "nowhere is not there"),
        (("consolidate", "."), "add --to FOLDER"),
        (("export", "crate", "--query", "source=none"), "no record fits"),
        (("search", "voxel<"), "has no value"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    arguments: tuple[str, ...], sentence: str
) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, PlatformError)
    assert sentence in str(result.exception)


def test_validate_and_consolidate_end_with_1_where_a_record_is_wrong(
    store: Store,
) -> None:
    assert run("validate").exit_code == 0
    assert run("consolidate").exit_code == 0
    store.write_bytes(layout.record("idr", "1"), b'{"source": "idr"}')
    result = run("validate")
    assert result.exit_code == 1
    assert "records/idr/1.json\n  error: the whole: 'created_at' is" in result.stdout
    assert "2 of 3 records are valid" in result.stdout
    shown = json.loads(run("validate", "--json").stdout)
    assert [each["valid"] for each in shown] == [True, True, False]
    made = run("consolidate")
    assert made.exit_code == 1
    assert "3 records, 1 with errors" in made.stdout
    assert store.exists("catalog/validation_report.html")


def test_older_records_are_migrated_only_with_write(tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    file.write_text(json.dumps(OLD))
    before = file.read_bytes()
    dry = run("migrate", tmp_path)
    assert "has no time zone, taken as UTC" in dry.stdout
    assert "1 record would change" in dry.stdout
    assert file.read_bytes() == before
    assert "1 record changed" in run("migrate", tmp_path, "--write").stdout
    after = file.read_bytes()
    assert json.loads(after)["source"] == "ebi"
    assert run("validate", tmp_path).exit_code == 0
    assert "no records changed" in run("migrate", tmp_path, "--write").stdout
    assert file.read_bytes() == after
    (tmp_path / "half.json").write_text("{")
    result = run("migrate", tmp_path)
    assert result.exit_code == 1
    assert "half.json: is not JSON" in result.stdout


@pytest.mark.usefixtures("store")
def test_the_schema_that_is_printed_accepts_what_lies_in_the_store(
    tmp_path: Path, store: Store
) -> None:
    record = json.loads(store.read_bytes(layout.record("ebi", "11759")))
    for arguments in (("schema",), ("schema", "--strict")):
        schema = json.loads(run(*arguments).stdout)
        jsonschema.validate(record, schema)
    target = tmp_path / "schema.json"
    run("schema", target)
    assert json.loads(target.read_text()) == json.loads(run("schema").stdout)


@pytest.mark.usefixtures("store")
def test_duplicates_and_exports_are_reported(tmp_path: Path) -> None:
    assert json.loads(run("duplicates", "--json").stdout) == []
    result = run("export", tmp_path / "crate", "--query", "source=ebi")
    assert "wrote ro-crate of 1 dataset" in result.stdout
    assert (tmp_path / "crate/ro-crate-metadata.json").is_file()


def test_a_failed_record_is_removed_and_a_complete_one_is_kept(store: Store) -> None:
    mark(store, "ebi", "1175", "failed", error="ebi: no such entry")
    run("consolidate")
    page = store.read_bytes(f"{layout.CATALOG}/validation_report.html").decode()
    assert "<dt>valid and complete</dt><dd>66.67 %</dd>" in page
    assert "<dt>failed</dt><dd>1</dd>" in page

    removed = run("remove", "1175")
    assert removed.stdout == "removed the record of ebi/1175\n"
    assert run("search", "status=failed").stdout == ""
    page_after = run("consolidate")
    assert page_after.exit_code == 0

    refused = run("remove", "ebi/11759").exception
    assert isinstance(refused, PlatformError)
    assert "ebi/11759 is complete" in str(refused)
    assert "add --force" in str(refused)
    assert store.exists(layout.record("ebi", "11759"))
    run("remove", "ebi/11759", "--force")
    assert not store.exists(layout.record("ebi", "11759"))


@pytest.mark.parametrize(
    ("name", "sentence"), [("1175", "no record of '1175'"), ("1", "2 records (ebi, ")]
)
def test_removing_needs_one_record(store: Store, name: str, sentence: str) -> None:
    for source in ("ebi", "flyem"):
        mark(store, source, "1", "failed", error="no")
    failed = run("remove", name).exception
    assert isinstance(failed, PlatformError)
    assert sentence in str(failed)
