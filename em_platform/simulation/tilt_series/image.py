"""The contrast of one image of a tilt series, by weak or strong phase objects."""

from collections.abc import Iterable
from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from em_platform.simulation.tilt_series.geometry import Tilt
from em_platform.simulation.tilt_series.optics import (
    Lens,
    envelope,
    frequencies,
    interaction_rad_per_v_nm,
    phase_at,
    phase_terms,
    wavelength_nm,
)
from em_platform.simulation.tilt_series.radial import multiply, radial_frequencies

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Particle:
    """One particle of a sample: which map, where, and how it is turned."""

    template: int
    """Index of its map in the sample."""
    position_nm: tuple[float, float, float]
    """`(x, y, z)` from the sample's middle."""
    rotation: NDArray[np.float64]
    """`(3, 3)` from the particle's axes to the sample's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeakLayer:
    """The projected potential of a layer of the sample across the beam, V nm.

    What lies a little beyond its middle has its frequencies q in both parts, times the
    cosine and the sine of pi lambda q^2 times that way.
    """

    depth_nm: float
    """Of its middle along the beam from the sample's middle."""
    even_v_nm: NDArray[np.float32]
    odd_v_nm: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StrongLayer:
    """What a layer makes of a wave of 1 that comes to its middle."""

    depth_nm: float
    wave: NDArray[np.complex64]


def linear_contrast(
    layers: Iterable[WeakLayer],
    *,
    lens: Lens,
    tilt: Tilt,
    pixel_nm: float,
    shape: tuple[int, int],
) -> NDArray[np.complex64]:
    """Spectrum of the relative change of the intensity by a weak phase object.

    Each layer has the contrast transfer of its own defocus; `rfft2` of `(h, w)`.
    """
    qy, qx = (each.ravel() for each in frequencies(shape, pixel_nm))
    total = np.zeros((len(qy), len(qx)), np.complex64)
    for layer in layers:
        terms = phase_terms(lens, tilt.defocus.at_depth(layer.depth_nm))
        even = scipy.fft.rfft2(layer.even_v_nm)
        if layer.odd_v_nm is None:
            _add_transferred(even, qy, qx, terms, total)
        else:
            odd = scipy.fft.rfft2(layer.odd_v_nm)
            _add_both_transferred(even, odd, qy, qx, terms, total)
    q = radial_frequencies(pixel_nm)
    damping = envelope(q, np.zeros(1), lens=lens, defocus=tilt.defocus)
    damping *= -2 * interaction_rad_per_v_nm(lens.voltage_v)
    multiply(total, damping, shape=shape, pixel_nm=pixel_nm)
    return total


def multislice_contrast(
    layers: Iterable[StrongLayer],
    *,
    lens: Lens,
    tilt: Tilt,
    pixel_nm: float,
    shape: tuple[int, int],
) -> NDArray[np.complex64]:
    """Spectrum of the relative change of the intensity by a strong phase object.

    The wave goes through a layer, travels to the next (Cowley & Moodie 1957), and from
    the last through the lens; `rfft2` of `(h, w)`.
    """
    per_nm = np.pi * wavelength_nm(lens.voltage_v)
    qy = np.fft.fftfreq(shape[0], pixel_nm)
    qx = np.fft.fftfreq(shape[1], pixel_nm)
    wave, depth = None, 0.0
    for layer in layers:
        if wave is None:
            wave = layer.wave
        else:
            spectrum = scipy.fft.fft2(wave, overwrite_x=True)
            way = -1j * per_nm * (layer.depth_nm - depth)
            _outer(spectrum, np.exp(way * qy**2), np.exp(way * qx**2))
            wave = scipy.fft.ifft2(spectrum, overwrite_x=True)
            wave *= layer.wave
        depth = layer.depth_nm
    if wave is None:
        return np.zeros((shape[0], shape[1] // 2 + 1), np.complex64)
    spectrum = scipy.fft.fft2(wave, overwrite_x=True)
    terms = phase_terms(lens, tilt.defocus.at_depth(depth))
    q = radial_frequencies(pixel_nm)
    damping = envelope(q, np.zeros(1), lens=lens, defocus=tilt.defocus)
    _through_lens(spectrum, qy, qx, terms)
    multiply(spectrum, damping, shape=shape, pixel_nm=pixel_nm)
    image = scipy.fft.ifft2(spectrum, overwrite_x=True)
    contrast = image.real**2 + image.imag**2 - np.float32(1)
    return np.asarray(scipy.fft.rfft2(contrast), np.complex64)


@_jit
def _add_transferred(wave, qy, qx, terms, total):  # type: ignore[no-untyped-def]
    """Add a layer's waves times the sine of the lens's phase for its defocus."""
    for row in range(wave.shape[0]):
        for column in range(wave.shape[1]):
            chi = phase_at(qy[row], qx[column], terms)
            total[row, column] += wave[row, column] * np.float32(np.sin(chi))


@_jit
def _add_both_transferred(even, odd, qy, qx, terms, total):  # type: ignore[no-untyped-def]
    """Add a layer's waves, whose own phases are in `even` and `odd`."""
    for row in range(even.shape[0]):
        for column in range(even.shape[1]):
            chi = phase_at(qy[row], qx[column], terms)
            total[row, column] += even[row, column] * np.float32(np.sin(chi))
            total[row, column] += odd[row, column] * np.float32(np.cos(chi))


@_jit
def _outer(spectrum, rows, columns):  # type: ignore[no-untyped-def]
    """Multiply by a function of two frequencies that is a product of one of each."""
    for row in range(spectrum.shape[0]):
        for column in range(spectrum.shape[1]):
            spectrum[row, column] *= np.complex64(rows[row] * columns[column])


@_jit
def _through_lens(spectrum, qy, qx, terms):  # type: ignore[no-untyped-def]
    """Turn each wave but the straight one by the phase of the lens."""
    height, width = spectrum.shape
    # Opposite frequencies have the same phase: it is computed once for both.
    for row in range(height // 2 + 1):
        other_row = (height - row) % height
        columns = width if row != other_row else width // 2 + 1
        for column in range(columns):
            other_column = (width - column) % width
            chi = phase_at(qy[row], qx[column], terms)
            turn = np.complex64(complex(np.cos(chi), np.sin(chi)))
            if row or column:
                spectrum[row, column] *= turn
            if other_row != row or other_column != column:
                spectrum[other_row, other_column] *= turn
