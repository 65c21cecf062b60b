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
from em_platform.cryoem.methods.tilt_images import (
    Images,
    Numbers,
    fade,
    reduced,
    stretched,
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
# Signal in the finest rings that makes larger images worth their time.
_FINE_COHERENCE = 0.02
# Gain of log-likelihood that an offset of the tilts must bring to be believed.
_LEAST_GAIN = 20.0
_PATCHES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """Geometry of a series; shifts `(n, 2)` are dx, dy in pixels of some level."""

    shifts_px: Numbers
    axis_deg: float
    offset_deg: float
    thickness_px: float

    def at_scale(self, factor: float) -> "Pose":
        """The same in pixels that are `factor` times smaller."""
        return replace(
            self,
            shifts_px=self.shifts_px * factor,
            thickness_px=self.thickness_px * factor,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """The geometry in pixels of the images given, and how well it holds.

    Attributes
    ----------
    correlation
        `(n,)`: of each image with what all others predict of it.
    residual_px
        `(n,)`: root mean square of how far parts of an image are from that.
    """

    pose: Pose
    correlation: Numbers
    residual_px: Numbers


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
    """
    side = max(load(0).shape)
    factor = max(1, round(side / _SIDE))
    note(f"tilt axis, at 1/{factor} of the size")
    level = _level(load, angles_deg, factor, _MOST_NUMBERS)
    small = _search_level(level)
    pose = _searched(small, axis_deg, axis_reach_deg, find_offset=find_offset)
    pose = pose.at_scale(level.images.shape[1] / small.images.shape[1])
    note(f"shifts, at 1/{factor} of the size")
    state = _look(level, pose, iterations=3)
    state = _scan_axis(level, state, reach=0.4, step=0.4)
    state = _look(level, state.pose, iterations=2)
    while factor > 1 and side / factor < _LAST_SIDE and _is_fine(state):
        finer = max(1, factor // 2)
        note(f"shifts, at 1/{finer} of the size")
        level = _level(load, angles_deg, finer, _MOST_NUMBERS)
        state = _look(level, state.pose.at_scale(factor / finer), iterations=2)
        factor = finer
    return _judged(level, state, factor)


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
        state = _scan_axis(level, state, reach=step, step=step)
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
    return _turned(moves, np.deg2rad(level.angles_deg), axis_deg)


def _turned(moves: Numbers, tilts_rad: Numbers, axis_deg: float) -> Numbers:
    """Moves in stretched, upright images as dx, dy of the images themselves."""
    across, along = moves[:, 0] * np.cos(tilts_rad), moves[:, 1]
    cos, sin = np.cos(np.deg2rad(axis_deg)), np.sin(np.deg2rad(axis_deg))
    return np.stack([cos * across - sin * along, sin * across + cos * along], axis=1)


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
    at = None
    for count in range(iterations + 1):
        flat = stretched(
            level.images,
            angles_deg=np.rad2deg(tilts),
            axis_deg=pose.axis_deg,
            shifts_px=pose.shifts_px,
        )
        at = at or likelihood.frequencies(
            flat.shape[1:],
            tilts_rad=tilts,
            thickness_px=pose.thickness_px,
            most_numbers=level.most_numbers,
        )
        white = likelihood.whitened(flat, at)
        if model is None or (known is None and count == 2):
            coherent = likelihood.coherence(white, at) if known is None else known
            model = likelihood.model_of(coherent, at)
        fit = likelihood.fit_of(model, white, at)
        if count < iterations:
            pose = _moved(pose, model, fit, tilts, max(flat.shape[1:]))
    return _State(
        misfit=fit.misfit,
        pose=pose,
        at=at,
        coherent=coherent if known is None else known,
        model=model,
        white=white,
    )


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
    turned = _turned(moves, tilts_rad, pose.axis_deg)
    return replace(pose, shifts_px=pose.shifts_px + turned)


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
    """Where the parabola through three neighbours is least, in steps from the middle."""
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
    residual = _residuals(
        likelihood.images_of(state.white, state.at),
        likelihood.images_of(expected, state.at),
        np.cos(tilts),
    )
    return Alignment(
        pose=_centred(state.pose, tilts).at_scale(factor),
        correlation=product / np.sqrt(np.maximum(power, 1e-20)),
        residual_px=residual * factor,
    )


def _residuals(images: Images, expected: Images, cosines: Numbers) -> Numbers:
    """Root mean square, by image, of how far its parts lie from where they should.

    An image is expected + slope of expected times the move (Lucas & Kanade 1981).
    """
    out = np.zeros(len(images))
    for i, (image, other) in enumerate(zip(images, expected, strict=True)):
        slopes = np.gradient(other)
        squares = []
        for part in _parts(image.shape):
            basis = np.stack([x[part].ravel() for x in (other, *slopes)], axis=1)
            fitted = np.linalg.lstsq(basis, image[part].ravel(), rcond=None)[0]
            share = max(float(fitted[0]), 1e-3)
            along, across = fitted[1] / share, fitted[2] / share * cosines[i]
            squares.append(along**2 + across**2)
        out[i] = np.sqrt(np.mean(squares))
    return out


def _parts(shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
    rows, columns = (np.linspace(0, side, _PATCHES + 1).astype(int) for side in shape)
    return [
        (slice(y0, y1), slice(x0, x1))
        for y0, y1 in zip(rows[:-1], rows[1:], strict=True)
        for x0, x1 in zip(columns[:-1], columns[1:], strict=True)
    ]


def _centred(pose: Pose, tilts_rad: Numbers) -> Pose:
    """The same geometry with no shift of the least tilted image.

    A series cannot say where its specimen's middle is in x and y; that image's middle
    is taken, as IMOD and AreTomo do.
    """
    cos, sin = np.cos(np.deg2rad(pose.axis_deg)), np.sin(np.deg2rad(pose.axis_deg))
    across = cos * pose.shifts_px[:, 0] + sin * pose.shifts_px[:, 1]
    along = cos * pose.shifts_px[:, 1] - sin * pose.shifts_px[:, 0]
    middle = int(np.argmin(np.abs(tilts_rad)))
    across = across - across[middle] * np.cos(tilts_rad) / np.cos(tilts_rad[middle])
    along = along - along[middle]
    shifts = np.stack([cos * across - sin * along, sin * across + cos * along], axis=1)
    return replace(pose, shifts_px=shifts)
