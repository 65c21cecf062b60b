"""How far the rings of a micrograph reach, and what else lies along its spectrum."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from em_platform.cryoem.methods.ctf import (
    Fit,
    Lens,
    Rings,
    oscillation,
    phase,
    same_phase,
)

Reals = NDArray[np.float64]

ICE_RING = 0.25, 0.28
"""Per Å: hexagonal and cubic ice have rings at 3.9, 3.7 and 3.5 Å."""
_GOOD = 0.5
_LEAST_BINS = 4.0
_IN_NOISE = 1.3
"""Twice the deviation of the correlation in noise, times the root of the bins of its
window: 1.0 to 1.6 on white noise of 512^2 to 2048^2 and defocus of 0.8 to 4 um."""
_SMOOTH_DEGREE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Along the frequency, `(k,)` each: what the micrograph and its fit have."""

    frequency: Reals
    """Per Å, to Nyquist."""
    average: Reals
    """Mean over all directions, log amplitude without background."""
    along_rings: Reals
    """The same, along equal phases of the astigmatic rings."""
    model: Reals
    """Squared contrast transfer, 0 to 1."""
    quality: Reals
    """Correlation of the rings with the model near a frequency, -1 to 1."""
    noise: float
    """Twice the standard deviation that it has in noise."""


def profile_of(rings: Rings, lens: Lens, fit: Fit) -> Profile:
    """What lies along the spectrum of a fitted micrograph; of strips see `levelled`."""
    k = rings.frequency
    middle = (fit.defocus_u_a + fit.defocus_v_a) / 2
    model = oscillation(k, middle, lens, fit.phase_shift_deg, fit.thickness_a)
    model *= rings.blur
    lines = rings.log_power[0]
    equal = _along_rings(k, lines, _defocus_along(rings.angle, fit), lens, fit)
    return Profile(
        frequency=k,
        average=_without_background(k, lines.mean(0) / 2),
        along_rings=_without_background(k, equal / 2),
        model=(model + 1) / 2,
        quality=_local_correlation(k, equal, model, middle, lens),
        noise=_IN_NOISE / float(np.sqrt(_window_bins(k, middle, lens))),
    )


def fit_resolution_a(profile: Profile, fit: Fit, *, min_res_a: float) -> float:
    """Finest distance in Å to which the rings follow the model; else `min_res_a`.

    From the first frequency at which the local correlation is above 0.5 to where it is
    below for longer than a tenth of the way so far. A correlation of 0.5 says that a
    quarter of the variance there is that of the rings. Noise correlates by chance, so
    that only frequencies within the reach of the rings count.
    """
    k = profile.frequency
    inside = (k >= 1 / min_res_a) & (k <= fit.reach)
    is_good = (profile.quality > _GOOD) & inside
    places = np.flatnonzero(is_good)
    if not len(places):
        return min_res_a
    last = places[0]
    for place in places[1:]:
        if k[place] > 1.1 * k[last] and place - last > _LEAST_BINS:
            break
        last = place
    return float(1 / k[last])


def ice_ring_density(profile: Profile) -> float | None:
    """Sum of the average's size between 0.25 and 0.28 per Å; None beyond Nyquist."""
    inside = (profile.frequency > ICE_RING[0]) & (profile.frequency < ICE_RING[1])
    if profile.frequency[-1] < ICE_RING[1]:
        return None
    return float(np.abs(profile.average[inside]).sum())


def _defocus_along(angle: Reals, fit: Fit) -> Reals:
    middle = (fit.defocus_u_a + fit.defocus_v_a) / 2
    half = (fit.defocus_u_a - fit.defocus_v_a) / 2
    return np.asarray(middle + half * np.cos(2 * (angle - np.deg2rad(fit.azimuth_deg))))


def _along_rings(
    k: Reals, lines: Reals, defocus_a: Reals, lens: Lens, fit: Fit
) -> Reals:
    """Mean of all directions, each stretched so that its rings are round."""
    middle = (fit.defocus_u_a + fit.defocus_v_a) / 2
    shift = fit.phase_shift_deg
    total = np.zeros_like(k)
    for own, line in zip(defocus_a, lines, strict=True):
        places = same_phase(k, middle, float(own), lens, shift)
        total += np.interp(places, k, line)
    return total / len(lines)


def _window_bins(k: Reals, defocus_a: float, lens: Lens) -> float:
    """Bins of a window that has about two rings in the middle of the range."""
    # Mean distance of rings over the lower two thirds, where most of them are seen.
    far = k[2 * len(k) // 3]
    turns = phase(np.array([k[0], far]), defocus_a, lens, 0.0) / np.pi
    rings = max(1.0, abs(float(turns[1] - turns[0])))
    return max(_LEAST_BINS, 0.6 * len(k) / rings)


def _local_correlation(
    k: Reals, line: Reals, model: Reals, defocus_a: float, lens: Lens
) -> Reals:
    """Pearson's correlation under a Gaussian window, both without background."""
    width = _window_bins(k, defocus_a, lens)
    data, model = _without_background(k, line), _without_background(k, model)

    def mean(values: Reals) -> Reals:
        return np.asarray(gaussian_filter1d(values, width))

    product = mean(data * model) - mean(data) * mean(model)
    spread = (mean(data**2) - mean(data) ** 2) * (mean(model**2) - mean(model) ** 2)
    return np.asarray(product / np.sqrt(np.maximum(spread, 1e-20)))


def _without_background(k: Reals, line: Reals) -> Reals:
    """A line less a smooth one, to which ice has nothing to say."""
    places = 2 * (k - k[0]) / (k[-1] - k[0]) - 1
    outside = (k < ICE_RING[0] - 0.005) | (k > ICE_RING[1] + 0.005)
    # 1 / k takes in the steep beginning.
    basis = np.column_stack(
        [np.polynomial.legendre.legvander(places, _SMOOTH_DEGREE), k[0] / k]
    )
    found = np.linalg.lstsq(basis[outside], line[outside], rcond=None)[0]
    return np.asarray(line - basis @ found)
