"""The contrast transfer of a micrograph, fitted to the rings of its power spectrum.

The logarithm of the power, averaged over overlapping boxes, is looked at along 60
directions. Smooth parts are taken out of data and model alike, so that the background
needs no model. A table of correlations, direction by defocus, gives the best defocus
and astigmatism at once; a simplex refines them on the exact model (Rohou & Grigorieff
2015; Mindell & Grigorieff 2003 for the equations).
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.optimize import minimize

Reals = NDArray[np.float64]

_SECTORS = 60
_SUB_ANGLES = 5
_BACKGROUND_DEGREE = 6
"""Of the polynomial of frequency that is taken out of data and model."""
_STEP_A = 50.0
_LEAST_LEFT = 0.25
"""Of the power of its rings, what is added to that of a model without background."""
_ASTIGMATISMS = (150.0, 300.0, 500.0, 750.0, 1000.0, 1500.0, 2000.0)
_PHASE_STEP_DEG = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lens:
    """What is known of the microscope."""

    pixel_size_a: float
    voltage_kv: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1

    @property
    def wavelength_a(self) -> float:
        """Of the electrons, relativistic."""
        volts = self.voltage_kv * 1e3
        return float(12.2639 / np.sqrt(volts + 0.97845e-6 * volts**2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Where to look: resolutions and defocus in Å."""

    min_res_a: float = 30.0
    max_res_a: float = 5.0
    min_defocus_a: float = 2000.0
    max_defocus_a: float = 90000.0
    phase_shift: bool = False
    known_astigmatism_a: float | None = None
    known_azimuth_deg: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The contrast transfer that fits best; underfocus is positive."""

    defocus_u_a: float
    defocus_v_a: float
    azimuth_deg: float
    """Of `defocus_u_a`, from x to y, -90 to 90."""
    phase_shift_deg: float
    score: float
    """Correlation of the rings with the model, from -1 to 1."""


def power_spectrum(image: NDArray[np.float32], box: int) -> NDArray[np.float32]:
    """Mean power of boxes that overlap by half, `(box, box // 2 + 1)`.

    An image that is smaller than the box is one box of its own size, with its mean
    around it.
    """
    height, width = image.shape
    mean = float(image.mean())
    if min(height, width) < box:
        padded = np.full((max(box, height), max(box, width)), mean, np.float32)
        padded[:height, :width] = image
        image, (height, width) = padded, padded.shape
    places = [
        np.linspace(0, n - box, max(1, round(2 * n / box) - 1)).round().astype(int)
        for n in (height, width)
    ]
    taper = np.sin(np.pi * (np.arange(box) + 0.5) / box).astype(np.float32)
    window = taper[:, None] * taper[None]
    total = np.zeros((box, box // 2 + 1), np.float32)
    for top in places[0]:
        boxes = np.stack(
            [image[top : top + box, left : left + box] for left in places[1]]
        )
        # A row of boxes at once; their own means, so that thickness does not count.
        boxes = (boxes - boxes.mean((1, 2), keepdims=True)) * window
        spectra = scipy.fft.rfft2(boxes)
        total += (spectra.real**2 + spectra.imag**2).sum(0)
    return total / np.float32(len(places[0]) * len(places[1]) * (window**2).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Rings:
    """Power along directions, and the frequencies at which it stands."""

    log_power: Reals
    """`(s, k)`."""
    angle: Reals
    """`(s,)`, from x to y, 0 to pi."""
    frequency: Reals
    """`(k,)`, per Å."""


def rings_of(power: NDArray[np.float32], pixel_size_a: float) -> Rings:
    """The power along 60 directions, each a mean over 3 degrees."""
    box = power.shape[0]
    log_power = np.log(np.maximum(power, power[power > 0].min()))
    # The whole plane with its middle at zero, one row and column more at the right.
    full = np.empty((box + 1, box + 1))
    half = np.fft.fftshift(log_power, axes=0)
    full[:box, box // 2 :] = half
    full[box, box // 2 :] = half[0]
    full[:, : box // 2] = full[::-1, : box // 2 : -1]
    radius = np.arange(2.0, box // 2)
    fine = _SECTORS * _SUB_ANGLES
    angle = (np.arange(fine) + 0.5) * np.pi / fine
    y = box / 2 + radius * np.sin(angle)[:, None]
    x = box / 2 + radius * np.cos(angle)[:, None]
    sampled = map_coordinates(full, (y, x), order=1)
    return Rings(
        log_power=sampled.reshape(_SECTORS, _SUB_ANGLES, -1).mean(1),
        angle=angle.reshape(_SECTORS, _SUB_ANGLES).mean(1),
        frequency=radius / (box * pixel_size_a),
    )


def phase(
    frequency: Reals, defocus_a: Reals | float, lens: Lens, phase_shift_deg: float
) -> Reals:
    """The phase of the contrast transfer, whose sine it is; arrays are broadcast."""
    wave = lens.wavelength_a
    k2 = frequency**2
    chi = np.pi * wave * k2 * (defocus_a - 0.5 * wave**2 * k2 * lens.cs_mm * 1e7)
    return np.asarray(
        chi + np.arcsin(lens.amplitude_contrast) + np.deg2rad(phase_shift_deg)
    )


def oscillation(
    frequency: Reals, defocus_a: Reals | float, lens: Lens, phase_shift_deg: float
) -> Reals:
    """`-cos(2 phase)`, the rings of squared contrast, faded where finer than a bin.

    Without the fading, rings that the box cannot resolve would match by aliasing.
    """
    wave = lens.wavelength_a
    step = frequency[1] - frequency[0]
    chi = phase(frequency, defocus_a, lens, phase_shift_deg)
    slope = defocus_a - wave**2 * frequency**2 * lens.cs_mm * 1e7
    turns = 2 * wave * frequency * slope * step
    # The taper of the boxes widens a bin by about a third.
    return np.asarray(-np.cos(2 * chi) * np.sinc(1.3 * turns))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """Data without background, and how much each frequency counts."""

    frequency: Reals
    angle: Reals
    data: Reals
    """`(s, k)`, smooth parts taken out, times the root of the weights."""
    root: Reals
    """`(k,)`, roots of the weights."""
    smooth: Reals
    """`(k, n)`, orthonormal: what is taken out."""

    def flat(self, model: Reals) -> Reals:
        """The model with the weights, and its smooth parts taken out, too."""
        weighted = model * self.root
        return np.asarray(weighted - (weighted @ self.smooth) @ self.smooth.T)


def _target(rings: Rings, search: Search, envelope: Reals | None = None) -> _Target:
    inside = (rings.frequency >= 1 / search.min_res_a) & (
        rings.frequency <= 1 / search.max_res_a
    )
    k = rings.frequency[inside]
    # A ring has the more pixels the larger it is.
    weights = k / k.max()
    if envelope is not None:
        weights = weights * envelope[inside]
    root = np.sqrt(weights)
    places = 2 * (k - k[0]) / (k[-1] - k[0]) - 1
    degree = min(_BACKGROUND_DEGREE, max(1, len(k) // 6))
    basis = np.polynomial.legendre.legvander(places, degree) * root[:, None]
    smooth = np.linalg.qr(basis)[0]
    data = rings.log_power[:, inside] * root
    data = data - (data @ smooth) @ smooth.T
    return _Target(frequency=k, angle=rings.angle, data=data, root=root, smooth=smooth)


def fit_rings(rings: Rings, lens: Lens, search: Search) -> Fit:
    """The contrast transfer whose rings correlate best."""
    target = _target(rings, search)
    begun = _coarse(target, lens, search)
    found = [_refined(target, lens, search, each) for each in begun]
    return max(found, key=lambda fit: fit.score)


def fit_again(
    rings: Rings, lens: Lens, search: Search, *, begin: Fit, strength: Reals
) -> Fit:
    """A fit in which each frequency counts by how strong its rings are, `(k,)`."""
    if strength.max() <= 0:
        return begin
    target = _target(rings, search, strength / strength.max())
    return _refined(target, lens, search, begin)


def _coarse(target: _Target, lens: Lens, search: Search) -> list[Fit]:
    """Where a refinement may begin: one, or one at each of the best phases."""
    phases = [0.0]
    if search.phase_shift:
        # Round rings first: all astigmatisms are tried at the best phases only.
        tried = list(np.arange(0, 180, _PHASE_STEP_DEG))
        scores = [
            _coarse_at(target, lens, search, shift, [(0.0, 0.0)]).score
            for shift in tried
        ]
        phases = [tried[place] for place in np.argsort(scores)[-3:]]
    astigmatisms = [(0.0, 0.0)] + [
        (size, float(azimuth))
        for size in _ASTIGMATISMS
        for azimuth in np.arange(0, 180, 15)
    ]
    if search.known_astigmatism_a is not None:
        astigmatisms = [(search.known_astigmatism_a, search.known_azimuth_deg)]
    return [_coarse_at(target, lens, search, each, astigmatisms) for each in phases]


def _coarse_at(
    target: _Target,
    lens: Lens,
    search: Search,
    phase_shift_deg: float,
    astigmatisms: list[tuple[float, float]],
) -> Fit:
    """The best of all mean defoci and of these astigmatisms, sizes and azimuths."""
    # The ends are beyond the range by the largest astigmatism.
    defocus = np.arange(
        search.min_defocus_a - _ASTIGMATISMS[-1] / 2,
        search.max_defocus_a + _ASTIGMATISMS[-1] / 2 + _STEP_A,
        _STEP_A,
    )
    whole = oscillation(target.frequency, defocus[:, None], lens, phase_shift_deg)
    model = target.flat(whole)
    products = target.data @ model.T  # sector by defocus
    # Near focus little is left of the model without its smooth part: what noise makes
    # of that little must not outdo rings.
    norms = (model**2).sum(1) + _LEAST_LEFT * ((whole * target.root) ** 2).sum(1)
    spread = float(np.sqrt(max(float((target.data**2).sum()), 1e-30)))
    middles = np.flatnonzero(
        (defocus >= search.min_defocus_a) & (defocus <= search.max_defocus_a)
    )
    sectors = np.arange(len(target.angle))[:, None]
    best = (-np.inf, 0.0, 0.0, 0.0)
    for size, azimuth in astigmatisms:
        off = size / 2 * np.cos(2 * (target.angle - np.deg2rad(azimuth)))
        steps = np.round(off / _STEP_A).astype(int)
        places = np.clip(middles + steps[:, None], 0, len(defocus) - 1)
        scores = products[sectors, places].sum(0)
        scores /= np.sqrt(np.maximum(norms[places].sum(0), 1e-30))
        top = int(np.argmax(scores))
        if scores[top] > best[0]:
            best = (float(scores[top]), float(defocus[middles[top]]), size, azimuth)
    score, middle, size, azimuth = best
    return Fit(
        defocus_u_a=middle + size / 2,
        defocus_v_a=middle - size / 2,
        azimuth_deg=azimuth,
        phase_shift_deg=float(phase_shift_deg),
        score=score / spread,
    )


def _refined(target: _Target, lens: Lens, search: Search, begin: Fit) -> Fit:
    spread = float((target.data**2).sum())

    def score(values: Reals) -> float:
        middle, along, across = values[:3]
        shift = float(values[3]) if len(values) > 3 else begin.phase_shift_deg
        defocus = middle + along * np.cos(2 * target.angle)
        defocus = defocus + across * np.sin(2 * target.angle)
        model = target.flat(
            oscillation(target.frequency, defocus[:, None], lens, shift)
        )
        norm = float((model**2).sum()) * spread
        return float((model * target.data).sum()) / float(np.sqrt(max(norm, 1e-30)))

    half = (begin.defocus_u_a - begin.defocus_v_a) / 2
    twice = 2 * np.deg2rad(begin.azimuth_deg)
    middle = (begin.defocus_u_a + begin.defocus_v_a) / 2
    # Astigmatism as a vector: its angle has no meaning where it is small.
    start = [middle, half * np.cos(twice), half * np.sin(twice)]
    sizes = [60.0, 80.0, 80.0]
    if search.phase_shift:
        start, sizes = [*start, begin.phase_shift_deg], [*sizes, 5.0]
    is_free = search.known_astigmatism_a is None
    free = [0, 1, 2, 3][: len(start)] if is_free else [0, 3][: len(start) - 2]
    origin = np.array(start)

    def cost(moved: Reals) -> float:
        values = origin.copy()
        values[free] = moved
        return -score(values)

    corners = np.array([origin[free]] * (len(free) + 1))
    for place, index in enumerate(free):
        corners[place + 1, place] += sizes[index]
    found = minimize(
        cost,
        origin[free],
        method="Nelder-Mead",
        options={
            "initial_simplex": corners,
            "xatol": 1.0,
            "fatol": 1e-5,
            "maxiter": 250,
        },
    )
    values = origin.copy()
    values[free] = found.x
    return _fit_of(values, begin.phase_shift_deg, float(-found.fun))


def _fit_of(values: Reals, phase_shift_deg: float, score: float) -> Fit:
    middle, along, across = (float(v) for v in values[:3])
    half = float(np.hypot(along, across))
    shift = float(values[3]) if len(values) > 3 else phase_shift_deg
    return Fit(
        defocus_u_a=middle + half,
        defocus_v_a=middle - half,
        azimuth_deg=float(np.rad2deg(np.arctan2(across, along)) / 2),
        phase_shift_deg=shift % 180,
        score=score,
    )
