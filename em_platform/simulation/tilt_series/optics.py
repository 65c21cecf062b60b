"""What the objective lens does to a wave: contrast transfer and its envelopes.

Equations: Reimer & Kohl, Transmission Electron Microscopy (2008), chapters 2 and 6;
Rullgård et al., J. Microsc. 243, 234 (2011), for the envelopes.
Lengths are nm, spatial frequencies 1/nm, angles radians, voltages V.
"""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

ELECTRON_REST_EV = 510_998.95
"""m c^2 of the electron (CODATA 2018)."""

_HC_EV_NM = 1_239.841_984
"""Planck's constant times the speed of light (CODATA 2018)."""


def wavelength_nm(voltage_v: float) -> float:
    """The relativistic wavelength of electrons, nm: 0.001969 at 300 kV."""
    return _HC_EV_NM / float(np.sqrt(voltage_v * (voltage_v + 2 * ELECTRON_REST_EV)))


def interaction_rad_per_v_nm(voltage_v: float) -> float:
    """Phase shift per projected potential, rad/(V nm): 0.00653 at 300 kV."""
    relativistic = (ELECTRON_REST_EV + voltage_v) / (2 * ELECTRON_REST_EV + voltage_v)
    return 2 * np.pi / (wavelength_nm(voltage_v) * voltage_v) * relativistic


@dataclass(frozen=True, slots=True, kw_only=True)
class Lens:
    """The objective lens, its aperture and the beam that comes into it."""

    voltage_v: float = 300_000.0
    energy_spread_ev: float = 0.7
    spherical_nm: float = 2.7e6
    chromatic_nm: float = 2.7e6
    convergence_rad: float = 5e-5
    aperture_rad: float = 0.0
    """Half of the opening angle; 0: no aperture."""
    phase_plate_rad: float = 0.0
    amplitude_contrast: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Defocus:
    """Underfocus is positive; `u` along `azimuth_rad` from the x axis, `v` across."""

    u_nm: float
    v_nm: float
    azimuth_rad: float = 0.0

    def at_depth(self, downstream_nm: float) -> "Defocus":
        """The defocus of a plane `downstream_nm` further along the beam.

        An underfocused lens looks at a plane before the specimen, so what lies further
        along the beam is more underfocused.
        """
        return Defocus(
            u_nm=self.u_nm + downstream_nm,
            v_nm=self.v_nm + downstream_nm,
            azimuth_rad=self.azimuth_rad,
        )


def frequencies(
    shape: tuple[int, int], pixel_nm: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`(qy, qx)` of `rfft2`, 1/nm; shapes `(h, 1)` and `(1, w // 2 + 1)`."""
    height, width = shape
    qy = np.fft.fftfreq(height, pixel_nm).astype(np.float32)[:, None]
    qx = np.fft.rfftfreq(width, pixel_nm).astype(np.float32)[None, :]
    return qy, qx


def aberration(
    qy: NDArray[np.floating[Any]],
    qx: NDArray[np.floating[Any]],
    *,
    lens: Lens,
    defocus: Defocus,
) -> NDArray[np.float64]:
    """The phase chi that the lens adds to each spatial frequency, rad.

    chi = pi lambda q^2 df(azimuth) - pi/2 Cs lambda^3 q^4: underfocus is positive.
    """
    wave = wavelength_nm(lens.voltage_v)
    square = qy.astype(np.float64) ** 2 + qx.astype(np.float64) ** 2
    mean = (defocus.u_nm + defocus.v_nm) / 2
    half = (defocus.u_nm - defocus.v_nm) / 2
    focused = mean * square
    if half:
        # q^2 cos(2 (azimuth of q - azimuth)) without an arctangent
        cosine, sine = np.cos(2 * defocus.azimuth_rad), np.sin(2 * defocus.azimuth_rad)
        focused = focused + half * (
            (qx.astype(np.float64) ** 2 - qy.astype(np.float64) ** 2) * cosine
            + 2.0 * qx * qy * sine
        )
    chi = np.pi * wave * focused
    chi -= np.pi / 2 * lens.spherical_nm * wave**3 * square**2
    return chi


def phase_terms(
    lens: Lens, defocus: Defocus
) -> tuple[float, float, float, float, float]:
    """What `phase_at` needs: chi and the shifts of phase plate and amplitude contrast.

    In the order of its terms: q^2, qx^2 - qy^2, 2 qx qy, q^4, 1.
    """
    wave = wavelength_nm(lens.voltage_v)
    mean = np.pi * wave * (defocus.u_nm + defocus.v_nm) / 2
    half = np.pi * wave * (defocus.u_nm - defocus.v_nm) / 2
    return (
        float(mean),
        float(half * np.cos(2 * defocus.azimuth_rad)),
        float(half * np.sin(2 * defocus.azimuth_rad)),
        float(-np.pi / 2 * lens.spherical_nm * wave**3),
        lens.phase_plate_rad + float(np.arcsin(lens.amplitude_contrast)),
    )


@numba.njit(nogil=True, cache=True, inline="always")
def phase_at(qy, qx, terms):  # type: ignore[no-untyped-def]
    """`aberration` and the shifts of one frequency, rad, for other kernels."""
    y, x = float(qy) * qy, float(qx) * qx
    square = y + x
    turned = terms[1] * (x - y) + terms[2] * 2.0 * qx * qy
    return square * (terms[0] + terms[3] * square) + turned + terms[4]


def envelope(
    qy: NDArray[np.floating[Any]],
    qx: NDArray[np.floating[Any]],
    *,
    lens: Lens,
    defocus: Defocus,
) -> NDArray[np.float64]:
    """What is left of the contrast for a beam of some width in angle and in energy.

    Spatial: exp(-(pi a (Cs lambda^2 q^3 - df q))^2); temporal:
    exp(-(pi lambda Cc dE/E q^2)^2 / 2) with dE as a standard deviation; zero beyond
    the aperture.
    """
    wave = wavelength_nm(lens.voltage_v)
    square = qy.astype(np.float64) ** 2 + qx.astype(np.float64) ** 2
    q = np.sqrt(square)
    mean = (defocus.u_nm + defocus.v_nm) / 2
    slope = lens.spherical_nm * wave**2 * q * square - mean * q
    spread = lens.chromatic_nm * _energy_factor(lens) * wave
    damping = np.exp(
        -((np.pi * lens.convergence_rad * slope) ** 2)
        - (np.pi * spread * square) ** 2 / 2
    )
    if lens.aperture_rad:
        damping[q * wave > lens.aperture_rad] = 0.0
    return damping


def contrast_transfer(
    qy: NDArray[np.floating[Any]],
    qx: NDArray[np.floating[Any]],
    *,
    lens: Lens,
    defocus: Defocus,
) -> NDArray[np.float32]:
    """How a weak phase shift becomes intensity: -2 sin(chi + ...) with envelopes.

    Multiply the Fourier transform of the projected phase (rad) by this: the result is
    the relative change of the intensity. Underfocused protein is dark at low
    frequencies, as the sign says.
    """
    shift = lens.phase_plate_rad + float(np.arcsin(lens.amplitude_contrast))
    chi = aberration(qy, qx, lens=lens, defocus=defocus) + shift
    damped = -2.0 * np.sin(chi) * envelope(qy, qx, lens=lens, defocus=defocus)
    return damped.astype(np.float32)


def _energy_factor(lens: Lens) -> float:
    """dE/E with its relativistic factor (Reimer & Kohl, equation 2.13)."""
    e = lens.voltage_v
    factor = (1 + e / ELECTRON_REST_EV) / (1 + e / (2 * ELECTRON_REST_EV))
    return factor * lens.energy_spread_ev / e
