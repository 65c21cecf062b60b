"""Rings in the power spectrum of a micrograph, and the contrast transfer behind them.

The logarithm of the power, averaged over overlapping boxes, is looked at along 60
directions (Mindell & Grigorieff 2003 for the equations).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.special import polygamma

Reals = NDArray[np.float64]

_SECTORS = 60
_SUB_ANGLES = 5


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
    thickness: bool = False
    known_astigmatism_a: float | None = None
    known_azimuth_deg: float = 0.0

    def sees(self, frequency: Reals) -> NDArray[np.bool_]:
        """Which frequencies, per Å, are within the resolutions."""
        return (frequency >= 1 / self.min_res_a) & (frequency <= 1 / self.max_res_a)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The contrast transfer that fits best; underfocus is positive."""

    defocus_u_a: float
    defocus_v_a: float
    azimuth_deg: float
    """Of `defocus_u_a`, from x to y, -90 to 90."""
    phase_shift_deg: float
    score: float
    """Correlation of the rings with the model, 1 at best, less that of noise: 0."""
    thickness_a: float = 0.0
    """Of the specimen; 0: thin."""
    error_a: float = 0.0
    """Standard deviation of the mean defocus, by the fit's own account."""
    reach: float = np.inf
    """Per Å, the finest frequency to which the rings are beyond noise; 0: nowhere."""


def power_spectrum(image: NDArray[np.float32], box: int) -> NDArray[np.float32]:
    """Mean power of boxes that overlap by half, `(box, box // 2 + 1)`."""
    tops, lefts = box_places(image.shape, box)
    total = np.zeros((box, box // 2 + 1), np.float32)
    for spectra in box_spectra(image, box):
        total += spectra.sum(0)
    return total / np.float32(len(tops) * len(lefts))


def box_places(
    shape: tuple[int, ...], box: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First rows and columns of boxes that overlap by half; a single one is amid."""

    def firsts(side: int) -> NDArray[np.int64]:
        count = round(2 * side / box) - 1
        if count < 2:
            # Of a tilted specimen a single box has no strips to say which way defocus
            # grows: only in the middle it has the middle's.
            return np.array([(side - box) // 2])
        return np.linspace(0, side - box, count).round().astype(np.int64)

    return firsts(shape[0]), firsts(shape[1])


def independent_boxes(
    shape: tuple[int, ...], box: int, *, strips: NDArray[np.int64] | None = None
) -> float:
    """How many boxes side by side, without a taper, would scatter as little.

    Along a side the squared tapers of n boxes that overlap by half add up to a
    trapezium: its squared sum over the sum of its squares is 2 n^2 / (4 n - 1) boxes.
    The logarithm of a mean of few powers scatters more than the mean, by the trigamma
    function of their number (Bartlett & Kendall 1946).

    Parameters
    ----------
    strips
        How many boxes the power of each strip is the mean of; all of one.
    """
    rows, columns = (len(firsts) for firsts in box_places(shape, box))
    boxes = np.array([rows * columns]) if strips is None else strips
    scatter = float(boxes @ (boxes * polygamma(1, boxes))) / (rows * columns)
    return 4 * (rows * columns) ** 2 / ((4 * rows - 1) * (4 * columns - 1)) / scatter


def box_spectra(image: NDArray[np.float32], box: int) -> Iterator[NDArray[np.float32]]:
    """The power of each box, `(columns, box, box // 2 + 1)` for each row of them."""
    tops, lefts = box_places(image.shape, box)
    taper = np.sin(np.pi * (np.arange(box) + 0.5) / box).astype(np.float32)
    window = taper[:, None] * taper[None]
    for top in tops:
        boxes = np.stack([image[top : top + box, left : left + box] for left in lefts])
        # A row of boxes at once; their own means, so that thickness does not count.
        boxes = (boxes - boxes.mean((1, 2), keepdims=True)) * window
        spectra = scipy.fft.rfft2(boxes)
        power = spectra.real**2 + spectra.imag**2
        yield power / np.float32((window**2).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Rings:
    """Power along directions, and the frequencies at which it stands.

    A tilted specimen has strips of different defocus; an untilted one is one strip.
    """

    log_power: Reals
    """`(t, s, k)`, of strips and directions."""
    angle: Reals
    """`(s,)`, from x to y, 0 to pi."""
    frequency: Reals
    """`(k,)`, per Å."""
    samples: Reals
    """`(k,)`, independent values of power in a whole ring of all strips."""
    offset_a: Reals
    """`(t,)`, defocus of a strip less that of the image's middle."""
    share: Reals
    """`(t,)`, of all boxes; their sum is 1."""
    blur: Reals
    """`(k,)`, what is left of rings where defocus changes within a box."""

    def directions(self, count: int) -> tuple[Reals, Reals]:
        """Means of neighbouring directions, `(t, count, k)`, and their angles."""
        strips, _, frequencies = self.log_power.shape
        lines = self.log_power.reshape(strips, count, -1, frequencies).mean(2)
        return lines, self.angle.reshape(count, -1).mean(1)


def rings_of(
    power: NDArray[np.float32], pixel_size_a: float, *, boxes: float = 1.0
) -> Rings:
    """The power of an untilted specimen along 60 directions, means over 3 degrees.

    Parameters
    ----------
    boxes
        How many independent ones the power is the mean of.
    """
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
        log_power=sampled.reshape(1, _SECTORS, _SUB_ANGLES, -1).mean(2),
        angle=angle.reshape(_SECTORS, _SUB_ANGLES).mean(1),
        frequency=radius / (box * pixel_size_a),
        # Half of the plane: the other half is the same.
        samples=np.pi * radius * boxes,
        offset_a=np.zeros(1),
        share=np.ones(1),
        blur=np.ones(len(radius)),
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


def same_phase(
    frequency: Reals, defocus_a: float, other_a: float, lens: Lens, shift_deg: float
) -> Reals:
    """Where another defocus has the phases that this one has at the frequencies."""
    # Cs turns the phase round at high frequency: until there it only grows.
    wanted, own = (
        np.maximum.accumulate(phase(frequency, each, lens, shift_deg))
        for each in (defocus_a, other_a)
    )
    return np.asarray(np.interp(wanted, own, frequency))


def levelled(rings: Rings, lens: Lens, defocus_a: float) -> Rings:
    """All strips as one, each stretched to the rings of the middle's defocus."""
    if len(rings.share) == 1:
        return rings
    k = rings.frequency
    total = np.zeros((1, *rings.log_power.shape[1:]))
    for offset, share, lines in zip(
        rings.offset_a, rings.share, rings.log_power, strict=True
    ):
        places = same_phase(k, defocus_a, defocus_a + float(offset), lens, 0.0)
        total[0] += share * np.stack([np.interp(places, k, line) for line in lines])
    return replace(rings, log_power=total, offset_a=np.zeros(1), share=np.ones(1))


def oscillation(
    frequency: Reals,
    defocus_a: Reals | float,
    lens: Lens,
    phase_shift_deg: float,
    thickness_a: float = 0.0,
) -> Reals:
    """`-cos(2 phase)`, the rings of squared contrast, faded where finer than a bin.

    Without the fading, rings that the box cannot resolve would match by aliasing.
    """
    chi = phase(frequency, defocus_a, lens, phase_shift_deg)
    faded = fading(frequency, defocus_a, lens) * thinning(frequency, lens, thickness_a)
    return np.asarray(-np.cos(2 * chi) * faded)


def thinning(frequency: Reals, lens: Lens, thickness_a: float) -> Reals:
    """What a specimen's thickness leaves of its rings; beyond a node they are inverted.

    Layers of different defocus add their powers (McMullan et al. 2015; Tichelaar et al.
    2020; Elferich et al. 2024 for the fit).
    """
    return np.asarray(np.sinc(lens.wavelength_a * frequency**2 * thickness_a))


def fading(frequency: Reals, defocus_a: Reals | float, lens: Lens) -> Reals:
    """What is left of rings that a box shows, 1 where they are wide."""
    wave = lens.wavelength_a
    step = frequency[1] - frequency[0]
    slope = defocus_a - wave**2 * frequency**2 * lens.cs_mm * 1e7
    turns = 2 * wave * frequency * slope * step
    # The taper of the boxes widens a bin by about a third.
    return np.asarray(np.sinc(1.3 * turns))
