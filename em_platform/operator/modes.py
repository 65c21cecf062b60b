"""What may be done in which state; the page and the service ask the same table."""

import re
from collections.abc import Mapping
from typing import Literal, get_args

from em_platform.messaging.topics import Body

Routine = Literal[
    "auto_focus",
    "auto_exposure",
    "lens_correction",
    "bright_field",
    "dark_field",
    "beam_center",
    "beam_spread",
    "find_aperture",
    "calibrate_resolution",
]
"""A routine of ui.setup that the page offers."""

SETUP: tuple[str, ...] = get_args(Routine)

RUN = ("start", "pause", "resume", "retry", "cancel", "abort_at_end", "abort_now")
"""Commands of ui.run."""

WAITS = ("pending",)
FINISHED = ("complete", "aborted")
UNFINISHED = ("pending", "active", "paused", "failed")
"""Statuses of an entry of the queue."""

_RUNNING = {"acquiring", "paused", "failed"}
# Of a preview that does nothing, in pyTEM's words and in those of others.
_IDLE_STEPS = {"updateimage", "idle", "waiting", "ready", "live"}


def path_of(state: str) -> list[str]:
    """`Acquisition_Montage_MoveStage` as its steps."""
    return [step for step in re.split(r"[_/.>\s]+", state) if step]


def mode_of(state: str, montage_state: str = "") -> str:
    """unknown, preview, setup, acquiring, paused, failed or shutdown.

    Read from the state's path, so that another coordinator's words are understood too.
    """
    steps = [step.lower() for step in path_of(state)]
    if not steps:
        return "unknown"
    if steps[0].startswith("preview") and (set(steps[1:2]) <= _IDLE_STEPS):
        return "preview"
    if any(step.startswith("pause") for step in steps):
        return "paused"
    if any(step.startswith(("fail", "error")) for step in steps):
        return "failed"
    if steps[0].startswith("shutdown"):
        return "shutdown"
    # a coordinator of another make may pause without a state of its own
    if steps[0].startswith("acqui") or "montage" in steps:
        return "paused" if montage_state == "paused" else "acquiring"
    return "setup"


def refusals(mode: str, *, to_do: int | None) -> dict[str, str]:
    """Action -> why it makes no sense now; what is not in the table may be done.

    `to_do` is how many regions of the queue are not finished, None when that is
    unknown.
    """
    refused: dict[str, str] = {}
    if mode == "unknown":
        why = "no coordinator has published its state yet"
        # the two aborts always work: better one too many
        return dict.fromkeys((*RUN[:-2], *SETUP), why)
    now = f"the microscope is in {_SPOKEN[mode]}"
    if mode != "preview":
        refused["start"] = f"{now}, a start needs preview"
    # None: no queue was published yet, a start may work
    elif to_do == 0:
        refused["start"] = "the queue is empty; add a region first"
    if mode != "acquiring":
        refused["pause"] = f"{now}, only a running acquisition can pause"
    if mode != "paused":
        refused["resume"] = f"{now}, only a pause can be resumed"
    if mode != "failed":
        refused["retry"] = f"{now}, only a failure can be retried"
    if mode not in ("failed", "paused", "setup"):
        refused["cancel"] = f"{now}, cancel leaves a failure, a pause or a routine"
    if mode not in _RUNNING:
        refused["abort_at_end"] = f"{now}, no montage is running"
    if mode != "preview":
        refused |= dict.fromkeys(SETUP, f"{now}, setup needs an idle preview")
    return refused


_SPOKEN: Mapping[str, str] = {
    "preview": "preview",
    "setup": "a setup routine",
    "acquiring": "an acquisition",
    "paused": "a pause",
    "failed": "a failure",
    "shutdown": "shutdown",
}


def in_queue(queue: Body | None, *statuses: str) -> list[str]:
    """Montage ids of the entries of a roi.queue.status with one of `statuses`."""
    entries = [] if queue is None else queue["queue"]
    return [each["montage_id"] for each in entries if each["status"] in statuses]
