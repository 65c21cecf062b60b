"""Where the specimen lies in each image of a tilt series, and how its axis runs.

From small images to large ones: neighbours are correlated after a cosine stretch, then
all shifts, the tilt axis, the specimen's own tilt and its thickness are moved to the
greatest likelihood (see `tilt_likelihood`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from em_platform.cryoem.methods import tilt_likelihood as likelihood
from em_platform.cryoem.methods.rod_alignment import align_rod, is_rod
from em_platform.cryoem.methods.tilt_images import (
    Images,
    Numbers,
    aligned_shape,
    fade,
    reduced,
    stretched,
)
from em_platform.cryoem.methods.tilt_pose import (
    Alignment,
    Pose,
    centred,
    residuals,
    turned,
)

Load = Callable[[int], NDArray[np.floating]]

# Sides of images, px: where axis, thickness and offset are sought; where shifts are
# found; beyond which larger images say no more.
_SEARCH_SIDE, _SIDE, _LAST_SIDE = 128, 256, 1024
# Numbers in all matrices of a level: time while one seeks, memory at the end.
_FEW_NUMBERS, _MOST_NUMBERS = 2_000_000, 8_000_000
# Of an image's side.
_MOST_MOVE = 0.02
_THICKNESSES = np.geomspace(0.01, 0.6, 12)
_START_THICKNESS = 0.12
# Steps after which images lie so well that their signal is measured again.
_SETTLED = 2
# Signal in the finest rings that makes larger images worth their time.
_FINE_COHERENCE = 0.02
# Gain of log-likelihood that an offset of the tilts must bring to be believed.
_LEAST_GAIN = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Level:
    images: Images
    angles_deg: Numbers
    most_numbers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What one look at a series at one pose gives."""

    misfit: float
    pose: Pose
    at: likelihood.Frequencies
    coherent: Numbers
    model: likelihood.Model
    white: NDArray[np.complex64]


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
    level = _level(load, angles_deg, factor, _MOST_NUMBERS)
    if is_rod(level.images, angles_deg=angles_deg, axis_deg=axis_deg):
        return _rod(level, axis_deg, factor)
    small = _search_level(level)
    pose = _searched(small, axis_deg, axis_reach_deg, find_offset=find_offset)
    pose = pose.at_scale(level.images.shape[1] / small.images.shape[1])
    note(f"shifts, at 1/{factor} of the size")
    state = _look(level, pose, iterations=3)
    state = _scan_axis(level, state, reach=min(0.4, axis_reach_deg), step=0.4)
    state = _look(level, state.pose, iterations=2)
    while factor > 1 and side / factor < _LAST_SIDE and _is_fine(state):
        finer = max(1, factor // 2)
        note(f"shifts, at 1/{finer} of the size")
        level = _level(load, angles_deg, finer, _MOST_NUMBERS)
        state = _look(level, state.pose.at_scale(factor / finer), iterations=2)
        factor = finer
    aligned = _judged(level, state, factor)
    if use_offset or not pose.offset_deg:
        return aligned
    # Its shifts are those of the stage's own angles.
    plain = _look(level, replace(state.pose, offset_deg=0.0), iterations=3)
    measured = replace(_judged(level, plain, factor).pose, offset_deg=pose.offset_deg)
    return replace(aligned, pose=measured)


def _rod(level: _Level, axis_deg: float, factor: int) -> Alignment:
    shifts, correlation = align_rod(level.images, axis_deg=axis_deg)
    pose = Pose(
        shifts_px=shifts,
        axis_deg=axis_deg,
        offset_deg=0.0,
        # It is round, and no wider than the image.
        thickness_px=float(max(level.images.shape[1:])),
    )
    return Alignment(
        pose=pose.at_scale(factor),
        correlation=correlation,
        residual_px=np.zeros(len(shifts)),
        is_rod=True,
    )


def _searched(
    level: _Level, axis_deg: float, reach_deg: float, *, find_offset: bool
) -> Pose:
    """Axis, thickness, offset and shifts, from small images."""
    start = Pose(
        shifts_px=_chained(level, axis_deg),
        axis_deg=axis_deg,
        offset_deg=0.0,
        thickness_px=_START_THICKNESS * max(level.images.shape[1:]),
    )
    state = _look(level, start, iterations=3)
    state = _scan_axis(level, state, reach=reach_deg, step=3.0)
    for step in (1.0, 0.5):
        state = _look(level, _best_thickness(level, state), iterations=3)
        if find_offset:
            state = _scan_offset(level, state, reach=16 * step**2, step=4 * step)
        state = _scan_axis(level, state, reach=min(step, reach_deg), step=step)
    return state.pose


def _level(load: Load, angles_deg: Numbers, factor: int, most_numbers: int) -> _Level:
    images = [reduced(load(i), factor) for i in range(len(angles_deg))]
    return _Level(
        images=np.stack(images), angles_deg=angles_deg, most_numbers=most_numbers
    )


def _search_level(level: _Level) -> _Level:
    factor = max(1, round(max(level.images.shape[1:]) / _SEARCH_SIDE))
    if factor == 1:
        return replace(level, most_numbers=_FEW_NUMBERS)
    images = level.images
    return _level(lambda i: images[i], level.angles_deg, factor, _FEW_NUMBERS)


def _is_fine(state: _State) -> bool:
    """Whether the finest rings still have signal, so that larger images say more."""
    return bool(np.mean(state.coherent[-7:-1]) > _FINE_COHERENCE)


def _chained(level: _Level, axis_deg: float) -> Numbers:
    """Shifts `(n, 2)` from correlating neighbours, from the least tilt outwards."""
    n = len(level.images)
    flat = stretched(
        level.images,
        angles_deg=level.angles_deg,
        axis_deg=axis_deg,
        shifts_px=np.zeros((n, 2)),
    )
    height, width = flat.shape[1:]
    window = fade(height)[:, None] * fade(width)[None, :]
    found = scipy.fft.rfft2(flat * window)
    # Between plain and phase correlation: sharp peaks, and little weight on noise.
    found /= np.sqrt(np.abs(found)) + 1e-6
    ky, kx = scipy.fft.fftfreq(height)[:, None], scipy.fft.rfftfreq(width)[None, :]
    radius = np.hypot(kx, ky)
    found[:, (radius < 2 / height) | (radius > 0.25)] = 0
    moves = np.zeros((n, 2))
    middle = int(np.argmin(np.abs(level.angles_deg)))
    for way in (1, -1):
        for i in range(middle + way, n if way > 0 else -1, way):
            product = found[i] * found[i - way].conj()
            correlation = scipy.fft.irfft2(product, s=(height, width))
            y, x = np.unravel_index(np.argmax(correlation), correlation.shape)
            half_y, half_x = height // 2, width // 2
            moves[i, 0] = moves[i - way, 0] + (x + half_x) % width - half_x
            moves[i, 1] = moves[i - way, 1] + (y + half_y) % height - half_y
    return turned(moves, np.deg2rad(level.angles_deg), axis_deg)


def _look(
    level: _Level,
    pose: Pose,
    *,
    iterations: int,
    known: Numbers | None = None,
    model: likelihood.Model | None = None,
) -> _State:
    """The misfit after some Newton steps of the shifts, and what it came from.

    With a `known` coherence the misfits of two poses compare. Without, it is measured,
    and again as the images come to lie well. A `model` holds for one set of angles and
    one thickness.
    """
    tilts = np.deg2rad(level.angles_deg + pose.offset_deg)
    at = likelihood.frequencies(
        aligned_shape(level.images.shape[1:], pose.axis_deg),
        tilts_rad=tilts,
        thickness_px=pose.thickness_px,
        most_numbers=level.most_numbers,
    )
    white = _white(level, pose, at)
    coherent = likelihood.coherence(white, at) if known is None else known
    model = model or likelihood.model_of(coherent, at)
    for count in range(1, iterations + 1):
        fit = likelihood.fit_of(model, white, at)
        pose = _moved(pose, model, fit, tilts, max(at.shape))
        white = _white(level, pose, at)
        if known is None and count == _SETTLED:
            coherent = likelihood.coherence(white, at)
            model = likelihood.model_of(coherent, at)
    return _State(
        misfit=likelihood.fit_of(model, white, at).misfit,
        pose=pose,
        at=at,
        coherent=coherent,
        model=model,
        white=white,
    )


def _white(
    level: _Level, pose: Pose, at: likelihood.Frequencies
) -> NDArray[np.complex64]:
    flat = stretched(
        level.images,
        angles_deg=level.angles_deg + pose.offset_deg,
        axis_deg=pose.axis_deg,
        shifts_px=pose.shifts_px,
    )
    return likelihood.whitened(flat, at)


def _moved(
    pose: Pose,
    model: likelihood.Model,
    fit: likelihood.Fit,
    tilts_rad: Numbers,
    side: int,
) -> Pose:
    across = likelihood.step_of(model.across, fit.across)
    along = likelihood.step_of(model.along, fit.along)
    moves = np.clip(np.stack([across, along], 1), -_MOST_MOVE * side, _MOST_MOVE * side)
    moves = turned(moves, tilts_rad, pose.axis_deg)
    return replace(pose, shifts_px=pose.shifts_px + moves)


def _scan_axis(level: _Level, state: _State, *, reach: float, step: float) -> _State:
    def look(axis_deg: float, near: Pose) -> _State:
        # One matrix for all axes: their misfits compare to the last digit.
        return _look(
            level,
            replace(near, axis_deg=axis_deg),
            iterations=3,
            known=state.coherent,
            model=state.model,
        )

    return _scan(look, state, state.pose.axis_deg, reach=reach, step=step)


def _scan_offset(level: _Level, state: _State, *, reach: float, step: float) -> _State:
    def look(offset_deg: float, near: Pose) -> _State:
        return _look(
            level,
            replace(near, offset_deg=offset_deg),
            iterations=2,
            known=state.coherent,
        )

    # A tilt of 90 degrees has no stretch.
    room = 84 - float(np.abs(level.angles_deg + state.pose.offset_deg).max())
    found = _scan(
        look, state, state.pose.offset_deg, reach=min(reach, max(room, 0)), step=step
    )
    return found if found.misfit < state.misfit - _LEAST_GAIN else state


def _scan(
    look: Callable[[float, Pose], _State],
    start: _State,
    centre: float,
    *,
    reach: float,
    step: float,
) -> _State:
    """The best look on a grid around `centre`, or at the top of a parabola there."""
    count = int(reach / step + 1e-9)
    states: dict[int, _State] = {}
    # From the middle outwards, each from its neighbour's shifts.
    for i in sorted(range(-count, count + 1), key=abs):
        near = states[i - (1 if i > 0 else -1)] if i else start
        states[i] = look(centre + i * step, near.pose)
    best = min(states, key=lambda i: states[i].misfit)
    if abs(best) == count:
        return states[best]
    top = _top_of(*(states[best + d].misfit for d in (-1, 0, 1)))
    at_top = look(centre + (best + top) * step, states[best].pose)
    return min(states[best], at_top, key=lambda state: state.misfit)


def _top_of(low: float, middle: float, high: float) -> float:
    """Where the parabola through three neighbours is least, from the middle one."""
    bend = low - 2 * middle + high
    return float(np.clip(0.5 * (low - high) / bend, -1, 1)) if bend > 0 else 0.0


def _best_thickness(level: _Level, state: _State) -> Pose:
    """The same pose with the thickness that the parallax shows."""
    side = max(level.images.shape[1:])
    misfits = []
    for share in _THICKNESSES:
        at = likelihood.frequencies(
            state.at.shape,
            tilts_rad=np.deg2rad(level.angles_deg + state.pose.offset_deg),
            thickness_px=share * side,
            most_numbers=level.most_numbers,
        )
        model = likelihood.model_of(likelihood.coherence(state.white, at), at)
        misfits.append(likelihood.fit_of(model, state.white, at).misfit)
    place = float(np.argmin(misfits))
    if 0 < place < len(misfits) - 1:
        place += _top_of(*misfits[int(place) - 1 : int(place) + 2])
    ratio = float(_THICKNESSES[1] / _THICKNESSES[0])
    thickness_px = float(_THICKNESSES[0]) * ratio**place * side
    return replace(state.pose, thickness_px=thickness_px)


def _judged(level: _Level, state: _State, factor: int) -> Alignment:
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
