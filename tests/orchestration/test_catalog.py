from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from em_platform.catalog.record_files import mark
from em_platform.catalog.records import record_id
from em_platform.definitions import defs
from em_platform.ingest.sources import SOURCES
from em_platform.model.dataset import (
    CoreMetadata,
    DatasetFiles,
    DatasetMetadata,
    DatasetRecord,
    Status,
)
from em_platform.storage import Store, layout

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:dagster"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def store(store: Store) -> Store:
    record = DatasetRecord(
        id=record_id("flyem", "a"),
        source="flyem",
        source_id="hemibrain",
        key="a",
        status=Status.COMPLETE,
        created_at=datetime(2026, 5, 6, tzinfo=UTC),
        metadata=DatasetMetadata(
            core=CoreMetadata(
                description="a crop", volume_shape=(4, 5, 6), data_type="uint8"
            )
        ),
        files=DatasetFiles(volume=store.url(layout.volume("flyem", "a"))),
    )
    mark(store, "flyem", "a", "complete", record=record)
    store.write_bytes(f"{layout.volume('flyem', 'a')}/zarr.json", b"{}")
    return store


def consolidated() -> dg.ExecuteInProcessResult:
    with dg.DagsterInstance.ephemeral() as instance:
        return defs.resolve_job_def("consolidate_catalog").execute_in_process(
            instance=instance
        )


def test_one_run_makes_catalog_and_report_and_checks_them(store: Store) -> None:
    result = consolidated()
    metadata = {
        event.asset_key.to_user_string(): dict(event.materialization.metadata)
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None
    }
    assert set(metadata) == {"metadata_catalog", "validation_report"}
    assert metadata["metadata_catalog"]["records"].value == 1
    assert metadata["validation_report"]["what is wrong"].value == "nothing"
    path = metadata["validation_report"]["validation_report.html"].value
    assert Path(str(path)).is_file()
    outcomes = {c.check_name: c.passed for c in result.get_asset_check_evaluations()}
    assert outcomes == {
        "records_are_valid": True,
        "no_duplicates": True,
        "catalog_is_complete": True,
    }


def test_a_wrong_record_fails_its_check_and_stands_in_the_table(store: Store) -> None:
    store.write_bytes(layout.record("idr", "1"), b"{")
    result = consolidated()
    assert result.success, "the catalog is made all the same"
    [check] = [c for c in result.get_asset_check_evaluations() if not c.passed]
    assert (check.check_name, check.severity) == (
        "records_are_valid",
        dg.AssetCheckSeverity.ERROR,
    )
    assert "1 of 2 records are not valid: records/idr/1.json" in str(check.description)
    [report] = [
        event.materialization.metadata["what is wrong"]
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey("validation_report")
    ]
    assert isinstance(report, dg.TableMetadataValue)
    [wrong] = [dict(record.data) for record in report.records]
    assert "records/idr/1.json" in wrong.values()
    assert any("is not JSON" in str(cell) for cell in wrong.values())


def test_the_catalog_is_made_from_the_records_of_every_source() -> None:
    graph = defs.resolve_asset_graph()
    parents = graph.get(dg.AssetKey("metadata_catalog")).parent_keys
    assert parents == {
        dg.AssetKey("dataset_record"),
        dg.AssetKey("sim_record"),
        *(dg.AssetKey([source, "record"]) for source in SOURCES),
    }
