"""How well a fitted montage closes: holes, pairs that parted, open seams, scales."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from em_platform.model import Montage, MontageFit, Tile, TileMatch, TilePlacement
from em_platform.stitching.neighbours import find_neighbours

Array = NDArray[np.float64]


def find_holes(montage: Montage) -> tuple[tuple[int, int], ...]:
    """`(row, column)` without a tile, with tiles on all four sides of it.

    A region of interest may have any outline, so that only what it encloses counts.
    """
    present = {(tile.row, tile.column) for tile in montage.tiles}
    in_row, in_column = _spans(present), _spans((c, r) for r, c in present)
    holes = []
    for row, (first, last) in sorted(in_row.items()):
        for column in range(first, last):
            top, bottom = in_column.get(column, (row, row))
            if top < row < bottom and (row, column) not in present:
                holes.append((row, column))
    return tuple(holes)


def _spans(cells: Iterable[tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """First and last column of each row."""
    rows: dict[int, list[int]] = defaultdict(list)
    for row, column in cells:
        rows[row].append(column)
    return {row: (min(columns), max(columns)) for row, columns in rows.items()}


def opened_pairs(montage: Montage, fit: MontageFit) -> tuple[tuple[str, str], ...]:
    """Neighbours by the stage that no longer overlap as fitted."""
    centres = _centres(montage.tiles, fit)
    opened = []
    for pair in find_neighbours(montage, min_overlap_px=1.0):
        a, b = pair.a, pair.b
        if a.tile_id not in centres or b.tile_id not in centres:
            continue
        # Centres a tile apart: their edges just touch.
        apart = np.abs(centres[b.tile_id] - centres[a.tile_id])
        height = 0.5 * (a.size.height_px + b.size.height_px)
        width = 0.5 * (a.size.width_px + b.size.width_px)
        if apart[0] >= height or apart[1] >= width:
            opened.append((a.tile_id, b.tile_id))
    return tuple(opened)


def _centres(tiles: Iterable[Tile], fit: MontageFit) -> dict[str, Array]:
    size = {tile.tile_id: tile.size for tile in tiles}
    return {
        place.tile_id: in_montage(
            place,
            np.array([[size[place.tile_id].height_px, size[place.tile_id].width_px]])
            / 2.0,
        )[0]
        for place in fit.placements
        if place.tile_id in size
    }


def in_montage(place: TilePlacement, points: Array) -> Array:
    """Where a tile's `(n, 2)` pixels lie in the montage, `(n, 2)`."""
    turn = np.array([[place.yy, place.yx], [place.xy, place.xx]])
    return np.asarray(points @ turn.T + (place.y_px, place.x_px))


def seam_px(fit: MontageFit, *, min_points: int) -> tuple[tuple[TileMatch, float], ...]:
    """How far each seam is open: the median distance of its matched places.

    A match that the fit left out counts too when `min_points` places agree on it: such
    a match is seldom wrong, so that the tiles do disagree.
    """
    places = {place.tile_id: place for place in fit.placements}
    seams = []
    for match in fit.matches:
        measured = match.kept or (
            match.residual_px is not None and match.points >= min_points
        )
        if measured and match.a in places and match.b in places:
            seams.append((match, _open_px(match, places[match.a], places[match.b])))
    return tuple(seams)


def _open_px(match: TileMatch, a: TilePlacement, b: TilePlacement) -> float:
    # A match may come without its points; its residual stands for them.
    if not match.a_points:
        return match.residual_px or 0.0
    there = in_montage(a, np.asarray(match.a_points))
    here = in_montage(b, np.asarray(match.b_points))
    # The median: one wrong patch does not open a seam.
    return float(np.median(np.linalg.norm(there - here, axis=1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Residuals:
    """Distances of the kept matches from the fit, one a match: rms, median, worst."""

    matches: int
    rejected: int
    rms_px: float
    median_px: float
    worst_px: float

    def __str__(self) -> str:
        if not self.matches:
            return "no match kept" if self.rejected else "no overlaps"
        noun = "match" if self.matches == 1 else "matches"
        return (
            f"residual rms {self.rms_px:.3f} px, median {self.median_px:.3f} px, worst "
            f"{self.worst_px:.3f} px of {self.matches} {noun}"
        )


def residuals_of(fit: MontageFit) -> Residuals:
    """The figures that command, picture, assets and record name alike.

    `rms_px` is `fit.residual_px`. The check of the seams measures another thing: the
    median distance of the matched points of each seam, rejected matches included.
    """
    found = [m.residual_px for m in fit.matches if m.kept and m.residual_px is not None]
    return Residuals(
        matches=len(found),
        rejected=len(fit.matches) - len(found),
        rms_px=float(np.sqrt(np.mean(np.square(found)))) if found else 0.0,
        median_px=float(np.median(found)) if found else 0.0,
        worst_px=max(found, default=0.0),
    )


def tile_scales(fit: MontageFit) -> Array:
    """`(n, 2)` scale of each tile along its own y and x."""
    return np.array(
        [
            (np.hypot(place.yy, place.xy), np.hypot(place.yx, place.xx))
            for place in fit.placements
        ]
    ).reshape(-1, 2)
