import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from em_platform.resources.storage import Configuration
from em_platform.sensors.catalog import catalog_sensor

pytestmark = pytest.mark.usefixtures("home")


def tick(
    instance: dg.DagsterInstance, *, settle_s: float = 0, at_latest_s: float = 600
) -> dg.RunRequest | dg.SkipReason:
    overrides = {
        "catalog.settle_s": str(settle_s),
        "catalog.at_latest_s": str(at_latest_s),
    }
    configuration = Configuration(overrides=overrides)
    with dg.build_sensor_context(
        instance=instance, resources={"configuration": configuration}
    ) as context:
        result = catalog_sensor(context)
    assert isinstance(result, dg.RunRequest | dg.SkipReason)
    return result


def sentence(result: dg.RunRequest | dg.SkipReason) -> str:
    assert isinstance(result, dg.SkipReason)
    return str(result.skip_message)


def end_run(instance: dg.DagsterInstance, job: str, part: str | None = None) -> None:
    tags = {} if part is None else {"em/part": part}
    run = create_run_for_test(instance, job_name=job, tags=tags)
    instance.report_run_failed(run)


def consolidated(
    instance: dg.DagsterInstance,
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.SUCCESS,
) -> None:
    tags = {"em/part": "catalog"}
    create_run_for_test(
        instance, job_name="consolidate_catalog", tags=tags, status=status
    )


@pytest.mark.parametrize(
    ("job", "part"),
    [
        ("stitch_montages", "live"),
        ("record_datasets", "montage"),
        ("ingest_ebi", "ingest"),
        ("__ASSET_JOB", None),  # from an asset's page, before parts were tagged
    ],
)
def test_whatever_changes_a_record_is_in_the_catalog_soon(
    instance: dg.DagsterInstance, job: str, part: str | None
) -> None:
    assert "no record has changed" in sentence(tick(instance))
    end_run(instance, job, part)
    assert isinstance(tick(instance), dg.RunRequest)
    consolidated(instance)
    assert "no record has changed" in sentence(tick(instance))


@pytest.mark.parametrize("part", ["lens", "review", "catalog"])
def test_what_writes_no_record_makes_no_catalog(
    instance: dg.DagsterInstance, part: str
) -> None:
    end_run(instance, "some_job", part)
    assert "no record has changed" in sentence(tick(instance))


def test_a_burst_is_waited_for_but_not_for_ever(instance: dg.DagsterInstance) -> None:
    for _ in range(3):
        end_run(instance, "ingest_idr", "ingest")
    going_on = {"em/part": "live"}
    started = dg.DagsterRunStatus.STARTED
    running = create_run_for_test(instance, tags=going_on, status=started)
    waits = sentence(tick(instance))
    assert "records of 3 runs have changed, 1 are under way" in waits
    # A microscope that never pauses.
    assert isinstance(tick(instance, at_latest_s=0), dg.RunRequest)
    instance.report_run_failed(running)
    assert "4 runs have changed, 0 are" in sentence(tick(instance, settle_s=60))
    request = tick(instance)
    assert isinstance(request, dg.RunRequest)
    # Asked again before Dagster has made the run: it starts no key twice.
    assert tick(instance) == request


def test_changes_during_a_consolidation_are_not_forgotten(
    instance: dg.DagsterInstance,
) -> None:
    end_run(instance, "stitch_montages", "montage")
    consolidated(instance, dg.DagsterRunStatus.STARTED)
    assert "no record has changed" in sentence(tick(instance))
    end_run(instance, "stitch_montages", "montage")
    assert isinstance(tick(instance), dg.RunRequest)


def test_a_consolidation_that_failed_does_not_count(
    instance: dg.DagsterInstance,
) -> None:
    end_run(instance, "ingest_ebi", "ingest")
    consolidated(instance, dg.DagsterRunStatus.FAILURE)
    assert isinstance(tick(instance), dg.RunRequest)


def test_consolidation_can_be_switched_off(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EM_RUN_CONSOLIDATION", "false")
    end_run(instance, "ingest_ebi", "ingest")
    assert "is off" in sentence(tick(instance))
