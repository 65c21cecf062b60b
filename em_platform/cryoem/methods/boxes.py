"""Particles cut out of a micrograph, as RELION's Extract does it.

Cut, invert, shrink in Fourier space, take off a plane and scale by the background.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

Float = NDArray[np.float32]

SMALL_BOXES = (
    64, 96, 128, 160, 192, 256, 288, 300, 320, 360, 384, 400, 420, 450, 480, 512, 640,
    768, 896, 1024,
)  # fmt: skip
"""Boxes whose transforms are fast, of which the smallest that is fine enough counts."""
_COARSEST_A = 3.75
"""Å a pixel: classes are judged by eye at 8 Å or so."""
_MARGIN, _MASK = 1.2, 1.1
_BACKGROUND = 0.375
"""Of a box: radius beyond which there is no particle."""


def box_for(diameter_a: float, pixel_a: float) -> int:
    """The side of a box for a particle, px: 1.2 of its diameter, even."""
    side = int(np.ceil(_MARGIN * diameter_a / pixel_a))
    return side + side % 2


def small_box_for(box_px: int, pixel_a: float) -> int:
    """The side to which such a box is shrunk for classes, px; at most its own."""
    fine = (n for n in SMALL_BOXES if pixel_a * box_px / n < _COARSEST_A)
    return min(next(fine, SMALL_BOXES[-1]), box_px)


def mask_for(diameter_a: float) -> float:
    """The diameter of the round mask of classes, Å."""
    return _MASK * diameter_a


def cut_boxes(
    image: NDArray[Any],
    points: Iterable[tuple[float, float]],
    *,
    box_px: int,
    small_px: int,
    invert: bool,
    normalise: bool,
    background_px: float | None = None,
) -> Float:
    """Particles `(n, small, small)` of a micrograph.

    Parameters
    ----------
    image
        `(h, w)`; where a box reaches over its edge, the edge is repeated.
    points
        Middles `(x, y)`, px; the nearest pixel becomes `(box // 2, box // 2)`.
    box_px, small_px
        Side of what is cut, and to which it is shrunk; both even.
    invert
        Whether dark particles become bright.
    normalise
        Whether the background gets mean 0 and deviation 1.
    background_px
        Radius beyond which is background, in pixels of the small box; None: 3/8 of it.
    """
    half = box_px // 2
    places = [(round(y), round(x)) for x, y in points]
    boxes = np.empty((len(places), small_px, small_px), np.float32)
    offset = np.arange(-half, half)
    for i, (y, x) in enumerate(places):
        rows = np.clip(y + offset, 0, image.shape[0] - 1)
        columns = np.clip(x + offset, 0, image.shape[1] - 1)
        cut = np.asarray(image[rows[0] : rows[-1] + 1], np.float32)
        boxes[i] = shrunk_box(cut[rows - rows[0]][:, columns], small_px)
    if invert:
        boxes *= -1
    radius = _BACKGROUND * small_px if background_px is None else background_px
    return _on_flat_background(boxes, radius, normalise=normalise)


def shrunk_box(box: Float, small_px: int) -> Float:
    """A square image cropped in Fourier space; grey levels keep their mean."""
    side = box.shape[-1]
    if side == small_px:
        return box
    wave = scipy.fft.rfft2(box)
    half = small_px // 2
    kept = np.concatenate([wave[:half], wave[-half:]])[:, : half + 1]
    small = scipy.fft.irfft2(kept, (small_px, small_px))
    return np.asarray(small * np.float32((small_px / side) ** 2), np.float32)


def _on_flat_background(boxes: Float, radius_px: float, *, normalise: bool) -> Float:
    """Each box without the plane through its background, scaled by what is left."""
    side = boxes.shape[-1]
    axis = np.arange(side) - side // 2
    y, x = np.meshgrid(axis, axis, indexing="ij")
    is_background = np.hypot(y + 0.5, x + 0.5) > radius_px
    terms = np.stack([np.ones(y.shape), y, x], axis=-1)
    fit = np.linalg.pinv(terms[is_background])
    plane = np.einsum("kp,np->nk", fit, boxes[:, is_background])
    boxes -= np.einsum("yxk,nk->nyx", terms, plane).astype(np.float32)
    if normalise:
        deviation = boxes[:, is_background].std(axis=1)
        tiny = np.finfo(np.float32).tiny
        boxes /= np.maximum(deviation, tiny)[:, None, None]
    return boxes
