"""What a camera makes of the light that reaches it: gain, dust, drift, shot noise."""

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

# 128: grey 255 is 32,640, so that gain and noise have as much room above it.
COUNTS_PER_GREY = {8: 1.0, 16: 128.0}
"""Counts of the sensor per grey level (0..255) of the specimen, by bit depth."""

BitDepth = Literal[8, 16]


def camera_gain(
    height: int,
    width: int,
    *,
    seed: int,
    vignette: float = 0.25,
    pattern: float = 0.02,
    dust: int = 12,
) -> NDArray[np.float32]:
    """What each pixel of one camera makes of even light, mean 1.

    Parameters
    ----------
    vignette
        Loss of light from the brightest place to the farthest corner, 0..1.
    pattern
        Standard deviation of the fixed pattern from pixel to pixel.
    dust
        Grains on the scintillator, 3 to 12 pixels in radius, up to 40 % dark.

    Returns
    -------
    ndarray
        `(height, width)` float32.
    """
    # A stream of its own: gain and beam share the seed and must not follow each other.
    rng = np.random.default_rng([seed, 0xCA3])
    gain = _vignette(height, width, vignette=vignette, rng=rng)
    gain *= 1.0 + pattern * rng.standard_normal((height, width), dtype=np.float32)
    for _ in range(dust):
        middle = (int(rng.integers(width)), int(rng.integers(height)))
        grain = np.zeros_like(gain)
        cv2.circle(grain, middle, int(rng.integers(3, 13)), 1.0, -1)
        gain *= 1.0 - rng.uniform(0.1, 0.4) * cv2.GaussianBlur(grain, (0, 0), 1.5)
    return np.asarray(gain / gain.mean(), dtype=np.float32)


def _vignette(
    height: int, width: int, *, vignette: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    middle_y, middle_x = rng.uniform(-0.15, 0.15, 2)
    v = np.linspace(-1, 1, height, dtype=np.float32)[:, None] - np.float32(middle_y)
    u = np.linspace(-1, 1, width, dtype=np.float32)[None, :] - np.float32(middle_x)
    radius2 = v * v + u * u
    tilt = 0.16 * vignette * (v * rng.uniform(-1, 1) + u * rng.uniform(-1, 1))
    level = 1.0 + tilt - vignette * radius2 / radius2.max()
    return np.asarray(level, dtype=np.float32)


def beam_level(frame: int, *, seed: int, drift: float = 0.03) -> float:
    """Brightness of the beam at the n-th frame: slow waves and a small flicker."""
    phases = np.random.default_rng([seed, 0xBEA]).uniform(0, 2 * np.pi, 2)
    # A generator for each frame: frames may be asked for in any order.
    flicker = np.random.default_rng([seed, 0xBEB, frame]).normal(0.0, 0.1)
    # Periods without a small common one: the drift does not soon repeat.
    slow = np.sin(frame / 17.0 + phases[0]) + 0.5 * np.sin(frame / 5.3 + phases[1])
    return float(1.0 + drift * (0.6 * slow + flicker))


def expose(
    light: NDArray[np.float32],
    *,
    noise_key: Sequence[int],
    gain: NDArray[np.float32] | None = None,
    beam: float = 1.0,
    electrons: float = 400.0,
    bit_depth: BitDepth = 8,
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """One frame: light times gain, with shot noise, as the camera counts it.

    Parameters
    ----------
    light
        `(h, w)` grey levels 0..255 of the specimen.
    noise_key
        Seeds the shot noise; the same key gives the same frame.
    electrons
        Electrons a pixel at grey level 255; 0 means no noise. Counts are drawn from
        the normal approximation of the Poisson law, good above about 20.
    """
    frame = light * np.float32(beam) if gain is None else light * (gain * beam)
    if electrons > 0:
        rng = np.random.default_rng(list(noise_key))
        noise = rng.standard_normal(frame.shape, dtype=np.float32)
        # n = grey * electrons / 255 electrons have the variance n.
        noise *= np.sqrt(np.maximum(frame, 0.0) * np.float32(255.0 / electrons))
        frame = frame + noise
    counts = np.rint(frame * np.float32(COUNTS_PER_GREY[bit_depth]))
    if bit_depth == 8:
        return np.clip(counts, 0, 255).astype(np.uint8)
    return np.clip(counts, 0, 65535).astype(np.uint16)


def defocused(light: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    """The same light out of focus: a Gaussian blur."""
    return np.asarray(cv2.GaussianBlur(light, (0, 0), sigma_px), dtype=np.float32)
