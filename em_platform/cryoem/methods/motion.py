"""Motion of a movie: measured globally, then by patches, and taken out of its sum."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from em_platform.cryoem.methods import motion_align
from em_platform.cryoem.methods.motion_model import MotionField, fit_field
from em_platform.cryoem.methods.motion_sum import (
    STEP_PX,
    DoseWeighted,
    critical_exposure,
    image_of,
    move_back,
)
from em_platform.cryoem.stage import report_progress

Read = Callable[[int], NDArray[np.float32]]
Reals = NDArray[np.float64]

_BIN = 2
_LOW_PASS = 3
"""Alignment uses frequencies below a third of Nyquist: higher ones are noise."""
_MOST_DRIFT = 0.06
"""Of the side: how far a frame may be from the sum of all, in the first round."""
_PATCH_DENSITY = 1.4
"""Windows for each patch that is asked for, along a side; they are so much smaller."""
_PATCH_OVERLAP = 1.1
_PATCH_REACH_PX = 8.0
_PATCH_ROUNDS = 3
_NOISE_LEFT = 0.9
"""Of the noise of the first round's tracks, what later ones have at least."""
_SURE = 2.5
"""Times its error that local motion must be: else global motion alone is used."""
_NOTHING = "the frames have nothing in common that stands out of their noise"
_LEAST_PATCH = 32
"""Pixels of an alignment image; a smaller patch has too little in it to correlate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """Shifts of the frames since the first, in pixels of the movie."""

    global_px: Reals
    """`(t, 2)` as (y, x)."""
    local: MotionField | None
    """None: no local motion was found that is surer than none at all."""
    reason: str = ""
    """Why there is no local motion."""
    is_aligned: bool = True
    """False: nothing of the frames stands out of their noise, so none was moved."""

    def at(self, y: Reals, x: Reals) -> Reals:
        """Shifts at relative places, -0.5 to 0.5; `(t, n, 2)`."""
        if self.local is None:
            return np.repeat(self.global_px[:, None], np.size(y), axis=1)
        return np.asarray(self.global_px[:, None] + self.local.at(y, x))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Images of the moved frames, `(h, w)`."""

    weighted: NDArray[np.float32]
    plain: NDArray[np.float32]
    even: NDArray[np.float32]
    odd: NDArray[np.float32]
    shape: tuple[int, int]
    """Of a frame, before binning."""


def measure_motion(
    read: Read,
    frames: int,
    shape: tuple[int, int],
    *,
    patches: tuple[int, int],
    b_factor: float,
    threads: int,
) -> Motion:
    """Global and local motion of a movie; `patches` are counted along (y, x).

    Tracks are taken in 7 x 7 windows where 5 x 5 patches are asked for: the field, not
    a track, is what is used, and it needs places near the edges more than long patches.
    """
    small = tuple(max(16, 2 * (n // (2 * _LOW_PASS))) for n in shape)
    small = (scipy.fft.next_fast_len(small[0]), scipy.fft.next_fast_len(small[1]))
    small = (small[0] + small[0] % 2, small[1] + small[1] % 2)
    scale = np.array(shape) / small
    spectra = [
        spectrum
        for _, spectrum in _each(
            lambda index: _low_frequencies(read(index), small), frames, threads
        )
    ]
    with ThreadPoolExecutor(threads) as pool:
        shifts = motion_align.align_frames(
            spectra,
            small,
            b_factor=b_factor / float(scale[0] * scale[1]),
            most=max(8, round(_MOST_DRIFT * max(small))),
            tolerance=0.02 / float(scale.max()),
            map_frames=lambda act, items: list(pool.map(act, items)),
        )
    if shifts is None:
        still = np.zeros((frames, 2))
        return Motion(global_px=still, local=None, reason=_NOTHING, is_aligned=False)
    local, reason = _measure_local(
        spectra, shifts, small, scale=scale, patches=patches, b_factor=b_factor
    )
    return Motion(global_px=shifts * scale, local=local, reason=reason)


def _low_frequencies(
    frame: NDArray[np.float32], small: tuple[int, int]
) -> NDArray[np.complex64]:
    height, width = (n // _BIN * _BIN for n in frame.shape)
    even = frame[:height:2, :width] + frame[1:height:2, :width]
    # Binned first: a quarter of the work, and what is folded in is above the low pass.
    binned = even[:, ::2] + even[:, 1::2]
    binned -= binned.mean()
    spectrum = np.asarray(scipy.fft.rfft2(binned), np.complex64)
    return motion_align.crop_spectrum(spectrum, small)


def _measure_local(
    spectra: list[NDArray[np.complex64]],
    shifts: Reals,
    small: tuple[int, int],
    *,
    scale: Reals,
    patches: tuple[int, int],
    b_factor: float,
) -> tuple[MotionField | None, str]:
    if min(patches) < 2:
        return None, "no patches were asked for"
    windows = [round(count * _PATCH_DENSITY) for count in patches]
    sides = [
        scipy.fft.next_fast_len(min(n, round(n / count * _PATCH_OVERLAP)))
        for n, count in zip(small, windows, strict=True)
    ]
    sides = [min(n, side + side % 2) for n, side in zip(small, sides, strict=True)]
    if len(spectra) < 3:
        return None, "there are fewer than three frames"
    if min(sides) < _LEAST_PATCH:
        return None, f"patches would have only {min(sides)} pixels"
    images = np.array(
        [
            scipy.fft.irfft2(motion_align.shifted(each, shift, small), s=small)
            for each, shift in zip(spectra, shifts, strict=True)
        ],
        np.float32,
    )
    corners = [
        np.linspace(0, n - side, count).round().astype(int)
        for n, side, count in zip(small, sides, windows, strict=True)
    ]
    tops, lefts = (each.ravel() for each in np.meshgrid(*corners, indexing="ij"))
    y = (tops + sides[0] / 2) / small[0] - 0.5
    x = (lefts + sides[1] / 2) / small[1] - 0.5
    side = (sides[0], sides[1])
    cut = [
        scipy.fft.rfft2(
            _faded(images[:, a : a + side[0], b : b + side[1]]), axes=(1, 2)
        )
        for a, b in zip(tops, lefts, strict=True)
    ]
    del images
    # Threads of BLAS wait for each other longer than these small matrices take.
    with threadpool_limits(1, user_api="blas"):
        field = _fit_patches(cut, side, y, x, scale=scale, b_factor=b_factor)
    if _SURE * field.error_px >= field.signal_px:
        return None, (
            f"local motion of {field.signal_px:.2f} px is not {_SURE:g} times its "
            f"error of {field.error_px:.2f} px"
        )
    return field, ""


def _faded(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Patches without their mean, fading out at the rim so that it has no edges."""
    height, width = images.shape[1:]
    fade = [
        np.minimum(1, (np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5) / (n / 8))
        for n in (height, width)
    ]
    window = (fade[0][:, None] * fade[1][None]).astype(np.float32)
    return np.asarray((images - images.mean((1, 2), keepdims=True)) * window)


def _fit_patches(
    cut: list[NDArray[np.complex64]],
    side: tuple[int, int],
    y: Reals,
    x: Reals,
    *,
    scale: Reals,
    b_factor: float,
) -> MotionField:
    """Tracks by correlation around what is known, the field through them, in turns."""
    known = np.zeros((len(cut), len(cut[0]), 2))
    field: MotionField | None = None
    noise = 0.0
    for round_ in range(_PATCH_ROUNDS):
        reach = max(2, int(np.ceil(_PATCH_REACH_PX / scale.max() / (1 + round_))))
        tracks = np.empty_like(known)
        for place, spectra in enumerate(cut):
            moved = np.array(
                [
                    motion_align.shifted(each, shift, side)
                    for each, shift in zip(spectra, known[place], strict=True)
                ]
            )
            maps = motion_align.correlation_maps(
                moved, side, b_factor=b_factor / float(scale[0] * scale[1]), reach=reach
            )
            tracks[place] = known[place] + motion_align.peaks(_smoothed(maps))
        # Later references follow the noise of earlier rounds, and look better than
        # they are: the first round alone measured against what it had no part in.
        field = fit_field(tracks * scale, y, x, least_noise_px=noise)
        noise = noise or _NOISE_LEFT * field.residual_px
        known = field.at(y, x).transpose(1, 0, 2) / scale
        report_progress("local motion", round_ + 1, _PATCH_ROUNDS)
    assert field is not None  # noqa: S101 - there is at least one round
    return field


def _smoothed(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each map with half of its neighbours in time: motion is slow, noise is not."""
    padded = np.concatenate((maps[:1], maps, maps[-1:]))
    return np.asarray(padded[1:-1] + 0.5 * (padded[:-2] + padded[2:]))


def sum_frames(
    read: Read,
    frames: int,
    shape: tuple[int, int],
    motion: Motion,
    *,
    pixel_size_a: float,
    voltage_kv: float,
    dose_per_frame: float,
    dose_before: float,
    binning: float,
    threads: int,
) -> Sums:
    """Sum the frames moved back; a dose per frame of 0 weights none of them."""
    critical = None
    if dose_per_frame > 0:
        critical = critical_exposure(
            shape, pixel_size_a=pixel_size_a, voltage_kv=voltage_kv
        )
    total = DoseWeighted(critical=critical, shape=shape)
    plain = np.zeros(shape, np.float32)
    nodes = [np.arange(n // STEP_PX + 2) * STEP_PX / n - 0.5 for n in shape]
    y, x = (each.ravel() for each in np.meshgrid(*nodes, indexing="ij"))
    fields = motion.at(y, x).astype(np.float32)
    grid = (len(nodes[0]), len(nodes[1]), 2)

    def moved(index: int) -> tuple[NDArray[np.float32], NDArray[np.complex64]]:
        image = move_back(read(index), fields[index].reshape(grid))
        return image, scipy.fft.rfft2(image)

    for index, (image, spectrum) in _each(moved, frames, threads):
        plain += image
        total.add(spectrum, dose=dose_before + dose_per_frame * (index + 1))
        report_progress("sum", index + 1, frames)
    if binning > 1:
        plain = image_of(scipy.fft.rfft2(plain), shape, binning=binning)
    return Sums(
        weighted=image_of(total.spectrum(), shape, binning=binning),
        plain=plain,
        even=image_of(total.spectrum(0), shape, binning=binning),
        odd=image_of(total.spectrum(1), shape, binning=binning),
        shape=shape,
    )


def _each(
    act: Callable[[int], Any], count: int, threads: int
) -> Iterator[tuple[int, Any]]:
    """Results in their order, a few made ahead: memory does not grow with the movie."""
    with ThreadPoolExecutor(threads) as pool:
        ahead: list[Future[Any]] = []
        for index in range(count):
            while len(ahead) < min(threads, count - index):
                ahead.append(pool.submit(act, index + len(ahead)))
            result = ahead.pop(0).result()
            if (following := index + 1 + len(ahead)) < count:
                ahead.append(pool.submit(act, following))
            yield index, result
