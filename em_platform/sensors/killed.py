"""A montage or item whose run was killed, and that Dagster leaves so -> a new run."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from em_platform.ingest.plan import SOURCE
from em_platform.jobs import ingest_jobs, record_datasets, stitch_montages

_LAST_STEPS = {
    stitch_montages.name: "dataset_record",
    record_datasets.name: "dataset_record",
    **{job.name: f"{source}__record" for source, job in ingest_jobs.items()},
}
# Job -> that which makes only its last step; all steps of the others are cheap when
# they are done already.
_CHEAP = {stitch_montages.name: record_datasets.name}
_WHOLE = {record_datasets.name: stitch_montages.name}
_PATIENCE_S = 60.0  # so long Dagster's own retry is waited for
# Runs that were killed earlier are not started again.
_LOOK_BACK = timedelta(days=1)
# Runs of one tick, which must be short.
_MOST = 100


@dg.sensor(
    jobs=[stitch_montages, record_datasets, *ingest_jobs.values()],
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
    if key is None or run.job_name not in _LAST_STEPS:
        return None
    same = {"dagster/partition": key}
    if SOURCE in run.tags:
        same[SOURCE] = run.tags[SOURCE]
    [newest] = instance.get_runs(dg.RunsFilter(tags=same), limit=1)
    if newest.run_id != run.run_id:  # another one follows it already
        return None
    if _did_all(run, instance):
        job = _CHEAP.get(run.job_name, run.job_name)
    elif run.is_complete_and_waiting_to_retry and _age_s(record) > _PATIENCE_S:
        job = _WHOLE.get(run.job_name, run.job_name)
    else:
        return None
    # By the killed run: it has one successor, however often this sensor looks.
    return dg.RunRequest(run_key=run.run_id, job_name=job, partition_key=key)


def _did_all(run: dg.DagsterRun, instance: dg.DagsterInstance) -> bool:
    done = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_SUCCESS)
    return any(entry.step_key == _LAST_STEPS[run.job_name] for entry in done)


def _age_s(record: dg.RunRecord) -> float:
    ended = record.end_time or record.update_timestamp.timestamp()
    return datetime.now(UTC).timestamp() - ended
