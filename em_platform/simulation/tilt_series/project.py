"""Projections of particles: central sections of their Fourier transforms.

The projection of a map along an axis is the central section, across that axis, of its
Fourier transform (Bracewell 1956), so a particle costs a plane of samples and not a
volume. Maps are padded twice and corrected for the linear interpolation between samples
(sinc^2, Jackson et al. 1991), which keeps the error below 1 % up to half of Nyquist.
"""

from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft
from numpy.typing import NDArray

_jit = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)

_PAD = 2  # of the map in each axis; the interpolation error falls with its square


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A particle's map, ready to be projected in any direction.

    Attributes
    ----------
    transform
        `(n, n, n // 2 + 1)` complex64: `rfftn` of the padded map (V voxel^3) with its
        centre at the origin.
    voxel_nm
        Size of a voxel.
    radius_nm
        Of the sphere that holds the map.
    """

    transform: NDArray[np.complex64]
    voxel_nm: float
    radius_nm: float


def template(volume: NDArray[np.float32], *, voxel_nm: float) -> Template:
    """Prepare a map for projection.

    Parameters
    ----------
    volume
        `(z, y, x)` potential above that of the ice, V; zero at its border. Its centre
        is voxel `(n // 2, n // 2, n // 2)` of each axis.
    """
    longest = max(volume.shape)
    size = scipy.fft.next_fast_len(_PAD * longest + _PAD * longest % 2, real=True)
    size += size % 2
    padded = np.zeros((size, size, size), np.float32)
    start = [size // 2 - n // 2 for n in volume.shape]
    window = tuple(slice(s, s + n) for s, n in zip(start, volume.shape, strict=True))
    padded[window] = volume
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = size
        # Linear interpolation between samples of the transform multiplies the map
        # by sinc^2; the map is divided by it beforehand.
        place = (np.arange(size) - size // 2) / size
        padded /= (np.sinc(place) ** 2).astype(np.float32).reshape(shape)
    transform = scipy.fft.rfftn(np.fft.ifftshift(padded))
    return Template(
        transform=np.ascontiguousarray(transform, np.complex64),
        voxel_nm=voxel_nm,
        radius_nm=longest / 2 * voxel_nm,
    )


def stamp_size(radius_nm: float, pixel_nm: float) -> int:
    """Side of the square that holds a projection, an even and fast number of pixels."""
    least = int(np.ceil(2 * radius_nm / pixel_nm * _PAD * 0.75)) + 4
    size = scipy.fft.next_fast_len(least, real=True)
    while size % 2:
        size = scipy.fft.next_fast_len(size + 1, real=True)
    return int(size)


def projection(
    particle: Template,
    rotation: NDArray[np.float64],
    *,
    shift_px: tuple[float, float],
    size: int,
    pixel_nm: float,
) -> NDArray[np.float32]:
    """The projected potential of a turned particle, V nm, `(size, size)`.

    Parameters
    ----------
    rotation
        `(3, 3)` from the particle's axes `(x, y, z)` to those of the detector; the
        projection is along the detector's z.
    shift_px
        `(y, x)` of the particle's centre from pixel `(size // 2, size // 2)`.
    """
    plane = np.empty((size, size // 2 + 1), np.complex64)
    step = particle.voxel_nm / (size * pixel_nm) * particle.transform.shape[0]
    _section(
        particle.transform,
        np.ascontiguousarray(rotation.T),
        step,
        float(shift_px[0]) / size,
        float(shift_px[1]) / size,
        plane,
    )
    # Voxels are summed in the transform: one voxel's column is `voxel_nm` long, and
    # its area spreads over (voxel / pixel)^2 of a pixel.
    scale = particle.voxel_nm * (particle.voxel_nm / pixel_nm) ** 2
    stamp = scipy.fft.irfft2(plane, s=(size, size))
    return np.fft.fftshift(stamp) * np.float32(scale)


@_jit
def _section(transform, turn, step, shift_y, shift_x, out):  # type: ignore[no-untyped-def]
    """Sample the transform on the plane through its origin across the beam."""
    n = transform.shape[0]
    size = out.shape[0]
    half = n // 2
    limit = half - 1.0
    for row in range(size):
        v = row if row <= size // 2 else row - size
        for column in range(out.shape[1]):
            # A frequency of the detector, turned into the particle's axes.
            kx = (turn[0, 0] * column + turn[0, 1] * v) * step
            ky = (turn[1, 0] * column + turn[1, 1] * v) * step
            kz = (turn[2, 0] * column + turn[2, 1] * v) * step
            if abs(kx) >= limit or abs(ky) >= limit or abs(kz) >= limit:
                out[row, column] = 0.0
                continue
            mirrored = kx < 0
            if mirrored:
                kx, ky, kz = -kx, -ky, -kz
            x0, y0, z0 = int(np.floor(kx)), int(np.floor(ky)), int(np.floor(kz))
            fx, fy, fz = kx - x0, ky - y0, kz - z0
            real = 0.0
            imaginary = 0.0
            for dz in range(2):
                wz = fz if dz else 1.0 - fz
                z = (z0 + dz) % n
                for dy in range(2):
                    wzy = wz * (fy if dy else 1.0 - fy)
                    y = (y0 + dy) % n
                    a = transform[z, y, x0]
                    b = transform[z, y, x0 + 1]
                    real += wzy * (a.real * (1.0 - fx) + b.real * fx)
                    imaginary += wzy * (a.imag * (1.0 - fx) + b.imag * fx)
            if mirrored:
                imaginary = -imaginary
            phase = -2.0 * np.pi * (v * shift_y + column * shift_x)
            c, s = np.cos(phase), np.sin(phase)
            out[row, column] = complex(
                real * c - imaginary * s, real * s + imaginary * c
            )


@_jit
def add_stamp(field, stamp, y, x):  # type: ignore[no-untyped-def]
    """Add a stamp to a field, its centre pixel at `(y, x)`; what is outside is cut."""
    height, width = field.shape
    size = stamp.shape[0]
    top, left = y - size // 2, x - size // 2
    for row in range(max(0, -top), min(size, height - top)):
        for column in range(max(0, -left), min(size, width - left)):
            field[top + row, left + column] += stamp[row, column]
