"""Weighted back-projection: a volume from the aligned images of a tilt series.

Each image is turned upright, moved and stretched by 1 / cos(tilt), in one step of
interpolation. A line of the volume then gets a line of each image, moved by
z tan(tilt): neighbours in memory are added to neighbours, which a processor does eight
at a time. The ramp weights the images as Radermacher (1992) has it, with the Gaussian
fall-off that IMOD's tilt uses; an image counts by the gap in angle that it fills.
"""

from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from em_platform.cryoem.methods.tilt_images import Images, Numbers, catmull_rom

# Beyond an image its last pixels go on, and fade: an edge would draw streaks.
_FADE_PX = 48.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """A volume `(z, y, x)` and the images that it comes from, in its pixels.

    Attributes
    ----------
    tilts_rad, shifts_px
        `(n,)`, and `(n, 2)` as dx, dy; conventions as in `tilt_images`.
    """

    shape: tuple[int, int, int]
    tilts_rad: Numbers
    axis_deg: float
    shifts_px: Numbers

    @property
    def lengths(self) -> NDArray[np.intp]:
        """Pixels of a stretched line of each image, with all that z can ask for."""
        reach = (self.shape[0] - 1) * np.abs(np.tan(self.tilts_rad))
        return np.asarray(self.shape[2] + np.ceil(reach) + 2, np.intp)

    @property
    def starts(self) -> NDArray[np.intp]:
        """Where the line of each image begins, in a row of all of them."""
        return np.concatenate([[0], np.cumsum(self.lengths)[:-1]]).astype(np.intp)

    @property
    def row_px(self) -> int:
        """Length of the lines of all images behind each other."""
        return int(self.lengths.sum())


def angular_weights(tilts_rad: Numbers) -> Numbers:
    """`(n,)`: radians that an image stands for, half of the gaps on both sides."""
    if len(tilts_rad) < 2:
        return np.ones(len(tilts_rad))
    order = np.argsort(tilts_rad)
    gaps = np.diff(tilts_rad[order])
    # A gap of missing tilts is not made good by its neighbours.
    gaps = np.minimum(gaps, 3 * np.median(gaps))
    weights = np.empty(len(tilts_rad))
    around = np.concatenate([gaps[:1], gaps, gaps[-1:]])
    weights[order] = (around[:-1] + around[1:]) / 2
    return weights


def ramp(length: int, *, stretch: float, cutoff: float, falloff: float) -> Numbers:
    """`(length // 2 + 1,)`: the filter of lines that were stretched by 1 / `stretch`.

    Up to `cutoff` cycles a pixel of the image it is the frequency, then it falls as a
    Gaussian of sigma `falloff`. It comes from the sampled kernel, which keeps the mean
    (Kak & Slaney 1988, equation 3.61).
    """
    place = np.arange(length)
    place = np.minimum(place, length - place)
    kernel = np.where(place % 2, -1 / (np.pi * np.maximum(place, 1)) ** 2, 0.0)
    kernel[0] = 0.25
    frequency = scipy.fft.rfftfreq(length)
    seen = frequency / stretch
    beyond = np.maximum(seen - cutoff, 0)
    fall = np.exp(-0.5 * (beyond / falloff) ** 2) if falloff > 0 else beyond <= 0
    return np.asarray(scipy.fft.rfft(kernel).real / stretch * fall * (seen <= 0.5))


def lines_of(
    image: NDArray[np.floating],
    geometry: Geometry,
    index: int,
    *,
    weight: float,
    cutoff: float,
    falloff: float,
) -> Images:
    """Filtered lines `(y, length)` of one image, ready to be added to a volume."""
    level = np.asarray(image, np.float32)
    level = level - np.float32(level.mean(dtype=np.float64))
    length = int(geometry.lengths[index])
    padded = scipy.fft.next_fast_len(2 * length, real=True)
    lines = np.zeros((geometry.shape[1], length), np.float32)
    cosine = float(np.cos(geometry.tilts_rad[index]))
    dx, dy = geometry.shifts_px[index]
    turn = float(np.deg2rad(geometry.axis_deg))
    reach = (geometry.shape[0] - 1) * abs(float(np.tan(geometry.tilts_rad[index])))
    middle = (geometry.shape[2] - 1 + reach) / 2
    _stretch(level, lines, middle, turn, cosine, float(dx), float(dy))
    window = ramp(padded, stretch=cosine, cutoff=cutoff, falloff=falloff) * weight
    window = window.astype(np.float32)
    # A few lines at a time: their transforms stay in the cache.
    for first in range(0, len(lines), 64):
        part = scipy.fft.rfft(lines[first : first + 64], padded)
        part *= window
        lines[first : first + 64] = scipy.fft.irfft(part, padded)[:, :length]
    return lines


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def add_lines(rows, starts, tangents, volume):  # type: ignore[no-untyped-def]
    """Fill `volume` `(z, rows, x)` from the lines `(rows, all images)` of some rows."""
    deep, height, width = volume.shape
    line = np.empty(width, np.float32)
    for y in range(height):
        row = rows[y]
        for z in range(deep):
            line[:] = 0
            for i in range(len(tangents)):
                tangent = tangents[i]
                place = z * tangent
                if tangent < 0:
                    place -= (deep - 1) * tangent
                first = int(place)
                above = np.float32(place - first)
                below = np.float32(1.0) - above
                part = row[starts[i] + first : starts[i] + first + width + 1]
                for x in range(width):
                    line[x] += below * part[x] + above * part[x + 1]
            volume[z, y, :] = line


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def _stretch(image, out, middle, turn, stretch, dx, dy):  # type: ignore[no-untyped-def]
    """Fill lines from the image by Catmull-Rom, with its edge beyond it."""
    height, width = image.shape
    cos, sin = np.cos(turn), np.sin(turn)
    for row in range(out.shape[0]):
        along = row - (out.shape[0] - 1) / 2
        for column in range(out.shape[1]):
            across = (column - middle) * stretch
            x = (width - 1) / 2 + dx + cos * across - sin * along
            y = (height - 1) / 2 + dy + sin * across + cos * along
            in_x = min(max(x, 0.0), width - 1.0)
            in_y = min(max(y, 0.0), height - 1.0)
            apart = abs(x - in_x) + abs(y - in_y)
            if apart >= _FADE_PX:
                continue
            x0, y0 = int(in_x), int(in_y)
            a0, a1, a2, a3 = catmull_rom(np.float32(in_x - x0))
            b = catmull_rom(np.float32(in_y - y0))
            left, right = max(x0 - 1, 0), min(x0 + 1, width - 1)
            last = min(x0 + 2, width - 1)
            total = np.float32(0)
            for k in range(4):
                line = image[min(max(y0 - 1 + k, 0), height - 1)]
                part = (
                    a0 * line[left] + a1 * line[x0] + a2 * line[right] + a3 * line[last]
                )
                total += b[k] * part
            if apart > 0:
                total *= np.float32(0.5 + 0.5 * np.cos(np.pi * apart / _FADE_PX))
            out[row, column] = total
