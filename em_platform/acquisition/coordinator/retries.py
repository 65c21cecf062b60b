"""Which tiles are imaged again when a stopped acquisition resumes: pure functions."""

from collections.abc import Collection
from typing import Any

from em_platform.acquisition.coordinator.registry import Begun
from em_platform.acquisition.frame_paths import retry_of
from em_platform.acquisition.qc.judge import CRITICAL


def is_dark(verdict: Any) -> bool:
    """Whether a `qc.tile` rejects its frame for what stops a scope at once.

    The first dark tiles of a row are only `transient`, so that their kind counts, too.
    """
    return not verdict.passed and any(
        fault.fault_type in CRITICAL or str(fault.scope) == "critical"
        for fault in verdict.faults or ()
    )


def with_verdict(begun: Begun, tile_id: str, *, dark: bool) -> Begun:
    """The acquisition after a verdict on one of its tiles."""
    rejected = begun.rejected
    if dark and tile_id not in (*rejected, *begun.superseded):
        rejected = (*rejected, tile_id)
    unjudged = tuple(each for each in begun.unjudged if each != tile_id)
    return begun.model_copy(update={"rejected": rejected, "unjudged": unjudged})


def with_stop(begun: Begun, *, unjudged: Collection[str], exposing: str) -> Begun:
    """The acquisition after a STOP_NOW; the frame that was being exposed is doubtful.

    The camera may have saved it already, in the dark, and would not expose it again.
    """
    superseded = begun.superseded
    if exposing and exposing not in superseded:
        superseded = (*superseded, exposing)
    return begun.model_copy(
        update={
            "stopped": True,
            "unjudged": tuple(sorted(unjudged)),
            "superseded": superseded,
        }
    )


def with_retries(begun: Begun, *, unsaved: Collection[str], most: int) -> Begun:
    """The acquisition when it resumes: dark, unjudged and unsaved frames superseded.

    A tile that was dark `most` times more stays as it is: the specimen may be dark
    there, and would stop the session for ever.
    """
    wanted = dict.fromkeys((*begun.rejected, *begun.unjudged, *unsaved))
    again = [
        tile_id
        for tile_id in wanted
        if retry_of(tile_id) < most and tile_id not in begun.superseded
    ]
    return begun.model_copy(
        update={
            "stopped": False,
            "rejected": (),
            "unjudged": (),
            "superseded": (*begun.superseded, *again),
        }
    )
