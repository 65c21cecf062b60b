"""Tilt axis, thickness and tilt of a specimen, sought in small images, with errors.

The likelihood takes the density for noise: a few beads that outweigh all else make it
far too sure of where the slab's middle plane is. So errors come from leaving out one
strip of the specimen after the other (jackknife; Efron & Tibshirani 1993, chapter 11),
and by how few features there are; what is not well above its error is not used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from em_platform.cryoem.methods import tilt_likelihood as likelihood
from em_platform.cryoem.methods.tilt_images import Numbers
from em_platform.cryoem.methods.tilt_look import (
    Level,
    State,
    chained,
    look_at,
    white_of,
)
from em_platform.cryoem.methods.tilt_pose import Measured, Pose

# Of an image's side, and of a thickness nearby.
_THICKNESSES = np.geomspace(0.01, 0.8, 13)
_NEAR = np.geomspace(0.5, 2, 5)
_STARTS = (0.03, 0.12, 0.3, 0.6)
# The offset is sought so many steps on both sides, first of 4 degrees.
_OFFSET_STEPS, _OFFSET_STEPS_DEG = 4, (4.0, 2.0)
# Strips along the axis that are left out, one at a time.
_STRIPS = 6
# Along each side of an image: cells whose power shows how few features there are.
_CELLS = 8
# An offset counts from so many of its errors on, and if it is known so well.
_LEAST_SIGMA, _MOST_ERROR_DEG = 3.0, 3.0
# Of the logarithm of a thickness: worse than a factor of 1.6 is no measurement.
_MOST_LOG_ERROR = 0.5


_Slab = tuple[float, likelihood.Frequencies, likelihood.Model]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The pose of small images, and what is known of its offset and thickness."""

    pose: Pose
    offset: Measured
    thickness: Measured


def search(
    level: Level, axis_deg: float, reach_deg: float, *, find_offset: bool
) -> Found:
    """Axis, thickness, offset and shifts, from small images."""
    side = max(level.images.shape[1:])
    shifts = chained(level, axis_deg)
    starts = [
        Pose(shifts_px=shifts, axis_deg=axis_deg, offset_deg=0.0, thickness_px=t * side)
        for t in _STARTS
    ]
    # A slab that is too thin cannot explain what beads do, and then an axis explains it
    # wrongly; the shifts that go with it would keep it thin.
    looks = [look_at(level, start, iterations=4) for start in starts]
    state = min(looks, key=lambda each: each.misfit)
    for reach, step in ((reach_deg, 3.0), (3.0, 1.0)):
        state = _at_thickness(level, state)
        state = scan_axis(level, state, reach=min(reach, reach_deg), step=step)
    state = _at_thickness(level, state)
    offset = Measured()
    if find_offset:
        state, offset = _at_offset(level, state)
    state = scan_axis(level, state, reach=min(0.5, reach_deg), step=0.5)
    return Found(pose=state.pose, offset=offset, thickness=_thickness(level, state))


def is_tilted(offset: Measured) -> bool:
    """Whether the tilt of a specimen is well above its error."""
    value, error = offset.value, offset.error
    if value is None or error is None:
        return False
    return error <= _MOST_ERROR_DEG and abs(value) >= _LEAST_SIGMA * error


def scan_axis(level: Level, state: State, *, reach: float, step: float) -> State:
    """The best look at a tilt axis within `reach` degrees."""

    def look(axis_deg: float, near: Pose) -> State:
        # One matrix for all axes: their misfits compare to the last digit.
        return look_at(
            level,
            replace(near, axis_deg=axis_deg),
            iterations=3,
            known=state.coherent,
            model=state.model,
        )

    return _scan(look, state, state.pose.axis_deg, reach=reach, step=step)[1]


def _at_offset(level: Level, flat: State) -> tuple[State, Measured]:
    """A look at the offset where it is well above its error, else at none."""
    state = flat
    for step in _OFFSET_STEPS_DEG:
        looks, state = _scan_offset(level, state, step=step)
    best = state.pose.offset_deg
    looks.sort(key=lambda each: each[0].pose.offset_deg)
    offsets = [each.pose.offset_deg for each, _ in looks]
    if not offsets[0] < best < offsets[-1]:
        return flat, Measured(value=best)
    tops = []
    for rows in _strips(flat.at.shape[0]):
        misfits = []
        for each, slabs in looks:
            white = white_of(level, each.pose, each.at, rows=rows)
            misfits.append(_likeliest(slabs, white)[1])
        tops.append(_least(offsets, misfits)[0])
    error = float(np.hypot(_jackknife(tops), _scatter_deg(level, state)))
    offset = Measured(value=best, error=error)
    return (
        look_at(level, state.pose, iterations=3) if is_tilted(offset) else flat
    ), offset


def _scatter_deg(level: Level, state: State) -> float:
    """By how much few features at random heights have another plane than their slab.

    Features at random in a slab of thickness t and width w have a plane that is off by
    t / (w sqrt(n)). What leaving out strips shows is less, as shifts follow features.
    """
    expected = likelihood.predicted(state.model, state.white)
    middle = int(np.argmin(np.abs(level.angles_deg)))
    image = likelihood.images_of(expected, state.at)[middle]
    cells = [
        np.array_split(part, _CELLS, axis=1) for part in np.array_split(image, _CELLS)
    ]
    power = np.array([[float((cell**2).sum()) for cell in row] for row in cells])
    # Of n features in m cells, many share one: this ratio is n m / (m + n - 1).
    count, ratio = power.size, float(power.sum() ** 2 / (power**2).sum())
    features = ratio * (count - 1) / max(count - ratio, 1e-6)
    slope = state.pose.thickness_px / (image.shape[1] * np.sqrt(features))
    return float(np.rad2deg(np.arctan(slope)))


def _scan_offset(
    level: Level, start: State, *, step: float
) -> tuple[list[tuple[State, list[_Slab]]], State]:
    slabs = {}

    def look(offset_deg: float, near: Pose) -> State:
        state = look_at(level, replace(near, offset_deg=offset_deg), iterations=2)
        # A slab that is tilted looks thicker at no offset: both are sought together.
        slabs[offset_deg] = _slabs(level, state, _NEAR * near.thickness_px)
        thickness_px, misfit = _likeliest(slabs[offset_deg], state.white)
        pose = replace(state.pose, thickness_px=thickness_px)
        return replace(state, pose=pose, misfit=misfit)

    # A tilt of 90 degrees has no stretch.
    room = 84 - float(np.abs(level.angles_deg + start.pose.offset_deg).max())
    reach = min(_OFFSET_STEPS * step, max(room, 0))
    looks, state = _scan(look, start, start.pose.offset_deg, reach=reach, step=step)
    return [(x, slabs[x.pose.offset_deg]) for x in looks], state


def _at_thickness(level: Level, state: State) -> State:
    """A look with the thickness that the parallax shows."""
    slabs = _slabs(level, state, _all(level))
    pose = replace(state.pose, thickness_px=_likeliest(slabs, state.white)[0])
    return look_at(level, pose, iterations=3)


def _thickness(level: Level, state: State) -> Measured:
    """The thickness with its error; without one where all thicknesses are as likely."""
    slabs = _slabs(level, state, _all(level))
    thickness_px, _ = _likeliest(slabs, state.white)
    tops = []
    for rows in _strips(state.at.shape[0]):
        white = white_of(level, state.pose, state.at, rows=rows)
        tops.append(float(np.log(_likeliest(slabs, white)[0])))
    error = _jackknife(tops)
    least, most = slabs[0][0], slabs[-1][0]
    is_inside = 1.01 * least < thickness_px < 0.99 * most
    if not is_inside or error > _MOST_LOG_ERROR:
        return Measured(value=thickness_px)
    return Measured(value=thickness_px, error=thickness_px * error)


def _all(level: Level) -> Numbers:
    return np.asarray(_THICKNESSES * max(level.images.shape[1:]))


def _slabs(level: Level, state: State, thicknesses_px: Numbers) -> list[_Slab]:
    """What one expects of the images by the slab's thickness."""
    found = []
    for thickness_px in thicknesses_px:
        at = likelihood.frequencies(
            state.at.shape,
            tilts_rad=np.deg2rad(level.angles_deg + state.pose.offset_deg),
            thickness_px=float(thickness_px),
            most_numbers=level.most_numbers,
        )
        coherent = likelihood.coherence(state.white, at)
        found.append((float(thickness_px), at, likelihood.model_of(coherent, at)))
    return found


def _likeliest(
    slabs: Sequence[_Slab], white: NDArray[np.complex64]
) -> tuple[float, float]:
    """The likeliest thickness in px, and its misfit."""
    misfits = [likelihood.fit_of(model, white, at).misfit for _, at, model in slabs]
    log, misfit = _least([float(np.log(thick)) for thick, *_ in slabs], misfits)
    return float(np.exp(log)), misfit


def _strips(height: int) -> list[Numbers]:
    """Weights of rows, each with another strip left out."""
    places = (np.arange(height) + 0.5) / height * _STRIPS
    soft = 0.15  # of a strip: a sharp edge would be structure of its own
    return [
        np.clip((np.abs(places - k - 0.5) - 0.5) / soft + 0.5, 0, 1)
        for k in range(_STRIPS)
    ]


def _jackknife(tops: Sequence[float]) -> float:
    """The standard error of a value from what it is without each part."""
    return float(np.sqrt((len(tops) - 1) * np.var(tops)))


def _least(places: Sequence[float], misfits: Sequence[float]) -> tuple[float, float]:
    """Where the misfit is least, to parts of a step by a parabola, and how small."""
    best = int(np.argmin(misfits))
    place, misfit = places[best], misfits[best]
    if not 0 < best < len(misfits) - 1:
        return place, misfit
    near = np.asarray(places[best - 1 : best + 2]) - place
    bend, slope, _ = np.polyfit(near, misfits[best - 1 : best + 2], 2)
    if bend <= 0:
        return place, misfit
    top = float(np.clip(-slope / (2 * bend), near[0], near[2]))
    return place + top, float(misfit + slope * top + bend * top**2)


def _scan(
    look: Callable[[float, Pose], State],
    start: State,
    centre: float,
    *,
    reach: float,
    step: float,
) -> tuple[list[State], State]:
    """Looks on a grid around `centre`, and the best, or at the top of a parabola."""
    count = int(reach / step + 1e-9)
    states: dict[int, State] = {}
    # From the middle outwards, each from its neighbour's shifts.
    for i in sorted(range(-count, count + 1), key=abs):
        near = states[i - (1 if i > 0 else -1)] if i else start
        states[i] = look(centre + i * step, near.pose)
    order = sorted(states)
    steps = [float(i) for i in order]
    top, _ = _least(steps, [states[i].misfit for i in order])
    best = min(states, key=lambda i: states[i].misfit)
    looks = list(states.values())
    if top == best:
        return looks, states[best]
    at_top = look(centre + top * step, states[best].pose)
    return looks, min(states[best], at_top, key=lambda state: state.misfit)
