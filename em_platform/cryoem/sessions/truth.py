"""Comparison with the truth of a simulated session, where `truth.json` stands in it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from em_platform.errors import RecordError
from em_platform.model import Model
from em_platform.model.base import first_problem
from em_platform.model.check import Check, Severity

TRUTH = "truth.json"
_MOTION_PX, _DEFOCUS_A, _ALONG_AXIS_PX = 1.0, 500.0, 1.0
"""A pixel is what is seen; 500 Å is a miss of a CTF fit in the field's comparisons."""

_FINEST_A, _HALF, _LEAST_CORRELATION = 60.0, 0.5, 0.5
"""A tomogram is not corrected for its CTF: beyond the first zero (35 Å at 6 µm and
300 kV) its contrast turns round, and few tilts leave gaps well before that."""

Pair = tuple[float, float]
Volume = NDArray[np.float32]


class MovieTruth(Model):
    """How a movie was made: where the specimen is in each frame, `(x, y)` px."""

    drift_px: tuple[Pair, ...] = ()
    defocus_a: float | None = None
    particles_px: tuple[Pair, ...] = ()
    """Middles `(x, y)` of single particles."""
    views: tuple[int, ...] = ()
    """From which side each is seen, from 0."""


class SessionTruth(Model):
    """What is true of a session: by movie's stem, and by series' name and angle."""

    movies: dict[str, MovieTruth] = Field(default_factory=dict)
    tilt_shifts_px: dict[str, dict[str, Pair]] = Field(default_factory=dict)
    """Of each tilt `(x, y)`; angles with two digits behind the point."""
    samples: dict[str, str] = Field(default_factory=dict)
    """By series' name, a file beside this one: the true sample as an MRC volume in the
    axes of a tomogram, y along the tilt axis, bright where electrons are scattered."""
    views: str = ""
    """A file beside this one: the sides of the particle as a stack of projections."""


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


def tomogram_truth(path: Path, sample: Path, tilts_deg: Sequence[float]) -> list[Check]:
    """Whether a tomogram shows the true sample, by Fourier shell correlation.

    Raises
    ------
    RecordError
        The file of the sample cannot be read.
    """
    from em_platform.cryoem.methods.shell_correlation import correlate_shells

    volume, voxel_a = _coarse(path)
    true, true_a = _coarse(sample)
    found = correlate_shells(
        -volume,  # what scatters is dark in a tomogram
        resampled(true, volume.shape, ratio=voxel_a / true_a),
        tilts_deg=np.asarray(tilts_deg, float),
        voxel_a=voxel_a,
        finest_a=max(_FINEST_A, 2 * voxel_a),
        most_shift_px=min(volume.shape) // 4,
    )
    finest_a = found.finest_a(_HALF)
    reach = (
        "nowhere above 0.5" if finest_a is None else f"0.5 or more to {finest_a:.0f} Å"
    )
    return [
        Check(
            name="tomogram_matches_truth",
            passed=found.mean >= _LEAST_CORRELATION,
            severity=Severity.ERROR,
            sentence=f"the Fourier shell correlation with the true sample is "
            f"{found.mean:.2f} in the mean ({reach}), at least "
            f"{_LEAST_CORRELATION:g} is wanted",
            value=found.mean,
            limit=_LEAST_CORRELATION,
        )
    ]


def _coarse(path: Path) -> tuple[Volume, float]:
    """A volume in voxels as coarse as can be compared, and their size in Å."""
    import mrcfile

    try:
        with mrcfile.mmap(path, mode="r") as file:
            voxel_a = float(file.voxel_size.x)
            factor = max(1, int(_FINEST_A / 2 / voxel_a)) if voxel_a > 0 else 0
            deep, high, wide = (side // max(factor, 1) for side in file.data.shape)
            slabs = [
                np.asarray(file.data[z * factor : (z + 1) * factor], np.float32)
                .mean(axis=0)[: high * factor, : wide * factor]
                .reshape(high, factor, wide, factor)
                .mean(axis=(1, 3))
                for z in range(deep if factor else 0)
            ]
            return np.stack(slabs), voxel_a * factor
    except (OSError, ValueError) as error:
        raise RecordError(
            f"{path}: cannot be read as a volume with its voxel size ({error}); make "
            "the simulation anew"
        ) from error


def resampled(image: Volume, shape: tuple[int, ...], *, ratio: float) -> Volume:
    """An image or volume of another shape, middle on middle.

    `ratio` is how many of its pixels make one of the new ones.
    """
    from scipy.ndimage import affine_transform, gaussian_filter

    smooth = gaussian_filter(image, 0.5 * ratio) if ratio > 1.01 else image
    middles = [(np.asarray(each) - 1) / 2 for each in (shape, image.shape)]
    return np.asarray(
        affine_transform(
            smooth,
            np.full(image.ndim, ratio),
            middles[1] - ratio * middles[0],
            output_shape=shape,
            order=1,
        ),
        np.float32,
    )


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
