"""The measured shift of every pair of overlapping tiles."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from em_platform.config.stitching import MatchSettings
from em_platform.errors import DataError
from em_platform.imaging.lens import undistort_points
from em_platform.imaging.register import (
    GRID_PX,
    PatchShifts,
    coarse_shift,
    patch_shifts,
    pick_corners,
    texture_map,
)
from em_platform.model import LensModel, Montage, Shift, TileMatch
from em_platform.model.sentences import apart
from em_platform.stitching.compute import Mapper, serial
from em_platform.stitching.neighbours import (
    Neighbours,
    Strip,
    StripReader,
    find_neighbours,
)
from em_platform.stitching.tile_images import TileImages

Points = npt.NDArray[np.float64]

PATCH_PX = 128  # larger patches cost more and gain nothing (see bench_align)
# A strip that is thinner than this has no room for a patch.
SMALLEST_PATCH_PX = 16
SMALLEST_AREA_PX = 1024  # fewer pixels agree by chance
MARGIN_PX = 4  # around a patch, at least, to look for its best place
LEAST_TEXTURE = 1.0  # grey levels; below this the overlap is blank
AGREE_PX = 2.5  # patches closer than this to the edge's trend agree with it


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The measured shift of one pair; `reason` is empty when it can be trusted.

    `patches` are all that were found, in the pixels of the two strips; `agree` says
    which of them the points come from.
    """

    peak_z: float = 0.0
    shift: tuple[float, float] | None = None
    score: float = 0.0
    spread_px: float = 0.0
    a_points: Points | None = None
    b_points: Points | None = None
    reason: str = ""
    patches: PatchShifts | None = None
    agree: npt.NDArray[np.bool_] | None = None


def match_pairs(
    montage: Montage,
    images: TileImages,
    *,
    settings: MatchSettings,
    lens: LensModel | None = None,
    existing: Mapping[tuple[str, str], TileMatch] | None = None,
    run: Mapper = serial,
) -> tuple[TileMatch, ...]:
    """The measured shift of every pair of neighbours, trusted or with its reason.

    The unit of work is a square block of tiles; each of its tiles is read once and
    dropped after its last pair. With a lens the points and shifts are corrected ones.
    The result is in the order of :func:`find_neighbours`, whatever `run` does. Pairs of
    `existing` matches are not measured.
    """
    pairs = find_neighbours(montage, min_overlap_px=settings.min_overlap_px)
    act = partial(match_block, images=images, settings=settings, lens=lens)
    found = dict(existing or {})
    missing = tuple(p for p in pairs if (p.a.tile_id, p.b.tile_id) not in found)
    for block in run(act, _blocks(missing, len(montage.tiles))):
        found |= {(match.a, match.b): match for match in block}
    return tuple(found[pair.a.tile_id, pair.b.tile_id] for pair in pairs)


def _blocks(
    pairs: tuple[Neighbours, ...], tiles: int
) -> Iterable[tuple[Neighbours, ...]]:
    """Pairs by squares of 3 x 3 to 8 x 8 tiles, rows of tiles in order."""
    if not pairs:
        return ()
    # About 16 blocks, within bounds; of smaller ones more tiles are read twice.
    side = float(np.clip(math.ceil(math.sqrt(tiles) / 4), 3, 8))
    # 0.85: tiles overlap, so that a step of the stage is less than a tile.
    height = 0.85 * max(pair.a.size.height_px for pair in pairs)
    width = 0.85 * max(pair.a.size.width_px for pair in pairs)
    # Half a step before the first: jitter does not move tiles over a border.
    top = min(pair.a.y_px for pair in pairs) - 0.5 * height
    left = min(pair.a.x_px for pair in pairs) - 0.5 * width
    blocks: dict[tuple[int, int], list[Neighbours]] = defaultdict(list)
    for pair in pairs:
        y = (pair.a.y_px - top) / (side * height)
        x = (pair.a.x_px - left) / (side * width)
        blocks[int(y), int(x)].append(pair)
    for block in blocks.values():
        block.sort(key=lambda p: (round((p.a.y_px - top) / height), p.a.x_px))
    return [tuple(blocks[key]) for key in sorted(blocks)]


def match_block(
    pairs: tuple[Neighbours, ...],
    *,
    images: TileImages,
    settings: MatchSettings,
    lens: LensModel | None,
) -> tuple[TileMatch, ...]:
    """Matches of the pairs of one block of tiles."""
    reader = StripReader(pairs, images, reach_px=settings.search_px)
    matches = []
    for pair in pairs:
        try:
            a, b = reader.take(pair)
        # A tile that cannot be read spoils only its own pairs.
        except DataError as error:
            found = Measured(reason=str(error))
        else:
            found = measure_pair(pair, a, b=b, settings=settings)
        matches.append(as_match(pair, found, lens=lens))
    return tuple(matches)


def measure_pair(
    pair: Neighbours, a: Strip, *, b: Strip, settings: MatchSettings
) -> Measured:
    """Coarse shift, then patches where most is seen, then what they agree on."""
    if min(*a.image.shape, *b.image.shape) < SMALLEST_PATCH_PX:
        return Measured(reason="the valid regions of the tiles do not overlap")
    for strip, tile in ((a, pair.a), (b, pair.b)):
        if _texture(strip).max(initial=0.0) < LEAST_TEXTURE:
            reason = f"no texture in the overlap (tile {tile.tile_id} is blank there)"
            return Measured(reason=reason)
    nominal = (
        pair.nominal.dy_px + b.corner[0] - a.corner[0],
        pair.nominal.dx_px + b.corner[1] - a.corner[1],
    )
    peak = coarse_shift(
        a.image, b.image, expected=nominal, search_px=settings.search_px
    )
    if peak.z < settings.min_peak_z:
        reason = (
            f"peak {apart(peak.z, settings.min_peak_z)} sigma, "
            f"{settings.min_peak_z:g} needed"
        )
        return Measured(peak_z=peak.z, reason=reason)
    shift = (peak.dy_px, peak.dx_px)
    away = max(abs(shift[0] - nominal[0]), abs(shift[1] - nominal[1]))
    # 2 px are one pixel at half resolution, where the peak was sought.
    if away > settings.search_px - 2:
        reason = f"best place at the border of the search of {settings.search_px} px"
        return Measured(peak_z=peak.z, reason=reason)
    corners, size = _patches(a, b, shift=shift, settings=settings)
    if not corners:
        return Measured(peak_z=peak.z, reason="the overlap is too thin for patches")
    found = patch_shifts(
        a.image,
        b.image,
        corners=corners,
        size=size,
        shift=shift,
        min_score=settings.min_score,
    )
    return _agreed(found, a, b=b, peak_z=peak.z, tried=len(corners), settings=settings)


def _texture(strip: Strip) -> npt.NDArray[np.float32]:
    """Texture on the grid; negative where the mask reaches."""
    texture = texture_map(strip.image)
    if strip.mask is None:
        return texture
    h, w = texture.shape
    whole = strip.mask[: h * GRID_PX, : w * GRID_PX]
    cells = whole.reshape(h, GRID_PX, w, GRID_PX).all(axis=(1, 3))
    return np.where(cells, texture, np.float32(-1.0))


def _patches(
    a: Strip, b: Strip, *, shift: tuple[float, float], settings: MatchSettings
) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Corners in b's strip and size of the patches, within the measured overlap."""
    y, x = round(shift[0]), round(shift[1])
    y0, x0 = MARGIN_PX + max(0, -y), MARGIN_PX + max(0, -x)
    y1 = min(b.image.shape[0], a.image.shape[0] - y) - MARGIN_PX
    x1 = min(b.image.shape[1], a.image.shape[1] - x) - MARGIN_PX
    if min(y1 - y0, x1 - x0) < SMALLEST_PATCH_PX:
        return [], (0, 0)  # by the coarse shift they hardly touch
    part = np.s_[y0:y1, x0:x1]
    mask = None if b.mask is None else b.mask[part]
    texture = _texture(Strip(corner=(y0, x0), image=b.image[part], mask=mask))
    tall, wide = (min(PATCH_PX, n // GRID_PX * GRID_PX) for n in (y1 - y0, x1 - x0))
    for size in _sizes(tall, wide):
        corners = pick_corners(texture, size=size, count=settings.patches)
        if len(corners) >= settings.min_points:
            return [(y0 + cy, x0 + cx) for cy, cx in corners], size
    return [], (tall, wide)


def _sizes(tall: int, wide: int) -> list[tuple[int, int]]:
    """Sizes of patches from the largest down, where a mask is in the way of these."""
    sizes = [
        (height, width)
        for height in range(tall, SMALLEST_PATCH_PX - 1, -GRID_PX)
        for width in range(wide, SMALLEST_PATCH_PX - 1, -GRID_PX)
        if height * width >= SMALLEST_AREA_PX
    ]
    return sorted(sizes, key=lambda size: -size[0] * size[1])


def _agreed(
    found: PatchShifts,
    a: Strip,
    *,
    b: Strip,
    peak_z: float,
    tried: int,
    settings: MatchSettings,
) -> Measured:
    good = found.scores >= settings.min_score
    shifts = found.a_points[good] - found.b_points[good]
    keep = agreeing(found.b_points[good], shifts)
    count = int(keep.sum())
    agree = np.zeros(len(good), np.bool_)
    agree[np.flatnonzero(good)[keep]] = True
    if count < settings.min_points:
        score = float(np.median(found.scores)) if len(found.scores) else 0.0
        return Measured(
            peak_z=peak_z,
            score=score,
            reason=f"{count} of {tried} patches agree, {settings.min_points} needed; "
            f"their correlation is {score:.2f}",
            patches=found,
            agree=agree,
        )
    shift = shifts[keep].mean(axis=0) + np.subtract(a.corner, b.corner)
    return Measured(
        peak_z=peak_z,
        shift=(float(shift[0]), float(shift[1])),
        score=float(np.median(found.scores[good][keep])),
        spread_px=float(np.sqrt(shifts[keep].var(axis=0).sum() / 2)),
        a_points=found.a_points[good][keep] + a.corner,
        b_points=found.b_points[good][keep] + b.corner,
        patches=found,
        agree=agree,
    )


def agreeing(points: Points, shifts: Points) -> npt.NDArray[np.bool_]:
    """Which patches follow the common trend of an edge.

    The trend is constant for fewer than 6 patches, linear in the place for fewer than
    24 (rotation, shear), else quadratic (lens), fitted by Geman-McClure reweighting.

    Parameters
    ----------
    points, shifts
        `(n, 2)` places and shifts of the patches.
    """
    if len(shifts) == 0:
        return np.zeros(0, np.bool_)
    trend = np.tile(np.median(shifts, axis=0), (len(shifts), 1))
    # Scaled to about 1, so that the squares are as well determined.
    y, x = ((points - points.mean(axis=0)) / max(1.0, np.ptp(points))).T
    terms = 1 if len(points) < 6 else 3 if len(points) < 24 else 6
    design = np.stack([np.ones_like(y), y, x, y * y, y * x, x * x], axis=1)[:, :terms]
    # Coarse to fine, as in `solve`: wrong patches lose their pull step by step.
    for scale in (16.0, 8.0, 4.0, 2.0, 2.0):
        off = np.hypot(*(shifts - trend).T)
        weight = 1.0 / (1.0 + (off / scale) ** 2)
        # lstsq squares its rows: times the root of 1 / (1 + r**2)**2.
        solution = np.linalg.lstsq(design * weight[:, None], shifts * weight[:, None])
        trend = design @ solution[0]
    off = np.hypot(*(shifts - trend).T)
    limit = max(AGREE_PX, 4.0 * 1.4826 * float(np.median(off)))
    return np.asarray(off <= limit)


def shift_of(a_points: Points, b_points: Points) -> tuple[float, float]:
    """Of `(n, 2)` points of two tiles that lie on each other; the same to the digit.

    The sum of floating-point numbers depends on how they lie in memory.
    """
    dy, dx = np.ascontiguousarray(a_points - b_points).mean(axis=0).tolist()
    return dy, dx


def as_match(pair: Neighbours, found: Measured, *, lens: LensModel | None) -> TileMatch:
    """What was measured of a pair, with the points where the lens saw them."""
    a_points, b_points = found.a_points, found.b_points
    shift = (pair.nominal.dy_px, pair.nominal.dx_px)
    if a_points is not None and b_points is not None:
        if lens is not None:
            a_points = undistort_points(lens, a_points)
            b_points = undistort_points(lens, b_points)
        shift = shift_of(a_points, b_points)
    elif found.shift is not None:
        shift = found.shift
    return TileMatch(
        a=pair.a.tile_id,
        b=pair.b.tile_id,
        shift=Shift(dy_px=shift[0], dx_px=shift[1]),
        score=found.score,
        points=0 if a_points is None else len(a_points),
        peak_z=found.peak_z,
        spread_px=found.spread_px,
        a_points=() if a_points is None else tuple(map(tuple, a_points.tolist())),
        b_points=() if b_points is None else tuple(map(tuple, b_points.tolist())),
        kept=not found.reason,
        reason=found.reason,
    )
