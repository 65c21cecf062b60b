"""One place for every tile: a robust, sparse least-squares fit of all matches.

Iteratively reweighted least squares with the weights of Geman and McClure, the scale
annealed from coarse to fine (graduated non-convexity, Blake and Zisserman 1987), so
that a wrong match does not pull and a tile that jumped is placed by its matches. The
stage enters only by the nominal shifts of neighbours, with a weight so small that it
decides nothing but where tiles lie that no match connects.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse import csgraph

from em_platform.config.stitching import SolveSettings
from em_platform.errors import FitFailed
from em_platform.model import Montage, MontageFit, TileMatch, TilePlacement
from em_platform.stitching.neighbours import find_neighbours
from em_platform.stitching.system import (
    Edges,
    LinearSystem,
    PatchPairs,
    Placed,
    Stage,
    TranslationSystem,
)

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]

SCALES_PX = (256.0, 128.0, 64.0, 32.0, 16.0, 8.0, 4.0)  # of the annealing
NOISE_PX = 0.05  # a shift is never trusted to be more precise than this
# At most, at the last scale: `STILL_PX` ends them earlier as a rule.
FINAL_STEPS = 15
STILL_PX = 1e-5  # no residual changes more: the fit has converged
SPAN = 4.0  # of the median residual: weights fall from there
SIGMAS = 6.0  # of the median residual: beyond it a match is wrong
# Unknowns a tile, in the order in which they are tried: turn (3), full shear (6).
UNKNOWNS = {"auto": (3, 6), "translation": (), "rigid": (3,), "affine": (6,)}

System = TranslationSystem | LinearSystem


class Worth(NamedTuple):
    """When `auto` takes more unknowns: seams at least so open, and what may be left."""

    seen_px: float
    left: float


# Shear has more to explain than a turn before it is worth its unknowns.
WORTH = {3: Worth(seen_px=0.1, left=0.7), 6: Worth(seen_px=0.5, left=0.5)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Robust:
    """A fit: the places, each edge's residual in pixels, and whether it is kept."""

    placed: Placed
    residuals: Array
    kept: Flags


def solve_montage(
    montage: Montage, matches: tuple[TileMatch, ...], *, settings: SolveSettings
) -> MontageFit:
    """One place for every tile, and how well each match agrees with it.

    A match farther from the fit than `outlier_px` (or than six times what is usual,
    where all tiles are distorted) comes back with `kept=False` and its reason.

    Raises
    ------
    FitFailed
        The montage has no tile, or a match names one that it does not have.
    """
    number = _numbers(montage, matches)
    usable = [i for i, match in enumerate(matches) if match.kept]
    used = [matches[i] for i in usable]
    edges = _edges(used, number)
    stage = _stage(montage, number, weight=settings.stage_weight)
    trust = _trust(used)
    start = Placed(places=stage.places, linear=np.tile(np.eye(2), (len(number), 1, 1)))
    fit = _anneal(
        TranslationSystem(edges, stage),
        start,
        trust=trust,
        limit_px=max(settings.outlier_px, SIGMAS * _usual_spread_px(used)),
        scales=SCALES_PX,
    )
    if used:
        points = _points(montage, used, edges=edges)
        fit = _with_motion(
            montage,
            edges,
            stage=stage,
            points=points,
            fit=fit,
            trust=trust,
            settings=settings,
        )
    return _as_fit(montage, matches, usable=usable, edges=edges, fit=fit)


def _with_motion(
    montage: Montage,
    edges: Edges,
    *,
    stage: Stage,
    points: PatchPairs,
    fit: Robust,
    trust: Array,
    settings: SolveSettings,
) -> Robust:
    """The fit with turned or sheared tiles where that is asked for, or worth it."""
    for unknowns in UNKNOWNS[settings.model]:
        system = LinearSystem(
            edges,
            stage,
            points=points,
            unknowns=unknowns,
            length_px=max(montage.tile_size.height_px, montage.tile_size.width_px) / 2,
            shape_weight=settings.shape_weight,
        )
        seam_px, wanted = _seam_px(system, fit), WORTH[unknowns]
        if settings.model == "auto" and seam_px <= wanted.seen_px:
            break
        moved = _anneal(
            system,
            fit.placed,
            trust=trust,
            limit_px=settings.outlier_px,
            scales=(16.0, 4.0),  # the moves are nearly right already
        )
        if settings.model != "auto" or _seam_px(system, moved) < wanted.left * seam_px:
            fit = moved
    return fit


def _seam_px(system: LinearSystem, fit: Robust) -> float:
    """Rms distance of the matched patches of all kept edges."""
    residuals = system.residuals(fit.placed)[fit.kept]
    return float(np.sqrt(np.mean(residuals**2))) if len(residuals) else 0.0


def _numbers(montage: Montage, matches: tuple[TileMatch, ...]) -> dict[str, int]:
    if not montage.tiles:
        raise FitFailed(
            f"montage {montage.acquisition_id}: no tile could be taken in, at least "
            "one is needed; see its failures"
        )
    number = {tile.tile_id: i for i, tile in enumerate(montage.tiles)}
    for match in matches:
        if match.a not in number or match.b not in number:
            raise FitFailed(
                f"montage {montage.acquisition_id}: a match of {match.a} and {match.b} "
                "was given, both must be tiles of it; match this montage's own tiles"
            )
    return number


def _edges(matches: list[TileMatch], number: dict[str, int]) -> Edges:
    shifts = [(match.shift.dy_px, match.shift.dx_px) for match in matches]
    return Edges(
        a=np.array([number[match.a] for match in matches], np.intp),
        b=np.array([number[match.b] for match in matches], np.intp),
        shift=np.array(shifts, np.float64).reshape(-1, 2),
    )


def _stage(montage: Montage, number: dict[str, int], *, weight: float) -> Stage:
    # However little they overlap: the stage has only to hold loose tiles.
    pairs = find_neighbours(montage, min_overlap_px=1.0)
    shifts = [(pair.nominal.dy_px, pair.nominal.dx_px) for pair in pairs]
    return Stage(
        places=np.array([(tile.y_px, tile.x_px) for tile in montage.tiles]),
        neighbours=Edges(
            a=np.array([number[pair.a.tile_id] for pair in pairs], np.intp),
            b=np.array([number[pair.b.tile_id] for pair in pairs], np.intp),
            shift=np.array(shifts, np.float64).reshape(-1, 2),
        ),
        weight=weight,
    )


def _trust(matches: list[TileMatch]) -> Array:
    """Weights 0..1: the variance of a usual shift over that of this one.

    Where all tiles are distorted, all patches spread; only more spread counts then.
    """
    spread = np.array([match.spread_px for match in matches])
    points = np.array([max(1, match.points) for match in matches])
    usual = max(NOISE_PX, _usual_spread_px(matches))
    return np.asarray(usual**2 / (usual**2 + spread**2 / points))


def _usual_spread_px(matches: list[TileMatch]) -> float:
    """How much shifts of patches differ within an edge: noise, or distorted tiles."""
    return float(np.median([match.spread_px for match in matches])) if matches else 0.0


def _points(montage: Montage, matches: list[TileMatch], *, edges: Edges) -> PatchPairs:
    """All matched patches; an edge without any gets one in its overlap's middle."""
    sizes = [(tile.size.height_px, tile.size.width_px) for tile in montage.tiles]
    centres = 0.5 * (np.array(sizes, np.float64) - 1.0)
    edge: list[int] = []
    at_a: list[tuple[float, float]] = []
    at_b: list[tuple[float, float]] = []
    for i, match in enumerate(matches):
        a_points, b_points = match.a_points, match.b_points
        if not a_points:
            shift = edges.shift[i]
            middle = 0.5 * (centres[edges.a[i]] + shift + centres[edges.b[i]])
            a_points = ((float(middle[0]), float(middle[1])),)
            other = middle - shift
            b_points = ((float(other[0]), float(other[1])),)
        edge += [i] * len(a_points)
        at_a += a_points
        at_b += b_points
    index = np.array(edge, np.intp)
    centre_a, centre_b = centres[edges.a[index]], centres[edges.b[index]]
    return PatchPairs(
        edge=index,
        a=np.array(at_a) - centre_a,
        b=np.array(at_b) - centre_b,
        centre_a=centre_a,
        centre_b=centre_b,
    )


def _anneal(
    system: System,
    start: Placed,
    *,
    trust: Array,
    limit_px: float,
    scales: tuple[float, ...],
) -> Robust:
    """Reweight from coarse to fine, then leave out what does not agree."""
    placed = start
    residuals = system.residuals(placed)
    # At 0 the residuals themselves set the scale.
    for scale in (*scales, *[0.0] * FINAL_STEPS):
        before = residuals
        c = max(scale, _scale(residuals, limit_px))
        placed = system.solve(trust / np.square(1.0 + np.square(residuals / c)))
        residuals = system.residuals(placed)
        if scale == 0.0 and np.abs(residuals - before).max(initial=0.0) < STILL_PX:
            break
    # Twice: without the wrong ones the rest fits better, and is judged anew.
    for _ in range(2):
        kept = residuals <= _limit(residuals, limit_px)
        c = _scale(residuals, limit_px)
        weights = np.where(kept, trust / np.square(1.0 + np.square(residuals / c)), 0.0)
        placed = system.solve(weights)
        residuals = system.residuals(placed)
    # None comes back: the places were solved without it.
    kept &= residuals <= _limit(residuals, limit_px)
    return Robust(placed=placed, residuals=residuals, kept=kept)


def _scale(residuals: Array, limit_px: float) -> float:
    """Where weights fall: far enough that the cost is convex for most residuals."""
    usual = float(np.median(residuals)) if len(residuals) else 0.0
    return max(SPAN * usual, 0.25 * limit_px)


def _limit(residuals: Array, limit_px: float) -> float:
    usual = float(np.median(residuals)) if len(residuals) else 0.0
    return max(limit_px, SIGMAS * usual)


def _components(tiles: int, a: Index, b: Index) -> Index:
    """Number of each tile's group; 0 is the largest, ties by the first tile."""
    graph = sparse.coo_array((np.ones(len(a)), (a, b)), shape=(tiles, tiles))
    _, labels = csgraph.connected_components(graph, directed=False)
    sizes = np.bincount(labels)
    first = np.full(len(sizes), tiles)
    np.minimum.at(first, labels, np.arange(tiles))
    rank = np.empty(len(sizes), np.intp)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return rank[labels]


def _as_fit(
    montage: Montage,
    matches: tuple[TileMatch, ...],
    *,
    usable: list[int],
    edges: Edges,
    fit: Robust,
) -> MontageFit:
    judged = list(matches)
    for i, residual, kept in zip(usable, fit.residuals, fit.kept, strict=True):
        reason = (
            "" if kept else (f"{residual:.1f} px from where the other matches put it")
        )
        judged[i] = matches[i].model_copy(
            update={
                "residual_px": float(residual),
                "kept": bool(kept),
                "reason": reason,
            }
        )
    a, b, residuals = edges.a[fit.kept], edges.b[fit.kept], fit.residuals[fit.kept]
    tiles = len(montage.tiles)
    both = np.concatenate([a, b])
    count = np.bincount(both, minlength=tiles)
    squares = np.bincount(both, np.tile(residuals**2, 2), minlength=tiles)
    group = _components(tiles, a, b)
    placements = []
    for i, tile in enumerate(montage.tiles):
        (yy, yx), (xy, xx) = fit.placed.linear[i].tolist()
        y_px, x_px = fit.placed.places[i].tolist()
        residual_px = float(np.sqrt(squares[i] / count[i])) if count[i] else None
        placements.append(
            TilePlacement(
                tile_id=tile.tile_id,
                y_px=y_px,
                x_px=x_px,
                yy=yy,
                yx=yx,
                xy=xy,
                xx=xx,
                residual_px=residual_px,
                component=int(group[i]),
            )
        )
    rms = float(np.sqrt(np.mean(residuals**2))) if len(residuals) else 0.0
    return MontageFit(
        acquisition_id=montage.acquisition_id,
        placements=tuple(placements),
        matches=tuple(judged),
        residual_px=rms,
    )
