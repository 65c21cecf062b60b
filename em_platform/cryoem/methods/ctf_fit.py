"""The contrast transfer that makes the rings of a micrograph likeliest.

The logarithm of the power is a smooth background and, on it, rings of a smooth
strength: `log(background) + log(1 + strength * contrast**2)`. All of it is fitted at
once by Fisher scoring with Levenberg's damping, from several beginnings, since defocus
and phase shift explain each other and rings can be counted wrongly. The likeliest
counts, not the one that looks best after a background was taken out.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from em_platform.cryoem.methods.ctf import (
    Fit,
    Lens,
    Rings,
    Search,
    fading,
    levelled,
    oscillation,
    phase,
    thinning,
)
from em_platform.cryoem.methods.ctf_search import Flat, beginnings

Reals = NDArray[np.float64]

_SECTORS = 30
"""Directions of the fit, each the mean of two of the rings'."""
_STRIP_SECTORS = 12
"""The same where there are strips: few, as time grows with both."""
_BACKGROUND = np.array([0.0, 0.2, 2.0, 4.0, 8.0, 12.0, 18.0])
"""One over the deviation that is expected of each order of the background."""
_STRENGTH = np.array([0.1, 0.25, 0.5, 1.0])
"""The same of the logarithm of the rings' strength, orders of squared frequency."""
_FIRST_ROUNDS = 6
_KEPT = 3
_ROUNDS = 30
_ENOUGH = 1e-3
"""Of the logarithm of likelihood: a step that wins less is the last."""
_AMPLITUDES = 0.005, 3.0
"""What rings may have at the beginning, in the logarithm of power."""
_OPTICS = 5
"""Parameters before those of background and strength: mean defocus, astigmatism along
and across, phase shift, thickness."""
_THICKNESSES_A = np.arange(400.0, 4001.0, 300.0)
"""Where fits of the thickness begin."""
_BETTER = 10.0
"""Twice the logarithm of likelihood that a thickness must win, to be one."""
_IN_NOISE = 30.0
"""The same that a search wins in images without any rings: one of hundreds wins more,
whatever their size (`python -m benchmarks ctf --only noise`)."""
_IN_NOISE_BEYOND = 2.0
"""The same of the finest frequencies, where rings have their strength to be fitted: as
much as a parameter must win to be one (Akaike 1974)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cells:
    """What is fitted: `(t, s, k)` values of the logarithm of power."""

    log_power: Reals
    frequency: Reals
    angle: Reals
    root: Reals
    """`(k,)`, root of how many independent values are in a cell of all strips."""
    share: Reals
    """`(t, 1, 1)`, root of a strip's share of them."""
    offset_a: Reals
    """`(t, 1, 1)`, defocus of a strip less that of the middle."""
    blur: Reals
    """`(k,)`, what a tilt leaves of the rings."""
    lens: Lens
    background: Reals
    """`(k, n)`, polynomials."""
    strength: Reals
    """`(k, m)`, polynomials of squared frequency."""
    is_free: NDArray[np.bool_]
    """`(p,)`, which parameters move."""
    prior: Reals
    """`(p,)`, one over the variance that is expected of a parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """Parameters with what they give."""

    values: Reals
    cost: float
    rest: Reals
    """`(t, s, k)`, what is left, in its standard deviations."""
    slopes: Reals
    """`(p, t, s, k)`, of the model."""


def fit_rings(rings: Rings, lens: Lens, search: Search) -> Fit:
    """The likeliest contrast transfer."""
    cells = _cells(rings, lens, search)
    # Threads of BLAS wait for each other longer than these small matrices take.
    with threadpool_limits(1, user_api="blas"):
        best = _likeliest(cells, search, beginnings(rings, lens, search))
        level = _cells(levelled(rings, lens, float(best.values[0])), lens, search)
        return _fit_of(cells, best, level)


def fit_thickness(rings: Rings, lens: Lens, search: Search, *, begin: Fit) -> Fit:
    """The fit with the specimen's thickness, or `begin` where none makes it likelier.

    A thick specimen has a node where its rings vanish, and beyond it they are inverted:
    `search` is to reach beyond.
    """
    thin = _cells(rings, lens, search)
    thick = _cells(rings, lens, replace(search, thickness=True))
    begun = [replace(begin, thickness_a=float(each)) for each in _THICKNESSES_A]
    with threadpool_limits(1, user_api="blas"):
        without = _likeliest(thin, search, [begin])
        best = _likeliest(thick, search, begun)
        if without.cost - best.cost < _BETTER:
            return begin
        level = levelled(rings, lens, float(best.values[0]))
        return _fit_of(thick, best, _cells(level, lens, search))


def _likeliest(cells: _Cells, search: Search, begun: list[Fit]) -> _State:
    found = [
        _refined(cells, search, _state(cells, _begin(cells, each)), _FIRST_ROUNDS)
        for each in begun
    ]
    # What is far from the best needs no more rounds.
    best = [
        _refined(cells, search, state, _ROUNDS)
        for state in sorted(found, key=lambda state: state.cost)[:_KEPT]
    ]
    return min(best, key=lambda state: state.cost)


def _cells(rings: Rings, lens: Lens, search: Search) -> _Cells:
    inside = search.sees(rings.frequency)
    k = rings.frequency[inside]
    sectors = _SECTORS if len(rings.share) == 1 else _STRIP_SECTORS
    lines, angle = rings.directions(sectors)
    prior = np.r_[np.zeros(_OPTICS), _BACKGROUND**2, _STRENGTH**2]
    is_free = np.ones(len(prior), bool)
    is_free[1:3] = search.known_astigmatism_a is None
    is_free[3], is_free[4] = search.phase_shift, search.thickness
    return _Cells(
        log_power=lines[..., inside],
        frequency=k,
        angle=angle,
        root=np.sqrt(rings.samples[inside] / sectors),
        share=np.sqrt(rings.share)[:, None, None],
        offset_a=rings.offset_a[:, None, None],
        blur=rings.blur[inside],
        lens=lens,
        background=_polynomials(k, len(_BACKGROUND)),
        strength=_polynomials(k**2, len(_STRENGTH)),
        is_free=is_free,
        prior=prior,
    )


def _polynomials(values: Reals, count: int) -> Reals:
    """Legendre's, over the values stretched to -1 to 1, `(k, count)`."""
    places = 2 * (values - values[0]) / (values[-1] - values[0]) - 1
    return np.asarray(np.polynomial.legendre.legvander(places, count - 1), np.float64)


def _state(cells: _Cells, values: Reals) -> _State:
    """The model and its slopes at these parameters."""
    k, lens = cells.frequency, cells.lens
    middle, along, across, shift, thickness = values[:_OPTICS]
    cos, sin = (part(2 * cells.angle)[:, None] for part in (np.cos, np.sin))
    here = middle + cells.offset_a
    chi = phase(k, here + along * cos + across * sin, lens, float(np.rad2deg(shift)))
    unthinned = fading(k, here, lens) * cells.blur
    fade = unthinned * thinning(k, lens, thickness)
    count = cells.background.shape[1]
    levels, strengths = values[_OPTICS : _OPTICS + count], values[_OPTICS + count :]
    contrast = 0.5 * (1 - np.cos(2 * chi) * fade)
    strength = np.exp(np.clip(cells.strength @ strengths, -30, 30))
    whole = 1 + strength * contrast
    rest = cells.log_power - cells.background @ levels - np.log(whole)
    by_contrast = strength / whole
    by_phase = by_contrast * np.sin(2 * chi) * fade
    by_defocus = by_phase * (np.pi * lens.wavelength_a * k**2)
    slopes = np.empty((len(values), *rest.shape))
    slopes[0], slopes[1], slopes[2] = by_defocus, by_defocus * cos, by_defocus * sin
    slopes[3] = by_phase
    thinner, thicker = (thinning(k, lens, thickness + step) for step in (-1.0, 1.0))
    slopes[4] = (
        by_contrast * -0.5 * np.cos(2 * chi) * unthinned * (thicker - thinner) / 2
    )
    slopes[_OPTICS : _OPTICS + count] = cells.background.T[:, None, None]
    share = strength * contrast / whole
    slopes[_OPTICS + count :] = cells.strength.T[:, None, None] * share
    root = cells.root * cells.share
    rest *= root
    slopes *= root
    cost = float((rest**2).sum() + (cells.prior * values**2).sum())
    return _State(values=values, cost=cost, rest=rest, slopes=slopes)


def _normal(cells: _Cells, state: _State) -> tuple[Reals, Reals]:
    """Information and slope of the likelihood, of the free parameters."""
    free = cells.is_free
    slopes = state.slopes[free].reshape(int(free.sum()), -1)
    # Where there are no rings, optics have no information at all.
    information = slopes @ slopes.T + np.diag(cells.prior[free] + 1e-12)
    slope = slopes @ state.rest.ravel() - (cells.prior * state.values)[free]
    return information, slope


def _refined(cells: _Cells, search: Search, begin: _State, rounds: int) -> _State:
    state = begin
    damping = 0.01
    for _ in range(rounds):
        information, slope = _normal(cells, state)
        scale = np.sqrt(np.diag(information))
        information /= np.outer(scale, scale)
        won = 0.0
        for _ in range(6):
            step = np.linalg.solve(
                information + damping * np.eye(len(scale)), slope / scale
            )
            values = state.values.copy()
            values[cells.is_free] += step / scale
            values[0] = np.clip(values[0], search.min_defocus_a, search.max_defocus_a)
            values[4] = np.clip(values[4], 0.0, 2 * _THICKNESSES_A[-1])
            tried = _state(cells, values)
            won = state.cost - tried.cost
            if won > 0:
                break
            damping *= 5
        if won <= 0:
            break
        state, damping = tried, max(damping / 5, 1e-6)
        if won < _ENOUGH:
            break
    return state


def _begin(cells: _Cells, begin: Fit) -> Reals:
    """Parameters of a fit, with the background and strength that suit it."""
    half = (begin.defocus_u_a - begin.defocus_v_a) / 2
    twice = 2 * np.deg2rad(begin.azimuth_deg)
    middle = (begin.defocus_u_a + begin.defocus_v_a) / 2
    values = np.zeros(len(cells.prior))
    # Astigmatism as a vector: its angle has no meaning where it is small.
    values[:3] = middle, half * np.cos(twice), half * np.sin(twice)
    values[3:5] = np.deg2rad(begin.phase_shift_deg), begin.thickness_a
    rings = _oscillation(cells, values)
    data, model = (
        cells.share * Flat(cells.frequency, cells.root).of(part)
        for part in (cells.log_power, rings)
    )
    # Amplitudes of the rings in thirds of the range, a line through their logarithms.
    thirds = np.array_split(np.arange(len(cells.frequency)), 3)
    amplitudes = [
        float((data[..., part] * model[..., part]).sum())
        / max(float((model[..., part] ** 2).sum()), 1e-12)
        for part in thirds
    ]
    # The logarithm of 1 + strength is twice the amplitude of its rings.
    logs = np.log(np.expm1(2 * np.clip(amplitudes, *_AMPLITUDES)))
    along = cells.strength[:, 1]
    slope, level = np.polyfit([along[part].mean() for part in thirds], logs, 1)
    count = _OPTICS + cells.background.shape[1]
    values[count : count + 2] = level, slope
    contrast = 0.5 * (1 + rings)
    line = cells.log_power - np.log1p(np.exp(level + slope * along) * contrast)
    values[_OPTICS:count] = _smooth(cells, line)
    return values


def _smooth(cells: _Cells, lines: Reals) -> Reals:
    """The background that is nearest to lines `(t, s, k)`, by its polynomials."""
    mean = (cells.share**2 * lines).sum(0).mean(0)
    root = cells.root
    return np.asarray(
        np.linalg.lstsq(cells.background * root[:, None], mean * root, rcond=None)[0]
    )


def _oscillation(cells: _Cells, values: Reals) -> Reals:
    """The rings of these parameters, `(t, s, k)`, from -1 to 1."""
    middle, along, across, shift, thickness = (float(v) for v in values[:_OPTICS])
    twice = 2 * cells.angle[:, None]
    here = middle + cells.offset_a
    defocus = here + along * np.cos(twice) + across * np.sin(twice)
    degrees = float(np.rad2deg(shift))
    rings = oscillation(cells.frequency, defocus, cells.lens, degrees, thickness)
    return rings * cells.blur


def _fit_of(cells: _Cells, state: _State, level: _Cells) -> Fit:
    """The fit; its score is that of one strip, so that it compares."""
    won = _won(cells, state)
    left = max(0.0, 1 - _IN_NOISE / max(float(won.sum()), 1e-30))
    middle, along, across, shift, thickness = (float(v) for v in state.values[:_OPTICS])
    half = float(np.hypot(along, across))
    information, _ = _normal(cells, state)
    scale = np.sqrt(np.diag(information))
    inverse = np.linalg.inv(information / np.outer(scale, scale))
    return Fit(
        defocus_u_a=middle + half,
        defocus_v_a=middle - half,
        azimuth_deg=float(np.rad2deg(np.arctan2(across, along)) / 2),
        phase_shift_deg=float(np.rad2deg(shift)) % 180,
        # Noise has its part of the variance that is the model's.
        score=_score(level, state.values) * float(np.sqrt(left)),
        thickness_a=thickness,
        error_a=float(np.sqrt(inverse[0, 0]) / scale[0]),
        reach=_reach(cells.frequency, won) if left else 0.0,
    )


def _won(cells: _Cells, state: _State) -> Reals:
    """Twice the logarithm of likelihood that rings win at each frequency, `(k,)`."""
    smooth = cells.background @ _smooth(cells, cells.log_power)
    without = (cells.log_power - smooth) * (cells.root * cells.share)
    return np.asarray((without**2 - state.rest**2).sum((0, 1)))


def _reach(frequency: Reals, won: Reals) -> float:
    """The frequency beyond which all rings together win no more than noise."""
    beyond = np.cumsum(won[::-1])[::-1]
    return float(frequency[np.flatnonzero(beyond >= _IN_NOISE_BEYOND)[-1]])


def _score(cells: _Cells, values: Reals) -> float:
    """Correlation of data and rings, each frequency by how strong its rings are."""
    count = _OPTICS + cells.background.shape[1]
    amplitude = np.log1p(np.exp(cells.strength @ values[count:]))
    flat = Flat(cells.frequency, cells.root * np.sqrt(amplitude))
    data, model = flat.of(cells.log_power), flat.of(_oscillation(cells, values))
    norm = float((data**2).sum() * (model**2).sum())
    return float((data * model).sum()) / float(np.sqrt(max(norm, 1e-30)))
