"""What a session waits for, and how long that can take."""

from dataclasses import dataclass

from em_platform.acquisition.session.report import MontageRun
from em_platform.config import AcquisitionSettings

_MARGIN_S = 10.0  # for a computer that has much else to do


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """What is waited for, and for how long without any news of it."""

    what: str
    limit_s: float
    see: str


def wait_of(
    montage_id: str, run: MontageRun | None, settings: AcquisitionSettings
) -> Wait:
    """What a montage that is not settled waits for; None where it has not begun.

    The limits are what the service that owes an answer takes before it reports a
    failure of its own: with no news for so long, none will come.
    """
    request_s = settings.request_timeout_s * settings.request_tries
    if run is None:
        return _wait(f"the start of {montage_id}", 2 * request_s, "coordinator.log")
    name = run.acquisition_id or montage_id
    if run.state != "completed":
        next_tile = f"tile {run.imaged + 1} of {run.total} of {name}"
        return _wait(next_tile, 2 * request_s, "coordinator.log")
    if run.completed is None:
        return _wait(f"montage.complete of {name}", request_s, "coordinator.log")
    if run.unjudged:
        verdicts = f"the verdicts on {len(run.unjudged)} tiles of {name}"
        wait_s = 2 * settings.qc.tile_wait_s
        return _wait(verdicts, wait_s, "pipeline-1.log and qc.log")
    buffer = settings.buffer
    upload_s = buffer.statistics_wait_s + buffer.timeout_s
    return _wait(f"the upload of {name}", upload_s, "buffer.log")


def _wait(what: str, limit_s: float, see: str) -> Wait:
    return Wait(what=what, limit_s=limit_s + _MARGIN_S, see=see)
