"""The lens model of a microscope, from a montage whose tiles overlap by 60 %.

Every point of the specimen is seen at several places of the field; what differs from a
shift and a turn of the whole tile is the lens. Shifts and turns of all tiles and one
polynomial for all are fitted together (after Kaynig et al. 2010), robustly.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from em_platform.errors import FitFailed
from em_platform.imaging.lens import basis, normalised
from em_platform.model import Check, LensModel, Montage, Severity, Size, TileMatch

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]

LINEAR = 3  # constant and linear monomials: the choice of gauge, not measured
SAME_SHIFT = 0.005  # of a tile's length: points of a pair that agree are a first guess
WIDEST_LENS = 0.03  # of it: no lens spreads the shifts of one pair farther around
# Of the annealing, coarse to fine, as in `solve`.
SCALES_PX = (64.0, 32.0, 16.0, 8.0, 4.0)
# At most, at the last scale: `STILL_PX` ends them earlier as a rule.
FINAL_STEPS = 15
STILL_PX = 1e-4  # no residual changes more: the fit has converged
SIGMAS = 6.0  # of the median residual: beyond it a point is wrong
# Cells along each side of the field; a corner without points would be extrapolated.
COVER_CELLS = 5
COVER_LEAST = 0.9
GOOD_MEAN_PX = 0.2  # a good solve in em_stitch has residuals within these two
GOOD_STD_PX = 2.0
HOLD = 1e-6  # weight that fixes what nothing measures: the place and turn of the whole


@dataclass(frozen=True, slots=True, kw_only=True)
class PointMatches:
    """Points that two tiles share: numbers of the tiles, places `(n, 2)` in each."""

    a: Index
    b: Index
    a_points: Array
    b_points: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class LensFit:
    """A polynomial in `(terms, 2)`, the tiles' shifts and turns, and the residuals.

    `motions` is `(tiles, 3)`: `(y, x)` px and the turn in px at half a tile's length;
    `residuals` `(n, 2)` px; `kept` marks the points that the fit believes.
    """

    coefficients: Array
    motions: Array
    residuals: Array
    kept: Flags


def fit_lens(
    montage: Montage,
    matches: tuple[TileMatch, ...],
    *,
    magnification: int,
    degree: int = 5,
) -> LensModel:
    """The distortion of the lens that imaged a montage of large overlap.

    The field has no constant and no linear term: shift, turn, scale and shear cannot be
    separated from the tiles' own places. `residual_mean_px` is the length
    of the mean residual, `residual_std_px` the rms of the standard deviations in y and
    x, both over the points that were believed, as em_stitch states them.

    Raises
    ------
    FitFailed
        Too few points, or points that do not cover the field.
    """
    size = montage.tile_size
    points = gather(montage, matches)
    _judge(montage, points, degree=degree)
    fit = fit_points(points, size=size, degree=degree)
    if int(fit.kept.sum()) < _needed(points, degree=degree):
        raise FitFailed(
            f"lens of {montage.acquisition_id}: {int(fit.kept.sum())} of "
            f"{len(fit.kept)} points agree, {_needed(points, degree=degree)} needed; "
            "image a set with more texture"
        )
    kept = fit.residuals[fit.kept]
    return LensModel(
        microscope=montage.microscope,
        magnification=magnification,
        size=size,
        degree=degree,
        dy_px=tuple(fit.coefficients[:, 0].tolist()),
        dx_px=tuple(fit.coefficients[:, 1].tolist()),
        residual_mean_px=float(np.hypot(*kept.mean(axis=0))),
        residual_std_px=float(np.sqrt(kept.var(axis=0).mean())),
        points=len(kept),
    )


def check_lens(lens: LensModel) -> tuple[Check, ...]:
    """Whether the lens model explains the matches as well as em_stitch asks."""
    passed = (
        lens.residual_mean_px <= GOOD_MEAN_PX and lens.residual_std_px <= GOOD_STD_PX
    )
    return (
        Check(
            name="lens_fits_well",
            passed=passed,
            severity=Severity.ERROR,
            sentence=f"lens of {lens.microscope} at {lens.magnification} x: residual "
            f"mean {lens.residual_mean_px:.3f} px (at most {GOOD_MEAN_PX}), std "
            f"{lens.residual_std_px:.3f} px (at most {GOOD_STD_PX}), "
            f"{lens.points} points",
            value=lens.residual_std_px,
            limit=GOOD_STD_PX,
        ),
    )


def gather(montage: Montage, matches: tuple[TileMatch, ...]) -> PointMatches:
    """All points of the kept matches but those far from their pair's main shift."""
    length_px = max(montage.tile_size.height_px, montage.tile_size.width_px)
    number = {tile.tile_id: i for i, tile in enumerate(montage.tiles)}
    a, b, a_points, b_points = [], [], [np.zeros((0, 2))], [np.zeros((0, 2))]
    for match in matches:
        if not match.kept or not match.a_points:
            continue
        one, other = np.array(match.a_points), np.array(match.b_points)
        good = near_main_shift(one - other, length_px=length_px)
        a_points.append(one[good])
        b_points.append(other[good])
        a += [number[match.a]] * int(good.sum())
        b += [number[match.b]] * int(good.sum())
    return PointMatches(
        a=np.array(a, np.intp),
        b=np.array(b, np.intp),
        a_points=np.concatenate(a_points),
        b_points=np.concatenate(b_points),
    )


def near_main_shift(shifts: Array, *, length_px: float) -> Flags:
    """Points whose shift lies around the one that most points share.

    Parameters
    ----------
    shifts
        `(n, 2)` px.
    length_px
        Of a tile.
    """
    # 200 spread ones as candidates: all against all would take n**2 distances.
    tries = shifts[np.linspace(0, len(shifts) - 1, min(len(shifts), 200)).astype(int)]
    away = np.linalg.norm(shifts[None] - tries[:, None], axis=2)
    best = tries[int((away < SAME_SHIFT * length_px).sum(axis=1).argmax())]
    for _ in range(3):
        near = np.linalg.norm(shifts - best, axis=1) < WIDEST_LENS * length_px
        best = np.median(shifts[near], axis=0) if near.any() else best
    return np.asarray(np.linalg.norm(shifts - best, axis=1) < WIDEST_LENS * length_px)


def _needed(points: PointMatches, *, degree: int) -> int:
    tiles = len(np.unique(np.concatenate([points.a, points.b])))
    return 3 * tiles + 2 * (degree + 1) * (degree + 2)


def _judge(montage: Montage, points: PointMatches, *, degree: int) -> None:
    found, needed = len(points.a), _needed(points, degree=degree)
    if found < needed:
        raise FitFailed(
            f"lens of {montage.acquisition_id}: {found} matched points, at least "
            f"{needed} needed; match more patches or image more tiles"
        )
    size = np.array([montage.tile_size.height_px, montage.tile_size.width_px])
    places = np.concatenate([points.a_points, points.b_points])
    cells = np.clip(places / size * COVER_CELLS, 0, COVER_CELLS - 1).astype(int)
    seen = len(np.unique(cells, axis=0)) / COVER_CELLS**2
    if seen < COVER_LEAST:
        raise FitFailed(
            f"lens of {montage.acquisition_id}: matched points cover {seen:.0%} of the "
            f"field, {COVER_LEAST:.0%} needed; image a set whose tiles overlap by 60 %"
        )


def fit_points(points: PointMatches, *, size: Size, degree: int) -> LensFit:
    """Shifts and turns of all tiles and one polynomial, by robust least squares."""
    tiles = int(max(points.a.max(), points.b.max())) + 1
    system = design(points, tiles=tiles, size=size, degree=degree)
    residuals = system.apart
    length = np.zeros(len(residuals))
    for scale in (np.inf, *SCALES_PX, *[0.0] * FINAL_STEPS):
        c = max(scale, 0.5, 3.0 * float(np.median(length)))
        # Geman and McClure's weights, as in `solve`.
        motions, field = system.solve(1.0 / np.square(1.0 + np.square(length / c)))
        residuals = system.residuals(motions, field)
        before, length = length, np.hypot(*residuals.T)
        if scale == 0.0 and np.abs(length - before).max() < STILL_PX:
            break
    # Not below 1 px: a near perfect set would throw good points away.
    kept = length <= max(1.0, SIGMAS * float(np.median(length)))
    motions, field = system.solve(kept.astype(float))
    return LensFit(
        coefficients=np.concatenate([np.zeros((LINEAR, 2)), field]),
        motions=motions,
        residuals=system.residuals(motions, field),
        kept=kept,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LensSystem:
    """How the places of points seen from a and from b differ, and by what they change.

    `apart` `(n, 2)` is the difference as measured; `motion_y, motion_x` `(n, 3 tiles)`
    its derivative by the tiles' `(y, x, turn)`, `terms` `(n, k)` by the polynomial.
    """

    apart: Array
    motion_y: sparse.csr_array
    motion_x: sparse.csr_array
    terms: Array

    def solve(self, weights: Array) -> tuple[Array, Array]:
        """Motions `(tiles, 3)` and polynomial `(k, 2)` by weighted least squares."""
        my, mx, terms = self.motion_y, self.motion_x, self.terms
        weighed = weights[:, None] * terms
        own_y, own_x = my.T * weights, mx.T * weights
        tiles, k = my.shape[1], terms.shape[1]
        normal = HOLD * np.eye(tiles + 2 * k)
        normal[:tiles, :tiles] += (own_y @ my + own_x @ mx).toarray()
        square = terms.T @ weighed
        right = np.zeros(tiles + 2 * k)
        right[:tiles] = -(own_y @ self.apart[:, 0] + own_x @ self.apart[:, 1])
        for axis, motion in enumerate((my, mx)):
            part = slice(tiles + axis * k, tiles + (axis + 1) * k)
            normal[part, part] += square
            normal[:tiles, part] = motion.T @ weighed
            normal[part, :tiles] = normal[:tiles, part].T
            right[part] = -(weighed.T @ self.apart[:, axis])
        state: Array = np.asarray(np.linalg.solve(normal, right), np.float64)
        return state[:tiles].reshape(-1, 3), state[tiles:].reshape(2, k).T

    def residuals(self, motions: Array, field: Array) -> Array:
        """`(n, 2)` px by which the two tiles' views of a point lie apart."""
        state = motions.ravel()
        moved = np.stack([self.motion_y @ state, self.motion_x @ state], axis=1)
        return np.asarray(self.apart + moved + self.terms @ field)


def design(points: PointMatches, *, tiles: int, size: Size, degree: int) -> LensSystem:
    """The linear system of a lens fit."""
    u_a, v_a = normalised(points.a_points[:, 0], points.a_points[:, 1], size=size)
    u_b, v_b = normalised(points.b_points[:, 0], points.b_points[:, 1], size=size)
    terms = basis(u_a, v_a, degree=degree) - basis(u_b, v_b, degree=degree)
    count = len(points.a)
    ones = np.ones(count)
    rows = np.tile(np.arange(count), 4)
    shape = (count, 3 * tiles)

    def motion(own: int, turn_a: Array, turn_b: Array) -> sparse.csr_array:
        values = np.concatenate([ones, -ones, turn_a, turn_b])
        columns = [3 * points.a + own, 3 * points.b + own]
        columns += [3 * points.a + 2, 3 * points.b + 2]
        return sparse.csr_array((values, (rows, np.concatenate(columns))), shape=shape)

    return LensSystem(
        apart=points.a_points - points.b_points,
        motion_y=motion(0, -v_a, v_b),
        motion_x=motion(1, u_a, -u_b),
        terms=terms[:, LINEAR:],
    )
