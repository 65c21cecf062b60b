"""Where a fit of the contrast transfer may begin: a table of correlations.

Smooth parts are taken out of data and model alike, so that the background needs no
model. The phase shift enters as cosine and sine of twice its size, so that the best one
for a defocus follows from two correlations and needs no search (Rohou & Grigorieff 2015
for the table, Mindell & Grigorieff 2003 for the equations).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from em_platform.cryoem.methods.ctf import Fit, Lens, Rings, Search, oscillation

Reals = NDArray[np.float64]

_BACKGROUND_DEGREE = 6
"""Of the polynomial of frequency that is taken out of data and model."""
_SECTORS = 20
STEP_A = 50.0
_LEAST_LEFT = 0.25
"""Of the power of its rings, what is added to that of a model without background."""
_ASTIGMATISMS = (200.0, 500.0, 1000.0, 2000.0)
_DECAYS_A2 = (0.0, 150.0, 500.0)
"""How fast rings may fade: a filter for weak rings must look where they are."""
_PEAKS = 3
"""Beginnings from each table."""


class Flat:
    """Takes smooth parts out of lines along the frequency, and weights them."""

    def __init__(self, frequency: Reals, root: Reals) -> None:
        """`root`: `(k,)`, roots of the weights."""
        k = frequency
        places = 2 * (k - k[0]) / (k[-1] - k[0]) - 1
        degree = min(_BACKGROUND_DEGREE, max(1, len(k) // 6))
        basis = np.polynomial.legendre.legvander(places, degree) * root[:, None]
        self._smooth = np.linalg.qr(basis)[0]
        self._root = root

    def of(self, lines: Reals) -> Reals:
        """The lines, `(..., k)`, with the weights and without smooth parts."""
        weighted = lines * self._root
        return np.asarray(weighted - (weighted @ self._smooth) @ self._smooth.T)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """Data and models without background, of one decay."""

    products: Reals
    """`(s, d, c)`, complex where the phase is free: sector, defocus."""
    norms: Reals
    """`(d, c, c)`."""
    spread: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Strips:
    """Correlations of many parts of an image with rings of any defocus, one decay."""

    products: Reals
    """`(t, s, d, c)`, of part, sector, defocus, complex where the phase is free."""
    norms: Reals
    """`(d, c, c)`."""
    powers: Reals
    """`(t,)`."""

    def at(self, steps: NDArray[np.int64], share: Reals, *, beyond: int) -> "_Table":
        """Their sum where each part is some `STEP_A` of defocus from the middle.

        Parameters
        ----------
        steps, share
            `(t,)`; steps go to `beyond`, by which the sum is shorter at both ends.
        """
        count = self.products.shape[2] - 2 * beyond
        total = np.zeros((self.products.shape[1], count, self.products.shape[3]))
        for part, step, weight in zip(self.products, steps, share, strict=True):
            first = beyond + int(step)
            total += weight * part[:, first : first + count]
        return _Table(
            products=total,
            norms=self.norms[beyond : beyond + count],
            spread=float(np.sqrt(max(float(share @ self.powers), 1e-30))),
        )


def beginnings(rings: Rings, lens: Lens, search: Search) -> list[Fit]:
    """Fits at the highest places of the tables of all decays."""
    inside = search.sees(rings.frequency)
    k = rings.frequency[inside]
    lines, angle = rings.directions(_SECTORS)
    # The ends are beyond the range by the largest astigmatism, and by that of strips.
    steps = np.round(rings.offset_a / STEP_A).astype(int)
    beyond = int(np.abs(steps).max())
    most = _ASTIGMATISMS[-1] / 2
    defocus = np.arange(
        search.min_defocus_a - most, search.max_defocus_a + most + STEP_A, STEP_A
    )
    found: list[Fit] = []
    for strips in tables(
        lines[..., inside], k, lens, search, blur=rings.blur[inside], beyond=beyond
    ):
        table = strips.at(steps, rings.share, beyond=beyond)
        found += _best_places(table, angle, defocus, search)
    return found


def tables(
    lines: Reals,
    k: Reals,
    lens: Lens,
    search: Search,
    *,
    blur: Reals,
    beyond: int,
) -> Iterator[Strips]:
    """Correlations for each decay, of defocus from beyond the search to beyond it.

    Parameters
    ----------
    lines
        `(t, s, k)`, logarithm of power.
    beyond
        Steps of defocus at each end, besides half of the largest astigmatism.
    """
    most = _ASTIGMATISMS[-1] / 2
    first = search.min_defocus_a - most
    count = len(np.arange(first, search.max_defocus_a + most + STEP_A, STEP_A))
    steps = np.arange(-beyond, count + beyond, dtype=np.float64)
    defocus: Reals = np.asarray(first + STEP_A * steps, np.float64)
    # -cos(2 chi + 2 shift) is a sum of these two, times cosine and sine of -2 shift.
    shifts = (0.0, 45.0) if search.phase_shift else (0.0,)
    models = blur * np.stack(
        [oscillation(k, defocus[:, None], lens, shift) for shift in shifts]
    )
    for decay in _DECAYS_A2:
        # A ring has the more pixels the larger it is.
        root = np.sqrt(k / k.max() * np.exp(-decay * k**2))
        yield _strips(lines, models, k, root)


def _strips(log_power: Reals, models: Reals, k: Reals, root: Reals) -> Strips:
    flat = Flat(k, root)
    data, model = flat.of(log_power), flat.of(models)
    norms = np.einsum("cdk,edk->dce", model, model)
    # Near focus little is left of the model without its smooth part: what noise makes
    # of that little must not outdo rings.
    whole = _LEAST_LEFT * ((models * root) ** 2).sum(2).mean(0)
    norms += whole[:, None, None] * np.eye(len(models))
    return Strips(
        products=np.einsum("tsk,cdk->tsdc", data, model, optimize=True),
        norms=norms,
        powers=(data**2).sum((1, 2)),
    )


def _best_places(
    table: _Table, angle: Reals, defocus: Reals, search: Search
) -> list[Fit]:
    """The highest local maxima along the mean defocus, over all astigmatisms."""
    middles = np.flatnonzero(
        (defocus >= search.min_defocus_a) & (defocus <= search.max_defocus_a)
    )
    sectors = np.arange(len(angle))[:, None]
    # Of round rings; those of astigmatic ones differ little.
    inverse = np.linalg.inv(table.norms[middles] * len(angle))
    tried = _astigmatisms(search)
    scores = np.empty((len(tried), len(middles)))
    sums = np.empty((len(tried), len(middles), table.products.shape[2]))
    for place, (size, azimuth) in enumerate(tried):
        off = size / 2 * np.cos(2 * (angle - np.deg2rad(azimuth)))
        steps = np.round(off / STEP_A).astype(int)
        near = np.clip(middles + steps[:, None], 0, len(defocus) - 1)
        sums[place] = table.products[sectors, near].sum(0)
        power = np.einsum("dc,dce,de->d", sums[place], inverse, sums[place])
        scores[place] = np.sqrt(power) * np.sign(
            1.0 if search.phase_shift else sums[place][:, 0]
        )
    best = scores.max(0)
    higher = np.r_[-np.inf, best[:-1]], np.r_[best[1:], -np.inf]
    peaks = np.flatnonzero((best >= higher[0]) & (best > higher[1]))
    found = []
    for peak in peaks[np.argsort(best[peaks])[-_PEAKS:]]:
        which = int(np.argmax(scores[:, peak]))
        parts = inverse[peak] @ sums[which, peak]
        turned = np.arctan2(parts[1], parts[0]) / 2 if len(parts) > 1 else 0.0
        size, azimuth = tried[which]
        middle = float(defocus[middles[peak]])
        found.append(
            Fit(
                defocus_u_a=middle + size / 2,
                defocus_v_a=middle - size / 2,
                azimuth_deg=azimuth,
                phase_shift_deg=float(np.rad2deg(turned)) % 180,
                score=float(best[peak]) / table.spread,
            )
        )
    return found


def _astigmatisms(search: Search) -> list[tuple[float, float]]:
    if search.known_astigmatism_a is not None:
        return [(search.known_astigmatism_a, search.known_azimuth_deg)]
    return [(0.0, 0.0)] + [
        (size, float(azimuth))
        for size in _ASTIGMATISMS
        for azimuth in np.arange(0, 180, 15)
    ]
