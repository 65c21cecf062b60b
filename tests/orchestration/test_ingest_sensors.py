import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from em_platform.config import export
from em_platform.definitions import defs
from em_platform.partitions import items
from em_platform.resources.ingest import PublicSources
from em_platform.resources.storage import Configuration
from em_platform.sensors.ingest import discovery_sensor
from em_platform.sensors.killed import killed_runs_sensor
from em_platform.standins.world import World, running_world

pytestmark = pytest.mark.filterwarnings("ignore:InitResourceContext.dagster_run")


@pytest.fixture
def world(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    with running_world(tmp_path / "world", sources=("idr", "epfl")) as world:
        for name, value in {**world.environment, **export(world.settings)}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("EM_INGEST__IDR__DISCOVER", "true")
        yield world


def discover(
    instance: dg.DagsterInstance, cursor: str | None = None
) -> dg.SensorResult:
    sources = PublicSources(configuration=Configuration())
    with dg.build_sensor_context(
        instance=instance, cursor=cursor, resources={"sources": sources}
    ) as context:
        result = discovery_sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def added(result: dg.SensorResult) -> dict[str, set[str]]:
    return {
        each.partitions_def_name: set(each.partition_keys)
        for each in result.dynamic_partitions_requests or []
    }


def test_items_that_are_configured_or_listed_become_partitions(
    instance: dg.DagsterInstance, world: World
) -> None:
    first = discover(instance)
    found = added(first)
    assert found["epfl_files"] == {"volumedata"}
    assert found["idr_images"] == {"9846137", "9846138"}  # configured, in its dataset
    assert not first.run_requests
    for source in ("epfl", "idr"):
        name = str(items[source].name)
        instance.add_dynamic_partitions(name, sorted(found[name]))
    asked = world.requests.count()
    again = discover(instance, first.cursor)
    assert str(again.skip_reason and again.skip_reason.skip_message) == (
        "no source has a new item"
    )
    assert world.requests.count() == asked


def test_sources_are_looked_at_again_when_their_settings_change(
    instance: dg.DagsterInstance, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = discover(instance)
    monkeypatch.setenv("EM_INGEST__EPFL__ITEMS", "volumedata,training")
    second = discover(instance, first.cursor)
    assert added(second)["epfl_files"] == {"volumedata", "training"}
    assert "idr_images" not in added(second)


def test_a_source_that_is_down_says_so_and_hides_no_other(
    instance: dg.DagsterInstance,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    free_port: object,
) -> None:
    assert callable(free_port)
    monkeypatch.setenv("EM_INGEST__IDR__API_URL", f"http://127.0.0.1:{free_port()}")
    result = discover(instance)
    assert added(result) == {"epfl_files": {"volumedata"}}
    instance.add_dynamic_partitions("epfl_files", ["volumedata"])
    looked = json.loads(result.cursor or "{}")
    del looked["idr"]
    skipped = discover(instance, json.dumps(looked)).skip_reason
    assert skipped is not None
    assert "127.0.0.1" in str(skipped.skip_message)


@pytest.mark.parametrize(
    ("job", "last", "tags"),
    [
        ("ingest_ebi", "ebi__record", {"em/source": "ebi"}),
        ("simulate_stacks", "sim_record", {}),
    ],
)
def test_a_run_that_was_killed_at_the_end_is_followed_by_another(
    instance: dg.DagsterInstance, job: str, last: str, tags: dict[str, str]
) -> None:
    from dagster._core.execution.plan.objects import StepSuccessData

    tags = {"dagster/partition": "11759", **tags}
    run = instance.create_run_for_job(defs.resolve_job_def(job), tags=tags)
    event = dg.DagsterEvent(
        event_type_value=dg.DagsterEventType.STEP_SUCCESS.value,
        job_name=run.job_name,
        step_key=last,
        event_specific_data=StepSuccessData(duration_ms=1.0),
    )
    instance.report_dagster_event(event, run.run_id)
    instance.report_run_failed(run, "killed")
    with dg.build_sensor_context(instance=instance) as context:
        result = killed_runs_sensor(context)
    assert isinstance(result, dg.SensorResult)
    [request] = result.run_requests or []
    assert (request.job_name, request.partition_key) == (job, "11759")
