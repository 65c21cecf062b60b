"""Even illumination: the gain of each camera pixel, measured or estimated."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

from em_platform.errors import DataError
from em_platform.imaging.valid import Image, Mask, valid_region
from em_platform.model import Box
from em_platform.model.sentences import size_of

Float = NDArray[np.float64]

_GRID = 64  # cells along each side of a tile; tissue below that size averages out
_DEGREE = 4  # decision 0010; 0.5 % wrong from 25 tiles (docs/benchmarks.md)
_MAX_TILES = 64
_MIN_TILES = 6  # fewer give only the terms up to degree 2
_CAUTION = 2.0  # above 1: better too even a field than the tissue of these tiles
_ROUNDS = 10
_CAUCHY = 2.0  # residuals beyond this many deviations hardly count
_DEAD = 0.05  # of the mean brightness: such a pixel sees nothing that could be scaled


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatField:
    """What makes a frame even: `(raw - dark) * gain`; both `(h, w)` float32.

    The mean gain is about 1, so that grey levels keep their range.
    """

    gain: NDArray[np.float32]
    dark: NDArray[np.float32] | None = None


def flat_field_from_frames(bright: Image, dark: Image | None = None) -> FlatField:
    """The gain that makes an image without specimen even.

    Parameters
    ----------
    bright
        `(h, w)`, or `(n, h, w)` to be averaged: beam, no specimen.
    dark
        Likewise without beam.

    Raises
    ------
    DataError
        The frames differ in size, or the bright one is not brighter than the dark one.
    """
    light = _mean_frame(bright)
    offset = None if dark is None else _mean_frame(dark)
    if offset is not None and offset.shape != light.shape:
        raise DataError(
            f"flat field: bright frame {size_of(light.shape)}, dark frame "
            f"{size_of(offset.shape)}; give frames of one camera at one binning"
        )
    even = light if offset is None else light - offset
    # The median: dust and dead pixels do not shift it.
    mean = float(np.median(even))
    if not mean > 0.0:
        raise DataError(
            f"flat field: the bright frame's median is {mean:g} above the dark one's, "
            "more than 0 expected; check that they are not exchanged"
        )
    alive = even > _DEAD * mean
    gain = np.ones_like(even)
    np.divide(float(even[alive].mean()), even, out=gain, where=alive)
    return FlatField(gain=gain, dark=offset)


def estimate_flat_field(tiles: Sequence[Image]) -> FlatField:
    """The gain from the tiles themselves: what is brighter at the same place in all.

    The logarithm of the brightness of 64 x 64 cells is fitted by one polynomial of
    degree 4 for all tiles (Cauchy weights, so that folds, holes and dust do not
    count). Each degree is then shrunk by how far its terms differ between tiles
    (empirical Bayes): a few tiles give a careful field and not their tissue.

    Parameters
    ----------
    tiles
        `(h, w)` each, of one camera, at different places. Black frames and black tiles
        are left out. Above 64 tiles every n-th is used.

    Returns
    -------
    FlatField
        Without dark; gain mean 1. Where no tile has light it is that of the nearest
        valid place.

    Raises
    ------
    DataError
        No tile shows anything, or they differ in size.
    """
    step = max(1, -(-len(tiles) // _MAX_TILES))
    cells, boxes = [], []
    for tile in tiles[::step]:
        box = valid_region(tile)
        if box.y1 > box.y0:
            cells.append(_cells(tile, box))
            boxes.append(box)
    if not cells:
        raise DataError(
            f"flat field: none of {len(tiles)} tiles shows anything, at least one "
            "expected; set stitching.tile.flat_field to none"
        )
    shape = tiles[0].shape
    if any(tile.shape != shape for tile in tiles):
        raise DataError(
            f"flat field: tiles differ in size (the first is {size_of(shape)}); "
            "give tiles of one camera at one binning"
        )
    field = _common_field(np.stack(cells))
    return FlatField(gain=_gain(field, shape=shape, box=_union(boxes)))


def _mean_frame(frames: Image) -> NDArray[np.float32]:
    if frames.ndim == 3:
        return np.asarray(frames.mean(axis=0, dtype=np.float32))
    return np.asarray(frames, dtype=np.float32)


def _cells(tile: Image, box: Box) -> Float:
    """`(grid * grid,)` log brightness, median 0; NaN outside the valid region."""
    if tile.dtype not in (np.uint8, np.uint16, np.int16, np.float32):
        tile = tile.astype(np.float32)
    small = cv2.resize(tile, (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    rows = _inside(box.y0, box.y1, length=tile.shape[0])
    columns = _inside(box.x0, box.x1, length=tile.shape[1])
    bright = np.where(rows[:, None] & columns & (small > 0), small, np.nan)
    # Shade is a factor: in the logarithm a sum, the same in bright and dark tiles.
    logs = np.log(bright.astype(np.float64)).ravel()
    # How bright a tile is as a whole says nothing of the field.
    return np.asarray(logs - np.nanmedian(logs))


def _inside(start: int, stop: int, *, length: int) -> NDArray[np.bool_]:
    """Which cells lie whole between two pixels."""
    edges = np.linspace(0, length, _GRID + 1)
    # 1e-6: a cell's edge that meets a pixel's is rounded by linspace.
    return np.asarray((edges[:-1] >= start - 1e-6) & (edges[1:] <= stop + 1e-6))


def _degrees() -> list[tuple[int, int]]:
    return [(i, d - i) for d in range(_DEGREE + 1) for i in range(d + 1)]


def _legendre(places: Float) -> Float:
    """`(n, degree + 1)` Legendre polynomials, orthonormal over -1..1."""
    # Orthonormal, so that the power of degrees can be compared (`_shrunk`).
    norms = np.sqrt(2.0 * np.arange(_DEGREE + 1) + 1.0)
    return np.asarray(legendre.legvander(places, _DEGREE) * norms)


def _common_field(cells: Float) -> Float:
    """`(degree + 1, degree + 1)` coefficients of the log brightness of all tiles."""
    line = _legendre((np.arange(_GRID) + 0.5) / _GRID * 2.0 - 1.0)
    basis = np.stack([np.outer(line[:, i], line[:, j]).ravel() for i, j in _degrees()])
    seen = np.isfinite(cells)
    logs = np.where(seen, cells, 0.0)
    # How far terms differ from tile to tile is what chance does to them.
    alone = np.stack(
        [
            _robust_fit(basis, log[None], seen=s[None])
            for log, s in zip(logs, seen, strict=True)
        ]
    )
    common = _robust_fit(basis, logs, seen=seen)
    common = _shrunk(common, alone)
    field = np.zeros((_DEGREE + 1, _DEGREE + 1))
    for coefficient, (i, j) in zip(common, _degrees(), strict=True):
        field[i, j] = coefficient
    return field


def _robust_fit(basis: Float, logs: Float, *, seen: Mask) -> Float:
    """Iteratively reweighted least squares, with the weights of Cauchy."""
    fit = _fit(basis, logs, weights=seen.astype(np.float64))
    for _ in range(_ROUNDS):
        rest = logs - fit @ basis
        # 1.4826 MAD is the standard deviation of normal noise.
        spread = 1.4826 * float(np.median(np.abs(rest[seen]))) + 1e-9
        weights: Float = seen / (1.0 + (rest / (_CAUCHY * spread)) ** 2)
        fit = _fit(basis, logs, weights=weights)
    return fit


def _fit(basis: Float, logs: Float, *, weights: Float) -> Float:
    """Weighted least squares of one polynomial through all tiles' cells."""
    normal = (basis * weights.sum(axis=0)) @ basis.T
    # A weak pull to zero decides terms that a small valid region leaves open.
    normal += 1e-4 * np.trace(normal) / len(normal) * np.eye(len(normal))
    right = basis @ (weights * logs).sum(axis=0)
    return np.asarray(np.linalg.solve(normal, right))


def _shrunk(common: Float, alone: Float) -> Float:
    """Each degree times the share of its power that is not chance between tiles."""
    degrees = np.array([i + j for i, j in _degrees()])
    kept = common.copy()
    # Not degree 0: `_gain` makes the mean 1 in any case.
    for degree in range(1, _DEGREE + 1):
        of_degree = degrees == degree
        if degree > 2 and len(alone) < _MIN_TILES:  # chance looks like field
            kept[of_degree] = 0.0
        if len(alone) == 1:  # one tile alone says nothing of chance
            continue
        chance = _CAUTION * _variance(alone[:, of_degree]) / len(alone)
        power = float(np.mean(common[of_degree] ** 2))
        kept[of_degree] *= max(0.0, power - chance) / max(power, 1e-30)
    return kept


def _variance(samples: Float) -> float:
    """Mean variance of the columns of `(n, k)`, from their median absolute deviation.

    So that one odd tile does not make all the others look like chance; among few the
    plain variance is the safer one.
    """
    if len(samples) < _MIN_TILES:
        return float(samples.var(axis=0, ddof=1).mean())
    off = np.abs(samples - np.median(samples, axis=0))
    return float(np.mean((1.4826 * np.median(off, axis=0)) ** 2))


def _gain(field: Float, *, shape: tuple[int, ...], box: Box) -> NDArray[np.float32]:
    # Beyond its points a polynomial runs away: the last valid place stands there.
    rows = np.clip(np.arange(shape[0]), box.y0, box.y1 - 1)
    columns = np.clip(np.arange(shape[1]), box.x0, box.x1 - 1)
    y = _legendre((rows + 0.5) / shape[0] * 2.0 - 1.0)
    x = _legendre((columns + 0.5) / shape[1] * 2.0 - 1.0)
    # Separable: two thin products instead of 15 terms for each pixel.
    gain = (-(y @ field) @ x.T).astype(np.float32)
    np.exp(gain, out=gain)
    gain /= gain.mean(dtype=np.float64)
    return gain


def _union(boxes: Sequence[Box]) -> Box:
    return Box(
        y0=min(box.y0 for box in boxes),
        x0=min(box.x0 for box in boxes),
        y1=max(box.y1 for box in boxes),
        x1=max(box.x1 for box in boxes),
    )
