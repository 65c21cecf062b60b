"""What is no particle, projected into layers: voxels spread over the pixels they meet.

A voxel's potential goes to the four pixels round its place (linear weights); the
projection is divided by the transform of these weights, sinc^2 in each axis.
"""

from collections.abc import Iterator

import numba
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from em_platform.simulation.tilt_series.assemblers.assembler import Map
from em_platform.simulation.tilt_series.optics import frequencies

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")

_AT_A_TIME = 8  # layers in memory; one pass over the voxels makes as many


def density_layers(
    density: Map,
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
    # Voxels larger than a pixel are cut, so that no pixel between them stays empty.
    cuts = max(1, int(np.ceil(density.voxel_nm / pixel_nm - 1e-6)))
    qy, qx = frequencies(shape, 1.0)
    spread = (np.sinc(qy) * np.sinc(qx)) ** 2
    for start in range(first, last + 1, _AT_A_TIME):
        fields = np.zeros((min(_AT_A_TIME, last + 1 - start), *shape), np.float32)
        filled = np.zeros(len(fields), np.bool_)
        _splat(
            np.ascontiguousarray(density.potential_v, np.float32),
            density.voxel_nm,
            np.ascontiguousarray(to_detector),
            np.asarray(shift_nm, np.float64),
            (pixel_nm, thick_nm, start, cuts),
            fields,
            filled,
        )
        for number in np.flatnonzero(filled).tolist():
            spectrum = scipy.fft.rfft2(fields[number]) / spread
            field = scipy.fft.irfft2(spectrum, s=shape)
            yield start + number, np.asarray(field, np.float32)


@_jit
def _splat(volume, voxel, turn, shift, scales, fields, filled):  # type: ignore[no-untyped-def]
    pixel, thick, start, cuts = scales
    depth, rows, columns = volume.shape
    layers, height, width = fields.shape
    piece = voxel / cuts
    # A voxel's column is `voxel` long, over (voxel / pixel)^2 of a pixel.
    weight = voxel * (voxel / pixel) ** 2 / cuts**3
    for k in range(depth):
        for j in range(rows):
            for i in range(columns):
                value = volume[k, j, i] * weight
                if value == 0:
                    continue
                for part in range(cuts**3):
                    a = (part % cuts - (cuts - 1) / 2) * piece
                    b = (part // cuts % cuts - (cuts - 1) / 2) * piece
                    c = (part // cuts**2 - (cuts - 1) / 2) * piece
                    x = (i - columns // 2) * voxel + a
                    y = (j - rows // 2) * voxel + b
                    z = (k - depth // 2) * voxel + c
                    at = turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * z
                    layer = int(np.rint(at / thick)) - start
                    if layer < 0 or layer >= layers:
                        continue
                    across = turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * z
                    down = turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * z
                    u = (across + shift[1]) / pixel + width // 2
                    v = (down + shift[0]) / pixel + height // 2
                    left, top = int(np.floor(u)), int(np.floor(v))
                    if left < -1 or left >= width or top < -1 or top >= height:
                        continue
                    filled[layer] = True
                    fu, fv = u - left, v - top
                    for n in range(4):
                        row, column = top + n // 2, left + n % 2
                        if 0 <= row < height and 0 <= column < width:
                            wv = fv if n // 2 else 1 - fv
                            wu = fu if n % 2 else 1 - fu
                            fields[layer, row, column] += value * wv * wu
