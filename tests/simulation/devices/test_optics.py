"""Two views of one specimen lie where their placements say, to 0.005 pixels."""

import math

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from em_platform.imaging.lens import distort_points
from em_platform.model import LensModel, Size, TilePlacement
from em_platform.simulation.devices.optics import place, view
from em_platform.simulation.specimen import Tissue

SIZE = Size(height_px=512, width_px=512)
TISSUE = Tissue(5)
# 3 px outwards at the middle of an edge: u (u^2 + v^2), v (u^2 + v^2)
CUBIC = LensModel(
    microscope="sim",
    magnification=2000,
    size=SIZE,
    degree=3,
    dy_px=(0,) * 6 + (3, 0, 3, 0),
    dx_px=(0,) * 6 + (0, 3, 0, 3),
    residual_mean_px=0,
    residual_std_px=0,
    points=0,
)


def upsampled_peak(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Shift of b against a: a direct Fourier sum of the cross-power on a fine grid."""
    window = np.outer(np.hanning(len(a)), np.hanning(len(a)))
    cross = np.fft.fft2((b - b.mean()) * window)
    cross *= np.conj(np.fft.fft2((a - a.mean()) * window))
    frequency = np.fft.fftfreq(len(a))
    best = np.zeros(2)
    for step in (0.1, 0.01, 0.001):
        around = np.arange(-15, 16) * step
        rows = np.exp(-2j * np.pi * np.outer(best[0] + around, frequency))
        columns = np.exp(-2j * np.pi * np.outer(frequency, best[1] + around))
        peak = np.unravel_index(np.argmax((rows @ cross @ columns).real), (31, 31))
        best = best + np.array([around[peak[0]], around[peak[1]]])
    return float(best[0]), float(best[1])


def test_two_shifted_tiles_are_at_their_true_places() -> None:
    a = view(TISSUE, place("a", y_px=10.37, x_px=-20.81, size=SIZE), size=SIZE)
    b = view(TISSUE, place("b", y_px=90.62, x_px=219.14, size=SIZE), size=SIZE)
    # b's corner lies (80.25, 239.95) further; cut both where whole pixels agree
    found = upsampled_peak(a[80:336, 240:496], b[:256, :256])
    assert found == pytest.approx((0.25, -0.05), abs=0.005)


def seen_at(
    image: np.ndarray, placement: TilePlacement, world: np.ndarray
) -> np.ndarray:
    """The image's values at `(n, 2)` world points, by spline interpolation."""
    turn = np.array([[placement.yy, placement.yx], [placement.xy, placement.xx]])
    corrected = (world - [placement.y_px, placement.x_px]) @ np.linalg.inv(turn).T
    raw = distort_points(CUBIC, corrected)
    return map_coordinates(image, raw.T, order=5)


def test_two_distorted_and_turned_tiles_show_the_same_world() -> None:
    first = place("a", y_px=0.2, x_px=0.4, size=SIZE, rotation_rad=math.radians(0.3))
    second = place("b", y_px=31.7, x_px=213.9, size=SIZE, rotation_rad=-0.004)
    a = view(TISSUE, first, size=SIZE, lens=CUBIC)
    b = view(TISSUE, second, size=SIZE, lens=CUBIC)
    y, x = np.meshgrid(np.arange(120, 376), np.arange(230, 486), indexing="ij")
    world = np.stack([y.ravel(), x.ravel()], axis=1).astype(float)
    seen_a = seen_at(a, first, world).reshape(256, 256)
    seen_b = seen_at(b, second, world).reshape(256, 256)
    assert upsampled_peak(seen_a, seen_b) == pytest.approx((0, 0), abs=0.005)
    for corner in (np.s_[:96, :96], np.s_[-96:, -96:]):
        local = upsampled_peak(seen_a[corner], seen_b[corner])
        assert local == pytest.approx((0, 0), abs=0.01)
    assert np.std(seen_a - seen_b) < 0.1 * np.std(seen_a)


def test_a_turned_tile_keeps_its_middle() -> None:
    placement = place("a", y_px=5.0, x_px=7.0, size=SIZE, rotation_rad=0.1)
    middle = 255.5
    y = placement.y_px + placement.yy * middle + placement.yx * middle
    x = placement.x_px + placement.xy * middle + placement.xx * middle
    assert (y, x) == pytest.approx((5.0 + middle, 7.0 + middle))
