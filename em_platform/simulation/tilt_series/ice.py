"""What ice and dose do to an image: the grain of the water, and fading detail."""

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
    wavelength_nm,
)

_MOLECULES_PER_NM3 = 31.1
"""Of amorphous ice of 0.93 g/cm^3."""

_WATER_V_NM3 = 0.1455
"""Potential of one molecule, summed over its volume: 47.88 V A^2 times 3.04 A, the sum
of the scattering lengths of O and 2 H at small angles (Peng et al. 1996)."""

_WATER_B_NM2 = 0.09
"""Fall-off of its scattering, exp(-B q^2 / 4), over the frequencies of a camera."""

# Structure factor of amorphous ice: nearly incompressible (0.06), its first ring at
# 1/0.37 nm. Heights read from curves of Mariedahl et al., J. Phys. Chem. B 122 (2018).
_COMPRESSIBILITY, _RING_PER_NM, _RING_WIDTH, _RING_HEIGHT = 0.06, 2.7, 0.4, 0.8

_CRITICAL_A, _CRITICAL_B, _CRITICAL_C = 0.245, -1.665, 2.81
"""Critical dose, e/A^2, at q in 1/A: a q^b + c at 300 kV (Grant & Grigorieff 2015)."""

_DOSE_AT_200_KV = 0.8
"""Of the critical dose, at 200 kV and less (same source)."""


def grain(
    shape: tuple[int, int],
    *,
    lens: Lens,
    tilt: Tilt,
    thickness_nm: float,
    pixel_nm: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """The relative change of the intensity by the water's molecules, `(h, w)`.

    Water moves by more than a molecule while it is exposed (McMullan et al. 2015), so
    each exposure has a grain of its own. It lies all over the thickness: the mean of
    the squared contrast transfer over all depths draws the Thon rings.
    """
    qy, qx = frequencies(shape, pixel_nm)
    square = qy.astype(np.float64) ** 2 + qx.astype(np.float64) ** 2
    chi = aberration(qy, qx, lens=lens, defocus=tilt.defocus)
    chi += lens.phase_plate_rad + np.arcsin(lens.amplitude_contrast)
    blurred = np.sinc(wavelength_nm(lens.voltage_v) * square * thickness_nm)
    transfer = 2 * (1 - np.cos(2 * chi) * blurred)  # mean of (2 sin)^2
    damping = envelope(qy, qx, lens=lens, defocus=tilt.defocus)
    phase = interaction_rad_per_v_nm(lens.voltage_v) * _WATER_V_NM3
    scattered = (phase * np.exp(-_WATER_B_NM2 * square / 4)) ** 2
    power = scattered * _MOLECULES_PER_NM3 * thickness_nm * _structure(np.sqrt(square))
    # White noise of variance 1 in each pixel has a power of one pixel's area.
    amplitude = np.sqrt(power * transfer) * damping / pixel_nm
    white = scipy.fft.rfft2(rng.standard_normal(shape, dtype=np.float32))
    white *= amplitude.astype(np.float32)
    return np.asarray(scipy.fft.irfft2(white, s=shape), np.float32)


def faded(
    contrast: NDArray[np.float32], *, lens: Lens, tilt: Tilt, pixel_nm: float
) -> NDArray[np.float32]:
    """Contrast of particles after the dose before, and during half of, a tilt."""
    qy, qx = frequencies(contrast.shape, pixel_nm)
    q_per_a = np.sqrt(qy**2 + qx**2) / 10
    with np.errstate(divide="ignore"):  # at q = 0 nothing fades
        critical = _CRITICAL_A * q_per_a**_CRITICAL_B + _CRITICAL_C
    if lens.voltage_v <= 200_000:
        critical *= _DOSE_AT_200_KV
    dose_per_a2 = (tilt.prior_dose_per_nm2 + tilt.dose_per_nm2 / 2) / 100
    kept = np.exp(-dose_per_a2 / (2 * critical)).astype(np.float32)
    transform = scipy.fft.rfft2(contrast) * kept
    return np.asarray(scipy.fft.irfft2(transform, s=contrast.shape), np.float32)


def _structure(q_per_nm: NDArray[np.float64]) -> NDArray[np.float64]:
    order = 1 - np.exp(-((q_per_nm / (0.8 * _RING_PER_NM)) ** 4))
    ring = np.exp(-(((q_per_nm - _RING_PER_NM) / _RING_WIDTH) ** 2))
    rise = (1 - _COMPRESSIBILITY) * order
    return _COMPRESSIBILITY + rise + _RING_HEIGHT * ring
