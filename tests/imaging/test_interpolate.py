"""Shifts and distortions are those that were asked for, to a few thousandths."""

import numpy as np
import pytest

from em_platform.imaging.interpolate import MARGIN_PX, shifted, warped
from em_platform.simulation.specimen.tissue import tissue

SIZE = 512


def measured_shift(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Shift of b against a (b(y) = a(y + shift)) by a line fit to spectrum phases."""
    window = np.outer(np.hanning(SIZE), np.hanning(SIZE))
    first = np.fft.fft2((a - a.mean()) * window)
    second = np.fft.fft2((b - b.mean()) * window)
    cross = second * np.conj(first)
    fy, fx = np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE), indexing="ij")
    use = (np.hypot(fy, fx) < 0.2) & (np.hypot(fy, fx) > 0.01)
    phase, weight = np.angle(cross)[use], np.abs(cross)[use]
    design = 2 * np.pi * np.stack([fy[use], fx[use]], axis=1) * weight[:, None]
    solution = np.linalg.lstsq(design, phase * weight, rcond=None)[0]
    return float(solution[0]), float(solution[1])


@pytest.fixture(scope="module")
def window() -> np.ndarray:
    size = SIZE + 2 * MARGIN_PX
    return tissue(0, 0, height=size, width=size, seed=5)


@pytest.mark.parametrize(("dy", "dx"), [(0.0, 0.0), (0.5, 0.25), (0.31, 0.87)])
def test_a_shifted_image_lies_where_it_was_put(
    window: np.ndarray, dy: float, dx: float
) -> None:
    still = shifted(window, dy=0.0, dx=0.0)
    found = measured_shift(still, shifted(window, dy=dy, dx=dx))
    assert found == pytest.approx((dy, dx), abs=0.003)


def test_a_whole_pixel_is_left_as_it_is(window: np.ndarray) -> None:
    m = MARGIN_PX
    assert np.allclose(shifted(window, dy=0, dx=0), window[m:-m, m:-m], atol=1e-3)


def test_a_shift_and_back_returns_the_image(window: np.ndarray) -> None:
    there = shifted(window, dy=0.4, dx=0.7)
    back = shifted(there, dy=0.6, dx=0.3)
    m = 2 * MARGIN_PX
    expected = window[m + 1 : -m + 1, m + 1 : -m + 1]
    assert np.std(back - expected) < 0.02 * expected.std()


def test_a_warp_by_a_plain_shift_equals_the_shift(window: np.ndarray) -> None:
    steps = np.arange(0, SIZE + 32, 16) + MARGIN_PX
    grid = np.stack(np.meshgrid(steps + 0.3, steps + 0.6, indexing="ij"), axis=-1)
    found = warped(window, grid, pitch_px=16, height=SIZE, width=SIZE)
    assert np.abs(found - shifted(window, dy=0.3, dx=0.6)).max() < 0.1
