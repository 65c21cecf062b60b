"""Where the specimen lies in each image of a tilt series, and how its axis runs.

From small images to large ones: neighbours are correlated after a cosine stretch, then
all shifts, the tilt axis, the specimen's own tilt and its thickness are moved to the
greatest likelihood (see `tilt_likelihood`).
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from em_platform.cryoem.methods import tilt_likelihood as likelihood
from em_platform.cryoem.methods.rod_alignment import align_rod, is_rod
from em_platform.cryoem.methods.tilt_images import Numbers
from em_platform.cryoem.methods.tilt_look import Level, Load, State, level_of, look_at
from em_platform.cryoem.methods.tilt_pose import (
    Alignment,
    Measured,
    Pose,
    centred,
    residuals,
)
from em_platform.cryoem.methods.tilt_search import scan_axis, search

# Sides of images, px: where axis, thickness and offset are sought; where shifts are
# found; beyond which larger images say no more.
_SEARCH_SIDE, _SIDE, _LAST_SIDE = 128, 256, 1024
# Numbers in all matrices of a level: time while one seeks, memory at the end.
_FEW_NUMBERS, _MOST_NUMBERS = 2_000_000, 8_000_000
# Signal in the finest rings that makes larger images worth their time.
_FINE_COHERENCE = 0.02


def align(
    load: Load,
    *,
    angles_deg: Numbers,
    axis_deg: float,
    axis_reach_deg: float = 10.0,
    find_offset: bool = True,
    use_offset: bool = True,
    note: Callable[[str], None] = lambda text: None,
) -> Alignment:
    """Align a series, in order of its angles.

    Parameters
    ----------
    load
        Gives image `i`, `(h, w)`, all of one size; each is asked for a few times.
    angles_deg
        `(n,)` rising, of the stage.
    axis_deg
        Where the axis is supposed to be; sought within `axis_reach_deg` of it.
    find_offset
        Also seek how far the specimen itself is tilted, as a lamella is.
    use_offset
        Whether shifts are those of angles with that offset; else it is only measured.
    """
    side = max(load(0).shape)
    factor = max(1, round(side / _SIDE))
    note(f"tilt axis, at 1/{factor} of the size")
    level = level_of(load, angles_deg, factor, _MOST_NUMBERS)
    if is_rod(level.images, angles_deg=angles_deg, axis_deg=axis_deg):
        return _rod(level, axis_deg, factor)
    small = _search_level(level)
    found = search(small, axis_deg, axis_reach_deg, find_offset=find_offset)
    pose = found.pose.at_scale(level.images.shape[1] / small.images.shape[1])
    note(f"shifts, at 1/{factor} of the size")
    state = look_at(level, pose, iterations=3)
    state = scan_axis(level, state, reach=min(0.4, axis_reach_deg), step=0.4)
    state = look_at(level, state.pose, iterations=2)
    while factor > 1 and side / factor < _LAST_SIDE and _is_fine(state):
        finer = max(1, factor // 2)
        note(f"shifts, at 1/{finer} of the size")
        level = level_of(load, angles_deg, finer, _MOST_NUMBERS)
        state = look_at(level, state.pose.at_scale(factor / finer), iterations=2)
        factor = finer
    thickness = found.thickness.at_scale(side / max(small.images.shape[1:]))
    aligned = replace(
        _judged(level, state, factor), offset=found.offset, thickness=thickness
    )
    if use_offset or not pose.offset_deg:
        return aligned
    # Its shifts are those of the stage's own angles.
    plain = look_at(level, replace(state.pose, offset_deg=0.0), iterations=3)
    measured = replace(_judged(level, plain, factor).pose, offset_deg=pose.offset_deg)
    return replace(aligned, pose=measured)


def _rod(level: Level, axis_deg: float, factor: int) -> Alignment:
    rod = align_rod(level.images, angles_deg=level.angles_deg, axis_deg=axis_deg)
    # It is round: as thick as it is wide.
    thickness = Measured(
        value=float(np.median(rod.width_px)), error=float(rod.width_px.std())
    )
    pose = Pose(
        shifts_px=rod.shifts_px,
        axis_deg=axis_deg,
        offset_deg=0.0,
        thickness_px=float(rod.width_px.max()),
    )
    return Alignment(
        pose=pose.at_scale(factor),
        correlation=rod.correlation,
        residual_px=rod.residual_px * factor,
        thickness=thickness.at_scale(factor),
        is_rod=True,
    )


def _search_level(level: Level) -> Level:
    factor = max(1, round(max(level.images.shape[1:]) / _SEARCH_SIDE))
    if factor == 1:
        return replace(level, most_numbers=_FEW_NUMBERS)
    images = level.images
    return level_of(lambda i: images[i], level.angles_deg, factor, _FEW_NUMBERS)


def _is_fine(state: State) -> bool:
    """Whether the finest rings still have signal, so that larger images say more."""
    return bool(np.mean(state.coherent[-7:-1]) > _FINE_COHERENCE)


def _judged(level: Level, state: State, factor: int) -> Alignment:
    """The alignment in pixels of the input, referred to the least tilted image."""
    expected = likelihood.predicted(state.model, state.white)
    product = (state.white.conj() * expected).real.sum((0, 1, 3))
    power = (np.abs(state.white) ** 2).sum((0, 1, 3))
    power = power * (np.abs(expected) ** 2).sum((0, 1, 3))
    tilts = np.deg2rad(level.angles_deg + state.pose.offset_deg)
    residual = residuals(
        likelihood.images_of(state.white, state.at),
        likelihood.images_of(expected, state.at),
        np.cos(tilts),
    )
    return Alignment(
        pose=centred(state.pose, tilts).at_scale(factor),
        correlation=product / np.sqrt(np.maximum(power, 1e-20)),
        residual_px=residual * factor,
    )
