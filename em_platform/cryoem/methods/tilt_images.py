"""Tilt images as an alignment needs them: small, level, and stretched to no tilt.

Geometry, as IMOD and AreTomo count it. A point of the specimen `(X, Y, Z)`, Y along the
tilt axis, is seen at `u = X cos(tilt) + Z sin(tilt)`, `v = Y`. The image shows it at
`middle + (dx, dy) + R(axis) (u, v)`; the middle of n pixels is `(n - 1) / 2`, and the
axis is counted from the image's y, towards -x.
"""

import numba
import numpy as np
import scipy.fft
from numpy.typing import NDArray

Images = NDArray[np.float32]
Numbers = NDArray[np.float64]

# Of the side of an image, on each side: its edges fade, so that they do not correlate.
_EDGE = 0.06
# Brighter and darker pixels are cut: X-rays, hot pixels, gold.
_MOST_SIGMA = 6.0


def reduced(image: NDArray[np.floating], factor: int) -> Images:
    """A level image of mean 0 and spread 1, `factor` times smaller, its edges faded.

    Fourier space is cropped, so nothing is aliased; the middle stays the middle.
    """
    level = np.asarray(image, np.float32)
    level = level - level.mean(dtype=np.float64).astype(np.float32)
    spread = level.std(dtype=np.float64)
    np.clip(level, -_MOST_SIGMA * spread, _MOST_SIGMA * spread, out=level)
    small = binned(level, factor)
    small -= small.mean()
    small /= max(float(small.std()), 1e-20)
    height, width = small.shape
    return small * fade(height)[:, None] * fade(width)[None, :]


def binned(image: Images, factor: int) -> Images:
    """The image `factor` times smaller, by cropping its Fourier transform."""
    if factor == 1:
        return image.copy()
    height, width = image.shape
    rows, columns = height // factor, width // factor
    # What is over at the end of a side is cut, half of it on each side.
    top, left = (height - rows * factor) // 2, (width - columns * factor) // 2
    inner = image[top : top + rows * factor, left : left + columns * factor]
    transform = scipy.fft.rfft2(inner)
    keep = (rows + 1) // 2
    small = np.zeros((rows, columns // 2 + 1), np.complex64)
    small[:keep] = transform[:keep, : columns // 2 + 1]
    small[rows - rows // 2 :] = transform[-(rows // 2) :, : columns // 2 + 1]
    # A small pixel's middle is that of `factor` pixels, half of them further on.
    move = 1j * np.pi * (factor - 1) / factor
    small *= np.exp(move * scipy.fft.fftfreq(rows)).astype(np.complex64)[:, None]
    small *= np.exp(move * scipy.fft.rfftfreq(columns)).astype(np.complex64)[None, :]
    return np.asarray(scipy.fft.irfft2(small, s=(rows, columns)), np.float32)


def fade(length: int) -> Images:
    """A window of 1 that falls to 0 at both ends, as a cosine."""
    edge = max(2, round(_EDGE * length))
    window = np.ones(length, np.float32)
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(edge) + 0.5) / edge)
    window[:edge] = rise
    window[-edge:] = rise[::-1]
    return window


def aligned_shape(shape: tuple[int, int], axis_deg: float) -> tuple[int, int]:
    """Height and width of images whose tilt axis was turned upright."""
    height, width = shape
    across = abs(np.sin(np.deg2rad(axis_deg))) > np.sqrt(0.5)
    return (width, height) if across else (height, width)


def stretched(
    images: Images,
    *,
    angles_deg: Numbers,
    axis_deg: float,
    shifts_px: Numbers,
) -> Images:
    """Images turned upright, moved back, and stretched to what they show untilted.

    Parameters
    ----------
    images
        `(n, h, w)`.
    shifts_px
        `(n, 2)` as dx, dy.
    """
    out = np.empty(
        (len(images), *aligned_shape(images.shape[1:], axis_deg)), np.float32
    )
    cosines = np.cos(np.deg2rad(angles_deg))
    for image, place, shift, cosine in zip(
        images, out, np.asarray(shifts_px, np.float64), cosines, strict=True
    ):
        resample(image, place, np.deg2rad(axis_deg), cosine, shift[0], shift[1])
    return out


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def resample(image, out, turn, stretch, dx, dy):  # type: ignore[no-untyped-def]
    """Fill `out` from `image` by Catmull-Rom; what lies outside is 0."""
    height, width = image.shape
    cos, sin = np.cos(turn), np.sin(turn)
    middle_x = (width - 1) / 2 + dx
    middle_y = (height - 1) / 2 + dy
    for row in range(out.shape[0]):
        along = row - (out.shape[0] - 1) / 2
        for column in range(out.shape[1]):
            across = (column - (out.shape[1] - 1) / 2) * stretch
            x = middle_x + cos * across - sin * along
            y = middle_y + sin * across + cos * along
            if x < 1 or y < 1 or x >= width - 2 or y >= height - 2:
                out[row, column] = 0.0
                continue
            x0, y0 = int(x), int(y)
            fx, fy = np.float32(x - x0), np.float32(y - y0)
            a0, a1, a2, a3 = catmull_rom(fx)
            b = catmull_rom(fy)
            total = np.float32(0.0)
            for k in range(4):
                line = image[y0 - 1 + k]
                part = (
                    a0 * line[x0 - 1]
                    + a1 * line[x0]
                    + a2 * line[x0 + 1]
                    + a3 * line[x0 + 2]
                )
                total += part * b[k]
            out[row, column] = total


@numba.njit(nogil=True, cache=True, inline="always", fastmath=True)
def catmull_rom(t):  # type: ignore[no-untyped-def]
    """The weights of four neighbours, `t` behind the second of them (Keys 1981)."""
    # Whole numbers would make the products doubles.
    half, two, three = np.float32(0.5), np.float32(2), np.float32(3)
    four, five = np.float32(4), np.float32(5)
    square = t * t
    cube = square * t
    return (
        half * (two * square - cube - t),
        half * (three * cube - five * square + two),
        half * (four * square - three * cube + t),
        half * (cube - square),
    )
