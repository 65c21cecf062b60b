from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from em_platform.assets import checks as asset_checks
from em_platform.config import export
from em_platform.definitions import defs
from em_platform.formats import open_level
from em_platform.ingest.sources import SOURCES
from em_platform.model.dataset import DatasetRecord
from em_platform.partitions import items
from em_platform.standins.faults import Fault
from em_platform.standins.world import World, running_world
from em_platform.storage import Store, layout

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:dagster"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture
def world(
    home: Path, shared_world: World, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    environment = {**shared_world.environment, **export(shared_world.settings)}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EM_INGEST__TRANSFER__BACKOFF_S", "0.01")
    yield shared_world
    shared_world.faults.clear()
    shared_world.requests.clear()


def ingest(
    instance: dg.DagsterInstance, source: str, key: str
) -> dg.ExecuteInProcessResult:
    # A check that does not know its partition shows only beside a second one.
    instance.add_dynamic_partitions(str(items[source].name), [key, "another-one"])
    return defs.resolve_job_def(f"ingest_{source}").execute_in_process(
        partition_key=key, instance=instance, raise_on_error=False
    )


def metadata_of(
    result: dg.ExecuteInProcessResult, source: str, name: str
) -> dict[str, dg.MetadataValue]:
    [event] = [
        event
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey([source, name])
    ]
    assert event.partition == result.dagster_run.tags["dagster/partition"]
    return dict(event.materialization.metadata)


def record_of(store: Store, source: str, key: str) -> DatasetRecord:
    return store.read(layout.record(source, key), DatasetRecord)


@pytest.mark.parametrize("source", SOURCES)
def test_an_item_becomes_a_checked_volume_and_is_not_fetched_again(
    source: str, instance: dg.DagsterInstance, world: World, store: Store
) -> None:
    key = world.keys[source][0]
    result = ingest(instance, source, key)
    assert result.success
    checks = result.get_asset_check_evaluations()
    assert [c.check_name for c in checks if not c.passed] == []
    assert len(checks) == 7
    written = np.asarray(open_level(store.url(layout.volume(source, key)), 0)[...])
    assert np.array_equal(written, world.truth(source, key))
    assert record_of(store, source, key).status == "complete"

    shown = metadata_of(result, source, "volume")
    assert "data:image/webp" in str(shown["preview"].value)
    assert "█" in str(shown["grey levels"].value)
    assert shown["bytes"].value > 0
    assert metadata_of(result, source, "raw")["bytes"].value >= 0
    assert metadata_of(result, source, "entry")["title"].value

    again = ingest(instance, source, key)
    assert again.success
    assert metadata_of(again, source, "raw")["bytes fetched now"].value == 0


def test_a_source_that_is_down_fails_with_its_sentence_and_its_record(
    instance: dg.DagsterInstance,
    world: World,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asset_checks, "_SOURCE_PAUSES_S", (0.0,) * 3)
    monkeypatch.setenv("EM_INGEST__TRANSFER__RETRIES", "0")
    key = world.keys["epfl"][0]
    world.faults.add(Fault(kind="status", status=503, path="/groups/*"))
    result = ingest(instance, "epfl", key)
    assert not result.success
    record = record_of(store, "epfl", key)
    assert record.status == "failed"
    assert record.error is not None
    assert "503" in record.error.message
    assert record.error.retry_count == 3


def test_what_a_source_refuses_is_not_tried_again(
    instance: dg.DagsterInstance, world: World, store: Store
) -> None:
    result = ingest(instance, "epfl", "no-such-file")
    assert not result.success
    [event] = [e for e in result.all_events if e.is_step_failure]
    failure = event.step_failure_data.user_failure_data
    assert failure is not None
    record = record_of(store, "epfl", "no-such-file")
    assert record.error is not None
    assert failure.description == record.error.message
    assert record.error.retry_count == 0
