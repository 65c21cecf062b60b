"""A run that was killed when nothing was left to do -> a run that ends well."""

import dagster as dg

from em_platform.jobs import record_datasets, stitch_montages

_LAST_STEP = "dataset_record"


@dg.run_failure_sensor(
    monitored_jobs=[stitch_montages, record_datasets],
    request_job=record_datasets,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def killed_after_last_step_sensor(
    context: dg.RunFailureSensorContext,
) -> dg.RunRequest | dg.SkipReason:
    """Records a montage again whose run was killed after it had done everything.

    Dagster runs a killed run again from the step that was not done. Where all were, it
    finds nothing to run and leaves the run as failed; the last step is cheap.
    """
    run = context.dagster_run
    steps = context.instance.all_logs(
        run.run_id, of_type=dg.DagsterEventType.STEP_SUCCESS
    )
    if all(entry.step_key != _LAST_STEP for entry in steps):
        return dg.SkipReason(f"run {run.run_id} had more to do")
    key = run.tags["dagster/partition"]
    return dg.RunRequest(run_key=run.run_id, partition_key=key)
