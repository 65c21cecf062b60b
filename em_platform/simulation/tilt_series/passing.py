"""How many electrons reach each pixel: contrast, ice and carbon, the dose."""

from dataclasses import replace

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from em_platform.simulation.tilt_series.geometry import Film, Tilt, is_even, paths
from em_platform.simulation.tilt_series.radial import multiply, radial_frequencies
from em_platform.simulation.tilt_series.scattering import (
    CARBON,
    Loss,
    Substance,
    total_per_nm,
)

_STEP_NM = 25.0
"""Of path between two images that are mixed where the path is not even: the loss of
contrast between them is straight to 1 %."""


def mean_path_nm(
    film: Film,
    tilt: Tilt,
    *,
    shape: tuple[int, int],
    pixel_nm: float,
    voltage_v: float,
    substance: Substance,
) -> NDArray[np.float32]:
    """The path of each pixel's electrons in ice, `(h, w)` or `(1, 1)` if all are equal.

    Carbon counts as so much ice as scatters as often.
    """
    if is_even(film, tilt, shape=shape, pixel_nm=pixel_nm):
        even, _ = paths(replace(film, hole_nm=0), tilt, shape=(1, 1), pixel_nm=pixel_nm)
        return even
    ice, carbon = paths(film, tilt, shape=shape, pixel_nm=pixel_nm)
    in_carbon, in_ice = (
        total_per_nm(each, voltage_v=voltage_v) for each in (CARBON, substance)
    )
    return ice + carbon * np.float32(in_carbon / in_ice)


def transmission(path_nm: NDArray[np.float32], ice: Loss) -> float:
    """The share of the electrons that arrives, over all pixels."""
    return float(np.exp(-path_nm.astype(np.float64) * ice.per_nm[0]).mean())


def electrons(
    contrast: NDArray[np.complex64],
    path_nm: NDArray[np.float32],
    *,
    shape: tuple[int, int],
    tilt: Tilt,
    ice: Loss,
    pixel_nm: float,
) -> NDArray[np.float32]:
    """Electrons that are expected in each pixel, `(h, w)`.

    Parameters
    ----------
    contrast
        `rfft2` of the relative change of the intensity, without losses.
    path_nm
        Of `mean_path_nm`.
    """
    defocus = (tilt.defocus.u_nm + tilt.defocus.v_nm) / 2
    lost = ice.at(radial_frequencies(pixel_nm), defocus)
    dose = np.float32(tilt.dose_per_nm2 * pixel_nm**2)
    least, most = float(path_nm.min()), float(path_nm.max())
    count = 1 + int(np.ceil((most - least) / _STEP_NM))
    levels = np.linspace(least, most, count)
    seen = np.zeros(shape, np.float32)
    for number, level in enumerate(levels.tolist()):
        spectrum = contrast.copy() if number + 1 < count else contrast
        # From the contrast without losses to electrons: 1 + contrast at each pixel.
        spectrum[0, 0] += shape[0] * shape[1]
        multiply(spectrum, np.exp(-level * lost), shape=shape, pixel_nm=pixel_nm)
        image = scipy.fft.irfft2(spectrum, s=shape, overwrite_x=True)
        if count > 1:
            step = levels[1] - levels[0]
            image *= np.maximum(1 - np.abs(path_nm - level) / step, 0)
        seen += image
    return np.asarray(np.maximum(seen * dose, 0), np.float32)
