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
    aberration,
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
class Slice:
    """The projected potential of a layer of the sample across the beam."""

    depth_nm: float
    """Along the beam from the sample's middle."""
    potential_v_nm: NDArray[np.float32]


def linear_contrast(
    layers: Iterable[Slice],
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
        wave = scipy.fft.rfft2(layer.potential_v_nm)
        defocus = tilt.defocus.at_depth(layer.depth_nm)
        add_transferred(wave, qy, qx, phase_terms(lens, defocus), total)
    q = radial_frequencies(pixel_nm)
    damping = envelope(q, np.zeros(1), lens=lens, defocus=tilt.defocus)
    damping *= -2 * interaction_rad_per_v_nm(lens.voltage_v)
    multiply(total, damping, shape=shape, pixel_nm=pixel_nm)
    return total


def multislice_contrast(
    layers: Iterable[Slice],
    *,
    lens: Lens,
    tilt: Tilt,
    pixel_nm: float,
    shape: tuple[int, int],
) -> NDArray[np.complex64]:
    """Spectrum of the relative change of the intensity by a strong phase object.

    The wave takes the phase of a layer, travels to the next (Cowley & Moodie 1957),
    and from the sample's middle plane through the lens; `rfft2` of `(h, w)`.
    """
    qy, _ = frequencies(shape, pixel_nm)
    whole = np.fft.fftfreq(shape[1], pixel_nm).astype(np.float32)[None, :]
    square = qy.astype(np.float64) ** 2 + whole.astype(np.float64) ** 2
    fresnel = -np.pi * wavelength_nm(lens.voltage_v) * square
    phase = np.float32(interaction_rad_per_v_nm(lens.voltage_v))
    wave = np.ones(shape, np.complex64)
    depth = 0.0
    for number, layer in enumerate(layers):
        if number:
            travelled = np.exp(1j * fresnel * (layer.depth_nm - depth))
            wave = scipy.fft.ifft2(
                scipy.fft.fft2(wave) * travelled.astype(np.complex64)
            )
        wave *= np.exp(1j * phase * layer.potential_v_nm)
        depth = layer.depth_nm
    chi = aberration(qy, whole, lens=lens, defocus=tilt.defocus)
    # The last layer lies `depth` beyond the middle plane, to which the defocus belongs.
    chi += -fresnel * depth
    plate = lens.phase_plate_rad + float(np.arcsin(lens.amplitude_contrast))
    turned = np.exp(1j * (chi + plate * (square > 0)))
    turned *= envelope(qy, whole, lens=lens, defocus=tilt.defocus)
    image = scipy.fft.ifft2(scipy.fft.fft2(wave) * turned.astype(np.complex64))
    return np.asarray(scipy.fft.rfft2(np.abs(image) ** 2 - 1), np.complex64)


@_jit
def add_transferred(wave, qy, qx, terms, total):  # type: ignore[no-untyped-def]
    """Add a layer's waves times the sine of the lens's phase for its defocus."""
    for row in range(wave.shape[0]):
        for column in range(wave.shape[1]):
            chi = phase_at(qy[row], qx[column], terms)
            total[row, column] += wave[row, column] * np.float32(np.sin(chi))
