"""One image of a tilt series before its noise: how many electrons reach each pixel."""

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from em_platform.simulation.tilt_series.geometry import Film, Tilt, paths, rotation
from em_platform.simulation.tilt_series.optics import (
    Lens,
    aberration,
    envelope,
    frequencies,
    interaction_rad_per_v_nm,
    wavelength_nm,
)
from em_platform.simulation.tilt_series.project import (
    Template,
    add_stamp,
    projection,
    stamp_size,
)

_jit = numba.njit(nogil=True, cache=True, error_model="numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scattering:
    """How ice and carbon take electrons away, as mean free paths in nm; 0: not at all.

    Electrons that lose energy still arrive, without contrast, unless a filter stops
    them; electrons that leave the aperture do not arrive.
    """

    ice_inelastic_nm: float = 310.0
    """Vitreous ice at 300 kV (Rice et al. 2018 by energy filter; 395 nm there)."""
    ice_lost_nm: float = 0.0
    carbon_inelastic_nm: float = 200.0
    carbon_lost_nm: float = 0.0
    energy_filter: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Particle:
    """One particle of a sample: which map, where, and how it is turned."""

    template: int
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


def slices(
    particles: Sequence[Particle],
    templates: Sequence[Template],
    tilt: Tilt,
    *,
    shape: tuple[int, int],
    pixel_nm: float,
    voltage_v: float,
) -> list[Slice]:
    """Particles projected into layers, thin enough for one defocus each.

    A layer is pixel^2 / (2 lambda) thick: within it the phase of the finest frequency
    turns by an eighth of a circle at most (Rullgård et al. 2011, section 3.3).
    """
    thick = pixel_nm**2 / (2 * wavelength_nm(voltage_v))
    to_detector = rotation(tilt).T
    fields: dict[int, NDArray[np.float32]] = {}
    height, width = shape
    for particle in particles:
        kind = templates[particle.template]
        x, y, z = to_detector @ np.asarray(particle.position_nm)
        row = (y + tilt.shift_nm[0]) / pixel_nm + height // 2
        column = (x + tilt.shift_nm[1]) / pixel_nm + width // 2
        size = stamp_size(kind.radius_nm, pixel_nm)
        if not (
            -size / 2 < row < height + size / 2
            and -size / 2 < column < width + size / 2
        ):
            continue
        at = round(z / thick)
        if at not in fields:
            fields[at] = np.zeros(shape, np.float32)
        near = round(row), round(column)
        stamp = projection(
            kind,
            to_detector @ particle.rotation,
            shift_px=(row - near[0], column - near[1]),
            size=size,
            pixel_nm=pixel_nm,
        )
        add_stamp(fields[at], stamp, *near)
    return [
        Slice(depth_nm=at * thick, potential_v_nm=fields[at]) for at in sorted(fields)
    ]


def linear_contrast(
    layers: Sequence[Slice],
    *,
    lens: Lens,
    tilt: Tilt,
    pixel_nm: float,
    shape: tuple[int, int],
) -> NDArray[np.float32]:
    """The relative change of the intensity by a weak phase object, `(h, w)`.

    Each layer has the contrast transfer of its own defocus.
    """
    qy, qx = frequencies(shape, pixel_nm)
    chi = aberration(qy, qx, lens=lens, defocus=tilt.defocus)
    chi += lens.phase_plate_rad + np.arcsin(lens.amplitude_contrast)
    damping = envelope(qy, qx, lens=lens, defocus=tilt.defocus)
    fresnel = np.pi * wavelength_nm(lens.voltage_v) * (qy**2 + qx**2)
    total = np.zeros(chi.shape, np.complex64)
    phase = interaction_rad_per_v_nm(lens.voltage_v)
    for layer in layers:
        wave = scipy.fft.rfft2(layer.potential_v_nm)
        _transfer(
            wave, chi.astype(np.float32), fresnel, np.float32(layer.depth_nm), total
        )
    total *= (-2.0 * phase * damping).astype(np.float32)
    return np.asarray(scipy.fft.irfft2(total, s=shape), np.float32)


def multislice_contrast(
    layers: Sequence[Slice],
    *,
    lens: Lens,
    tilt: Tilt,
    pixel_nm: float,
    shape: tuple[int, int],
) -> NDArray[np.float32]:
    """The relative change of the intensity by a strong phase object, `(h, w)`.

    The wave takes the phase of a layer, travels to the next (Cowley & Moodie 1957),
    and from the sample's middle plane through the lens.
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
    return (np.abs(image) ** 2 - 1).astype(np.float32)


def electrons(
    contrast: NDArray[np.float32],
    *,
    tilt: Tilt,
    film: Film,
    scattering: Scattering,
    pixel_nm: float,
) -> NDArray[np.float32]:
    """Electrons that are expected in each pixel, `(h, w)`."""
    ice, carbon = paths(film, tilt, shape=contrast.shape, pixel_nm=pixel_nm)
    elastic = np.exp(
        -_lost(ice, scattering.ice_inelastic_nm)
        - _lost(carbon, scattering.carbon_inelastic_nm)
    )
    arriving = np.exp(
        -_lost(ice, scattering.ice_lost_nm) - _lost(carbon, scattering.carbon_lost_nm)
    )
    dose = np.float32(tilt.dose_per_nm2 * pixel_nm**2)
    background = np.float32(0) if scattering.energy_filter else 1 - elastic
    seen = dose * arriving * (elastic * (1 + contrast) + background)
    return np.asarray(np.maximum(seen, 0), np.float32)


def _lost(path: NDArray[np.float32], mean_free_path_nm: float) -> NDArray[np.float32]:
    return path / np.float32(mean_free_path_nm or np.inf)


@_jit
def _transfer(wave, chi, fresnel, depth, total):  # type: ignore[no-untyped-def]
    """Add a layer's waves, each turned by the phase of the layer's own defocus."""
    for row in range(wave.shape[0]):
        for column in range(wave.shape[1]):
            angle = chi[row, column] + fresnel[row, column] * depth
            total[row, column] += wave[row, column] * np.sin(angle)
