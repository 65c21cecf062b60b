"""Frames moved to where the first one was, weighted by dose, and summed.

Each frame is interpolated once, with global and local motion together, by a windowed
sinc of six points along y and then x: the motion is so smooth that its fraction of a
pixel hardly changes over 16 pixels, so that the weights are found for each 16th.
"""

from dataclasses import dataclass, field

import numba
import numpy as np
import scipy.fft
from numpy.typing import NDArray

_jit = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=True)

STEP_PX = 16
_TAPS = 6
_TABLE = 512
_SPILL = 0.25
"""A fraction may leave 0 to 1 so far within one step."""


def _weights_table() -> NDArray[np.float32]:
    """Lanczos weights with a = 3 for fractions -0.25 to 1.25; each row sums to 1."""
    places = np.linspace(-_SPILL, 1 + _SPILL, int(_TABLE * (1 + 2 * _SPILL)) + 1)
    away = np.arange(_TAPS)[None] - 2 - places[:, None]
    weights = np.sinc(away) * np.sinc(away / 3) * (np.abs(away) < 3)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


_WEIGHTS = _weights_table()


def move_back(
    frame: NDArray[np.float32], shifts: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The frame as it was before its features moved by `shifts`, `(h, w)`.

    Parameters
    ----------
    shifts
        `(h / 16 + 2, w / 16 + 2, 2)`: (y, x) at each 16th pixel and one beyond.
    """
    out = np.empty_like(frame)
    spare = int(np.ceil(np.abs(shifts[..., 1]).max())) + _TAPS
    _move_back(frame, shifts, spare, _WEIGHTS, out)
    return out


@_jit
def _move_back(frame, shifts, spare, table, out):  # type: ignore[no-untyped-def]
    height, width = frame.shape
    step = 16
    columns = width + 2 * spare
    row = np.empty(columns + step, dtype=np.float32)
    nodes = shifts.shape[1]
    line = np.empty((nodes, 2), dtype=np.float32)
    for y in range(height):
        upper = y // step
        part = np.float32(y - upper * step) / np.float32(step)
        mean_x = np.float32(0)
        for n in range(nodes):
            for axis in range(2):
                a, b = shifts[upper, n, axis], shifts[upper + 1, n, axis]
                line[n, axis] = a + (b - a) * part
            mean_x += line[n, 1]
        # What comes from column c goes to c - shift: its own shift along y is there.
        back = int(np.round(mean_x / nodes))
        _blend_rows(frame, y, line, back, spare, table, row)
        _blend_columns(row, line, spare, table, out[y])


@_jit
def _blend_rows(frame, y, line, back, spare, table, row):  # type: ignore[no-untyped-def]
    """Row `y + dy` of the frame, with `spare` columns repeated at each side."""
    height, width = frame.shape
    last = line.shape[0] - 1
    for start in range(0, width, 16):
        end = min(start + 16, width)
        here = min(max((start - back) / 16, 0.0), last - 1e-3)
        there = min(max((start + 16 - back) / 16, 0.0), last - 1e-3)
        n, m = int(here), int(there)
        first = line[n, 0] + (line[n + 1, 0] - line[n, 0]) * np.float32(here - n)
        final = line[m, 0] + (line[m + 1, 0] - line[m, 0]) * np.float32(there - m)
        base = int(np.floor(first))
        a = table[_index(first - base)]
        b = table[_index(final - base)]
        d = (b - a) / np.float32(16)
        rows = frame[_inside(y + base - 2, height)]
        r1 = frame[_inside(y + base - 1, height)]
        r2 = frame[_inside(y + base, height)]
        r3 = frame[_inside(y + base + 1, height)]
        r4 = frame[_inside(y + base + 2, height)]
        r5 = frame[_inside(y + base + 3, height)]
        for x in range(start, end):
            k = np.float32(x - start)
            row[spare + x] = (
                (a[0] + d[0] * k) * rows[x]
                + (a[1] + d[1] * k) * r1[x]
                + (a[2] + d[2] * k) * r2[x]
                + (a[3] + d[3] * k) * r3[x]
                + (a[4] + d[4] * k) * r4[x]
                + (a[5] + d[5] * k) * r5[x]
            )
    for x in range(spare):
        row[x] = row[spare]
    for x in range(spare + width, row.size):
        row[x] = row[spare + width - 1]


@_jit
def _blend_columns(row, line, spare, table, out):  # type: ignore[no-untyped-def]
    width = out.size
    for start in range(0, width, 16):
        end = min(start + 16, width)
        n = start // 16
        base = int(np.floor(line[n, 1]))
        a = table[_index(line[n, 1] - base)]
        b = table[_index(line[n + 1, 1] - base)]
        d = (b - a) / np.float32(16)
        near = row[start + base - 2 + spare : end + base + 4 + spare]
        for j in range(end - start):
            k = np.float32(j)
            out[start + j] = (
                (a[0] + d[0] * k) * near[j]
                + (a[1] + d[1] * k) * near[j + 1]
                + (a[2] + d[2] * k) * near[j + 2]
                + (a[3] + d[3] * k) * near[j + 3]
                + (a[4] + d[4] * k) * near[j + 4]
                + (a[5] + d[5] * k) * near[j + 5]
            )


@_jit
def _index(fraction):  # type: ignore[no-untyped-def]
    # As `_weights_table` lays them out; a steeper motion than its spill is cut.
    return int(min(max((fraction + 0.25) * 512 + 0.5, 0.0), 768.0))


@_jit
def _inside(place, length):  # type: ignore[no-untyped-def]
    return min(max(place, 0), length - 1)


def critical_exposure(
    shape: tuple[int, int], *, pixel_size_a: float, voltage_kv: float
) -> NDArray[np.float32]:
    """Electrons per square Å at which a frequency is down to 1/e, `(h, w // 2 + 1)`.

    Grant & Grigorieff 2015 (eLife 4:e06980), equation 3, at 300 kV; at 200 kV it is 0.8
    times that, and other voltages lie on that line.
    """
    height, width = shape
    fy = np.fft.fftfreq(height, pixel_size_a)[:, None]
    fx = np.fft.rfftfreq(width, pixel_size_a)[None]
    k = np.sqrt(fy**2 + fx**2)
    k[0, 0] = 1.0
    scale = np.interp(voltage_kv, (100, 200, 300), (0.57, 0.8, 1.0))
    found = scale * (0.24499 * k**-1.6649 + 2.8141)
    found[0, 0] = 1e30  # the mean is never weighted down
    return found.astype(np.float32)


@dataclass(slots=True, kw_only=True)
class DoseWeighted:
    """Sums of frames in Fourier space, even and odd ones apart.

    A frequency is weighted by `exp(-N / (2 Ne))` for the dose N that the sample had had
    at the end of the frame, and the sum divided by the root of the sum of squares, so
    that its noise stays white. What the sample had had before the first frame is one
    factor of all weights, which the division takes out: weights are counted from that
    frame, or they would vanish for the last tilts of a series.
    """

    critical: NDArray[np.float32] | None
    """None: all weights are 1."""
    shape: tuple[int, int]
    halves: NDArray[np.complex64] = field(init=False)
    squares: NDArray[np.float32] = field(init=False)
    count: int = 0
    first_dose: float = 0.0

    def __post_init__(self) -> None:
        """Begin with nothing."""
        half = (self.shape[0], self.shape[1] // 2 + 1)
        self.halves = np.zeros((2, *half), np.complex64)
        self.squares = np.zeros(half, np.float32)

    def add(self, spectrum: NDArray[np.complex64], *, dose: float) -> None:
        """Take a frame's half spectrum in; `dose` is that at its end."""
        place = self.halves[self.count % 2]
        if not self.count:
            self.first_dose = dose
        if self.critical is None:
            place += spectrum
        else:
            more = np.float32(dose - self.first_dose)
            _add_weighted(spectrum, self.critical, more, place, self.squares)
        self.count += 1

    def spectrum(self, half: int | None = None) -> NDArray[np.complex64]:
        """The sum of all frames, or of the even (0) or odd (1) ones."""
        found: NDArray[np.complex64] = (
            self.halves.sum(0) if half is None else self.halves[half].copy()
        )
        if self.critical is not None:
            # So scaled the mean stays the sum of all electrons.
            found *= np.sqrt(self.count / np.maximum(self.squares, 1e-12))
        return found


@_jit
def _add_weighted(spectrum, critical, dose, total, squares):  # type: ignore[no-untyped-def]
    height, width = spectrum.shape
    for y in range(height):
        for x in range(width):
            weight = np.exp(np.float32(-0.5) * dose / critical[y, x])
            total[y, x] += weight * spectrum[y, x]
            squares[y, x] += weight * weight


def image_of(
    spectrum: NDArray[np.complex64], shape: tuple[int, int], *, binning: float
) -> NDArray[np.float32]:
    """The image of a half spectrum, binned by cutting high frequencies."""
    from em_platform.cryoem.methods.motion_align import crop_spectrum

    if binning <= 1:
        return np.asarray(scipy.fft.irfft2(spectrum, s=shape), np.float32)
    small = (2 * round(shape[0] / binning / 2), 2 * round(shape[1] / binning / 2))
    scale = small[0] * small[1] / (shape[0] * shape[1])
    cropped = crop_spectrum(spectrum, small)
    # A binned pixel has the electrons of those that it stands for: sums, as RELION.
    return np.asarray(scipy.fft.irfft2(cropped, s=small) * scale, np.float32)
