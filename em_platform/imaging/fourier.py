"""Bounded, softly whitened correlation of two images by the Fourier transform."""

from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt
from scipy import fft

Float = npt.NDArray[np.float32]
Complex = npt.NDArray[np.complex64]

LOW_PASS_PX = 1.0  # standard deviation of the inner Gaussian of the band, in pixels
HIGH_PASS_PX = 12.0  # and of the outer one: shading is slower than this
TAPER_PX = 12  # width of the cosine edge, so that the frame itself does not correlate


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """The best shift inside the bounds, and how far it stands above the noise.

    `z` is the height over the median in robust standard deviations (1.4826 MAD).
    """

    dy_px: float
    dx_px: float
    z: float


@lru_cache(maxsize=32)
def _taper(length: int) -> Float:
    ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(TAPER_PX) + 0.5) / TAPER_PX)
    window = np.ones(length, np.float32)
    n = min(TAPER_PX, length // 2)
    window[:n] = ramp[:n]
    window[length - n :] = ramp[:n][::-1]
    return window


@lru_cache(maxsize=8)
def _band(shape: tuple[int, int]) -> Float:
    """`(h, w // 2 + 1)` gain of a difference of Gaussians for `scipy.fft.rfft2`."""
    fy = fft.fftfreq(shape[0])[:, None]
    fx = fft.rfftfreq(shape[1])[None, :]
    # A Gaussian of deviation s has the transform exp(-2 pi**2 f**2 s**2).
    k = -2.0 * np.pi**2 * (fy * fy + fx * fx)
    return np.asarray(np.exp(k * LOW_PASS_PX**2) - np.exp(k * HIGH_PASS_PX**2), "f4")


@numba.njit(nogil=True, cache=True, fastmath=True)
def _whiten(a: Complex, b: Complex, band: Float) -> None:
    """Overwrite `a` by `band * a * conj(b) / sqrt(|a * b|)`."""
    for y in range(a.shape[0]):
        for x in range(a.shape[1]):
            p = a[y, x] * np.conj(b[y, x])
            power = np.sqrt(p.real * p.real + p.imag * p.imag)
            # 1e-6: a frequency without power stays 0 and is not divided by 0.
            a[y, x] = p * (band[y, x] / np.float32(np.sqrt(power) + 1e-6))


def _prepared(image: npt.NDArray[np.generic], shape: tuple[int, int]) -> Complex:
    """Spectrum of an image without its mean, with soft edges, padded to `shape`."""
    h, w = image.shape
    padded = np.zeros(shape, np.float32)
    inner = padded[:h, :w]
    # The mean would stand as a box on the zeros of the padding.
    np.subtract(image, np.float32(image.mean()), out=inner, dtype=np.float32)
    inner *= _taper(h)[:, None]
    inner *= _taper(w)[None, :]
    return np.asarray(fft.rfft2(padded))


def correlate(
    a: npt.NDArray[np.generic], b: npt.NDArray[np.generic], *, shape: tuple[int, int]
) -> Float:
    """Correlation of two images for every cyclic shift of `b`.

    Each frequency is divided by the square root of its cross-power: half way between
    plain correlation, which sees only the slow shading, and phase correlation
    (Kuglin and Hines 1975), which gives the camera's noise the weight of the tissue.

    Parameters
    ----------
    a, b
        `(h, w)`; each at most `shape`.
    shape
        Of the transform; shifts are cyclic in it.

    Returns
    -------
        `shape` float32; entry `(y, x)` belongs to `a(p) ~ b(p - (y, x))`.
    """
    spectrum = _prepared(a, shape)
    _whiten(spectrum, _prepared(b, shape), _band(shape))
    return np.asarray(fft.irfft2(spectrum, s=shape))


def parabola(left: float, centre: float, right: float) -> float:
    """Place of the top of the parabola through three samples, within half a step."""
    bend = left - 2.0 * centre + right
    # Flat, or a valley: the samples say nothing of a fraction.
    if bend >= 0.0:
        return 0.0
    return float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5))


def find_peak(
    surface: Float, *, expected: tuple[float, float], radius: tuple[int, int]
) -> Peak:
    """The highest point of a cyclic correlation within `radius` of `expected`.

    Parameters
    ----------
    surface
        `(h, w)` cyclic, from :func:`correlate`.
    expected
        `(y, x)` shift around which to look.
    radius
        `(y, x)` farthest allowed distance from it.
    """
    y0 = round(expected[0]) - radius[0]
    x0 = round(expected[1]) - radius[1]
    ys = np.arange(y0, y0 + 2 * radius[0] + 1) % surface.shape[0]
    xs = np.arange(x0, x0 + 2 * radius[1] + 1) % surface.shape[1]
    window = surface[ys[:, None], xs[None, :]]
    y, x = divmod(int(np.argmax(window)), window.shape[1])
    # Median and MAD: the peak itself is not counted as noise.
    middle = float(np.median(window))
    noise = 1.4826 * float(np.median(np.abs(window - middle)))
    height = float(window[y, x])
    dy = dx = 0.0
    # A best place at the border has no neighbour to fit a parabola to.
    if 0 < y < window.shape[0] - 1:
        dy = parabola(float(window[y - 1, x]), height, float(window[y + 1, x]))
    if 0 < x < window.shape[1] - 1:
        dx = parabola(float(window[y, x - 1]), height, float(window[y, x + 1]))
    z = (height - middle) / noise if noise > 0.0 else 0.0
    return Peak(dy_px=y0 + y + dy, dx_px=x0 + x + dx, z=z)


def transform_shape(
    a: tuple[int, int], b: tuple[int, int], *, radius: tuple[int, int]
) -> tuple[int, int]:
    """A fast transform in which no shift within the bounds meets its cyclic image."""
    h, w = (
        fft.next_fast_len(max(a[i], b[i]) + radius[i] + 1, real=True) for i in (0, 1)
    )
    return int(h), int(w)
