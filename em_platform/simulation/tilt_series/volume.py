"""What is no particle, projected into layers: voxels spread over the pixels they meet.

A voxel's potential goes to the 16 pixels round its place, by a cubic B-spline; the
projection is divided by the spline's transform, sinc^4 in each axis. Voxels are as
small as a pixel, or smaller: then the error stays at 1 % up to half of Nyquist.
"""

from collections.abc import Iterator

import numba
import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from em_platform.simulation.tilt_series.assemblers.assembler import DensityMap
from em_platform.simulation.tilt_series.optics import frequencies

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")

_AT_A_TIME = 8  # layers in memory; one pass over the voxels makes as many


def density_layers(
    density: DensityMap,
    to_detector: NDArray[np.float64],
    *,
    shift_nm: tuple[float, float],
    shape: tuple[int, int],
    pixel_nm: float,
    thick_nm: float,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Each layer that has some of the density: its number, its projection in V nm.

    Layer `k` has its middle `k thick_nm` beyond the middle of the specimen; they come
    by rising number.

    Parameters
    ----------
    to_detector
        `(3, 3)` from the specimen's axes `(x, y, z)` to those of the detector.
    """
    half = np.asarray(density.potential_v.shape[::-1]) / 2 * density.voxel_nm
    reach = float(np.abs(to_detector[2]) @ half)
    first, last = round(-reach / thick_nm) - 1, round(reach / thick_nm) + 1
    qy, qx = frequencies(shape, 1.0)
    spread = (np.sinc(qy) * np.sinc(qx)) ** 4
    for start in range(first, last + 1, _AT_A_TIME):
        fields = np.zeros((min(_AT_A_TIME, last + 1 - start), *shape), np.float32)
        filled = np.zeros(len(fields), np.bool_)
        _splat(
            np.ascontiguousarray(density.potential_v, np.float32),
            density.voxel_nm,
            np.ascontiguousarray(to_detector),
            np.asarray(shift_nm, np.float64),
            (pixel_nm, thick_nm, start),
            fields,
            filled,
        )
        for number in np.flatnonzero(filled).tolist():
            spectrum = scipy.fft.rfft2(fields[number]) / spread
            field = scipy.fft.irfft2(spectrum, s=shape)
            yield start + number, np.asarray(field, np.float32)


def with_fine_voxels(density: DensityMap, *, pixel_nm: float) -> DensityMap:
    """The same density with voxels that are no larger than a pixel."""
    cuts = int(np.ceil(density.voxel_nm / pixel_nm - 1e-6))
    if cuts <= 1:
        return density
    shape = np.asarray(density.potential_v.shape)
    # Voxel n // 2 stays in the middle.
    offset = shape // 2 - (cuts * shape) // 2 / cuts
    fine = affine_transform(
        density.potential_v,
        np.full(3, 1 / cuts),
        offset,
        output_shape=tuple((cuts * shape).tolist()),
        order=3,
        output=np.float32,
    )
    return DensityMap(
        name=density.name, potential_v=fine, voxel_nm=density.voxel_nm / cuts
    )


@_jit
def _splat(volume, voxel, turn, shift, scales, fields, filled):  # type: ignore[no-untyped-def]
    pixel, thick, start = scales
    depth, rows, columns = volume.shape
    layers, height, width = fields.shape
    # A voxel's column is `voxel` long, over (voxel / pixel)^2 of a pixel.
    weight = voxel * (voxel / pixel) ** 2
    down, across = np.empty(4), np.empty(4)
    for k in range(depth):
        z = (k - depth // 2) * voxel
        for j in range(rows):
            y = (j - rows // 2) * voxel
            for i in range(columns):
                value = volume[k, j, i] * weight
                if value == 0:
                    continue
                x = (i - columns // 2) * voxel
                at = turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * z
                layer = int(np.rint(at / thick)) - start
                if layer < 0 or layer >= layers:
                    continue
                u = turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * z
                v = turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * z
                left = _spline((u + shift[1]) / pixel + width // 2, across)
                top = _spline((v + shift[0]) / pixel + height // 2, down)
                for n in range(max(0, -top), min(4, height - top)):
                    for m in range(max(0, -left), min(4, width - left)):
                        filled[layer] = True
                        fields[layer, top + n, left + m] += value * down[n] * across[m]


@_jit
def _spline(place, weights):  # type: ignore[no-untyped-def]
    """The first of four pixels round a place, and their weights."""
    below = int(np.floor(place))
    t = place - below
    weights[0] = (1 - t) ** 3 / 6
    weights[1] = (3 * t**3 - 6 * t**2 + 4) / 6
    weights[2] = (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6
    weights[3] = t**3 / 6
    return below - 1
