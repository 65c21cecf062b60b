"""How sharp an image is, from the frequencies that defocus takes away.

The power spectrum of a few patches is split into three rings: structure that survives
defocus (25 to 10 px), structure that does not (10 to 4 px), and above it camera noise.
The score is the middle ring's share of the tissue's power, after the noise floor was
taken off. Full-resolution Laplacian variance, which is used for this elsewhere, sees
little but that noise.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from em_platform.imaging.valid import Image

Float = NDArray[np.float32]

_PATCH_PX = 256
_PATCHES = 4  # along each side
_MIN_PX = 64  # smaller images hold too few periods of the slow structure

# Cycles per pixel. Of the bands tried on eight simulated and forty real images these
# vary least between tiles in focus (6 %), and 3 px of blur leave 2 % of the score.
_SLOW, _FINE, _TOP = 0.04, 0.10, 0.25
_NOISE = 0.42  # up to the Nyquist frequency, 0.5: noise only
_STEPS = 2**40  # a score is a multiple of 1/2**40: messages have 1 - score, which then
# loses nothing, so that whoever turns it back has the very same figure
_SIGNIFICANT = 0.05  # of the noise: less structure than that is no structure


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rings:
    """`(p, p // 2 + 1)` weights of an `rfft2`, and how many frequencies each holds."""

    slow: Float
    fine: Float
    noise: Float


def focus_score(image: Image) -> float:
    """Share of the fine structure in an image: 0 blurred or empty, about 0.35 sharp.

    What "sharp" is depends on specimen and pixel size (0.1 to 0.5); tiles of one
    montage are comparable. Shading, brightness and contrast do not matter, nor does
    noise as long as it is white.

    Parameters
    ----------
    image
        `(h, w)`; 16 patches of 256 x 256 px are looked at. Images below 64 px score 0.
    """
    side = min(_PATCH_PX, *image.shape)
    if side < _MIN_PX:
        return 0.0
    power = _mean_power(image, side)
    rings = _rings(side)
    floor = float((power * rings.noise).sum() / rings.noise.sum())
    slow = float((power * rings.slow).sum() - floor * rings.slow.sum())
    fine = float((power * rings.fine).sum() - floor * rings.fine.sum())
    noise = floor * float(rings.slow.sum() + rings.fine.sum())
    if slow + fine <= max(_SIGNIFICANT * noise, 1e-6):
        return 0.0
    score = float(np.clip(fine / (slow + fine), 0.0, 1.0))
    return round(score * _STEPS) / _STEPS


def _mean_power(image: Image, side: int) -> Float:
    """`(side, side // 2 + 1)` mean power spectrum of patches spread over the image."""
    window = _window(side)
    power = np.zeros((side, side // 2 + 1), np.float32)
    rows, columns = (_starts(length, side) for length in image.shape)
    for y in rows:
        for x in columns:
            patch = image[y : y + side, x : x + side].astype(np.float32)
            patch -= patch.mean()
            patch *= window
            spectrum = fft.rfft2(patch, overwrite_x=True)
            power += spectrum.real**2 + spectrum.imag**2
    return power


def _starts(length: int, side: int) -> list[int]:
    room = length - side
    count = min(_PATCHES, room // side + 2) if room else 1
    return [round(start) for start in np.linspace(0, room, count)]


@lru_cache(maxsize=4)
def _window(side: int) -> Float:
    # Without the zeros at both ends, which would waste two lines.
    hann = np.hanning(side + 2)[1:-1]
    return np.asarray(np.outer(hann, hann) / side, np.float32)


@lru_cache(maxsize=4)
def _rings(side: int) -> _Rings:
    fy = np.abs(fft.fftfreq(side))[:, None]
    fx = fft.rfftfreq(side)[None, :]
    radius = np.hypot(fy, fx)
    # rfft2 leaves out half of the plane; lines and columns of a camera that differ in
    # offset lie on the axes, which are left out.
    weight = np.where((fx > 0) & (fx < 0.5), 2.0, 1.0)
    weight = weight * (fy > 1.5 / side) * (fx > 1.5 / side)

    def ring(start: float, stop: float) -> Float:
        return np.asarray(weight * ((radius >= start) & (radius < stop)), np.float32)

    return _Rings(
        slow=ring(_SLOW, _FINE), fine=ring(_FINE, _TOP), noise=ring(_NOISE, 0.5)
    )
