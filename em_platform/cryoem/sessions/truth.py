"""Comparison with the truth of a simulated session, where `truth.json` stands in it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError

from em_platform.errors import RecordError
from em_platform.model import Model
from em_platform.model.base import first_problem
from em_platform.model.check import Check, Severity

TRUTH = "truth.json"
_MOTION_PX, _DEFOCUS_A, _ALONG_AXIS_PX = 1.0, 500.0, 1.0
"""A pixel is what is seen; 500 Å is a miss of a CTF fit in the field's comparisons."""

Pair = tuple[float, float]


class MovieTruth(Model):
    """How a movie was made: where the specimen is in each frame, `(x, y)` px."""

    drift_px: tuple[Pair, ...] = ()
    defocus_a: float | None = None


class SessionTruth(Model):
    """What is true of a session: by movie's stem, and by series' name and angle."""

    movies: dict[str, MovieTruth] = Field(default_factory=dict)
    tilt_shifts_px: dict[str, dict[str, Pair]] = Field(default_factory=dict)
    """Of each tilt `(x, y)`; angles with two digits behind the point."""


def read_truth(folder: Path) -> SessionTruth | None:
    """The truth of the session in a folder; None where it was no simulation.

    Raises
    ------
    RecordError
        The file is damaged.
    """
    path = folder / TRUTH
    if not path.is_file():
        return None
    try:
        return SessionTruth.model_validate(json.loads(path.read_bytes()))
    except ValidationError as error:
        raise RecordError(
            f"{path}: {first_problem(error)}; make the simulation anew"
        ) from error
    except ValueError as error:
        raise RecordError(f"{path}: is no JSON ({error}); make it anew") from error


def motion_truth(found: Any, truth: MovieTruth | None) -> list[Check]:
    """Whether the frames moved as they were moved; a correction has the other sign."""
    if truth is None or len(truth.drift_px) != len(found.shift_x_px):
        return []
    drift = np.asarray(truth.drift_px)
    measured = -np.stack([found.shift_x_px, found.shift_y_px], axis=1)
    error = (measured - measured[0]) - (drift - drift[0])
    return [_check("motion_matches_truth", "px of a frame", error, _MOTION_PX)]


def defocus_truth(found: Any, truth: MovieTruth | None) -> list[Check]:
    """Whether the defocus is the true one."""
    if truth is None or truth.defocus_a is None:
        return []
    error = (found.defocus_u_a + found.defocus_v_a) / 2 - truth.defocus_a
    return [_check("defocus_matches_truth", "Å of defocus", error, _DEFOCUS_A)]


def alignment_truth(found: Any, shifts_px: dict[str, Pair] | None) -> list[Check]:
    """Whether the tilts lie where they are, along the tilt axis.

    Across it a shift of the specimen along the beam is as good an answer; along it only
    one shift of all images is free.
    """
    there = {f"{t.angle_deg - found.tilt_offset_deg:.2f}": t for t in found.tilts}
    common = [(there[a], xy) for a, xy in (shifts_px or {}).items() if a in there]
    if not common:
        return []
    axis = np.deg2rad(found.rotation_deg)
    # The axis is counted from the image's y, towards -x.
    along = np.array([-np.sin(axis), np.cos(axis)])
    error = np.array(
        [(np.array([t.dx_px, t.dy_px]) - np.array(xy)) @ along for t, xy in common]
    )
    error -= error.mean()
    return [_check("shifts_match_truth", "px along the axis", error, _ALONG_AXIS_PX)]


def _check(name: str, unit: str, error: Any, limit: float) -> Check:
    worst = float(np.abs(np.asarray(error)).max())
    return Check(
        name=name,
        passed=worst <= limit,
        severity=Severity.ERROR,
        sentence=f"the largest error is {worst:.2f} {unit}, at most {limit:g} is "
        "wanted",
        value=worst,
        limit=limit,
    )
