"""A montage whose run was killed, and that Dagster does not run again -> a new run."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from em_platform.jobs import record_datasets, stitch_montages

_LAST_STEP = "dataset_record"
_JOBS = (stitch_montages.name, record_datasets.name)
_PATIENCE_S = 60.0
_LOOK_BACK = timedelta(days=1)
_MOST = 100


@dg.sensor(
    jobs=[stitch_montages, record_datasets],
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def killed_runs_sensor(
    context: dg.SensorEvaluationContext,
) -> dg.SensorResult | dg.SkipReason:
    """Starts what follows a killed run where Dagster's own retry does not.

    Where all steps were done Dagster finds nothing to run and leaves the run as failed:
    the last step is cheap and is done once more. And it forgets a run whose failure it
    reads before the run's state has changed: that one is run again after a while.
    """
    failed = context.instance.get_run_records(
        dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.FAILURE],
            updated_after=datetime.now(UTC) - _LOOK_BACK,
        ),
        limit=_MOST,
    )
    found = [_successor(record, context.instance) for record in failed]
    requests = [request for request in found if request is not None]
    if not requests:
        return dg.SkipReason("no killed run waits for a successor")
    return dg.SensorResult(run_requests=requests)


def _successor(
    record: dg.RunRecord, instance: dg.DagsterInstance
) -> dg.RunRequest | None:
    run = record.dagster_run
    key = run.tags.get("dagster/partition")
    if key is None or run.job_name not in _JOBS:
        return None
    [newest] = instance.get_runs(
        dg.RunsFilter(tags={"dagster/partition": key}), limit=1
    )
    if newest.run_id != run.run_id:
        return None
    if _did_all(run.run_id, instance):
        job = record_datasets.name
    elif run.is_complete_and_waiting_to_retry and _age_s(record) > _PATIENCE_S:
        job = stitch_montages.name
    else:
        return None
    return dg.RunRequest(run_key=run.run_id, job_name=job, partition_key=key)


def _did_all(run_id: str, instance: dg.DagsterInstance) -> bool:
    done = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_SUCCESS)
    return any(entry.step_key == _LAST_STEP for entry in done)


def _age_s(record: dg.RunRecord) -> float:
    ended = record.end_time or record.update_timestamp.timestamp()
    return datetime.now(UTC).timestamp() - ended
