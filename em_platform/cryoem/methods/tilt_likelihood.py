"""How probable the images of a tilt series are, given where the specimen lies in each.

Stretched to no tilt, two images of one slab differ by what parallax does: at frequency
kx across the axis their transforms correlate as sinc(T kx (tan a - tan b)), T being the
thickness (the central-section theorem for a slab of unknown, uncorrelated density).
With signal-to-noise ratios by ring the whole series is one Gaussian vector for each
frequency, and its likelihood weighs every pair of images as it should be. Maximising it
is projection matching against the best linear reconstruction from all other tilts, for
all shifts at once: slow drifts along the series converge as fast as single outliers.
"""

from dataclasses import dataclass

import numba
import numpy as np
import scipy.fft
from numpy.typing import NDArray

from em_platform.cryoem.methods.tilt_images import Images, Numbers, fade

# Cycles a pixel: interpolation is true up to here.
_HIGHEST = 0.35
_RINGS = 24
# A ring that correlates less than this has no signal; one that correlates more is
# no surer, as images also differ by what the model does not know.
_LEAST_COHERENCE, _MOST_COHERENCE = 0.01, 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Frequencies:
    """The frequencies that count, and what is known of them beforehand.

    Attributes
    ----------
    rows, ky
        `(g, m)`: rows of the transform, in groups that share a matrix; cycles a pixel.
    kx
        `(k,)`: of columns 1 to k; column 0 has no parallax and stays out.
    ring
        `(g, k, n)`: as the tilted image itself had the frequency; the last one is out.
    parallax
        `(k, n, n)`: how far two images of the slab correlate.
    """

    shape: tuple[int, int]
    rows: NDArray[np.intp]
    ky: Numbers
    kx: Numbers
    ring: NDArray[np.intp]
    parallax: Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Precision matrices `(g, k, n, n)` and the expected curvature of the shifts."""

    precision: NDArray[np.float32]
    across: Numbers
    along: Numbers
    log_determinant: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The misfit, and its slope by a move of each image across and along the axis."""

    misfit: float
    across: Numbers
    along: Numbers


def frequencies(
    shape: tuple[int, int],
    *,
    tilts_rad: Numbers,
    thickness_px: float,
    most_numbers: int,
) -> Frequencies:
    """Frequencies of images `(h, w)`, in groups so large that matrices stay small."""
    height, width = shape
    last, columns = int(_HIGHEST * height), int(_HIGHEST * width)
    group = max(1, round(last * columns * len(tilts_rad) ** 2 / most_numbers))
    group = min(group, last)
    counts = np.arange(1, last - last % group + 1).reshape(-1, group)
    rows = np.concatenate([counts, height - counts], axis=1)
    ky = scipy.fft.fftfreq(height)[rows]
    kx = np.arange(1, columns + 1) / width
    seen = kx[None, :, None] / np.cos(tilts_rad)
    radius = np.hypot(seen, np.abs(ky).mean(axis=1)[:, None, None])
    tangents = np.tan(tilts_rad)
    apart = tangents[:, None] - tangents[None, :]
    return Frequencies(
        shape=shape,
        rows=rows,
        ky=ky,
        kx=kx,
        ring=np.minimum((radius / _HIGHEST * _RINGS).astype(np.intp), _RINGS),
        parallax=np.sinc(thickness_px * kx[:, None, None] * apart),
    )


def whitened(images: Images, at: Frequencies) -> NDArray[np.complex64]:
    """Transforms `(g, k, n, m)` of the images, of mean power 1 in each ring."""
    height, width = at.shape
    window = fade(height)[:, None] * fade(width)[None, :]
    last = len(at.kx) + 1
    out = np.empty((*at.ring.shape, at.rows.shape[1]), np.complex64)
    for i, image in enumerate(images):
        found = scipy.fft.rfft2(image * window)[:, 1:last][at.rows].transpose(0, 2, 1)
        power = np.mean(found.real**2 + found.imag**2, axis=2)
        ring = at.ring[:, :, i]
        mean = _by_ring(ring, power) / np.maximum(_by_ring(ring, None), 1)
        scale = np.where(mean > 0, 1 / np.sqrt(np.maximum(mean, 1e-30)), 0)
        scale[_RINGS] = 0
        out[:, :, i, :] = found * scale[ring][:, :, None].astype(np.float32)
    return out


def coherence(white: NDArray[np.complex64], at: Frequencies) -> Numbers:
    """`(rings + 1,)`: S / (S + N), from images that are neighbours in angle."""
    above, below = np.zeros(_RINGS + 1), np.zeros(_RINGS + 1)
    for i in range(white.shape[2] - 1):
        first, second = white[:, :, i], white[:, :, i + 1]
        ring = np.maximum(at.ring[:, :, i], at.ring[:, :, i + 1])
        expected = np.broadcast_to(at.parallax[None, :, i, i + 1], ring.shape)
        product = np.mean((first.conj() * second).real, axis=2)
        above += _by_ring(ring, product * expected)
        below += _by_ring(ring, expected**2)
    found = np.where(below > 1, above / np.maximum(below, 1), 0)[:_RINGS]
    # Single rings are noisy.
    wide = np.pad(found, 1, mode="edge")
    found = (wide[:-2] + 2 * wide[1:-1] + wide[2:]) / 4
    found[found < _LEAST_COHERENCE] = 0
    return np.append(np.minimum(found, _MOST_COHERENCE), 0.0)


def model_of(coherent: Numbers, at: Frequencies) -> Model:
    """Precision matrices for whitened transforms that cohere so."""
    n = at.ring.shape[2]
    share = np.sqrt(coherent)[at.ring].astype(np.float32)
    covariance = share[..., :, None] * share[..., None, :]
    covariance *= at.parallax[None].astype(np.float32)
    diagonal = np.arange(n)
    covariance[..., diagonal, diagonal] = 1
    precision = covariance.copy()
    members = at.rows.shape[1]
    log_determinant = 2 * members * _invert(precision.reshape(-1, n, n))
    covariance *= precision
    # A column stands for its mirror image, too: each sum counts twice.
    kx2 = (2 * np.pi * at.kx) ** 2
    ky2 = np.sum((2 * np.pi * at.ky) ** 2, axis=1)
    across = 4 * members * np.einsum("k,kij->ij", kx2, covariance.sum(axis=0))
    along = 4 * np.einsum("g,gij->ij", ky2, covariance.sum(axis=1))
    for curvature in (across, along):
        np.fill_diagonal(curvature, 0)
        np.fill_diagonal(curvature, -curvature.sum(axis=1))
    return Model(
        precision=precision,
        across=across,
        along=along,
        log_determinant=log_determinant,
    )


def fit_of(model: Model, white: NDArray[np.complex64], at: Frequencies) -> Fit:
    """What a model says of whitened transforms."""
    product = white.conj() * _times(model.precision, white)
    turn = product.imag
    across = np.einsum("k,gknm->n", 4 * np.pi * at.kx, turn)
    along = np.einsum("gm,gknm->n", 4 * np.pi * at.ky, turn)
    # Less that of noise alone: a stretch that moves frequencies out of what counts
    # would make fewer of them, and so a smaller misfit.
    excess = product.real.sum(dtype=np.float64) - np.vdot(white, white).real
    misfit = 2 * float(excess) + model.log_determinant
    return Fit(misfit=misfit, across=2 * across, along=2 * along)


def predicted(model: Model, white: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """What all other images let one expect of each: `(g, k, n, m)`.

    The conditional mean of a Gaussian vector's element by its precision matrix.
    """
    diagonal = np.diagonal(model.precision, axis1=2, axis2=3)[..., None]
    return white - _times(model.precision, white) / diagonal


def images_of(white: NDArray[np.complex64], at: Frequencies) -> Images:
    """Images `(n, h, w)` of transforms at the frequencies that count."""
    n = white.shape[2]
    height, width = at.shape
    out = np.zeros((n, height, width), np.float32)
    for i in range(n):
        transform = np.zeros((height, width // 2 + 1), np.complex64)
        transform[at.rows, 1 : len(at.kx) + 1] = white[:, :, i, :].transpose(0, 2, 1)
        out[i] = scipy.fft.irfft2(transform, s=at.shape)
    return out


def step_of(curvature: Numbers, slope: Numbers) -> Numbers:
    """The Newton step; what no image can decide (all together) stays."""
    values, vectors = np.linalg.eigh((curvature + curvature.T) / 2)
    inside = vectors.T @ -slope
    good = values > 1e-6 * max(float(values.max()), 1e-30)
    return np.asarray(vectors @ np.where(good, inside / np.where(good, values, 1), 0))


@numba.njit(nogil=True, cache=True, fastmath=True)
def _invert(matrices):  # type: ignore[no-untyped-def]
    """Invert positive definite matrices in place; the sum of their log determinants.

    Gauss and Jordan's elimination row by row: LAPACK takes four times as long for
    thousands of matrices that are so small.
    """
    count, n, _ = matrices.shape
    total = 0.0
    for m in range(count):
        a = matrices[m]
        for k in range(n):
            pivot = a[k, k]
            total += np.log(pivot)
            a[k, k] = np.float32(1)
            scale = np.float32(1) / pivot
            for j in range(n):
                a[k, j] *= scale
            for i in range(n):
                if i != k:
                    share = a[i, k]
                    a[i, k] = np.float32(0)
                    for j in range(n):
                        a[i, j] -= share * a[k, j]
    return total


def _times(
    matrices: NDArray[np.float32], white: NDArray[np.complex64]
) -> NDArray[np.complex64]:
    # Real and imaginary parts are columns of one real product.
    real = np.ascontiguousarray(white).view(np.float32)
    return np.asarray(np.matmul(matrices, real).view(np.complex64))


def _by_ring(ring: NDArray[np.intp], values: Numbers | None) -> Numbers:
    weights = None if values is None else values.ravel()
    return np.bincount(ring.ravel(), weights, _RINGS + 1).astype(np.float64)
