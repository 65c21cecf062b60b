import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from em_platform import jobs
from em_platform.partitions import items
from em_platform.resources.ingest import (
    PublicSources,
    runs_under_way,
    unfinished_items,
    wishes,
)
from em_platform.resources.storage import Configuration
from em_platform.schedules import consolidate_catalog_schedule, ingest_schedules
from em_platform.sensors.ingest import heavy_ingest_sensor

pytestmark = pytest.mark.filterwarnings("ignore:InitResourceContext.dagster_run")

SCHEDULES = {schedule.job_name: schedule for schedule in ingest_schedules}
NIGHT = datetime(2026, 5, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An instance's files with two items a source, one of which has its record."""
    folder = tmp_path_factory.mktemp("memory")
    with dg.DagsterInstance.local_temp(str(folder)) as instance:
        for source, key in (("ebi", "11759"), ("epfl", "volumedata")):
            instance.add_dynamic_partitions(str(items[source].name), [key, "other"])
            made = dg.AssetMaterialization([source, "record"], partition="other")
            instance.report_runless_asset_event(made)
    return folder


@pytest.fixture
def instance(home: Path, memory: Path, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    folder = shutil.copytree(memory, tmp_path / "dagster")
    with dg.DagsterInstance.local_temp(str(folder)) as instance:
        yield instance


@pytest.fixture
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("EM_EXECUTION_MODE", request.param)
    return str(request.param)


def add_run(
    instance: dg.DagsterInstance, source: str, key: str, *, status: str = "STARTED"
) -> None:
    weight = "heavy" if source in ("epfl", "openorganelle") else "light"
    tags = {"dagster/partition": key, "em/source": source, "em/weight": weight}
    create_run_for_test(instance, tags=tags, status=dg.DagsterRunStatus(status))


def evaluate(
    source: str, instance: dg.DagsterInstance
) -> list[dg.RunRequest | dg.SkipReason]:
    configuration = Configuration()
    with dg.build_schedule_context(
        instance=instance,
        scheduled_execution_time=NIGHT,
        resources={
            "configuration": configuration,
            "sources": PublicSources(configuration=configuration),
        },
    ) as context:
        return list(SCHEDULES[f"ingest_{source}"](context))  # type: ignore[arg-type]


def tick_heavy(
    instance: dg.DagsterInstance, cursor: str | None = None
) -> dg.SensorResult | dg.SkipReason:
    with dg.build_sensor_context(
        instance=instance, cursor=cursor, resources={"configuration": Configuration()}
    ) as context:
        result = heavy_ingest_sensor(context)
    assert isinstance(result, dg.SensorResult | dg.SkipReason)
    return result


def test_each_source_has_a_schedule_that_somebody_must_switch_on() -> None:
    assert {name: each.cron_schedule for name, each in SCHEDULES.items()} == {
        "ingest_ebi": "0 1 * * *",
        "ingest_epfl": "0 5 * * 0",
        "ingest_flyem": "0 3 * * *",
        "ingest_idr": "0 4 * * *",
        "ingest_openorganelle": "0 6 * * 0",
    }
    assert {each.default_status for each in ingest_schedules} == {
        dg.DefaultScheduleStatus.STOPPED
    }
    assert (
        consolidate_catalog_schedule.default_status is dg.DefaultScheduleStatus.RUNNING
    )


def test_items_with_a_record_a_run_or_too_many_tries_are_left(
    instance: dg.DagsterInstance,
) -> None:
    assert unfinished_items("ebi", instance) == ["11759"]
    add_run(instance, "epfl", "11759")  # of another source with the same key
    assert unfinished_items("ebi", instance) == ["11759"]
    add_run(instance, "ebi", "11759")
    assert unfinished_items("ebi", instance) == []
    for _ in range(10):
        add_run(instance, "epfl", "volumedata", status="FAILURE")
    assert unfinished_items("epfl", instance) == []


@pytest.mark.parametrize(
    ("mode", "source", "lane", "priority"),
    [
        ("staged", "ebi", "ebi", "0"),
        ("sequential", "ebi", "all", "0"),
        ("sequential", "epfl", "all", "-1"),
        ("parallel", "epfl", "epfl", "0"),
        ("background", "ebi", "background-1", "-2"),
        ("background", "epfl", "background-0", "0"),
    ],
    indirect=["mode"],
)
def test_the_execution_mode_chooses_lane_and_priority(
    mode: str, source: str, lane: str, priority: str, instance: dg.DagsterInstance
) -> None:
    [request] = evaluate(source, instance)
    assert isinstance(request, dg.RunRequest)
    assert request.run_key == f"2026-05-03 01:00 {request.partition_key}"
    tags = request.tags
    assert tags["em/lane"] == lane
    assert tags["dagster/priority"] == priority
    assert (tags["em/source"], tags["em/part"]) == (source, "ingest")


@pytest.mark.parametrize("mode", ["staged"], indirect=True)
def test_in_the_staged_mode_a_heavy_item_waits_for_the_light_ones(
    mode: str, instance: dg.DagsterInstance
) -> None:
    add_run(instance, "idr", "9846137")
    [skipped] = evaluate("epfl", instance)
    assert isinstance(skipped, dg.SkipReason)
    assert "heavy_ingest_sensor" in str(skipped.skip_message)
    [(number, key)] = wishes("epfl", 0, instance)
    assert key == "volumedata"

    waiting = tick_heavy(instance)
    assert isinstance(waiting, dg.SkipReason)
    assert waiting.skip_message == "1 heavy items wait for 1 light runs"
    for run in instance.get_runs():
        instance.report_run_canceled(run)
    assert runs_under_way(instance, {"em/weight": "light"}) == 0

    started = tick_heavy(instance)
    assert isinstance(started, dg.SensorResult)
    [request] = started.run_requests or []
    assert (request.job_name, request.partition_key) == ("ingest_epfl", "volumedata")
    assert request.tags["em/lane"] == "heavy"
    assert started.cursor == str(number)
    assert isinstance(tick_heavy(instance, started.cursor), dg.SkipReason)


def test_a_schedule_finds_the_items_that_nobody_has_looked_for(
    instance: dg.DagsterInstance,
) -> None:
    [request] = evaluate("openorganelle", instance)
    assert "heavy_ingest_sensor" in str(getattr(request, "skip_message", ""))
    [(_, key)] = wishes("openorganelle", 0, instance)
    assert key == "jrc_mus-nacc-2.recon-2.em.fibsem-int16.s2"
    assert unfinished_items("openorganelle", instance) == [key]


def test_a_source_that_is_switched_off_or_has_all_is_not_asked(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = dg.AssetMaterialization(["ebi", "record"], partition="11759")
    instance.report_runless_asset_event(made)
    [skipped] = evaluate("ebi", instance)
    assert "every known item of ebi" in str(getattr(skipped, "skip_message", ""))
    monkeypatch.setenv("EM_SERVICES", "epfl,idr")
    [skipped] = evaluate("ebi", instance)
    assert "switched off" in str(getattr(skipped, "skip_message", ""))


def test_wrong_settings_do_not_keep_the_definitions_from_loading(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EM_INGEST__EBI__WEIGHT", "enormous")
    assert jobs._settings_at_load().ingest.ebi.weight == "light"
    assert "have the default settings" in caplog.text
