from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from em_platform.imaging.fourier import (
    correlate,
    find_peak,
    parabola,
    transform_shape,
)

Array = NDArray[Any]


def texture(seed: int, side: int = 400) -> Array:
    """Like tissue: most power is at low frequencies."""
    rng = np.random.default_rng(seed)
    out = np.zeros((side, side))
    for sigma, gain in ((1.5, 10.0), (5.0, 25.0)):
        layer = cv2.GaussianBlur(rng.standard_normal((side, side)), (0, 0), sigma)
        out += gain * layer / layer.std()
    return out + 128


def peak_of(a: Array, b: Array, expected: tuple[float, float], reach: int) -> Any:
    radius = (reach, reach)
    shape = transform_shape(a.shape, b.shape, radius=radius)
    surface = correlate(a, b, shape=shape)
    return find_peak(surface, expected=expected, radius=radius)


@pytest.mark.parametrize("shift", [(0, 0), (7, -5), (-31, 30), (20, 12)])
def test_a_known_shift_is_found_far_above_the_noise(shift: tuple[int, int]) -> None:
    scene = texture(1)
    a = scene[60:300, 60:160]
    b = scene[60 + shift[0] : 300 + shift[0], 60 + shift[1] : 160 + shift[1]]
    peak = peak_of(a, b, (0.0, 0.0), 32)
    assert peak.dy_px == pytest.approx(shift[0], abs=0.2)
    assert peak.dx_px == pytest.approx(shift[1], abs=0.2)
    assert peak.z > 20


def test_unrelated_images_have_no_peak_to_trust() -> None:
    heights = [
        peak_of(texture(seed)[:240, :100], texture(99 - seed)[:240, :100], (0, 0), 32).z
        for seed in range(6)
    ]
    assert max(heights) < 8


def test_shading_that_both_images_share_does_not_draw_the_peak_to_zero() -> None:
    scene = texture(2)
    ramp = np.linspace(0, 150, 100)[None, :]
    a, b = scene[:240, :100] + ramp, scene[12:252, 9:109] + ramp
    peak = peak_of(a, b, (0.0, 0.0), 32)
    assert (round(peak.dy_px), round(peak.dx_px)) == (12, 9)


def test_the_peak_stays_within_its_bounds() -> None:
    scene = texture(3)
    peak = peak_of(scene[:240, :100], scene[40:280, :100], (0.0, 0.0), 16)
    assert abs(peak.dy_px) <= 16.5
    assert peak.z < 10


def test_flat_images_have_no_peak() -> None:
    flat = np.full((100, 80), 7.0)
    assert peak_of(flat, flat, (0.0, 0.0), 10).z == 0.0


def test_the_top_of_a_parabola_is_exact() -> None:
    def curve(x: float) -> float:
        return 5.0 - (x - 0.3) ** 2

    assert parabola(curve(-1), curve(0), curve(1)) == pytest.approx(0.3)
    assert parabola(1.0, 1.0, 1.0) == 0.0
