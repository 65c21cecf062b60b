"""What ice and carbon do to the electrons that only pass: they lose and blur contrast.

An electron that is scattered in the ice arrives elsewhere, by its angle times the
defocus, or does not arrive at all if the aperture or the energy filter stops it. Over a
path of length t the spectrum of the image is multiplied by exp(-t mu(q)), where mu is
what is lost per nm of path: mu(0) of the electrons, mu(infinity) of all contrast
(Rullgård et al., J. Microsc. 243, 234 (2011), section 3.5).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import j0

from em_platform.simulation.tilt_series.optics import ELECTRON_REST_EV, wavelength_nm

_BOHR_NM = 0.052_917_721

_ENERGY_LOSS_EV = 13.5 / 2
"""Mean energy loss a unit of charge: half of the ionisation energy of hydrogen."""

_ANGLES = 3000  # from far below the angles of energy loss up to the widest
_LEAST_RAD, _WIDEST_RAD = 1e-7, 0.2
_PLACES = 400  # of mu over q times defocus; it falls with their logarithm


@dataclass(frozen=True, slots=True, kw_only=True)
class Substance:
    """Atoms in a nm^3, by their charge."""

    atoms: tuple[tuple[int, float], ...]


_MOLECULES_PER_NM3 = 33.43
"""Of water of 1 g/cm^3."""


def water_per_nm3(density_g_per_cm3: float) -> float:
    """Molecules in a nm^3 of ice."""
    return _MOLECULES_PER_NM3 * density_g_per_cm3


def ice_of(density_g_per_cm3: float) -> Substance:
    """Amorphous ice of some density."""
    water = water_per_nm3(density_g_per_cm3)
    return Substance(atoms=((8, water), (1, 2 * water)))


# Evaporated films have about 2.0 g/cm^3.
CARBON = Substance(atoms=((6, 100.3),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What is lost of an image a nm of path, over frequency times defocus."""

    place: NDArray[np.float64]
    """`(n,)` q times defocus, rising from 0."""
    per_nm: NDArray[np.float64]
    """`(n,)`; at place 0: of the electrons themselves."""

    def at(
        self, q_per_nm: NDArray[np.float64], defocus_nm: float
    ) -> NDArray[np.float64]:
        """mu(q) at a defocus, 1/nm; the shape of `q_per_nm`."""
        return np.interp(q_per_nm * abs(defocus_nm), self.place, self.per_nm)


@lru_cache(maxsize=16)
def loss(
    substance: Substance,
    *,
    voltage_v: float,
    aperture_rad: float,
    energy_filter: bool,
    inelastic_nm: float,
    widest_place: float,
) -> Loss:
    """How a substance takes contrast and electrons away.

    Parameters
    ----------
    aperture_rad
        Half of the opening angle; 0: none.
    energy_filter
        Whether electrons that lost energy are stopped.
    inelastic_nm
        Mean free path of an electron between losses of energy, for one that was
        measured; 0: by the cross sections.
    widest_place
        The largest frequency times the largest defocus, 1/rad.
    """
    angle = np.geomspace(_LEAST_RAD, aperture_rad or _WIDEST_RAD, _ANGLES)
    every = np.geomspace(_LEAST_RAD, _WIDEST_RAD, _ANGLES)
    elastic, inelastic = differential(substance, angle, voltage_v=voltage_v)
    all_elastic, all_inelastic = (
        _around(every, each)
        for each in differential(substance, every, voltage_v=voltage_v)
    )
    scale = 1 / (inelastic_nm * all_inelastic) if inelastic_nm else 1.0
    # What goes on to the camera, at an angle.
    onward = elastic + (0 if energy_filter else scale) * inelastic
    place = np.concatenate([[0.0], np.geomspace(1e-2, max(widest_place, 1), _PLACES)])
    waves = j0(2 * np.pi * place[:, None] * angle[None, :])
    arriving = _around(angle, waves * onward)
    return Loss(place=place, per_nm=all_elastic + scale * all_inelastic - arriving)


def total_per_nm(substance: Substance, *, voltage_v: float) -> float:
    """Scattering events of an electron a nm of path: 1 / the mean free path."""
    angle = np.geomspace(_LEAST_RAD, _WIDEST_RAD, _ANGLES)
    elastic, inelastic = differential(substance, angle, voltage_v=voltage_v)
    return float(_around(angle, elastic + inelastic))


def differential(
    substance: Substance, angle: NDArray[np.float64], *, voltage_v: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Elastic and inelastic scattering a nm of path and steradian, at some angles, rad.

    Atoms of Wentzel and Lenz (Reimer & Kohl 2008, sections 5.1.3 and 5.2.2): screened
    charges, whose electrons scatter forward, within the angle of the energy loss.
    """
    wave = wavelength_nm(voltage_v)
    k = 2 * np.pi / wave
    mass = 1 + voltage_v / ELECTRON_REST_EV
    elastic = np.zeros_like(angle)
    inelastic = np.zeros_like(angle)
    for charge, density in substance.atoms:
        screening = charge ** (1 / 3) / (k * _BOHR_NM)  # rad
        loss_angle = _ENERGY_LOSS_EV * charge / (2 * voltage_v)  # rad
        inside = 1 + (angle / screening) ** 2
        amplitude = _BOHR_NM * mass / inside
        elastic += density * 4 * charge ** (2 / 3) * amplitude**2
        momentum = mass / (k**2 * _BOHR_NM * (angle**2 + loss_angle**2))
        inelastic += density * 4 * charge * momentum**2 * (1 - 1 / inside**2)
    return elastic, inelastic


def _around(angle: NDArray[np.float64], per_steradian: NDArray[np.float64]) -> Any:
    """Integral over the solid angle up to the last angle, along the last axis."""
    return 2 * np.pi * np.trapezoid(per_steradian * angle, angle, axis=-1)
