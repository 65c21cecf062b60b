"""The shift between two overlapping images: coarse, then patch by patch."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from em_platform.imaging.fourier import Peak, correlate, find_peak, transform_shape

Image = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]

NEAR_PX = 6  # how far a patch may lie from the coarse shift at the first attempt
FAR_PX = 24  # and at the second: lens, rotation and shear
SMOOTH_PX = 1.0  # standard deviation of the low-pass: wide peaks have no pixel-locking
SHADE_PX = 33  # box of the high-pass: shading must not correlate
RIDGE = (
    0.01  # least determinant of a top's curvature over its trace squared (1/4: round)
)
GRID_PX = 8  # step of the map on which textured places are sought


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchShifts:
    """Shifts of small patches of `b` against `a`.

    `a_points` and `b_points` are `(n, 2)` centres `(y, x)` in the two images,
    `scores` their normalised cross-correlation (-1..1), `lowest` the least one that
    was met in the search. `windows` are `(n, 4)` `y0, x0, y1, x1` of what was searched
    in `a`, `places` `(n, 2)` where in it the whole-pixel best place begins; `size` is
    `(h, w)` of all patches.
    """

    size: tuple[int, int]
    a_points: Points
    b_points: Points
    scores: Points
    lowest: Points
    windows: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """One patch: its shift beyond the expected one, and how it was sought."""

    dy: float
    dx: float
    score: float
    lowest: float
    window: tuple[int, int, int, int]
    place: tuple[int, int]


def halve(image: Image) -> Image:
    """`(h // 2, w // 2)` means over 2 x 2 pixels; an odd last row or column is cut."""
    h, w = image.shape[0] // 2, image.shape[1] // 2
    even = image[: 2 * h, : 2 * w]
    return np.asarray(cv2.resize(even, (w, h), interpolation=cv2.INTER_AREA), np.uint8)


def coarse_shift(
    a: Image, b: Image, *, expected: tuple[float, float], search_px: float
) -> Peak:
    """Where the corner of `b` lies in `a`, sought within `search_px` of `expected`.

    Parameters
    ----------
    a, b
        `(h, w)` strips that contain the overlap; correlated at half resolution.
    expected
        `(y, x)` of b's corner in a's pixels.
    """
    half_a, half_b = halve(a), halve(b)
    reach = math.ceil(search_px / 2)
    radius = (reach, reach)
    # Half the resolution takes a third of the time, and patches find the rest.
    surface = correlate(
        half_a, half_b, shape=transform_shape(half_a.shape, half_b.shape, radius=radius)
    )
    half = (expected[0] / 2, expected[1] / 2)
    peak = find_peak(surface, expected=half, radius=radius)
    return Peak(dy_px=2 * peak.dy_px, dx_px=2 * peak.dx_px, z=peak.z)


def _top(surface: npt.NDArray[np.float32]) -> tuple[float, float] | None:
    """Offset of the top of the quadric least-squares-fitted to 3 x 3 samples.

    None where it is a ridge: an edge in the image says nothing along itself.
    """
    s = surface.astype(np.float64)
    # The closed form of the fit: nothing is solved for each patch.
    gy = (s[2].sum() - s[0].sum()) / 6.0
    gx = (s[:, 2].sum() - s[:, 0].sum()) / 6.0
    rows, columns = s.sum(axis=1), s.sum(axis=0)
    hyy = (rows[0] - 2.0 * rows[1] + rows[2]) / 3.0
    hxx = (columns[0] - 2.0 * columns[1] + columns[2]) / 3.0
    hyx = (s[0, 0] + s[2, 2] - s[0, 2] - s[2, 0]) / 4.0
    det = hyy * hxx - hyx * hyx
    # With a positive determinant the sign of one curvature tells top from pit.
    if det <= RIDGE * (hyy + hxx) ** 2 or hyy >= 0.0:
        return None
    dy = (hyx * gx - hxx * gy) / det
    dx = (hyx * gy - hyy * gx) / det
    # Beyond the samples the quadric is a guess.
    return float(np.clip(dy, -1.0, 1.0)), float(np.clip(dx, -1.0, 1.0))


def _band(image: Image, box: tuple[int, int, int, int]) -> npt.NDArray[np.float32]:
    """The window `y0, x0, y1, x1` of an image without noise and without shading."""
    y0, x0, y1, x1 = box
    margin = SHADE_PX // 2
    top, left = max(0, y0 - margin), max(0, x0 - margin)
    raw = image[top : y1 + margin, left : x1 + margin].astype(np.float32)
    # 7 taps: three deviations on each side.
    smooth = cv2.GaussianBlur(raw, (7, 7), SMOOTH_PX)
    band = np.subtract(smooth, cv2.blur(raw, (SHADE_PX, SHADE_PX)), dtype=np.float32)
    return band[y0 - top : y1 - top, x0 - left : x1 - left]


class _Bands:
    """The windows of an image without noise and without shading.

    `count` of about `size` will be asked for: those that overlap much are cut from the
    whole image, which is then filtered once.
    """

    def __init__(self, image: Image, *, count: int, size: tuple[int, int]) -> None:
        self.shape = h, w = image.shape
        self._image = image
        with_margin = (size[0] + SHADE_PX) * (size[1] + SHADE_PX)
        is_cheaper = h * w < count * with_margin
        self._whole = _band(image, (0, 0, h, w)) if is_cheaper else None

    def window(self, box: tuple[int, int, int, int]) -> npt.NDArray[np.float32]:
        """`y0, x0, y1, x1` of the image."""
        y0, x0, y1, x1 = box
        if self._whole is None:
            return _band(self._image, box)
        return self._whole[y0:y1, x0:x1]


def _patch(
    a: _Bands,
    b: _Bands,
    *,
    corner: tuple[int, int],
    size: tuple[int, int],
    at: tuple[int, int],
    reach: int,
) -> _Found | None:
    """Where one patch of b lies in a, sought around `at`; None at a border."""
    (y, x), (h, w) = corner, size
    template = b.window((y, x, y + h, x + w))
    y0, x0 = y + at[0] - reach, x + at[1] - reach
    top, left = max(0, y0), max(0, x0)
    bottom = min(a.shape[0], y0 + h + 2 * reach)
    right = min(a.shape[1], x0 + w + 2 * reach)
    # At least 3 x 3 places, or there is no top to fit.
    if bottom - top < h + 2 or right - left < w + 2:
        return None
    window = a.window((top, left, bottom, right))
    surface = np.asarray(
        cv2.matchTemplate(window, template, cv2.TM_CCOEFF_NORMED), np.float32
    )
    py, px = divmod(int(np.argmax(surface)), surface.shape[1])
    if not (0 < py < surface.shape[0] - 1 and 0 < px < surface.shape[1] - 1):
        return None
    top_at = _top(surface[py - 1 : py + 2, px - 1 : px + 2])
    if top_at is None:
        return None
    return _Found(
        dy=top - y0 + py - reach + top_at[0],
        dx=left - x0 + px - reach + top_at[1],
        score=float(surface[py, px]),
        lowest=float(surface.min()),
        window=(top, left, bottom, right),
        place=(py, px),
    )


def _shared(
    a: Image, b: Image, *, at: tuple[int, int]
) -> tuple[Image, Image, tuple[int, int]]:
    """What both images show, and where it begins in b.

    Only on equal ground does the high-pass do the same to both up to the border.
    """
    y0, x0 = max(0, -at[0]), max(0, -at[1])
    y1 = min(b.shape[0], a.shape[0] - at[0])
    x1 = min(b.shape[1], a.shape[1] - at[1])
    in_a = a[y0 + at[0] : y1 + at[0], x0 + at[1] : x1 + at[1]]
    return in_a, b[y0:y1, x0:x1], (y0, x0)


def patch_shifts(
    a: Image,
    b: Image,
    *,
    corners: list[tuple[int, int]],
    size: tuple[int, int],
    shift: tuple[float, float],
    min_score: float,
) -> PatchShifts:
    """Subpixel shifts of patches by normalised cross-correlation.

    Every patch is sought near the coarse shift; those that find nothing there once
    more farther off. The top of the correlation is that of a quadric through 3 x 3
    samples. A patch whose best place is at the border of its search is left out.

    Parameters
    ----------
    a, b
        `(h, w)` images.
    corners
        Top-left `(y, x)` of the patches in b.
    size
        `(h, w)` of a patch.
    shift
        `(y, x)` of b's corner in a, from :func:`coarse_shift`.
    """
    at = (round(shift[0]), round(shift[1]))
    shared_a, shared_b, origin = _shared(a, b, at=at)
    near_a, near_b = (
        _Bands(each, count=len(corners), size=size) for each in (shared_a, shared_b)
    )
    far_a, far_b = (_Bands(each, count=1, size=size) for each in (a, b))
    in_a = np.array([origin[0] + at[0], origin[1] + at[1]] * 2)
    middle = (np.array(size) - 1) / 2.0
    b_points, found = [], []
    for corner in corners:
        inner = (corner[0] - origin[0], corner[1] - origin[1])
        one = _patch(near_a, near_b, corner=inner, size=size, at=(0, 0), reach=NEAR_PX)
        from_a = in_a
        if one is None or one.score < min_score:
            # In all of a: so far off a patch may leave the shared ground.
            one = _patch(far_a, far_b, corner=corner, size=size, at=at, reach=FAR_PX)
            from_a = np.zeros(4, np.int64)
        if one is not None:
            b_points.append(np.array(corner) + middle)
            found.append((one, from_a))
    points = np.array(b_points, np.float64).reshape(-1, 2)
    shifts = np.array([(f.dy, f.dx) for f, _ in found], np.float64).reshape(-1, 2)
    windows = [np.array(f.window) + from_a for f, from_a in found]
    return PatchShifts(
        size=size,
        a_points=points + np.array(at) + shifts,
        b_points=points,
        scores=np.array([f.score for f, _ in found], np.float64),
        lowest=np.array([f.lowest for f, _ in found], np.float64),
        windows=np.array(windows, np.int64).reshape(-1, 4),
        places=np.array([f.place for f, _ in found], np.int64).reshape(-1, 2),
    )


def texture_map(image: Image) -> npt.NDArray[np.float32]:
    """Mean deviation from the surroundings on a grid of `GRID_PX` pixels.

    Returns
    -------
        `(h // GRID_PX, w // GRID_PX)` grey levels at half resolution.
    """
    half = halve(image)
    deviation = cv2.absdiff(half, cv2.blur(half, (SHADE_PX // 2, SHADE_PX // 2)))
    step = GRID_PX // 2
    h, w = half.shape[0] // step, half.shape[1] // step
    if h == 0 or w == 0:
        return np.zeros((h, w), np.float32)
    cut = deviation[: h * step, : w * step].astype(np.float32)
    return np.asarray(cv2.resize(cut, (w, h), interpolation=cv2.INTER_AREA))


def pick_corners(
    texture: npt.NDArray[np.float32], *, size: tuple[int, int], count: int
) -> list[tuple[int, int]]:
    """Top-left corners of about `count` patches, spread out, each where most is seen.

    The area is cut into `count` cells; in each the patch with most texture is taken.

    Parameters
    ----------
    texture
        From :func:`texture_map`; negative where no patch may reach.
    size
        `(h, w)` of a patch, in pixels.
    """
    tall, wide = (max(1, length // GRID_PX) for length in size)
    h, w = texture.shape[0] - tall + 1, texture.shape[1] - wide + 1
    if h < 1 or w < 1:
        return []
    edge = cv2.BORDER_CONSTANT
    sums = cv2.boxFilter(texture, -1, (wide, tall), anchor=(0, 0), borderType=edge)
    # One forbidden cell forbids the patch; a sum would hide it.
    lowest = cv2.erode(texture, np.ones((tall, wide)), anchor=(0, 0))
    free = np.where(lowest < 0.0, -1.0, sums)[:h, :w]
    # Cells about square: in a thin overlap they come in one line.
    rows = int(np.clip(round(math.sqrt(count * h / w)), 1, min(count, h)))
    columns = int(np.clip(round(count / rows), 1, w))
    corners = []
    for r in range(rows):
        for c in range(columns):
            y0, y1 = r * h // rows, (r + 1) * h // rows
            x0, x1 = c * w // columns, (c + 1) * w // columns
            y, x = divmod(int(np.argmax(free[y0:y1, x0:x1])), x1 - x0)
            if free[y0 + y, x0 + x] > 0.0:
                corners.append((GRID_PX * (y0 + y), GRID_PX * (x0 + x)))
    return corners
