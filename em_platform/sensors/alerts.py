"""What needs a person -> an alert: failed runs and checks, stops, disks, services."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime

import dagster as dg
import psutil

from em_platform.config import Settings
from em_platform.model import Model
from em_platform.processes.alerts import Alert, send_all
from em_platform.resources.acquisition import Microscope
from em_platform.resources.storage import Configuration
from em_platform.storage import store_of
from em_platform.storage.own_faults import read_troubles

# Ended runs of one tick, which must be short; the others come at the next.
_MOST_A_TICK = 50
# A run's end may show later than that of one which ended after it.
_LATE_S = 300.0
_MOST_LOOKED_AT = 1000
_MOST_SENTENCES = 5
_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
# A disk counts as free again with so much more than the limit, so that one at the
# limit does not alert each tick.
_FREE_AGAIN = 1.2


class AlertCursor(Model):
    """What alerts were sent for; `runs` are those that ended just before `ended_s`."""

    ended_s: float
    runs: tuple[str, ...] = ()
    seq: int
    stop: str = ""
    full: tuple[str, ...] = ()
    troubled: tuple[str, ...] = ()


@dg.sensor(
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends what needs a person to "
    "`alerts.to`: by webhook, Slack or e-mail.",
)
def alert_sensor(
    context: dg.SensorEvaluationContext,
    configuration: Configuration,
    microscope: Microscope,
) -> dg.SkipReason:
    """Sends what needs a person to `alerts.to`: by webhook, Slack or e-mail.

    A run that failed and is not tried again, a failed check of severity ERROR, a stop
    of the scope, a full disk, a service at which this computer fails; each once. What
    reaches nobody is sent again at the next look. What happened before the first look,
    or while `alerts.to` was empty, is not sent.
    """
    settings, now = configuration.settings(), time.time()
    if context.cursor is None or not settings.alerts.to.get_secret_value():
        with microscope.recorder() as recorder:
            # Not what ended just before, which the first look would find.
            seen = AlertCursor(ended_s=now + _LATE_S, seq=recorder.last_before(now + 1))
        context.update_cursor(seen.model_dump_json())
        return dg.SkipReason("alerts begin now, where alerts.to names somewhere")
    seen = AlertCursor.model_validate_json(context.cursor)
    alerts: list[Alert] = []
    for look in (_ended_runs, _stops, _full_disks, _troubles):
        found, seen = look(seen, context.instance, settings, microscope)
        alerts += found
    if alerts and not send_all(alerts, settings.alerts):
        return dg.SkipReason(f"{len(alerts)} alerts reached nobody; see the log")
    context.update_cursor(seen.model_dump_json())
    return dg.SkipReason(f"{len(alerts)} alerts sent")


def _ended_runs(
    seen: AlertCursor, instance: dg.DagsterInstance, _: Settings, __: Microscope
) -> tuple[list[Alert], AlertCursor]:
    begun = seen.ended_s - _LATE_S
    records = instance.get_run_records(
        dg.RunsFilter(
            statuses=_ENDED, updated_after=datetime.fromtimestamp(begun, UTC)
        ),
        limit=_MOST_LOOKED_AT,
        order_by="update_timestamp",
        ascending=True,
    )
    # A run is updated again when it is tagged later: its end decides.
    ends = {
        each.dagster_run.run_id: each.end_time
        for each in records
        if each.end_time is not None and each.end_time > begun
    }
    runs = [each.dagster_run for each in records]
    new = [r for r in runs if r.run_id in ends and r.run_id not in seen.runs]
    new = new[:_MOST_A_TICK]
    alerts = [alert for run in new for alert in _of_run(run, instance)]
    last = max((ends[run.run_id] for run in new), default=seen.ended_s)
    last = max(last, seen.ended_s)
    kept = {*seen.runs, *(run.run_id for run in new)}
    recent = tuple(run for run in ends if run in kept and ends[run] > last - _LATE_S)
    return alerts, seen.model_copy(update={"ended_s": last, "runs": recent})


def _of_run(run: dg.DagsterRun, instance: dg.DagsterInstance) -> Iterable[Alert]:
    subject, page = (
        run.tags.get("dagster/partition") or run.job_name,
        f"/runs/{run.run_id}",
    )
    checks = tuple(_failed_checks(run, instance))
    if checks:
        yield Alert(kind="check_failed", subject=subject, sentences=checks, page=page)
    is_over = run.tags.get("dagster/will_retry") != "true"
    if run.status is dg.DagsterRunStatus.FAILURE and is_over:
        why = _why_failed(run, instance)
        yield Alert(kind="run_failed", subject=subject, sentences=why, page=page)


def _failed_checks(run: dg.DagsterRun, instance: dg.DagsterInstance) -> Iterable[str]:
    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    for entry in instance.all_logs(run.run_id, of_type=kind):
        event = entry.dagster_event
        found = event.asset_check_evaluation_data if event else None
        if found and not found.passed and found.severity is dg.AssetCheckSeverity.ERROR:
            yield f"{found.check_name}: {found.description}"


def _why_failed(run: dg.DagsterRun, instance: dg.DagsterInstance) -> tuple[str, ...]:
    """The sentences of the steps that failed, else that of the run."""
    kind = dg.DagsterEventType.STEP_FAILURE
    sentences = []
    for entry in instance.all_logs(run.run_id, of_type=kind):
        failure = entry.dagster_event.step_failure_data if entry.dagster_event else None
        if failure is None:
            continue
        own, error = failure.user_failure_data, failure.error
        while error is not None and error.cause is not None:
            error = error.cause  # Dagster's wrapper says nothing of its own
        why = (own.description if own else None) or (error.message if error else "")
        sentences.append(f"{entry.step_key}: {str(why).strip()[:500]}")
    if not sentences:
        kind = dg.DagsterEventType.RUN_FAILURE
        sentences = [e.message for e in instance.all_logs(run.run_id, of_type=kind)]
    return tuple(sentences[:_MOST_SENTENCES])


def _stops(
    seen: AlertCursor, _: dg.DagsterInstance, __: Settings, microscope: Microscope
) -> tuple[list[Alert], AlertCursor]:
    with microscope.recorder() as recorder:
        events = recorder.events(seen.seq, topics=("qc.status",))
    alerts = []
    for event in events:
        status, reason = event.body["status"], str(event.body.get("reason") or "")
        # Quality control repeats a stop until it is lifted.
        stop = "" if status == "GOOD" else f"{status} {reason}"
        if stop and stop != seen.stop:
            alerts.append(
                Alert(kind="scope_stopped", subject=status, sentences=(reason,))
            )
        seen = seen.model_copy(update={"stop": stop, "seq": event.seq})
    return alerts, seen


def _full_disks(
    seen: AlertCursor, _: dg.DagsterInstance, settings: Settings, __: Microscope
) -> tuple[list[Alert], AlertCursor]:
    places = [settings.home.absolute(), store_of(settings).local_path("")]
    limit = settings.alerts.min_free_gb
    # By disk: home and results are often on the same one, which is alerted once.
    there = {
        p.stat().st_dev: p for p in reversed(places) if p is not None and p.exists()
    }
    free = {str(p): psutil.disk_usage(str(p)).free / 1e9 for p in there.values()}
    full = [
        place
        for place, gb in free.items()
        if gb < limit * (_FREE_AGAIN if place in seen.full else 1.0)
    ]
    alerts = [
        Alert(
            kind="disk_full",
            subject=place,
            sentences=(
                f"{place}: {free[place]:.1f} GB are free, at least {limit:g} GB "
                "expected; free space, or nothing more can be stored",
            ),
        )
        for place in full
        if place not in seen.full
    ]
    return alerts, seen.model_copy(update={"full": tuple(full)})


def _troubles(
    seen: AlertCursor, _: dg.DagsterInstance, settings: Settings, __: Microscope
) -> tuple[list[Alert], AlertCursor]:
    found = read_troubles(settings.home)
    alerts = [
        Alert(kind="service_fails", subject=service, sentences=sentences)
        for service, sentences in found.items()
        if service not in seen.troubled
    ]
    return alerts, seen.model_copy(update={"troubled": tuple(found)})
