"""Packed step logs: as much is known of a run as before, in a tenth of the space."""

import os
import sqlite3
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    TickData,
    TickStatus,
)
from dagster._core.storage.asset_check_state import AssetCheckState

from em_platform.resources.run_logs import PackedRunLogs
from em_platform.resources.storage import Configuration
from em_platform.sensors.history import clean_older, history_sensor


@pytest.fixture
def instance(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """Dagster's files as the shipped dagster.yaml has them."""
    shipped = yaml.safe_load((repository / "dagster.yaml").read_text())
    own = {name: shipped[name] for name in ("event_log_storage", "telemetry")}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(own))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as made:
        yield made


def logs_of(instance: dg.DagsterInstance) -> PackedRunLogs:
    logs = instance.event_log_storage
    assert isinstance(logs, PackedRunLogs)
    return logs


@dg.asset(check_specs=[dg.AssetCheckSpec("is_good", asset="made")])
def made() -> dg.MaterializeResult:
    return dg.MaterializeResult(
        metadata={"height (px)": 4},
        check_results=[dg.AssetCheckResult(check_name="is_good", passed=True)],
    )


def a_run(instance: dg.DagsterInstance, *, job: str = "make_it") -> str:
    own = dg.define_asset_job(job, selection=[made])
    defs = dg.Definitions(assets=[made], jobs=[own])
    return defs.resolve_job_def(job).execute_in_process(instance=instance).run_id


def files_of(instance: dg.DagsterInstance, run_id: str) -> dict[str, int]:
    folder = Path(logs_of(instance).path_for_shard(run_id)).parent
    found = folder.rglob(f"{run_id}*")
    return {path.name: path.stat().st_size for path in found}


def test_a_packed_log_is_a_tenth_and_is_read_as_before(
    instance: dg.DagsterInstance,
) -> None:
    run_id = a_run(instance)
    before = instance.all_logs(run_id)
    plain = sum(files_of(instance, run_id).values())
    assert logs_of(instance).pack(run_id)
    packed = files_of(instance, run_id)
    assert [*packed] == [f"{run_id}.db.xz"]
    assert packed[f"{run_id}.db.xz"] < plain / 10
    # What was made stands in the index: nothing is unpacked for it.
    event = instance.get_latest_materialization_event(dg.AssetKey("made"))
    assert event is not None
    assert event.run_id == run_id
    assert [*files_of(instance, run_id)] == [f"{run_id}.db.xz"]
    assert instance.all_logs(run_id) == before
    assert [*files_of(instance, run_id)] == [f"{run_id}.db"]


def test_what_is_written_to_a_packed_log_is_kept(instance: dg.DagsterInstance) -> None:
    run_id = a_run(instance)
    logs_of(instance).pack(run_id)
    run = instance.get_run_by_id(run_id)
    assert run is not None
    instance.report_engine_event("one more", run)
    assert logs_of(instance).pack(run_id)
    assert "one more" in [entry.message for entry in instance.all_logs(run_id)]


def test_a_log_that_is_open_elsewhere_is_left_alone(
    instance: dg.DagsterInstance,
) -> None:
    run_id = a_run(instance)
    with closing(sqlite3.connect(logs_of(instance).path_for_shard(run_id))) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM event_logs").fetchone()
        assert not logs_of(instance).pack(run_id)
    assert f"{run_id}.db" in files_of(instance, run_id)
    assert logs_of(instance).pack(run_id)


def test_many_readers_unpack_the_same_log(instance: dg.DagsterInstance) -> None:
    run_id = a_run(instance)
    expected = len(instance.all_logs(run_id))
    logs_of(instance).pack(run_id)
    # Each with a storage of its own, as processes have.
    folder = str(Path(logs_of(instance).path_for_shard(run_id)).parent)
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(lambda: PackedRunLogs(folder).get_logs_for_run(run_id))
            for _ in range(8)
        ]
    assert [len(each.result()) for each in asked] == [expected] * 8
    left = [
        name for name in files_of(instance, run_id) if name.endswith((".db", ".xz"))
    ]
    assert left == [f"{run_id}.db"]


def test_a_migration_and_a_wipe_find_packed_logs(instance: dg.DagsterInstance) -> None:
    packed, plain = a_run(instance), a_run(instance)
    logs_of(instance).pack(packed)
    assert logs_of(instance).get_all_run_ids() == sorted([packed, plain])
    instance.wipe()
    assert logs_of(instance).get_all_run_ids() == []


def test_without_a_home_dagsters_own_commands_have_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    made = PackedRunLogs.from_config_value(None, {"base_dir": "history/runs"})
    folder = tmp_path / ".em_platform" / "without_dagster_home" / "history" / "runs"
    assert Path(made.path_for_shard("a")) == folder / "a.db"


def tick(instance: dg.DagsterInstance, **settings: str) -> dg.SensorResult:
    configuration = Configuration(overrides=settings)
    with dg.build_sensor_context(
        instance=instance, resources={"configuration": configuration}
    ) as context:
        result = history_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def test_the_sensor_packs_what_has_ended_and_is_quiet(
    instance: dg.DagsterInstance, home: Path
) -> None:
    ended, fresh = a_run(instance), a_run(instance)
    running = instance.create_run_for_job(
        dg.Definitions(assets=[made]).resolve_implicit_global_asset_job_def()
    ).run_id
    for run_id in (ended, running):
        for name in files_of(instance, run_id):
            path = Path(logs_of(instance).path_for_shard(run_id)).parent / name
            os.utime(path, (time.time() - 3600,) * 2)
    result = tick(instance)
    assert result.skip_reason is not None
    assert "1 logs packed" in str(result.skip_reason.skip_message)
    assert [*files_of(instance, ended)] == [f"{ended}.db.xz"]
    assert f"{fresh}.db" in files_of(instance, fresh)
    assert f"{running}.db" in files_of(instance, running)


def test_old_runs_keep_what_they_made(instance: dg.DagsterInstance) -> None:
    run_id = a_run(instance)
    logs_of(instance).pack(run_id)
    now = datetime.now(UTC)
    assert clean_older(instance, now, cursor=None)[1] == 1
    assert files_of(instance, run_id) == {}
    assert instance.get_run_by_id(run_id) is not None
    event = instance.get_latest_materialization_event(dg.AssetKey("made"))
    assert event is not None
    assert event.run_id == run_id


def test_of_old_runs_that_did_the_same_the_last_is_kept(
    instance: dg.DagsterInstance,
) -> None:
    runs = [a_run(instance) for _ in range(3)]
    other = a_run(instance, job="another")
    cursor, cleaned = clean_older(instance, datetime.now(UTC), cursor=None)
    assert cleaned == 4
    kept = [instance.has_run(run_id) for run_id in (*runs, other)]
    assert kept == [False, False, True, True]
    key = dg.AssetCheckKey(dg.AssetKey("made"), "is_good")
    history = logs_of(instance).get_asset_check_execution_history(key, limit=9)
    assert {each.run_id for each in history} == {runs[2], other}
    assert clean_older(instance, datetime.now(UTC), cursor=cursor) == (cursor, 0)


def test_an_old_failure_and_an_old_partition_stay(
    instance: dg.DagsterInstance,
) -> None:
    instance.add_dynamic_partitions("places", ["a", "b"])
    look_at(instance, "a", passed=True)
    look_at(instance, "b", passed=False)
    made_of_a = a_run(instance)
    job = dg.Definitions(assets=[made]).resolve_implicit_global_asset_job_def()
    failed = instance.create_run_for_job(job, status=dg.DagsterRunStatus.FAILURE)
    clean_older(instance, datetime.now(UTC), cursor=None)
    assert {run.run_id for run in instance.get_runs()} >= {made_of_a, failed.run_id}
    # The second place did not supersede the first.
    assert places_by_state(instance) == {"SUCCEEDED": {"a"}, "FAILED": {"b"}}
    assert len(instance.get_runs()) == 4


def test_a_look_that_found_nothing_is_soon_forgotten(
    instance: dg.DagsterInstance, home: Path
) -> None:
    place = GrpcServerCodeLocationOrigin("localhost", port=1)
    origin = RemoteRepositoryOrigin(place, "ours").get_instigator_origin("a_sensor")
    kind, now = InstigatorType.SENSOR, time.time()
    state = InstigatorState(origin, kind, InstigatorStatus.RUNNING)
    instance.add_instigator_state(state)
    key, names = state.instigator_origin_id, {"selector_id": state.selector_id}
    skipped, begun = TickStatus.SKIPPED, TickStatus.STARTED
    for hours, status in ((8, skipped), (8, begun), (1, skipped)):
        then = now - 3600 * hours
        instance.create_tick(TickData(key, "a_sensor", kind, status, then, **names))
    tick(instance)
    left = instance.get_ticks(key, state.selector_id)
    assert {each.status: round((now - each.timestamp) / 3600) for each in left} == {
        skipped: 1,
        begun: 8,
    }
    tick(instance, **{"history.keep_skipped_hours": "0"})
    assert len(instance.get_ticks(key, state.selector_id)) == 2


PLACES = dg.DynamicPartitionsDefinition(name="places")
CHECK = dg.AssetCheckKey(dg.AssetKey("seen"), "is_sharp")


def asset_of(*, passed: bool) -> dg.AssetsDefinition:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        spec = dg.AssetCheckSpec("is_sharp", asset="seen", partitions_def=PLACES)

    @dg.asset(partitions_def=PLACES, check_specs=[spec])
    def seen() -> dg.MaterializeResult:
        return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=passed)])

    return seen


def look_at(instance: dg.DagsterInstance, place: str, *, passed: bool) -> None:
    seen = asset_of(passed=passed)
    assert dg.materialize([seen], partition_key=place, instance=instance).success


def places_by_state(instance: dg.DagsterInstance) -> dict[str, set[str]]:
    with partition_loading_context(dynamic_partitions_store=instance):
        [state] = logs_of(instance).get_asset_check_state([(CHECK, PLACES)]).values()
        found = {
            status.value: set(subset.subset_value.get_partition_keys())
            for status, subset in state.subsets.items()
        }
    return {status: places for status, places in found.items() if places}


def test_a_check_is_followed_from_where_it_was_last_seen(
    instance: dg.DagsterInstance,
) -> None:
    instance.add_dynamic_partitions("places", ["a", "b"])
    look_at(instance, "a", passed=True)
    look_at(instance, "b", passed=False)
    assert places_by_state(instance) == {"SUCCEEDED": {"a"}, "FAILED": {"b"}}
    seen = states_of(instance)
    assert seen.latest_storage_id > 0
    instance.add_dynamic_partitions("places", ["c"])
    look_at(instance, "b", passed=True)
    look_at(instance, "c", passed=True)
    assert places_by_state(instance)["SUCCEEDED"] == {"a", "b", "c"}
    # Another process, such as the web server after its start, goes on from there.
    others = PackedRunLogs(str(Path(logs_of(instance).path_for_shard("x")).parent))
    last = states_of(instance)
    assert states_of(instance, others) == last
    assert last.latest_storage_id > seen.latest_storage_id
    instance.delete_dynamic_partition("places", "a")
    assert states_of(instance).latest_storage_id == 0


def states_of(
    instance: dg.DagsterInstance, logs: PackedRunLogs | None = None
) -> AssetCheckState:
    logs = logs or logs_of(instance)
    return logs.get_checkpointed_asset_check_state([CHECK])[CHECK]


def test_what_one_process_deletes_all_forget(instance: dg.DagsterInstance) -> None:
    instance.add_dynamic_partitions("places", ["a"])
    others = PackedRunLogs(str(Path(logs_of(instance).path_for_shard("x")).parent))
    for _ in range(2):
        look_at(instance, "a", passed=False)
    places_by_state(instance)
    last, first = (run.run_id for run in instance.get_runs())
    instance.delete_run(first)
    assert states_of(instance, others).latest_storage_id > 0
    instance.delete_run(last)
    assert states_of(instance, others).latest_storage_id == 0
    assert places_by_state(instance) == {}
    path = next(Path(logs_of(instance).path_for_shard("x")).parent.glob("checks/*.z"))
    path.write_bytes(b"half a fi")
    assert states_of(instance, others).latest_storage_id == 0


def test_the_sensor_reads_checks_before_their_page_does(
    instance: dg.DagsterInstance, home: Path
) -> None:
    instance.add_dynamic_partitions("places", ["a"])
    look_at(instance, "a", passed=True)
    defs = dg.Definitions(assets=[asset_of(passed=True)])
    configuration = Configuration()
    with dg.build_sensor_context(
        instance=instance, resources={"configuration": configuration}, definitions=defs
    ) as context:
        history_sensor(context)
    assert states_of(instance).latest_storage_id > 0


def test_a_history_without_checks_is_read_when_there_are_some(
    instance: dg.DagsterInstance, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    logs = logs_of(instance)
    monkeypatch.setattr(logs, "get_asset_check_state", asked.append)
    instance.add_dynamic_partitions("places", ["a"])
    defs = dg.Definitions(assets=[asset_of(passed=True)])

    def look() -> None:
        resources = {"configuration": Configuration()}
        with dg.build_sensor_context(
            instance=instance, resources=resources, definitions=defs
        ) as context:
            history_sensor(context)

    look()
    look_at(instance, "a", passed=True)
    look()
    assert not asked  # within the 10 minutes after the first look
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now + 601)
    look()
    assert asked


def test_a_partition_is_known_as_soon_as_it_is_added(
    instance: dg.DagsterInstance,
) -> None:
    assert not instance.has_dynamic_partition("places", "a")
    instance.add_dynamic_partitions("places", ["a"])
    assert instance.has_dynamic_partition("places", "a")
    assert not instance.has_dynamic_partition("montages", "a")


def test_what_a_file_has_is_asked_of_it_once(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage: Any = instance.schedule_storage
    opened, connect = [0], storage.connect
    monkeypatch.setattr(storage, "connect", lambda: (opened.append(1), connect())[1])
    # What is not there may come.
    assert not storage.has_built_index("of a later version")
    storage.mark_index_built("of a later version")
    assert storage.has_built_index("of a later version")
    assert storage.has_instigators_table()
    before = len(opened)
    assert storage.has_built_index("of a later version")
    assert storage.has_instigators_table()
    assert len(opened) == before > 1


def test_a_file_of_the_history_has_one_engine(instance: dg.DagsterInstance) -> None:
    # It keeps what SQLAlchemy has compiled; the names are private to Dagster.
    engines = []
    for _ in range(2):
        with logs_of(instance).index_connection() as connection:
            engines.append(connection.engine)
        with instance.run_storage.connect() as connection:  # type: ignore[attr-defined]
            engines.append(connection.engine)
    assert len(engines) == 4
    assert len({id(engine) for engine in engines}) == 2
