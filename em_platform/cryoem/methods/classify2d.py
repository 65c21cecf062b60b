"""2-D classes: particles of one view find each other, whatever their rotation.

Expectation maximisation over class, rotation and shift with the noise of each ring, the
contrast transfer of each particle and a prior on the power of the averages (Sigworth,
J. Struct. Biol. 122, 328 (1998); Scheres, J. Mol. Biol. 415, 406 (2012)). Images stand
as angular coefficients on Fourier rings, so that all rotations of all particles against
all averages are one matrix product an order.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from em_platform.cryoem.methods.polar import (
    Complex,
    Float,
    Rings,
    coefficients,
    rings_of,
    shift_phases,
    to_half_circle,
    to_orders,
)

_FEWEST_RINGS = 6
_GROWTH = 0.6
"""Share of the iterations after which all rings count: coarse features sort first."""
_STARTS = 3
"""Random beginnings, of which the likeliest goes on: each may end in a dead end."""
_COARSE_PX = 2.0
_SURFACES = 12_000_000  # numbers of a batch's posterior, 50 MB
_TINY = np.float32(1e-20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """Where each particle went, `(n,)` each.

    A particle is its class's average, moved by `shifts` `(n, 2)` `(y, x)` px and then
    turned by `angles_deg` from x (to the right) towards y (down).
    """

    classes: NDArray[np.int64]
    angles_deg: NDArray[np.float64]
    shifts: NDArray[np.float64]
    probability: NDArray[np.float64]
    log_likelihood: float


@dataclass(slots=True, kw_only=True)
class _Model:
    """The averages `(orders, classes, rings)` and the noise power of each ring."""

    averages: Complex
    noise: Float
    shares: Float


def classify(
    images: Float,
    *,
    classes: int,
    iterations: int,
    shift_px: float,
    transfer: Float | None = None,
    rings: int | None = None,
    seed: int = 0,
    fudge: float = 2.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Classes:
    """Sort particles into classes.

    Parameters
    ----------
    images
        `(n, side, side)`, masked, background 0.
    shift_px
        How far a particle may lie from the middle of its box.
    transfer
        `(n, side // 2)`: contrast transfer on the rings 1, 2, ...; None: 1.
    rings
        The finest that count; None: to three quarters of Nyquist.
    fudge
        How much power of the averages is believed (RELION's T).
    """
    side = images.shape[-1]
    most = rings or int(0.75 * (side // 2))
    kind = rings_of(side, most)
    data = coefficients(images, kind)
    gain = np.ones((len(images), most), np.float32)
    if transfer is not None:
        gain = np.ascontiguousarray(transfer[:, :most], np.float32)

    def run(model: _Model, steps: range) -> _Model:
        for step in steps:
            used = _rings_at(step, iterations, most)
            coarse = step < _GROWTH * iterations and shift_px >= _COARSE_PX
            shifts = _grid(shift_px, _COARSE_PX if coarse else 1.0)
            model = _Step(data, gain, kind, used=used, shifts=shifts).improve(
                model, fudge=fudge
            )
            done[0] += 1
            progress(done[0], _STARTS * first + iterations - first)
        return model

    done = [0]
    first = int(_GROWTH * iterations)
    tried = [
        run(
            _first_model(data, gain, kind, classes=classes, seed=seed + i), range(first)
        )
        for i in range(_STARTS)
    ]
    final = _Step(data, gain, kind, used=most, shifts=_grid(shift_px, 1.0))
    quick = _Step(
        data, gain, kind,
        used=_rings_at(first, iterations, most), shifts=_grid(shift_px, _COARSE_PX),
    )  # fmt: skip
    model = max(tried, key=lambda each: quick.best(each).log_likelihood)
    return final.best(run(model, range(first, iterations)))


def _rings_at(step: int, iterations: int, most: int) -> int:
    share = min(1.0, step / max(1.0, _GROWTH * iterations))
    fewest = min(_FEWEST_RINGS, most)
    return round(fewest + share * (most - fewest))


def _grid(reach: float, step: float) -> Float:
    """Shifts `(n, 2)` of a disc, the middle first."""
    steps = int(reach / step)
    axis = step * np.arange(-steps, steps + 1)
    y, x = (each.ravel() for each in np.meshgrid(axis, axis, indexing="ij"))
    distance = np.hypot(y, x)
    order = np.argsort(distance, kind="stable")
    inside = order[distance[order] <= reach + 1e-6]
    return np.stack([y[inside], x[inside]], axis=1).astype(np.float32)


def _first_model(
    data: Complex,
    gain: Float,
    kind: Rings,
    *,
    classes: int,
    seed: int,
) -> _Model:
    """Averages of random particles as they lie, which all differ a little."""
    count = data.shape[1]
    order = np.random.default_rng(seed).permutation(count)
    averages = np.zeros((kind.orders, classes, kind.rings), np.complex64)
    for number in range(classes):
        some = order[number::classes]
        weight = (gain[some] ** 2).sum(axis=0) + np.float32(0.1 * len(some)) + _TINY
        averages[:, number] = (data[:, some] * gain[some]).sum(axis=1) / weight
    power = _ring_power(data, kind).mean(axis=0)
    return _Model(
        averages=averages,
        noise=np.maximum(power, _TINY),
        shares=np.full(classes, 1 / classes, np.float32),
    )


def _ring_power(orders: Complex, kind: Rings) -> Float:
    """Mean power `(n, rings)` on each ring, from the coefficients."""
    square = np.abs(orders) ** 2
    # Orders -m have the power of m; the one at half of the angles stands for itself.
    total = square[0] + 2 * square[1:-1].sum(axis=0) + square[-1]
    return np.asarray(total, np.float32)


class _Step:
    """One look at all particles with some rings and shifts."""

    def __init__(
        self, data: Complex, gain: Float, kind: Rings, *, used: int, shifts: Float
    ) -> None:
        # Fewer rings need fewer angles.
        self._kind = rings_of(kind.side, used)
        self._full = kind
        self._data = np.ascontiguousarray(data[: self._kind.orders, :, :used])
        self._gain = gain[:, :used]
        self._shifts = shifts
        self._phases = shift_phases(shifts, self._kind)

    def improve(self, model: _Model, *, fudge: float) -> _Model:
        """Averages and noise that explain the particles better."""
        kind, used = self._kind, self._kind.rings
        averages, noise = self._cut(model)
        moved = self._moved(averages)
        classes, shifts = averages.shape[1], len(self._shifts)
        sums = np.zeros((kind.orders, classes * shifts, used), np.complex64)
        weights = np.zeros((classes, used), np.float32)
        fits = np.zeros(used, np.float32)
        shares = np.zeros(classes, np.float32)
        power = _ring_power(averages, kind)
        for some in self._batches(classes):
            posterior, _ = self._posterior(some, moved, power, noise, model.shares)
            of_class = posterior.sum(axis=(2, 3))
            waves = scipy.fft.rfft(posterior, axis=-1).conj()
            waves = np.moveaxis(waves, -1, 0).reshape(kind.orders, len(of_class), -1)
            weighted = self._data[:, some] * self._gain[some]
            sums += np.matmul(np.swapaxes(waves, 1, 2), weighted)
            weights += of_class.T @ self._gain[some] ** 2
            shares += of_class.sum(axis=0)
        total = self._gathered(sums, classes)
        # |x - c a|^2 = |x|^2 - 2 Re x conj(c a) + |c a|^2, each summed over particles.
        product = (total * averages.conj()).real
        product = product[0] + 2 * product[1:-1].sum(axis=0) + product[-1]
        fits = product.sum(axis=0)
        norms = (weights * power).sum(axis=0)
        whole = _ring_power(self._data, kind).sum(axis=0)
        residual = np.maximum(whole - 2 * fits + norms, 0.01 * whole)
        found = residual / self._data.shape[1]
        shares = shares / shares.sum()
        return self._regularised(
            model, total, weights, np.maximum(found, _TINY), shares, fudge=fudge
        )

    def best(self, model: _Model) -> Classes:
        """The likeliest class, rotation and shift of each particle."""
        averages, noise = self._cut(model)
        moved, power = self._moved(averages), _ring_power(averages, self._kind)
        classes = averages.shape[1]
        places, chances, likelihood = [], [], 0.0
        for some in self._batches(classes):
            posterior, level = self._posterior(some, moved, power, noise, model.shares)
            flat = posterior.reshape(len(posterior), -1)
            top = flat.argmax(axis=1)
            places.append(np.stack(np.unravel_index(top, posterior.shape[1:]), axis=1))
            of_class = posterior.sum(axis=(2, 3))
            chances.append(of_class[np.arange(len(top)), places[-1][:, 0]])
            likelihood += float(level.sum())
        found = np.concatenate(places)
        return Classes(
            classes=found[:, 0],
            angles_deg=found[:, 2] * (360.0 / self._kind.angles),
            shifts=self._shifts[found[:, 1]].astype(np.float64),
            probability=np.concatenate(chances).astype(np.float64),
            log_likelihood=likelihood,
        )

    def _cut(self, model: _Model) -> tuple[Complex, Float]:
        kind = self._kind
        averages = model.averages[: kind.orders, :, : kind.rings]
        return np.ascontiguousarray(averages), model.noise[: kind.rings]

    def _moved(self, averages: Complex) -> Complex:
        """Each average at each shift, `(orders, classes * shifts, rings)`."""
        half = to_half_circle(averages, self._kind)
        moved = half[:, None] * self._phases
        return to_orders(moved.reshape(-1, *half.shape[1:]), self._kind)

    def _gathered(self, sums: Complex, classes: int) -> Complex:
        """Sums of particles at each shift, moved back and added, as coefficients."""
        half = to_half_circle(sums, self._kind)
        half = half.reshape(classes, len(self._shifts), *half.shape[1:])
        return to_orders((half * self._phases.conj()).sum(axis=1), self._kind)

    def _batches(self, classes: int) -> list[slice]:
        each = classes * len(self._shifts) * self._kind.angles
        size = max(1, _SURFACES // each)
        return [slice(i, i + size) for i in range(0, self._data.shape[1], size)]

    def _posterior(
        self,
        some: slice,
        moved: Complex,
        power: Float,
        noise: Float,
        shares: Float,
    ) -> tuple[Float, Float]:
        """`(n, classes, shifts, angles)`, each particle's sums to 1; and its level."""
        kind = self._kind
        per_ring = kind.weight * kind.angles / noise
        weighted = self._data[:, some] * (self._gain[some] * per_ring)
        spectrum = np.matmul(weighted, np.swapaxes(moved.conj(), 1, 2))
        spectrum = np.ascontiguousarray(np.moveaxis(spectrum, 0, -1))
        # 2 Re <x, c a> / noise, for all rotations at once.
        surface = scipy.fft.irfft(spectrum, n=kind.angles, axis=-1, norm="forward")
        count, classes = len(surface), len(power)
        surface = surface.reshape(count, classes, len(self._shifts), kind.angles)
        surface *= 2
        norms = (self._gain[some] ** 2 * per_ring) @ power.T
        surface -= (norms - np.log(shares + _TINY))[:, :, None, None]
        top = surface.max(axis=(1, 2, 3))
        surface -= top[:, None, None, None]
        np.exp(surface, out=surface)
        total = surface.sum(axis=(1, 2, 3))
        surface /= total[:, None, None, None]
        return surface, top + np.log(total)

    def _regularised(
        self,
        model: _Model,
        total: Complex,
        weights: Float,
        noise: Float,
        shares: Float,
        *,
        fudge: float,
    ) -> _Model:
        kind = self._kind
        plain = np.asarray(total / np.maximum(weights, _TINY), np.complex64)
        power = _ring_power(plain, kind)
        by_noise = noise / np.maximum(weights, _TINY)
        signal = np.maximum(power - by_noise, 1e-3 * by_noise)
        kept = weights / (weights + noise / (fudge * signal))
        averages = np.zeros_like(model.averages)
        averages[: kind.orders, :, : kind.rings] = plain * kept
        whole = model.noise.copy()
        whole[: kind.rings] = noise
        return _Model(averages=averages, noise=whole, shares=shares)
