"""Which tiles a stopped acquisition images again: what QC found dark, and no more."""

from datetime import UTC, datetime
from typing import Any

import pytest

from em_platform.acquisition.coordinator.registry import (
    Begun,
    is_dark,
    with_retries,
    with_stop,
    with_verdict,
)
from em_platform.messaging.topics import fitting
from em_platform.model import Size

BEGUN = Begun(
    acquisition_id="m-1",
    started_at=datetime(2026, 11, 22, tzinfo=UTC),
    roi={},
    for_montage="m",
    frame=Size(height_px=64, width_px=64),
    pixel_nm=4.0,
    rotation_rad=0.0,
)


def verdict(*faults: dict[str, Any]) -> Any:
    fields = {"tile_id": "m-1_000_000", "montage_id": "m", "row": 0, "column": 0}
    measured = {"severity": 1.0, "confidence": 1.0}
    return fitting(
        "qc.tile",
        {
            **fields,
            "overlap": 8,
            "passed": not faults,
            "faults": [{**measured, **fault} for fault in faults],
        },
    )


@pytest.mark.parametrize(
    ("kind", "scope", "dark"),
    [
        ("no_beam", "transient", True),  # the first of those in a row
        ("contaminated", "critical", True),
        ("beam_drift", "critical", True),  # another quality control's word
        ("out_of_focus", "persistent", False),
        ("no_contrast", "transient", False),
    ],
)
def test_what_stops_a_scope_at_once_is_imaged_again(
    kind: str, scope: str, dark: bool
) -> None:
    assert is_dark(verdict({"fault_type": kind, "scope": scope})) is dark
    assert not is_dark(verdict())


def test_dark_unjudged_and_unsaved_tiles_are_superseded_once_when_it_resumes() -> None:
    begun = with_verdict(BEGUN, "m-1_000_000", dark=True)
    begun = with_verdict(begun, "m-1_000_000", dark=True)
    begun = with_verdict(begun, "m-1_000_001", dark=False)
    begun = with_stop(
        begun, unjudged={"m-1_000_002", "m-1_000_003"}, exposing="m-1_000_004"
    )
    assert begun.stopped
    begun = with_verdict(begun, "m-1_000_003", dark=False)  # came after the stop
    begun = with_retries(begun, unsaved=["m-1_000_005"], most=3)
    again = ("m-1_000_004", "m-1_000_000", "m-1_000_002", "m-1_000_005")
    assert begun.superseded == again
    assert (begun.stopped, begun.rejected, begun.unjudged) == (False, (), ())
    late = with_verdict(begun, "m-1_000_002", dark=True)  # of the rejected frame
    assert late.rejected == ()


def test_a_specimen_that_stays_dark_does_not_stop_the_session_for_ever() -> None:
    begun = BEGUN
    for name in ("m-1_000_000", "m-1_000_000r1", "m-1_000_000r2"):
        begun = with_stop(
            with_verdict(begun, name, dark=True), unjudged=(), exposing=""
        )
        begun = with_retries(begun, unsaved=(), most=2)
    assert begun.superseded == ("m-1_000_000", "m-1_000_000r1")
