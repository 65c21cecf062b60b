"""How alike two images or volumes are, frequency by frequency."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def ring_correlation(
    one: NDArray[Any], other: NDArray[Any], ring: NDArray[Any], *, rings: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlation of two spectra in each ring, `(rings,)`, and the gain of the other.

    Source: Saxton & Baumeister 1982, J. Microsc. 127, 127.

    Parameters
    ----------
    one, other
        Spectra of one shape; how they are windowed is up to who asks.
    ring
        Number of the ring of each frequency, broadcast to that shape; `rings` and above
        are left out.
    """
    number = np.broadcast_to(ring, one.shape).ravel().astype(np.int64)
    number = np.minimum(number, rings)

    def total(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(number, values.ravel(), rings + 1)[:rings]

    cross = total((one * other.conj()).real)
    own, others = (total(np.abs(each) ** 2) for each in (one, other))
    power = np.sqrt(np.maximum(own * others, 1e-30))
    return cross / power, cross / np.maximum(own, 1e-30)
