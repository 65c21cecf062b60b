"""The rings of a tilted specimen, whose defocus changes over the image.

Boxes of about equal height make a strip, and all strips are fitted as one, each with
its own defocus. Where the tilt, its axis or its direction is not known, those count
with which single boxes, each a spectrum of its own, agree best.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from em_platform.cryoem.methods.ctf import (
    Fit,
    Lens,
    Rings,
    Search,
    box_places,
    box_spectra,
    independent_boxes,
    power_spectrum,
    rings_of,
    same_phase,
)
from em_platform.cryoem.methods.ctf_search import STEP_A, Strips, tables

Reals = NDArray[np.float64]

_STRIP_TURNS = 0.175
"""Of phase, within a strip at the finest distance: rings lose a twentieth there."""
_MOST_STRIPS = 16
_LEAST_DEG, _MOST_DEG = 1.0, 75.0
"""A smaller tilt changes nothing; a larger one is not sought."""
_TILTS_DEG = np.arange(10.0, 71.0, 10.0)
_AXIS_STEP_DEG = 15.0
_REFINEMENTS = 3
"""Each with half the steps of the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tilt:
    """How the specimen is tilted, counted as tilt series are (see `tilt_images`)."""

    angle_deg: float
    axis_deg: float
    hand: int
    """1 where defocus grows with the height `-u tan(angle)`, else -1."""

    @property
    def slope(self) -> Reals:
        """Å of defocus an Å of the image, along y and x."""
        turn = np.deg2rad(self.axis_deg)
        slope = -self.hand * np.tan(np.deg2rad(self.angle_deg))
        return np.asarray(slope * np.array([np.sin(turn), np.cos(turn)]))


_FLAT = Tilt(angle_deg=0.0, axis_deg=0.0, hand=1)


def find_tilt(
    image: NDArray[np.float32],
    box: int,
    lens: Lens,
    search: Search,
    *,
    angle_deg: float | None,
    axis_deg: float | None,
) -> Tilt | None:
    """The tilt with which the boxes agree best; what is given is kept.

    Which side of the specimen is nearer to the gun depends on the microscope, so that
    the direction is always sought. None where they agree best without a tilt.
    """
    most_deg = _MOST_DEG if angle_deg is None else abs(angle_deg)
    if most_deg < _LEAST_DEG:
        return None
    seek = _Boxes.of(image, box, lens, search, most_deg=most_deg)
    angles = _TILTS_DEG if angle_deg is None else np.array([angle_deg])
    axes = np.arange(-90.0, 90.0, _AXIS_STEP_DEG)
    axes = axes if axis_deg is None else np.array([axis_deg])
    best = seek.best([_FLAT, *_tilts(angles, axes)])
    if best is _FLAT:
        return None
    steps = _TILTS_DEG[0] / 2, _AXIS_STEP_DEG / 2
    for _ in range(_REFINEMENTS if angle_deg is None or axis_deg is None else 0):
        near = [np.array([-step, 0.0, step]) for step in steps]
        angles = angles if angle_deg is not None else best.angle_deg + near[0]
        axes = axes if axis_deg is not None else best.axis_deg + near[1]
        angles = np.clip(angles, -most_deg, most_deg)
        best = seek.best(_tilts(angles, axes))
        steps = steps[0] / 2, steps[1] / 2
    # An axis has no direction of its own: turned by 180 degrees, the hand turns, too.
    turns = 0 if axis_deg is not None else round(best.axis_deg / 180)
    hand = best.hand * (-1) ** turns
    axis = best.axis_deg - 180 * turns
    return Tilt(angle_deg=best.angle_deg, axis_deg=axis, hand=hand)


def _tilts(angles: Iterable[float], axes: Reals) -> list[Tilt]:
    return [
        Tilt(angle_deg=float(angle), axis_deg=float(axis), hand=hand)
        for angle in angles
        for axis in axes
        for hand in (1, -1)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Boxes:
    """Correlations of each box by itself with rings of any defocus."""

    places_a: Reals
    """`(n, 2)`, from the middle of the image, y and x."""
    tables: list[Strips]
    beyond: int

    @classmethod
    def of(
        cls,
        image: NDArray[np.float32],
        box: int,
        lens: Lens,
        search: Search,
        *,
        most_deg: float,
    ) -> "_Boxes":
        places_a = _middles_a(image, box, lens.pixel_size_a)
        rows = np.fft.fftfreq(box)[:, None] * box
        radius = np.hypot(rows, np.arange(box // 2 + 1.0)).round().astype(int).ravel()
        counts = np.bincount(radius)[2 : box // 2]
        means = [
            np.bincount(radius, spectrum.ravel())[2 : box // 2] / counts
            for spectra in box_spectra(image, box)
            for spectrum in spectra
        ]
        k = np.arange(2.0, box // 2) / (box * lens.pixel_size_a)
        inside = search.sees(k)
        lines = np.log(np.maximum(means, 1e-30))[:, None, inside]
        farthest = float(np.hypot(*places_a.T).max()) * np.tan(np.deg2rad(most_deg))
        # A fit may not go that far, but a table that ends is simply at its end there.
        beyond = int(min(farthest, search.max_defocus_a) / STEP_A) + 1
        made = tables(
            lines, k[inside], lens, search, blur=np.ones(inside.sum()), beyond=beyond
        )
        return cls(places_a=places_a, tables=list(made), beyond=beyond)

    def best(self, tilts: list[Tilt]) -> Tilt:
        """The one whose strips of equal height agree best with one defocus."""
        return max(tilts, key=self._score)

    def _score(self, tilt: Tilt) -> float:
        steps = np.round(self.places_a @ tilt.slope / STEP_A).astype(int)
        share = np.full(len(steps), 1 / len(steps))
        kept = np.clip(steps, -self.beyond, self.beyond)
        found = []
        for table in self.tables:
            here = table.at(kept, share, beyond=self.beyond)
            total = here.products[0]
            power = np.einsum("dc,dce,de->d", total, np.linalg.inv(here.norms), total)
            # A model of known phase must not fit upside down.
            power *= np.sign(total[:, 0]) if total.shape[1] == 1 else 1.0
            found.append(float(power.max()) / here.spread**2)
        return max(found)


def _middles_a(image: NDArray[np.float32], box: int, pixel_size_a: float) -> Reals:
    """Middles of the boxes, `(n, 2)`, from that of the image, y and x."""
    rows, columns = box_places(image.shape, box)
    y, x = np.meshgrid(rows + box / 2, columns + box / 2, indexing="ij")
    height, width = image.shape
    places = np.stack([y.ravel() - height / 2, x.ravel() - width / 2], axis=1)
    return np.asarray(places * pixel_size_a)


def rings_at(
    image: NDArray[np.float32],
    box: int,
    lens: Lens,
    search: Search,
    *,
    tilt: Tilt | None,
) -> tuple[NDArray[np.float32], Rings]:
    """The power of each strip, `(t, box, box // 2 + 1)`, and the rings of all.

    Without a tilt the image is one strip.
    """
    if tilt is None:
        power = power_spectrum(image, box)
        boxes = independent_boxes(image.shape, box)
        return power[None], rings_of(power, lens.pixel_size_a, boxes=boxes)
    return _strips(image, box, lens, search, slope=tilt.slope)


def _strips(
    image: NDArray[np.float32], box: int, lens: Lens, search: Search, *, slope: Reals
) -> tuple[NDArray[np.float32], Rings]:
    offsets_a = _middles_a(image, box, lens.pixel_size_a) @ slope
    width_a = _STRIP_TURNS * search.max_res_a**2 / lens.wavelength_a
    spread = float(np.ptp(offsets_a))
    count = min(_MOST_STRIPS, int(np.ceil(spread / width_a)) or 1)
    edges = np.linspace(offsets_a.min(), offsets_a.max() + 1e-6, count + 1)
    strip = np.searchsorted(edges, offsets_a, side="right") - 1
    used, strip = np.unique(strip, return_inverse=True)
    power = np.zeros((len(used), box, box // 2 + 1), np.float32)
    places = iter(strip)
    for spectra in box_spectra(image, box):
        for spectrum in spectra:
            power[next(places)] += spectrum
    boxes = np.bincount(strip)
    power /= boxes[:, None, None].astype(np.float32)
    each = [rings_of(part, lens.pixel_size_a) for part in power]
    log_power = np.concatenate([part.log_power for part in each])
    # Thicker ice, fewer electrons: strips are as bright as their mean.
    level = log_power.mean((1, 2), keepdims=True)
    log_power += level.mean() - level
    whole = independent_boxes(image.shape, box, strips=boxes)
    across = slope * box * lens.pixel_size_a
    turns = lens.wavelength_a * each[0].frequency ** 2 * across[:, None]
    return power, Rings(
        log_power=log_power,
        angle=each[0].angle,
        frequency=each[0].frequency,
        samples=each[0].samples * whole,
        offset_a=np.bincount(strip, offsets_a) / boxes,
        share=boxes / boxes.sum(),
        blur=_of_taper(turns[0]) * _of_taper(turns[1]),
    )


def _of_taper(turns: Reals) -> Reals:
    """The mean of `cos(2 pi turns x)` over a box under the square of its sine taper."""
    sides = np.sinc(turns - 1) + np.sinc(turns + 1)
    return np.asarray(np.sinc(turns) + 0.5 * sides)


def levelled_power(
    power: NDArray[np.float32], rings: Rings, lens: Lens, fit: Fit
) -> NDArray[np.float32]:
    """The spectra of all strips as one at the middle's defocus, for the picture.

    `(t, box, box // 2 + 1)` becomes `(box, box // 2 + 1)`.
    """
    if len(power) == 1:
        return np.asarray(power[0])
    box = power.shape[1]
    middle = (fit.defocus_u_a + fit.defocus_v_a) / 2
    rows = np.arange(box) - box // 2
    radius = np.hypot(rows[:, None], np.arange(box // 2 + 1.0))
    line = np.arange(1.0, box)
    k = line / (box * lens.pixel_size_a)
    total = np.zeros(power.shape[1:])
    for part, offset, share in zip(power, rings.offset_a, rings.share, strict=True):
        places = same_phase(k, middle, middle + float(offset), lens, 0.0)
        stretch = np.interp(radius, line, places / k)
        place = rows[:, None] * stretch + box // 2, np.arange(box // 2 + 1) * stretch
        shown = np.fft.fftshift(np.log(np.maximum(part, part[part > 0].min())), axes=0)
        total += share * map_coordinates(shown, place, order=1, mode="nearest")
    return np.asarray(np.fft.ifftshift(np.exp(total), axes=0), np.float32)
