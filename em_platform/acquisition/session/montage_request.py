"""Asks the coordinator for montages: what its queue holds, which ids are free."""

from collections.abc import Collection
from typing import Any

from TEM_comms.roi import ROIStatus

from em_platform.acquisition.frame_paths import frames_folder
from em_platform.acquisition.recorder import ledger_of
from em_platform.acquisition.roi import RoiFields
from em_platform.config import Settings
from em_platform.errors import AcquisitionError, NoAnswer
from em_platform.messaging.bus import Bus
from em_platform.model import Size

QUEUE_S = 10.0  # the coordinator publishes its queue each two seconds
# The queue is published each two seconds; a busy coordinator is waited for.
TAKEN_S = 15.0

# A failed region blocks those behind it until it is tried again or cancelled.
_UNFINISHED = ("pending", "active", "paused", "failed")


def queue_of(bus: Bus, *, timeout_s: float = QUEUE_S) -> dict[str, ROIStatus]:
    """Montage id -> its entry in the coordinator's queue.

    Raises
    ------
    NoAnswer
        The coordinator does not publish its queue.
    """
    try:
        status = bus.wait_for("roi.queue.status", lambda _: True, timeout_s)
    except NoAnswer as error:
        raise NoAnswer(
            f"acquire: no roi.queue.status came within {timeout_s:g} s, the "
            "coordinator publishes one each 2 s; see coordinator.log, or start it again"
        ) from error
    return {entry.montage_id: entry for entry in status.queue}


def frame_of(bus: Bus, *, timeout_s: float = QUEUE_S) -> Size | None:
    """The size of the camera's frames; None where it does not publish it."""
    try:
        status = bus.wait_for("camera.status", lambda _: True, timeout_s)
    except NoAnswer:
        return None
    return Size(height_px=status.height, width_px=status.width)


def unfinished(queue: dict[str, ROIStatus]) -> list[str]:
    """Montages of the queue that are imaged first, or go on."""
    return [name for name, entry in queue.items() if status_of(entry) in _UNFINISHED]


def status_of(entry: Any) -> str:
    """Of an entry of the queue, or of a `roi.status`."""
    return str(getattr(entry.status, "value", entry.status))


def existing_ids(queue: Collection[str], settings: Settings) -> set[str]:
    """All montage ids that the queue, the frames' folder or the recorder know."""
    frames = frames_folder(settings)
    folders = {path.name for path in frames.iterdir()} if frames.is_dir() else set()
    with ledger_of(settings) as recorder:
        return {*queue, *folders, *recorder.montage_ids()}


def montage_name(number: int) -> str:
    """The id of the montage of that number."""
    return f"m-{number:04d}"


def first_number(wanted: int | None, count: int, *, existing: Collection[str]) -> int:
    """The number of the first of `count` new montages: as wanted, else the next free.

    Raises
    ------
    AcquisitionError
        A montage of a wanted number exists.
    """
    if wanted is None:
        free = 1
        while not _are_free(free, count, existing):
            free += 1
        return free
    for number in range(wanted, wanted + count):
        if montage_name(number) in existing:
            free = first_number(None, count, existing=existing)
            raise AcquisitionError(
                f"acquire: montage {montage_name(number)} exists already, a new id was "
                f"expected; leave out --first, or give --first {free}"
            )
    return wanted


def request_montage(bus: Bus, region: RoiFields, *, timeout_s: float = TAKEN_S) -> None:
    """Have the coordinator take a region into its queue.

    Raises
    ------
    AcquisitionError
        The coordinator refuses it; with its sentence.
    NoAnswer
        It neither takes nor refuses it.
    """
    name = region["montage_id"]
    # before the request: its answer may be there before the wait
    since = bus.mark("roi.status")
    bus.publish("roi.create", **region)
    try:
        answer = bus.wait_for(
            "roi.status", lambda m: m.montage_id == name, timeout_s, since=since
        )
    except NoAnswer as error:
        raise NoAnswer(
            f"acquire: the coordinator neither took {name} nor refused it within "
            f"{timeout_s:g} s; see coordinator.log, or start it again"
        ) from error
    if status_of(answer) == "failed":
        raise AcquisitionError(
            answer.error_message
            or f"acquire: the coordinator refused {name} without a reason; see its log"
        )


def _are_free(first: int, count: int, existing: Collection[str]) -> bool:
    return not any(montage_name(first + n) in existing for n in range(max(count, 1)))
