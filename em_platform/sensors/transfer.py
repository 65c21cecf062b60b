"""A montage that is uploaded and stitched -> its review."""

import time

import dagster as dg

from em_platform.acquisition.montages.review import is_uploaded, uploaded_ids
from em_platform.jobs import review_acquisitions
from em_platform.resources.acquisition import TemdbResource
from em_platform.resources.storage import Storage

# Runs of one tick, which must be short; the others come at the next.
_MOST_A_TICK = 20
# What so many tries could not do waits for a person.
_MOST_TRIES = 10
# Doubles with each try, up to the longest.
_FIRST_PAUSE_S = 30.0
_LONGEST_PAUSE_S = 3600.0

_STITCHED = dg.AssetKey("mosaic")
_REVIEWED = dg.AssetKey("acquisition_review")


@dg.sensor(
    job=review_acquisitions,
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts the review of each montage that is both uploaded and stitched.",
)
def upload_complete_sensor(
    context: dg.SensorEvaluationContext, storage: Storage, temdb: TemdbResource
) -> dg.SensorResult | dg.SkipReason:
    """Starts the review of each montage that is both uploaded and stitched.

    All wait while TEM DB is away; a review that failed is tried again after a pause
    that doubles. Nothing is remembered: done is what Dagster has materialised.
    """
    instance, store = context.instance, storage.store()
    stitched = instance.get_materialized_partitions(_STITCHED)
    waiting = stitched - instance.get_materialized_partitions(_REVIEWED)
    due = [
        (key, tries)
        for key in sorted(waiting & set(uploaded_ids(store)))
        if is_uploaded(key, store)
        and (tries := _tries_before_next(key, instance)) is not None
    ]
    if not due:
        return dg.SkipReason("no montage is newly uploaded and stitched")
    # Asked last: TEM DB is left alone while nothing is due.
    if not temdb.register().answers():
        return dg.SkipReason(f"TEM DB does not answer; {len(due)} reviews wait for it")
    return dg.SensorResult(
        run_requests=[
            # With the number of tries: Dagster starts no run key twice.
            dg.RunRequest(run_key=f"{key} {tries}", partition_key=key)
            for key, tries in due[:_MOST_A_TICK]
        ]
    )


def _tries_before_next(key: str, instance: dg.DagsterInstance) -> int | None:
    """How often it was tried; None where it is not to be tried now."""
    records = instance.get_run_records(
        dg.RunsFilter(
            job_name=review_acquisitions.name, tags={"dagster/partition": key}
        )
    )
    if len(records) >= _MOST_TRIES:
        return None
    if any(not record.dagster_run.is_finished for record in records):
        return None
    ended = max((record.end_time or 0.0 for record in records), default=0.0)
    pause_s = min(_FIRST_PAUSE_S * 2 ** max(0, len(records) - 1), _LONGEST_PAUSE_S)
    return len(records) if time.time() - ended >= pause_s else None
