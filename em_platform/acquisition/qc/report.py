"""What a montage's checks say reaches the microscope while it still images."""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from em_platform.config import Settings
from em_platform.errors import MessagingError
from em_platform.messaging.bus import Bus
from em_platform.model import Check, failed_errors

log = logging.getLogger(__name__)

SERVICE = "dagster"
"""As which the checks speak; the live QC adopts what others say."""

_CONNECT_S = 3.0
_NAMED = 3


def report_checks(
    settings: Settings,
    acquisition_id: str,
    ended_at: datetime | None,
    checks: Iterable[Check],
) -> bool:
    """Stop the scope at the end where a check of a fresh montage failed; whether sent.

    Only checks of severity ERROR count, and only for a montage that ended less than
    `acquisition.qc.feedback_s` ago: an old one stops nobody. Without a broker it is
    logged; this never raises an error of the messaging.
    """
    reason = stop_reason(acquisition_id, checks)
    if not reason or not _is_fresh(ended_at, settings.acquisition.qc.feedback_s):
        return False
    try:
        with Bus(settings.broker, SERVICE, send_timeout_s=_CONNECT_S) as bus:
            bus.connect(_CONNECT_S)
            bus.publish("qc.status", status="STOP_AT_END", reason=reason)
            bus.flush(_CONNECT_S)
    except MessagingError as error:
        log.warning("qc: the microscope did not get the stop at the end: %s", error)
        return False
    log.info("qc: asked the microscope to stop at the end: %s", reason)
    return True


def stop_reason(acquisition_id: str, checks: Iterable[Check]) -> str:
    """The sentence for the operator; empty where no check of severity ERROR failed."""
    failed = failed_errors(checks)
    if not failed:
        return ""
    more = len(failed) - _NAMED
    sentences = " ".join(f"{check.name}: {check.sentence}" for check in failed[:_NAMED])
    rest = f" And {more} more." if more > 0 else ""
    return f"Montage {acquisition_id} failed its checks. {sentences}{rest}"


def _is_fresh(ended_at: datetime | None, limit_s: float) -> bool:
    if ended_at is None:
        return False
    if ended_at.tzinfo is None:
        ended_at = ended_at.replace(tzinfo=UTC)
    return datetime.now(UTC) - ended_at < timedelta(seconds=limit_s)
