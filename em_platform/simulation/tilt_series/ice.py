"""What ice and dose do to an image: the grain of the water, and fading detail."""

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
    molecules_per_nm3: float,
    pixel_nm: float,
    rng: np.random.Generator,
) -> NDArray[np.complex64]:
    """Spectrum of the relative change of the intensity by the water's molecules.

    Water moves by more than a molecule while it is exposed (McMullan et al. 2015), so
    each exposure has a grain of its own. It is all over the thickness: the mean of
    the squared contrast transfer over all depths draws the Thon rings.
    """
    white = scipy.fft.rfft2(rng.standard_normal(shape, dtype=np.float32))
    qy, qx = (each.ravel() for each in frequencies(shape, pixel_nm))
    blur = wavelength_nm(lens.voltage_v) * thickness_nm
    _draw_rings(white, qy, qx, phase_terms(lens, tilt.defocus), np.pi * blur)
    q = radial_frequencies(pixel_nm)
    phase = interaction_rad_per_v_nm(lens.voltage_v) * _WATER_V_NM3
    scattered = (phase * np.exp(-_WATER_B_NM2 * q**2 / 4)) ** 2
    power = scattered * molecules_per_nm3 * thickness_nm * _structure(q)
    damping = envelope(q, np.zeros(1), lens=lens, defocus=tilt.defocus)
    # White noise of variance 1 in each pixel has a power of one pixel's area.
    amplitude = np.sqrt(power) * damping / pixel_nm
    multiply(white, amplitude, shape=shape, pixel_nm=pixel_nm)
    return np.asarray(white, np.complex64)


def fading(
    q_per_nm: NDArray[np.float64], *, voltage_v: float, tilt: Tilt
) -> NDArray[np.float64]:
    """What is left of particles after the dose before, and during half of, a tilt."""
    with np.errstate(divide="ignore"):  # at q = 0 nothing fades
        critical = _CRITICAL_A * (q_per_nm / 10) ** _CRITICAL_B + _CRITICAL_C
    if voltage_v <= 200_000:
        critical *= _DOSE_AT_200_KV
    dose_per_a2 = (tilt.prior_dose_per_nm2 + tilt.dose_per_nm2 / 2) / 100
    return np.exp(-dose_per_a2 / (2 * critical))


def _structure(q_per_nm: NDArray[np.float64]) -> NDArray[np.float64]:
    order = 1 - np.exp(-((q_per_nm / (0.8 * _RING_PER_NM)) ** 4))
    ring = np.exp(-(((q_per_nm - _RING_PER_NM) / _RING_WIDTH) ** 2))
    rise = (1 - _COMPRESSIBILITY) * order
    return _COMPRESSIBILITY + rise + _RING_HEIGHT * ring


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _draw_rings(white, qy, qx, terms, blur):  # type: ignore[no-untyped-def]
    """Multiply by the root of the mean over all depths of (2 sin chi)^2."""
    for row in range(white.shape[0]):
        for column in range(white.shape[1]):
            turn = blur * (qy[row] * qy[row] + qx[column] * qx[column])
            depths = np.sin(turn) / turn if turn > 1e-6 else 1.0
            chi = phase_at(qy[row], qx[column], terms)
            mean = 2.0 * (1.0 - np.cos(2.0 * chi) * depths)
            white[row, column] *= np.float32(np.sqrt(max(mean, 0.0)))
