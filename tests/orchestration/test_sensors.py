import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.plan.objects import StepSuccessData

from em_platform.acquisition.recorder import ledger_of
from em_platform.config import load_settings
from em_platform.definitions import defs
from em_platform.jobs import lens_config
from em_platform.resources.acquisition import Microscope
from em_platform.resources.storage import Configuration
from em_platform.sensors.acquisition import (
    inbox_sensor,
    lens_montage_sensor,
    montage_complete_sensor,
)
from em_platform.sensors.killed import killed_runs_sensor

# Dagster's own code asks for what it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:InitResourceContext.dagster_run")

Tick = dg.SensorResult | dg.SkipReason


@pytest.fixture
def microscope(home: Path) -> Microscope:
    return Microscope(configuration=Configuration())


def complete(acquisition_id: str) -> None:
    body = {
        "montage_id": acquisition_id.partition("-t")[0],
        "tiles": {},
        "acquisition_id": acquisition_id,
        "start_time": "2026-01-01T00:00:00Z",
        "pixel_size": 4.0,
        "rotation_angle": 0.0,
        "aperture_centroid": [0, 0],
    }
    with ledger_of(load_settings()) as recorder:
        recorder.append("montage.complete", body, {})


def tick(
    sensor: dg.SensorDefinition,
    microscope: Microscope,
    instance: dg.DagsterInstance,
    *,
    cursor: str | None = None,
) -> Tick:
    with dg.build_sensor_context(
        instance=instance, cursor=cursor, resources={"microscope": microscope}
    ) as context:
        result = sensor(context)
    assert isinstance(result, Tick)
    return result


def keys_of(result: Tick) -> list[str | None]:
    assert isinstance(result, dg.SensorResult)
    added = result.dynamic_partitions_requests[0].partition_keys
    requested = [request.partition_key for request in result.run_requests]
    assert list(added) == requested
    # The inbox adds a mark of the content.
    keys = [str(request.run_key).partition(" ")[0] for request in result.run_requests]
    assert keys == requested
    return requested


def skips(result: Tick) -> bool:
    return isinstance(result, dg.SkipReason) or not result.run_requests


def test_each_completed_montage_is_asked_for_once(
    microscope: Microscope, instance: dg.DagsterInstance
) -> None:
    complete("m-1-t1")
    complete("m-2-t1")
    first = tick(montage_complete_sensor, microscope, instance)
    assert keys_of(first) == ["m-1-t1", "m-2-t1"]
    again = tick(montage_complete_sensor, microscope, instance, cursor=first.cursor)
    assert isinstance(again, dg.SkipReason)
    complete("m-3-t1")
    later = tick(montage_complete_sensor, microscope, instance, cursor=first.cursor)
    assert keys_of(later) == ["m-3-t1"]


def test_montages_of_a_table_that_was_begun_anew_are_asked_for(
    microscope: Microscope, instance: dg.DagsterInstance
) -> None:
    """round3 1.3.4: after a damaged one was moved away its cursor is beyond the end."""
    complete("m-1-t1")
    anew = tick(montage_complete_sensor, microscope, instance, cursor="5000")
    assert keys_of(anew) == ["m-1-t1"]
    assert anew.cursor == "1"


def test_a_montage_goes_before_those_that_wait_since_the_platform_was_down(
    microscope: Microscope,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    complete("m-1-t1")
    with monkeypatch.context() as later:
        later.setattr("em_platform.sensors.acquisition._LIVE_S", -1.0)
        waiting = tick(montage_complete_sensor, microscope, instance)
    fresh = tick(montage_complete_sensor, microscope, instance)
    assert isinstance(waiting, dg.SensorResult)
    assert isinstance(fresh, dg.SensorResult)
    assert waiting.run_requests[0].tags == {
        "em/part": "montage",
        "dagster/priority": "10",
    }
    assert fresh.run_requests[0].tags == {"em/part": "live"}


def test_the_cursor_is_a_number_that_does_not_grow_with_the_montages(
    microscope: Microscope, instance: dg.DagsterInstance
) -> None:
    for number in range(60):
        complete(f"m-{number}-t1")
    first = tick(montage_complete_sensor, microscope, instance)
    second = tick(montage_complete_sensor, microscope, instance, cursor=first.cursor)
    assert len(keys_of(first)) + len(keys_of(second)) == 60
    assert int(second.cursor) >= 60


def test_without_any_event_the_sensor_skips(
    microscope: Microscope, instance: dg.DagsterInstance
) -> None:
    result = tick(montage_complete_sensor, microscope, instance)
    assert isinstance(result, dg.SkipReason)


def test_a_folder_is_asked_for_when_it_is_quiet_and_only_once(
    microscope: Microscope,
    instance: dg.DagsterInstance,
    drop_montage: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drop_montage("grid-1")
    assert skips(tick(inbox_sensor, microscope, instance))
    monkeypatch.setenv("EM_ACQUISITION__INBOX_QUIET_S", "0.1")
    time.sleep(0.3)
    first = tick(inbox_sensor, microscope, instance)
    assert keys_of(first) == ["grid-1"]
    assert isinstance(first, dg.SensorResult)
    assert first.run_requests[0].tags["dagster/priority"] == "10"
    again = tick(inbox_sensor, microscope, instance, cursor=first.cursor)
    assert skips(again)
    # Also of a look that found nothing new.
    assert [*json.loads(str(again.cursor))] == ["grid-1"]


def test_the_memory_of_folders_does_not_outlive_them(
    microscope: Microscope,
    instance: dg.DagsterInstance,
    drop_montage: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EM_ACQUISITION__INBOX_QUIET_S", "0.1")
    old = drop_montage("grid-1")
    time.sleep(0.3)
    first = tick(inbox_sensor, microscope, instance)
    for path in old.iterdir():
        os.unlink(path)
    old.rmdir()
    drop_montage("grid-2")
    time.sleep(0.3)
    second = tick(inbox_sensor, microscope, instance, cursor=first.cursor)
    assert keys_of(second) == ["grid-2"]
    assert [*json.loads(str(second.cursor))] == ["grid-2"]


def test_only_a_montage_that_shows_the_lens_calibrates_it(
    microscope: Microscope,
    instance: dg.DagsterInstance,
    image_montage: Callable[..., Path],
) -> None:
    image_montage("m-1")
    first = tick(lens_montage_sensor, microscope, instance)
    assert isinstance(first, dg.SensorResult)
    assert (first.run_requests, first.dynamic_partitions_requests) == ([], [])
    image_montage("lens-1", is_lens=True)
    image_montage("lens-2", is_lens=True)
    second = tick(lens_montage_sensor, microscope, instance, cursor=first.cursor)
    assert isinstance(second, dg.SensorResult)
    [added] = second.dynamic_partitions_requests
    assert list(added.partition_keys) == ["sim_2000"]
    asked = [(r.run_key, r.partition_key) for r in second.run_requests]
    assert asked == [("lens-1-t1", "sim_2000"), ("lens-2-t1", "sim_2000")]
    config = second.run_requests[0].run_config["ops"]["lens_correction"]["config"]
    assert config == {"acquisition_id": "lens-1-t1"}
    again = tick(lens_montage_sensor, microscope, instance, cursor=second.cursor)
    assert isinstance(again, dg.SkipReason)


def failed_run(
    instance: dg.DagsterInstance, *steps: str, will_retry: bool = True
) -> str:
    """A run that was killed after these steps."""
    run = instance.create_run_for_job(
        defs.resolve_job_def("stitch_montages"), tags={"dagster/partition": "m-1-t1"}
    )
    for step in steps:
        event = dg.DagsterEvent(
            event_type_value=dg.DagsterEventType.STEP_SUCCESS.value,
            job_name=run.job_name,
            step_key=step,
            event_specific_data=StepSuccessData(duration_ms=1.0),
        )
        instance.report_dagster_event(event, run.run_id)
    instance.report_run_failed(run, "killed")
    tag = {"dagster/will_retry": str(will_retry).lower()}
    instance.add_run_tags(run.run_id, tag)
    return run.run_id


def tick_killed(instance: dg.DagsterInstance) -> list[tuple[str | None, ...]]:
    with dg.build_sensor_context(instance=instance) as context:
        result = killed_runs_sensor(context)
    if isinstance(result, dg.SkipReason):
        return []
    assert isinstance(result, dg.SensorResult)
    return [(r.job_name, r.partition_key, r.run_key) for r in result.run_requests]


def test_a_run_that_was_killed_after_its_last_step_gets_one_that_ends_well(
    instance: dg.DagsterInstance,
) -> None:
    run_id = failed_run(instance, "mosaic", "dataset_record", will_retry=False)
    assert tick_killed(instance) == [("record_datasets", "m-1-t1", run_id)]


def test_a_run_that_has_more_to_do_is_left_to_dagster_for_a_while(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = failed_run(instance, "tiles", "mosaic")
    assert tick_killed(instance) == []
    monkeypatch.setattr("em_platform.sensors.killed._PATIENCE_S", -1.0)
    assert tick_killed(instance) == [("stitch_montages", "m-1-t1", run_id)]
    instance.add_run_tags(run_id, {"dagster/auto_retry_run_id": "another"})
    assert tick_killed(instance) == []


def test_a_run_that_failed_for_good_or_has_a_successor_is_left(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("em_platform.sensors.killed._PATIENCE_S", -1.0)
    failed_run(instance, "tiles", will_retry=False)
    assert tick_killed(instance) == []
    killed = failed_run(instance, "tiles")
    assert [key for _, _, key in tick_killed(instance)] == [killed]
    failed_run(instance, "tiles", will_retry=False)  # the newest counts
    assert tick_killed(instance) == []


@pytest.mark.parametrize(
    ("assets", "job"),
    [
        (["mosaic", "montage_fit"], "stitch_montages"),
        (["acquisition_review"], "review_acquisitions"),
        (["lens_correction"], "calibrate_lens"),
        (["ebi/raw", "ebi/volume"], "ingest_ebi"),
        (["mosaic", "acquisition_review"], None),
        (["metadata_catalog", "validation_report"], None),
    ],
)
def test_a_killed_run_of_an_assets_page_is_followed_by_one_of_the_same_assets(
    assets: list[str],
    job: str | None,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("em_platform.sensors.killed._PATIENCE_S", -1.0)
    keys = frozenset(dg.AssetKey(name.split("/")) for name in assets)
    config = lens_config("m-1-t1") if job == "calibrate_lens" else {}
    run = instance.create_run_for_job(
        defs.get_repository_def().get_job("__ASSET_JOB"),
        asset_selection=keys,
        tags={"dagster/partition": "m-1-t1", "em/part": "montage"},
        run_config=config,
    )
    instance.report_run_failed(run, "killed")
    instance.add_run_tags(run.run_id, {"dagster/will_retry": "true"})
    found = tick_killed(instance)
    assert found == ([] if job is None else [(job, "m-1-t1", run.run_id)])
    if job is not None:
        with dg.build_sensor_context(instance=instance) as context:
            result = killed_runs_sensor(context)
        assert isinstance(result, dg.SensorResult)
        [request] = result.run_requests
        assert set(request.asset_selection or ()) == keys
        assert request.run_config == config
        assert request.tags == {"em/part": "montage"}
