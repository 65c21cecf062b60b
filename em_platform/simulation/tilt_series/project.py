"""Projections of particles: central sections of their Fourier transforms.

The projection of a map along an axis is the central section, across that axis, of its
Fourier transform (Bracewell 1956), so a particle costs a plane of samples and not a
volume. Between samples a Kaiser-Bessel window of three samples an axis interpolates
(Beatty et al., IEEE Trans. Med. Imaging 24, 799 (2005)); the map is padded twice and
divided by the window's transform, which keeps the error below 1 % of the amplitude.
"""

from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from em_platform.simulation.tilt_series.optics import (
    interaction_rad_per_v_nm,
    wavelength_nm,
)

_jit = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)

_PAD = 2  # of the map in each axis: the window's images lie beyond the particle then
_TAPS = 3
_BETA = float(np.pi * np.sqrt((_TAPS / _PAD * (_PAD - 0.5)) ** 2 - 0.8))
"""Shape of the window: the best for so many samples and padding (Beatty et al.)."""
_PER_SAMPLE = 1024  # steps of the window's table; linear between them
_NEGATIVE = 2  # columns of negative kx: what the window reaches over


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A particle's map, ready to be projected in any direction.

    Attributes
    ----------
    transform
        `(2 m + 1, 2 m + 1, m + 3)` complex64: transform of the padded map (V voxel^3)
        with its centre at the origin; frequency 0 at `(m, m, 2)`, up to the finest
        that an image shows.
    side
        Voxels in an axis of the padded map.
    voxel_nm
        Size of a voxel.
    radius_nm
        Of the sphere that encloses the map.
    """

    transform: NDArray[np.complex64]
    side: int
    voxel_nm: float
    radius_nm: float


def template(
    volume: NDArray[np.float32], *, voxel_nm: float, pixel_nm: float | None = None
) -> Template:
    """Prepare a map for projection.

    Parameters
    ----------
    volume
        `(z, y, x)` potential above that of the ice, V; zero at its border. Its centre
        is voxel `(n // 2, n // 2, n // 2)` of each axis.
    pixel_nm
        Of the finest image that it is projected to: finer detail is not kept.
    """
    longest = max(volume.shape)
    side = scipy.fft.next_fast_len(_PAD * longest, real=True)
    while side % 2:
        side = scipy.fft.next_fast_len(side + 1, real=True)
    padded = np.zeros((side, side, side), np.float32)
    start = [side // 2 - n // 2 for n in volume.shape]
    window = tuple(slice(s, s + n) for s, n in zip(start, volume.shape, strict=True))
    padded[window] = volume
    place = np.pi * _TAPS * (np.arange(side) - side // 2) / side
    under = np.sqrt((_BETA**2 - place**2).astype(complex))
    apodised = np.real(np.sinh(under) / under).astype(np.float32)
    for axis in range(3):
        padded[window] /= np.expand_dims(
            apodised[window[axis]], tuple({0, 1, 2} - {axis})
        )
    transform = scipy.fft.rfftn(np.fft.ifftshift(padded))
    # The corner of the image's spectrum, and what the window reaches over.
    pixel = voxel_nm if pixel_nm is None else pixel_nm
    finest = int(np.ceil(np.sqrt(0.5) / pixel * side * voxel_nm)) + _NEGATIVE
    most = min(side // 2 - 1, finest)
    rows = np.arange(-most, most + 1)
    near = transform[rows][:, rows, : most + 1]
    mirrored = near[::-1, ::-1, _NEGATIVE:0:-1].conj()
    return Template(
        transform=np.ascontiguousarray(
            np.concatenate([mirrored, near], axis=2), np.complex64
        ),
        side=side,
        voxel_nm=voxel_nm,
        radius_nm=longest / 2 * voxel_nm,
    )


def _window() -> NDArray[np.float32]:
    away = np.arange(_PER_SAMPLE * _TAPS // 2 + 2) / (_PER_SAMPLE * _TAPS / 2)
    inside = np.sqrt(np.maximum(1 - away**2, 0))
    return np.where(away <= 1, np.i0(_BETA * inside) / _TAPS, 0).astype(np.float32)


_WINDOW = _window()


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
    planes = _planes(
        particle,
        rotation[None],
        np.array([shift_px], np.float64),
        size=size,
        pixel_nm=pixel_nm,
    )
    return np.asarray(scipy.fft.irfft2(planes[0], s=(size, size)), np.float32)


def weak_stamps(
    particle: Template,
    turns: NDArray[np.float64],
    *,
    shifts_px: NDArray[np.float64],
    beyond_nm: NDArray[np.float64],
    size: int,
    pixel_nm: float,
    voltage_v: float,
) -> NDArray[np.float32]:
    """As `projection` of several, `(n, 2, size, size)`, seen from the stamps' plane.

    The frequencies q times the cosine, and the sine, of pi lambda q^2 `beyond_nm`.

    Parameters
    ----------
    turns
        `(n, 3, 3)`, the rotation of each.
    shifts_px
        `(n, 2)`, as (y, x).
    beyond_nm
        `(n,)`: how far each lies along the beam from the plane of the stamps.
    """
    planes = _planes(particle, turns, shifts_px, size=size, pixel_nm=pixel_nm)
    both = np.empty((len(planes), 2, *planes.shape[1:]), np.complex64)
    turn_by = np.pi * wavelength_nm(voltage_v) * beyond_nm / (size * pixel_nm) ** 2
    _split(planes, turn_by, both)
    return np.asarray(scipy.fft.irfft2(both, s=(size, size)), np.float32)


def strong_stamps(
    particle: Template,
    turns: NDArray[np.float64],
    *,
    shifts_px: NDArray[np.float64],
    beyond_nm: NDArray[np.float64],
    size: int,
    pixel_nm: float,
    voltage_v: float,
) -> NDArray[np.complex64]:
    """What turned particles add to a wave of 1, `(n, size, size)`; as `weak_stamps`.

    The wave takes a particle's phase and is moved to the plane of the stamps.
    """
    planes = _planes(particle, turns, shifts_px, size=size, pixel_nm=pixel_nm)
    # Stamps are small: a complex plane of their own costs less than a second kernel.
    phases = scipy.fft.irfft2(planes, s=(size, size))
    change = np.empty(phases.shape, np.complex64)
    _scatter(phases, np.float32(interaction_rad_per_v_nm(voltage_v)), change)
    change = scipy.fft.fft2(change, overwrite_x=True)
    turn_by = np.pi * wavelength_nm(voltage_v) * beyond_nm / (size * pixel_nm) ** 2
    _move(change, turn_by)
    return np.asarray(scipy.fft.ifft2(change, overwrite_x=True), np.complex64)


def _planes(
    particle: Template,
    turns: NDArray[np.float64],
    shifts_px: NDArray[np.float64],
    *,
    size: int,
    pixel_nm: float,
) -> NDArray[np.complex64]:
    """The `rfft2` of the projection of each, `(n, size, size // 2 + 1)`."""
    planes = np.empty((len(turns), size, size // 2 + 1), np.complex64)
    step = particle.voxel_nm / (size * pixel_nm) * particle.side
    # Voxels are summed in the transform: one voxel's column is `voxel_nm` long, and
    # its area spreads over (voxel / pixel)^2 of a pixel.
    scale = particle.voxel_nm * (particle.voxel_nm / pixel_nm) ** 2
    for turn, (y, x), plane in zip(turns, shifts_px.tolist(), planes, strict=True):
        _section(
            particle.transform,
            np.ascontiguousarray(turn.T),
            # With half of the box: its origin comes to lie in the middle.
            (step, y / size + 0.5, x / size + 0.5, scale),
            _WINDOW,
            plane,
        )
    return planes


@_jit
def _split(planes, turn_by, both):  # type: ignore[no-untyped-def]
    """Planes times the cosine and the sine of `turn_by` times frequency squared."""
    size = planes.shape[1]
    for number in range(planes.shape[0]):
        for row in range(size):
            v = row if row <= size // 2 else row - size
            for column in range(planes.shape[2]):
                angle = turn_by[number] * (v * v + column * column)
                value = planes[number, row, column]
                both[number, 0, row, column] = value * np.float32(np.cos(angle))
                both[number, 1, row, column] = value * np.float32(np.sin(angle))


@_jit
def _scatter(potential, sigma, change):  # type: ignore[no-untyped-def]
    """What a phase of `sigma` times the potential adds to a wave of 1."""
    for number in range(potential.shape[0]):
        for row in range(potential.shape[1]):
            for column in range(potential.shape[2]):
                phase = sigma * potential[number, row, column]
                change[number, row, column] = complex(np.cos(phase) - 1, np.sin(phase))


@_jit
def _move(planes, turn_by):  # type: ignore[no-untyped-def]
    """Move waves along the beam, from where they are back to the plane of stamps."""
    size = planes.shape[1]
    for number in range(planes.shape[0]):
        for row in range(size):
            v = row if row <= size // 2 else row - size
            for column in range(size):
                u = column if column <= size // 2 else column - size
                angle = turn_by[number] * (v * v + u * u)
                planes[number, row, column] *= complex(np.cos(angle), np.sin(angle))


@_jit
def _section(slab, turn, scales, window, out):  # type: ignore[no-untyped-def]
    """Sample the transform on the plane through its origin across the beam."""
    step, shift_y, shift_x, scale = scales
    size = out.shape[0]
    middle = slab.shape[0] // 2
    limit = middle - 1.5
    weights = np.empty((3, 3), np.float32)
    first = np.empty(3, np.int64)
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
            for axis, k in enumerate((kz, ky, kx)):
                first[axis] = int(np.ceil(k - 1.5))
                for tap in range(3):
                    away = abs(k - first[axis] - tap) * _PER_SAMPLE
                    below = int(away)
                    part = np.float32(away - below)
                    weights[axis, tap] = (
                        window[below] * (1 - part) + window[below + 1] * part
                    )
            real = np.float32(0.0)
            imaginary = np.float32(0.0)
            z, y, x = first[0] + middle, first[1] + middle, first[2] + 2
            for dz in range(3):
                for dy in range(3):
                    w = weights[0, dz] * weights[1, dy]
                    for dx in range(3):
                        sample = slab[z + dz, y + dy, x + dx]
                        real += w * weights[2, dx] * sample.real
                        imaginary += w * weights[2, dx] * sample.imag
            if mirrored:
                imaginary = -imaginary
            phase = -2.0 * np.pi * (v * shift_y + column * shift_x)
            c, s = scale * np.cos(phase), scale * np.sin(phase)
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


@_jit
def multiply_stamp(field, stamp, y, x):  # type: ignore[no-untyped-def]
    """Multiply a field by 1 + a stamp, its centre pixel at `(y, x)`."""
    height, width = field.shape
    size = stamp.shape[0]
    top, left = y - size // 2, x - size // 2
    for row in range(max(0, -top), min(size, height - top)):
        for column in range(max(0, -left), min(size, width - left)):
            field[top + row, left + column] *= stamp[row, column] + np.float32(1)
