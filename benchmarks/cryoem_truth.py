"""Cryo-EM images with known truth: movies that move, micrographs with a known CTF.

It shares no code with `em_platform.cryoem`: what is judged must not be the judge.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import mrcfile
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from benchmarks.rings import ring_correlation

Reals = NDArray[np.float64]
_EDGE = cv2.BORDER_REPLICATE


@dataclass(frozen=True, slots=True, kw_only=True)
class Optics:
    """Lens and defocus in the words of the field."""

    defocus_u_a: float
    defocus_v_a: float
    azimuth_deg: float = 0.0
    phase_shift_deg: float = 0.0
    voltage_kv: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.07


def contrast_transfer(
    shape: tuple[int, int], pixel_size_a: float, optics: Optics
) -> Reals:
    """The CTF of a weak phase object, `(h, w // 2 + 1)`; underfocus is positive.

    Mindell & Grigorieff 2003, equations 3 and 4, in the sign that makes protein dark.
    """
    fy = np.fft.fftfreq(shape[0], pixel_size_a)[:, None]
    fx = np.fft.rfftfreq(shape[1], pixel_size_a)[None]
    k2, angle = fy**2 + fx**2, np.arctan2(fy, fx)
    volts = optics.voltage_kv * 1e3
    wave = 12.2639 / np.sqrt(volts + 0.97845e-6 * volts**2)
    mean = (optics.defocus_u_a + optics.defocus_v_a) / 2
    half = (optics.defocus_u_a - optics.defocus_v_a) / 2
    defocus = mean + half * np.cos(2 * (angle - np.deg2rad(optics.azimuth_deg)))
    chi = np.pi * wave * defocus * k2
    chi -= np.pi / 2 * optics.cs_mm * 1e7 * wave**3 * k2**2
    chi += np.deg2rad(optics.phase_shift_deg)
    return np.asarray(-np.sin(chi + np.arcsin(optics.amplitude_contrast)))


def specimen(shape: tuple[int, int], rng: np.random.Generator) -> Reals:
    """Projected protein in amorphous ice, `(h, w)`, before the lens; mean 0, std 1."""
    image = np.zeros(shape)
    kinds = [_protein(rng) for _ in range(12)]
    side = kinds[0].shape[0]
    for _ in range(round(shape[0] * shape[1] / 200**2)):
        y, x = (int(rng.integers(-side // 2, n - side // 2)) for n in shape)
        stamp = kinds[int(rng.integers(len(kinds)))]
        if rng.integers(2):
            stamp = stamp.T
        top, left = max(0, y), max(0, x)
        part = stamp[top - y : shape[0] - y, left - x : shape[1] - x]
        image[top : top + part.shape[0], left : left + part.shape[1]] += part
    ice = cv2.GaussianBlur(rng.normal(size=shape), (0, 0), 1.0)
    image = image / image.std() + 0.7 * ice / ice.std()
    return np.asarray((image - image.mean()) / image.std())


def _protein(rng: np.random.Generator) -> Reals:
    side, radius = 160, 55.0
    places = rng.normal(size=(400, 3))
    places *= (
        radius
        * rng.random((400, 1)) ** (1 / 3)
        / np.linalg.norm(places, axis=1, keepdims=True)
    )
    points = np.zeros((side, side))
    at = np.clip((places[:, :2] + side / 2).astype(int), 0, side - 1)
    np.add.at(points, (at[:, 0], at[:, 1]), 1.0)
    return np.asarray(cv2.GaussianBlur(points, (0, 0), 2.2))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueMotion:
    """How features move, in pixels since the first frame."""

    drift: Reals
    """`(t, 2)` as (y, x)."""
    waves: Reals
    """`(n, 6)`: amplitudes y and x, frequency along y and x, phase, speed."""

    def at(self, frame: int, y: Reals, x: Reals) -> Reals:
        """`(..., 2)` at relative places, -0.5 to 0.5."""
        time = frame / max(1, len(self.drift) - 1)
        moved = np.zeros((*np.shape(y), 2)) + self.drift[frame]
        for wave, shape in zip(self.waves, self.shapes(y, x), strict=True):
            so_far = 1 - np.exp(-wave[5] * time)
            moved += so_far * np.stack((wave[0] * shape, wave[1] * shape), -1)
        return moved

    def shapes(self, y: Reals, x: Reals) -> list[Reals]:
        """How far each wave goes at relative places, the same in all frames."""
        # No polynomial: a model of one must not be right by construction.
        bump = 3 * np.hypot(y, x) * np.exp(-3 * np.hypot(y, x))
        return [
            np.sin(2 * np.pi * (fy * y + fx * x) + phase) + bump
            for _, _, fy, fx, phase, _ in self.waves
        ]


def motion(frames: int, rng: np.random.Generator) -> TrueMotion:
    """About 10 px of drift, fast at first, and 2 to 3 px of smooth local motion."""
    time = np.linspace(0, 1, frames)
    angle = rng.uniform(0, 2 * np.pi)
    far = 10 * (0.6 * (1 - np.exp(-5 * time)) + 0.4 * time)
    drift = np.stack((far * np.sin(angle), far * np.cos(angle)), 1)
    wobble = np.cumsum(rng.normal(0, 0.12, (frames, 2)), 0)
    drift += wobble - wobble[0]
    waves = [
        (*rng.normal(0, 1.4, 2), *rng.uniform(-0.7, 0.7, 2), rng.uniform(0, 6.3), speed)
        for speed in (1.0, 2.0, 4.0)
    ]
    return TrueMotion(drift=drift - drift[0], waves=np.array(waves))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueMovie:
    """Files of a movie and what is known of it."""

    movie: Path
    gain: Path
    clean: NDArray[np.float32]
    """The undamaged image of the first frame, `(h, w)`."""
    motion: TrueMotion
    frames: int


def write_movie(
    folder: Path,
    *,
    side: int,
    frames: int,
    contrast: float,
    seed: int,
    electrons: float = 1.0,
) -> TrueMovie:
    """A movie of 1 Å pixels as int8 MRC and its gain of 6 %, with hot pixels."""
    rng = np.random.default_rng(seed)
    shape = (side, side)
    optics = Optics(defocus_u_a=16_000, defocus_v_a=15_700, azimuth_deg=30)
    spectrum = scipy.fft.rfft2(specimen(shape, rng)) * contrast_transfer(
        shape, 1, optics
    )
    spectrum[0, 0] = 0
    image = scipy.fft.irfft2(spectrum, s=shape)
    spectrum *= contrast / image.std()
    clean = scipy.fft.irfft2(spectrum, s=shape).astype(np.float32)
    moved = motion(frames, rng)
    gain = (1 + 0.06 * rng.normal(size=shape)).clip(0.7, 1.3).astype(np.float32)
    hot = rng.integers(0, side, (side // 40, 2))
    raw = np.empty((frames, side, side), np.int8)
    for index, there in enumerate(
        _moving_images(spectrum.astype("c8"), side, moved, electrons)
    ):
        rate = electrons * np.maximum(1 + there, 0.01) / gain
        raw[index] = np.minimum(rng.poisson(rate), 127)
        raw[index, hot[:, 0], hot[:, 1]] = 100
    paths = folder / f"movie{seed}.mrcs", folder / f"gain{seed}.mrc"
    for path, content in zip(paths, (raw, gain), strict=True):
        with mrcfile.new(path, overwrite=True) as file:
            file.set_data(content)
            file.voxel_size = 1.0
    return TrueMovie(
        movie=paths[0], gain=paths[1], clean=clean, motion=moved, frames=frames
    )


def _moving_images(
    spectrum: NDArray[np.complex64], side: int, moved: TrueMotion, electrons: float
) -> Iterator[NDArray[np.float32]]:
    """The image of each frame: damaged by the dose so far, and moved; `(h, w)`."""
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    k = np.maximum(np.hypot(fy, fx), 1e-6)
    slow = (0.5 / (0.24499 * k**-1.6649 + 2.8141)).astype("f4")
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    shapes = [
        each.astype("f4") for each in moved.shapes(y / side - 0.5, x / side - 0.5)
    ]
    frames = len(moved.drift)
    for index in range(frames):
        dose = np.float32(electrons * (index + 0.5))
        damaged = scipy.fft.irfft2(spectrum * np.exp(-dose * slow), s=(side, side))
        here = np.empty((side, side, 2), np.float32)
        for axis in range(2):
            here[..., axis] = moved.drift[index, axis]
            for wave, over in zip(moved.waves, shapes, strict=True):
                so_far = 1 - np.exp(-wave[5] * index / max(1, frames - 1))
                here[..., axis] += np.float32(wave[axis] * so_far) * over
        back = here
        # A feature is moved by the field where it came from, not where it is now.
        for _ in range(2):
            origin = x - back[..., 1], y - back[..., 0]
            back = cv2.remap(here, *origin, cv2.INTER_LINEAR, borderMode=_EDGE)
        yield cv2.remap(
            damaged.astype(np.float32),
            x - back[..., 1],
            y - back[..., 0],
            cv2.INTER_LANCZOS4,
            borderMode=cv2.BORDER_REFLECT,
        )


def motion_error(found: Reals, true: TrueMovie) -> float:
    """Root mean square error in px of shifts `(t, n, 2)` on `grid()`, origin free."""
    y, x = grid()
    known = np.array([true.motion.at(t, y, x) for t in range(true.frames)])
    wrong = (found - found[:1]) - (known - known[:1])
    # The origin is free: the first frame of one has no meaning of its own.
    wrong -= wrong.mean(0, keepdims=True)
    return float(np.sqrt((wrong**2).sum(-1).mean()))


def grid(count: int = 24) -> tuple[Reals, Reals]:
    """Relative places at which motion is compared, `(n,)` each."""
    each = (np.arange(count) + 0.5) / count - 0.5
    y, x = np.meshgrid(each, each, indexing="ij")
    return y.ravel(), x.ravel()


def correlation_near(
    one: NDArray[np.float32], other: NDArray[np.float32], pixel_size_a: float
) -> dict[int, float]:
    """Fourier ring correlation near 10, 6 and 4 Å, in rings 10 % wide."""
    a, b = scipy.fft.rfft2(one), scipy.fft.rfft2(other)
    fy = np.fft.fftfreq(one.shape[0], pixel_size_a)[:, None]
    fx = np.fft.rfftfreq(one.shape[1], pixel_size_a)[None]
    k, resolutions = np.hypot(fy, fx), (10, 6, 4)
    near = [np.abs(k * resolution - 1) < 0.05 for resolution in resolutions]
    ring = np.select(near, list(range(len(near))), len(near))
    found, _ = ring_correlation(a, b, ring, rings=len(near))
    return dict(zip(resolutions, found.tolist(), strict=True))
