"""The defocus that the Thon rings of one image tell, and a picture of them."""

import numpy as np
import scipy.fft
import scipy.ndimage
from numpy.typing import NDArray

from em_platform.simulation.tilt_series.optics import (
    Defocus,
    Lens,
    aberration,
    envelope,
    frequencies,
)

_RANGE = 0.25  # of the expected defocus, to both sides: rings further off are others
_STEPS = 51
_SIDE_PX = 1024  # of the part that is looked at: more pixels tell no more
_FIT_HIGH = 0.9  # of the highest frequency
_ROOM = 0.08  # of the profile's length: a background as wide as the slowest ring


def thon_defocus_nm(
    image: NDArray[np.float32], *, lens: Lens, defocus: Defocus, pixel_nm: float
) -> float:
    """The mean defocus, nm, whose rings are most alike to those of `image`.

    Parameters
    ----------
    image
        `(h, w)`; its middle is taken.
    defocus
        Where the search begins; its astigmatism is taken as it is.

    The rings' profile over the spatial frequency, less its slow background, is compared
    with that of sin^2 by normalised correlation, as CTFFIND does (Rohou & Grigorieff
    2015).
    """
    part = _middle(image)
    rings = _Rings(part.shape, pixel_nm)
    found = rings.profile(_power(part))
    mean = (defocus.u_nm + defocus.v_nm) / 2
    shifts = np.linspace(-_RANGE, _RANGE, _STEPS) * mean
    scores = np.array(
        [rings.likeness(found, lens, _moved(defocus, shift)) for shift in shifts]
    )
    at = int(np.clip(scores.argmax(), 1, _STEPS - 2))
    left, best, right = scores[at - 1 : at + 2]
    # the vertex of the parabola through the best three
    bend = left - 2 * best + right
    off = 0.5 * (left - right) / bend if bend else 0.0
    step = shifts[1] - shifts[0]
    return float(mean + shifts[at] + off * step)


def rings_picture(
    image: NDArray[np.float32], *, lens: Lens, defocus: Defocus, pixel_nm: float
) -> NDArray[np.uint8]:
    """`(n, n)`: the power spectrum on the left, the rings of the truth on the right."""
    part = _middle(image)
    power = np.log(np.fft.fftshift(np.abs(scipy.fft.fft2(part - part.mean())) ** 2) + 1)
    rows, _ = frequencies(part.shape, pixel_nm)
    whole = np.fft.fftfreq(part.shape[1], pixel_nm).astype(np.float32)[None, :]
    model = np.fft.fftshift(_square(rows, whole, lens, defocus))
    low, high = np.percentile(power, [5, 99.5])
    shown = np.clip((power - low) / max(high - low, 1e-9), 0, 1)
    half = part.shape[1] // 2
    shown[:, half:] = model[:, half:] / max(float(model.max()), 1e-9)
    return np.asarray(255 * shown, np.uint8)


def _middle(image: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = image.shape
    side = min(height, width, _SIDE_PX)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def _power(image: NDArray[np.float32]) -> NDArray[np.float64]:
    # A window: the image's border is an edge that the transform sees as lines.
    window = np.hanning(image.shape[0])[:, None] * np.hanning(image.shape[1])[None, :]
    wave = scipy.fft.rfft2((image - image.mean()) * window)
    return np.asarray(np.abs(wave) ** 2, np.float64)


def _square(
    qy: NDArray[np.float32], qx: NDArray[np.float32], lens: Lens, defocus: Defocus
) -> NDArray[np.float64]:
    chi = aberration(qy, qx, lens=lens, defocus=defocus)
    chi += lens.phase_plate_rad + float(np.arcsin(lens.amplitude_contrast))
    damped = np.sin(chi) * envelope(qy, qx, lens=lens, defocus=defocus)
    return np.asarray(damped**2, np.float64)


def _moved(defocus: Defocus, by_nm: float) -> Defocus:
    return Defocus(
        u_nm=defocus.u_nm + by_nm,
        v_nm=defocus.v_nm + by_nm,
        azimuth_rad=defocus.azimuth_rad,
    )


class _Rings:
    """Means over rings one frequency bin wide, their slow background taken out."""

    def __init__(self, shape: tuple[int, ...], pixel_nm: float) -> None:
        side = shape[0]
        self._qy, self._qx = frequencies((side, side), pixel_nm)
        radius = np.sqrt(self._qy**2 + self._qx**2) * pixel_nm * side
        self._ring = np.rint(radius).astype(np.int64).ravel()
        self._counts = np.maximum(np.bincount(self._ring), 1)
        # Before the third ring there are too few samples, and particles outshine ice.
        self._used = slice(3, int(_FIT_HIGH * side / 2))
        self._width = max(3, int(_ROOM * side))

    def profile(self, power: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of a spectrum as `rfft2` has it: zero mean, length 1."""
        total = np.bincount(self._ring, power.ravel())
        mean = (total / self._counts)[self._used]
        slow = scipy.ndimage.uniform_filter1d(mean, self._width, mode="nearest")
        # Relative: the rings fade, and each shall count.
        off = mean / np.maximum(slow, 1e-30) - 1
        off -= off.mean()
        return np.asarray(off / max(float(np.linalg.norm(off)), 1e-30), np.float64)

    def likeness(
        self, found: NDArray[np.float64], lens: Lens, defocus: Defocus
    ) -> float:
        model = _square(self._qy, self._qx, lens, defocus)
        return float(found @ self.profile(model))
