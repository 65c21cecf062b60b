"""Images by their Fourier transform on rings, where a rotation is a phase.

The transform of an image on a circle of radius r has F(t + pi) = conj F(t), so its
angular coefficients of order m >= 0 hold all of it; a rotation by p multiplies them by
exp(-i m p) (Park & Penczek, Methods Enzymol. 482, 73 (2010), for the use of rings).
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

Float = NDArray[np.float32]
Complex = NDArray[np.complex64]

_BATCH = 256  # images at a time: their products stay in the cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Rings:
    """Samples of the transform of images of `side` px: `rings` circles, `angles` each.

    Attributes
    ----------
    weight
        `(rings,)`: how many independent pixels a sample of the ring stands for.
    """

    side: int
    rings: int
    angles: int

    @property
    def orders(self) -> int:
        """Angular coefficients that are kept: 0 to half of the angles."""
        return self.angles // 2 + 1

    @property
    def weight(self) -> Float:
        radius = np.arange(1, self.rings + 1)
        # Of a real image only half of its transform is independent.
        return (np.pi * radius / self.angles).astype(np.float32)

    def directions(self) -> tuple[Float, Float]:
        """`(y, x)` cycles a pixel of each sample, `(rings, angles)`."""
        angle = 2 * np.pi * np.arange(self.angles) / self.angles
        radius = np.arange(1, self.rings + 1)[:, None] / self.side
        return (
            (radius * np.sin(angle)).astype(np.float32),
            (radius * np.cos(angle)).astype(np.float32),
        )


def rings_of(side: int, rings: int) -> Rings:
    """As many angles as the outermost ring has pixels, an even and fast number."""
    angles = scipy.fft.next_fast_len(int(np.ceil(2 * np.pi * rings)))
    while angles % 4:
        angles = scipy.fft.next_fast_len(angles + 1)
    return Rings(side=side, rings=rings, angles=int(angles))


def coefficients(images: Float, kind: Rings) -> Complex:
    """Angular coefficients `(orders, n, rings)` of images `(n, side, side)`.

    The middle of an image is its pixel `(side // 2, side // 2)`. Samples are exact:
    each is a sum over all pixels, none is interpolated.
    """
    count, side = len(images), kind.side
    axis = (np.arange(side) - side // 2).astype(np.float32)
    fy, fx = (each[:, : kind.angles // 2].ravel() for each in kind.directions())
    rows = np.exp(-2j * np.pi * axis[:, None] * fy).astype(np.complex64)
    columns = np.exp(-2j * np.pi * axis[:, None] * fx).astype(np.complex64)
    waves = (rows[:, None, :] * columns[None, :, :]).reshape(side * side, -1)
    parts = np.ascontiguousarray(waves.real), np.ascontiguousarray(waves.imag)
    found = np.empty((kind.orders, count, kind.rings), np.complex64)
    for start in range(0, count, _BATCH):
        flat = images[start : start + _BATCH].reshape(-1, side * side)
        half = (flat @ parts[0] + 1j * (flat @ parts[1])).astype(np.complex64)
        half = half.reshape(len(flat), kind.rings, -1)
        found[:, start : start + _BATCH] = to_orders(half, kind)
    return found


def to_orders(half: Complex, kind: Rings) -> Complex:
    """`(orders, n, rings)` of samples `(n, rings, angles / 2)` of the half circle."""
    whole = np.concatenate([half, half.conj()], axis=-1)
    orders = scipy.fft.fft(whole, axis=-1, norm="forward")[..., : kind.orders]
    return np.ascontiguousarray(np.moveaxis(orders, -1, 0), np.complex64)


def to_half_circle(orders: Complex, kind: Rings) -> Complex:
    """Samples `(n, rings, angles / 2)` of coefficients `(orders, n, rings)`."""
    positive = np.moveaxis(orders, 0, -1)
    whole = np.zeros((*positive.shape[:-1], kind.angles), np.complex64)
    whole[..., : kind.orders] = positive
    # a(-m) = (-1)^m conj a(m), as the image is real.
    m = np.arange(1, kind.angles // 2)
    whole[..., -m] = np.where(m % 2, -1, 1) * positive[..., m].conj()
    return np.asarray(
        scipy.fft.ifft(whole, axis=-1, norm="forward")[..., : kind.angles // 2],
        np.complex64,
    )


def shift_phases(shifts: Float, kind: Rings) -> Complex:
    """`(shifts, rings, angles / 2)`: factors that move an image by `(y, x)` px."""
    fy, fx = (each[:, : kind.angles // 2] for each in kind.directions())
    turns = shifts[:, :1, None] * fy + shifts[:, 1:, None] * fx
    return np.exp(-2j * np.pi * turns).astype(np.complex64)
