"""Benchmark 1: one raw 16-bit frame becomes an 8-bit tile with its statistics.

    python benchmarks/bench_tile.py [--quick] [--repeats N] [--json FILE]

All contenders do the same work: `(raw - dark) * gain`, mapping to 8 bit, histogram,
minimum, maximum, mean, standard deviation, saturation, half-resolution copy, and the
focus score of imaging.focus. Results are compared value by value before they are timed.
"""

import sys
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft
from timing import arguments, finish, measure, report

from em_platform.imaging.correct import FlatField
from em_platform.imaging.exposure import camera_gain, expose
from em_platform.imaging.tile import process_tile
from em_platform.simulation.specimen.tissue import tissue

Grey = NDArray[np.uint8]
Float = NDArray[np.float32]

SIDE = 4096
GREY_RANGE = (2000.0, 32000.0)
WANTED = {"numpy/scipy": 12.0, "cv2": 1.5}
PATCH, SLOW, FINE, TOP, NOISE = 256, 0.04, 0.10, 0.25, 0.42


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What every contender gives."""

    image: Grey
    half: Grey
    histogram: NDArray[np.integer]
    figures: tuple[float, ...]  # minimum, maximum, mean, std, saturated share
    focus: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One raw frame and the camera's own frames."""

    raw: NDArray[np.uint16]
    gain: Float
    dark: Float


def make_frame(side: int) -> Frame:
    light = tissue(0, 0, height=side, width=side, seed=1)
    gain = camera_gain(side, side, seed=1)
    dark = np.random.default_rng(2).normal(100.0, 3.0, (side, side)).astype(np.float32)
    raw = expose(light, noise_key=(1, 1), gain=gain, bit_depth=16)
    raw = (raw + np.rint(dark)).clip(0, 65535).astype(np.uint16)
    return Frame(raw=raw, gain=(1.0 / gain).astype(np.float32), dark=dark)


def by_us(frame: Frame) -> Result:
    tile = process_tile(
        frame.raw,
        tile_id="tile",
        flat_field=FlatField(gain=frame.gain, dark=frame.dark),
        grey_range=GREY_RANGE,
    )
    s = tile.stats
    return Result(
        image=tile.image,
        half=tile.half,
        histogram=np.array(s.histogram),
        figures=(s.minimum, s.maximum, s.mean, s.std, s.saturated_fraction),
        focus=s.focus,
    )


def by_numpy(frame: Frame) -> Result:
    low, high = GREY_RANGE
    even = (frame.raw.astype(np.float32) - frame.dark) * frame.gain
    grey = (even - np.float32(low)) * np.float32(255.0 / (high - low))
    image = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    h, w = image.shape
    blocks = image.reshape(h // 2, 2, w // 2, 2).mean(axis=(1, 3), dtype=np.float32)
    histogram = np.bincount(image.ravel(), minlength=256)
    saturated = float(np.mean((image == 0) | (image == 255)))
    return Result(
        image=image,
        half=np.floor(blocks + 0.5).astype(np.uint8),
        histogram=histogram,
        figures=(image.min(), image.max(), image.mean(), image.std(), saturated),
        focus=focus_by(image, lambda patch: np.abs(fft.rfft2(patch)) ** 2),
    )


def by_cv2(frame: Frame) -> Result:
    low, high = GREY_RANGE
    scale = 255.0 / (high - low)
    even = cv2.subtract(frame.raw, frame.dark, dtype=cv2.CV_32F)
    cv2.multiply(even, frame.gain, even, scale=scale)
    image = cv2.add(even, -low * scale, dtype=cv2.CV_8U)
    h, w = image.shape
    half = cv2.resize(image, (w // 2, h // 2), interpolation=cv2.INTER_AREA)
    histogram = cv2.calcHist([image], [0], None, [256], [0, 256]).ravel().astype(int)
    mean, std = cv2.meanStdDev(image)
    seen = np.flatnonzero(histogram)
    saturated = float(histogram[0] + histogram[255]) / image.size
    return Result(
        image=image,
        half=half,
        histogram=histogram,
        figures=(seen[0], seen[-1], float(mean[0, 0]), float(std[0, 0]), saturated),
        focus=focus_by(image, power_by_cv2),
    )


def power_by_cv2(patch: Float) -> Float:
    spectrum = cv2.dft(patch, flags=cv2.DFT_COMPLEX_OUTPUT)[:, : PATCH // 2 + 1]
    return spectrum[..., 0] ** 2 + spectrum[..., 1] ** 2


WINDOW = np.outer(np.hanning(PATCH + 2)[1:-1], np.hanning(PATCH + 2)[1:-1])
WINDOW = WINDOW.astype(np.float32)
FY, FX = np.abs(fft.fftfreq(PATCH))[:, None], fft.rfftfreq(PATCH)[None]
RADIUS = np.hypot(FY, FX)
WEIGHT = np.where((FX > 0) & (FX < 0.5), 2.0, 1.0)
WEIGHT = WEIGHT * (FY > 1.5 / PATCH) * (FX > 1.5 / PATCH)
RINGS = [
    (WEIGHT * ((start <= RADIUS) & (stop > RADIUS))).astype(np.float32)
    for start, stop in ((SLOW, FINE), (FINE, TOP), (NOISE, 0.5))
]


def focus_by(image: Grey, power_of) -> float:  # type: ignore[no-untyped-def]
    """The score of imaging.focus, written down plainly."""
    total = 0.0
    for y in np.linspace(0, image.shape[0] - PATCH, 4).round().astype(int):
        for x in np.linspace(0, image.shape[1] - PATCH, 4).round().astype(int):
            patch = image[y : y + PATCH, x : x + PATCH].astype(np.float32)
            total = total + power_of((patch - patch.mean()) * WINDOW)
    slow, fine, noise = (float((total * ring).sum()) for ring in RINGS)
    floor = noise / RINGS[2].sum()
    slow, fine = slow - floor * RINGS[0].sum(), fine - floor * RINGS[1].sum()
    return fine / (slow + fine)


def differences(ours: Result, other: Result) -> dict[str, float]:
    """How far two results differ; raises where that is more than rounding explains."""
    grey = np.abs(ours.image.astype(int) - other.image)
    half = np.abs(ours.half.astype(int) - other.half)
    assert np.array_equal(
        np.bincount(ours.image.ravel(), minlength=256), ours.histogram
    )
    assert grey.max() <= 1 and half.max() <= 1
    assert np.allclose(ours.figures[2:], other.figures[2:], atol=2e-3)
    assert abs(ours.focus - other.focus) < 2e-3
    return {
        "largest difference, grey levels": float(grey.max()),
        "pixels that differ": float((grey > 0).mean()),
        "difference of focus": abs(ours.focus - other.focus),
    }


def main() -> int:
    options = arguments(__doc__.splitlines()[0])
    cv2.setNumThreads(1)
    frame = make_frame(SIDE)
    ours, accuracy = by_us(frame), {}
    for name, other in (("numpy/scipy", by_numpy), ("cv2", by_cv2)):
        found = differences(ours, other(frame))
        accuracy |= {f"{name}: {what}": value for what, value in found.items()}
    costs = measure(
        {
            "em_platform": lambda: by_us(frame),
            "numpy/scipy": lambda: by_numpy(frame),
            "cv2": lambda: by_cv2(frame),
        },
        repeats=3 if options.quick else options.repeats,
    )
    title = f"1. tile kernel, {SIDE} x {SIDE} uint16"
    result = report(title, costs, accuracy=accuracy, wanted=WANTED)
    return finish([result], path=options.json)


if __name__ == "__main__":
    sys.exit(main())
