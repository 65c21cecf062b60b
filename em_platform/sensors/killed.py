"""A montage or item whose run was killed, and that Dagster leaves so -> a new run."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from em_platform.ingest.plan import PART, PRIORITY, SOURCE
from em_platform.ingest.sources import SOURCES
from em_platform.jobs import (
    calibrate_lens,
    classify_particles,
    ingest_jobs,
    process_movies,
    process_particles,
    process_tiles,
    process_tilt_series,
    record_datasets,
    review_acquisitions,
    simulate_stacks,
    stitch_montages,
    stitch_tiles,
)
from em_platform.partitions import (
    CRYOEM,
    LENS,
    LIVE,
    MONTAGE,
    PARTS,
    REVIEW,
    SIMULATION,
)

# Job -> its last step.
_LAST_STEPS = {
    stitch_montages.name: "dataset_record",
    process_tiles.name: "finish_tiles",
    stitch_tiles.name: "mosaic",
    record_datasets.name: "dataset_record",
    review_acquisitions.name: "acquisition_review",
    calibrate_lens.name: "lens_correction",
    process_movies.name: "ctf_fits",
    process_particles.name: "particles",
    classify_particles.name: "classes",
    process_tilt_series.name: "thumbnails",
    simulate_stacks.name: "sim_record",
    **{job.name: f"{source}__record" for source, job in ingest_jobs.items()},
}
# Job -> that which makes only its last step; all steps of the others are cheap when
# they are done already.
_CHEAP = {stitch_montages.name: record_datasets.name}
_WHOLE = {record_datasets.name: stitch_montages.name}
# Runs of these are of one montage: one of the other part follows them, too.
_MONTAGES = (LIVE, MONTAGE)
_PATIENCE_S = 60.0  # so long Dagster's own retry is waited for
# Runs that were killed earlier are not started again.
_LOOK_BACK = timedelta(days=1)
# Runs of one tick, which must be short.
_MOST = 100


@dg.sensor(
    jobs=[
        *(stitch_montages, process_tiles, stitch_tiles, record_datasets),
        *(review_acquisitions, calibrate_lens, *ingest_jobs.values()),
        *(process_movies, process_particles, classify_particles, process_tilt_series),
        simulate_stacks,
    ],
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts what follows a killed run where Dagster's own retry does not.",
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
    job = _job_of(run)
    if key is None or job is None:
        return None
    same: dict[str, str | list[str]] = {"dagster/partition": key}
    if SOURCE in run.tags:
        same[SOURCE] = run.tags[SOURCE]
    if part := run.tags.get(PART):
        same[PART] = list(_MONTAGES) if part in _MONTAGES else part
    [newest] = instance.get_runs(dg.RunsFilter(tags=same), limit=1)
    if newest.run_id != run.run_id:  # another one follows it already
        return None
    assets = sorted(run.asset_selection or ())
    if _did_all(run, instance):
        # Of chosen assets all are asked for again: they find themselves done.
        job = job if assets else _CHEAP.get(job, job)
    elif run.is_complete_and_waiting_to_retry and _age_s(record) > _PATIENCE_S:
        job = job if assets else _WHOLE.get(job, job)
    else:
        return None
    return dg.RunRequest(
        run_key=run.run_id,  # it has one successor, however often this sensor looks
        job_name=job,
        partition_key=key,
        asset_selection=assets or None,
        run_config=run.run_config,
        tags={name: run.tags[name] for name in (PART, PRIORITY) if name in run.tags},
    )


def _job_of(run: dg.DagsterRun) -> str | None:
    """The job that can make what the run was to make; None where none of ours can.

    A run from an asset's page belongs to a job of Dagster's own, and names its assets.
    """
    if run.job_name in _LAST_STEPS:
        return run.job_name
    first = {key.path[0] for key in run.asset_selection or ()}
    # Steps of cryo-EM belong to several jobs, and find themselves done when run again.
    if not first or first & (PARTS["catalog"] | PARTS[CRYOEM]):
        return None
    for source in first & set(SOURCES):
        return ingest_jobs[source].name if first == {source} else None
    if first & PARTS[SIMULATION]:
        return simulate_stacks.name
    if first <= PARTS[LENS]:
        return calibrate_lens.name
    if first <= PARTS[REVIEW]:
        return review_acquisitions.name
    return None if first & (PARTS[LENS] | PARTS[REVIEW]) else stitch_montages.name


def _did_all(run: dg.DagsterRun, instance: dg.DagsterInstance) -> bool:
    if run.asset_selection:
        made = instance.all_logs(
            run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
        )
        keys = {e.dagster_event.asset_key for e in made if e.dagster_event}
        return run.asset_selection <= keys
    done = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_SUCCESS)
    return any(entry.step_key == _LAST_STEPS[run.job_name] for entry in done)


def _age_s(record: dg.RunRecord) -> float:
    ended = record.end_time or record.update_timestamp.timestamp()
    return datetime.now(UTC).timestamp() - ended
