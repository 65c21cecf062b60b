"""Real EM voxels in any size: a small crop, laid side by side, shaded and scaled.

Every value follows from its place, so any part can be made by itself and the truth is
known without keeping it.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

Voxels = NDArray[np.generic]
Three = tuple[int, int, int]

_PERIODS = (331, 463, 577)
"""Of the shading along z, y and x; the crop alone would repeat itself."""
_PLANES = 16
"""Made at once, so that a large volume needs little more memory than itself."""
_SEAM = 16
"""Voxels of the crop's end that fade into its begin, along each axis. Mirror images
would need no seam, but a kaleidoscope looks like a fault of the reader."""
_SHADE = 7
"""Grey levels, most that an axis adds or takes."""


@cache
def medulla() -> NDArray[np.uint8]:
    """The crop `(64, 128, 128)` of FlyEM medulla FIB-SEM; see its README."""
    import imagecodecs

    folder = files("em_platform.standins") / "medulla"
    sheets = [
        imagecodecs.png_decode((folder / f"sections_{first:02d}.png").read_bytes())
        for first in (0, 16, 32, 48)
    ]
    crop: NDArray[np.uint8] = np.concatenate(sheets).reshape(64, 128, 128)
    # All volumes of the process share it.
    crop.flags.writeable = False
    return crop


@cache
def seamless() -> NDArray[np.uint8]:
    """The crop `(48, 112, 112)` whose end goes on at its begin, unmirrored."""
    tissue = medulla().astype(np.float32)
    mean = tissue.mean()
    tissue -= mean
    share = (np.arange(_SEAM) + 0.5) / _SEAM
    for axis in range(3):
        planes = np.moveaxis(tissue, axis, -1)
        # Roots keep the contrast: unlike tissue adds up by its variance.
        seam = planes[..., :_SEAM] * np.sqrt(share)
        seam = seam + planes[..., -_SEAM:] * np.sqrt(1 - share)
        joined = np.concatenate([seam, planes[..., _SEAM:-_SEAM]], axis=-1)
        tissue = np.moveaxis(joined, -1, axis)
    crop: NDArray[np.uint8] = np.clip(np.round(tissue + mean), 0, 255).astype(np.uint8)
    crop.flags.writeable = False
    return crop


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """A volume of `shape` (z, y, x) of which any part can be made.

    `variant` tells volumes apart: where the crop begins, and its contrast.
    """

    shape: Three
    dtype: str = "uint8"
    variant: int = 0

    @property
    def nbytes(self) -> int:
        """Of all voxels."""
        z, y, x = self.shape
        return z * y * x * np.dtype(self.dtype).itemsize

    def whole(self) -> Voxels:
        """All voxels, made some planes at a time."""
        depth, height, width = self.shape
        found = np.empty(self.shape, self.dtype)
        for z in range(0, depth, _PLANES):
            count = min(_PLANES, depth - z)
            found[z : z + count] = self.read((z, 0, 0), (count, height, width))
        return found

    def read(self, corner: Three, shape: Three) -> Voxels:
        """The voxels from `corner` on; both are z, y, x and lie within the volume."""
        crop = seamless()
        along_z, along_y, along_x = (
            np.arange(first, first + length)
            for first, length in zip(corner, shape, strict=True)
        )
        # 41 shares no factor with the crop's edges 48 and 112.
        start = 41 * self.variant
        # As narrow as the crop at first: widening it is then a matter of copying.
        grey = crop[
            ((along_z + start) % crop.shape[0])[:, None],
            ((along_y + start) % crop.shape[1])[None, :],
        ].astype(np.int16)
        if self.variant % 2:
            # 29 and 209 are the ends of the crop's grey levels: it keeps its range.
            np.subtract(238, grey, out=grey)
        grey += _shading(along_z, _PERIODS[0])[:, None, None]
        grey += _shading(along_y, _PERIODS[1])[None, :, None]
        grey = _widened(grey, corner[2] + start, shape[2])
        grey += _shading(along_x, _PERIODS[2])
        return np.ascontiguousarray(self._scaled(grey, along_z, along_y, along_x))

    def __getitem__(self, box: tuple[slice, ...]) -> Voxels:
        """The voxels of three slices with both ends, as of an array."""
        ends = [part.indices(n) for part, n in zip(box, self.shape, strict=True)]
        z, y, x = ((first, last - first) for first, last, _ in ends)
        return self.read((z[0], y[0], x[0]), (z[1], y[1], x[1]))

    def _scaled(self, grey: NDArray[np.int16], *along: NDArray[np.int_]) -> Voxels:
        kind = np.dtype(self.dtype)
        if kind == np.uint8:
            return np.clip(grey, 0, 255, out=grey).astype(np.uint8)
        grey -= 128
        if kind == np.int8:
            return np.clip(grey, -128, 127, out=grey).astype(np.int8)
        z, y, x = np.ix_(*along)
        # Between two grey levels of the crop, as a detector of more bits has noise.
        fine = ((z * 31 + y * 17) % 97).astype(np.int16) ^ (x * 29 % 89).astype(
            np.int16
        )
        if kind == np.float32:
            return grey.astype(np.float32) + fine.astype(np.float32) / 128
        grey *= 128
        grey += fine
        if kind == np.int16:
            return grey
        # 128 grey levels up, and 32 for the shading (3 x 7): never below 0.
        return (grey.astype(np.int32) + 128 * 128 + 4096).astype(kind)


def _widened(grey: NDArray[np.int16], start: int, width: int) -> NDArray[np.int16]:
    """The columns `start` and on of an image that is laid side by side along x."""
    period = grey.shape[2]
    start %= period
    times = -(-(start + width) // period)
    return np.concatenate([grey] * times, axis=2)[..., start : start + width]


def _shading(place: NDArray[np.int_], period: int) -> NDArray[np.int16]:
    """A triangle wave of whole grey levels."""
    phase = place % period
    rising = np.minimum(phase, period - phase)
    # From -_SHADE to _SHADE: `rising` ends at half of the period.
    return (rising * 4 * _SHADE // period - _SHADE).astype(np.int16)
