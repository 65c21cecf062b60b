from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from em_platform.imaging.register import (
    GRID_PX,
    coarse_shift,
    halve,
    patch_shifts,
    pick_corners,
    texture_map,
)

Array = NDArray[Any]


def scene(seed: int, side: int = 512) -> Array:
    """Periodic tissue-like texture without power near the highest frequencies."""
    rng = np.random.default_rng(seed)
    out = np.zeros((side, side))
    for sigma, gain in ((1.5, 10.0), (5.0, 25.0)):
        white = np.fft.rfft2(rng.standard_normal((side, side)))
        fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
        low = np.exp(-2 * (np.pi * sigma) ** 2 * (fy**2 + fx**2))
        layer = np.fft.irfft2(white * low, s=(side, side))
        out += gain * layer / layer.std()
    return out + 128


def moved(image: Array, dy: float, dx: float) -> Array:
    """The same periodic image, its content moved up and left by a fraction."""
    h, w = image.shape
    turn = np.fft.fftfreq(h)[:, None] * dy + np.fft.rfftfreq(w)[None] * dx
    spectrum = np.fft.rfft2(image) * np.exp(2j * np.pi * turn)
    return np.fft.irfft2(spectrum, s=(h, w))


def grey(image: Array, seed: int, noise: float = 6.0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    noisy = image + noise * rng.standard_normal(image.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def test_halving_means_over_four_pixels_and_cuts_an_odd_row() -> None:
    image = np.array([[0, 4, 8, 8, 1], [4, 8, 0, 0, 1], [9, 9, 9, 9, 9]], np.uint8)
    assert halve(image).tolist() == [[4, 4]]


@pytest.mark.parametrize("shift", [(0.0, 60.0), (85.0, -85.0), (-60.4, 33.3)])
def test_a_tile_that_jumped_is_found_within_a_pixel(shift: tuple[float, float]) -> None:
    base = scene(1)
    a = grey(base[100:400, 100:400], 1)
    b = grey(moved(base, *shift)[100:400, 100:400], 2)
    peak = coarse_shift(a, b, expected=(0.0, 0.0), search_px=100)
    assert peak.dy_px == pytest.approx(shift[0], abs=1.0)
    assert peak.dx_px == pytest.approx(shift[1], abs=1.0)
    assert peak.z > 12


@pytest.mark.parametrize("fraction", [0.0, 0.125, 0.25, 0.375, 0.5, 0.75])
def test_patches_measure_fractions_of_a_pixel_without_locking(fraction: float) -> None:
    base = scene(2)
    shift = (3.0 + fraction, -2.0 - fraction)
    a, b = grey(base, 3), grey(moved(base, *shift), 4)
    corners = [(y, x) for y in (40, 200, 360) for x in (40, 200, 340)]
    found = patch_shifts(
        a, b, corners=corners, size=(112, 96), shift=(3.2, -2.4), min_score=0.3
    )
    measured = (found.a_points - found.b_points).mean(axis=0)
    assert len(found.scores) == 9
    assert measured == pytest.approx(shift, abs=0.02)
    assert found.scores.min() > 0.9


def test_patches_far_from_the_coarse_shift_are_sought_again() -> None:
    base = scene(3)
    a, b = grey(base, 5), grey(moved(base, 18.0, 11.0), 6)
    found = patch_shifts(
        a, b, corners=[(200, 200)], size=(96, 96), shift=(0.0, 0.0), min_score=0.5
    )
    assert found.a_points - found.b_points == pytest.approx(
        np.array([[18.0, 11.0]]), abs=0.05
    )


def test_the_centre_of_a_patch_is_where_it_was_taken() -> None:
    image = grey(scene(4), 7)
    found = patch_shifts(
        image, image, corners=[(64, 80)], size=(32, 48), shift=(0.0, 0.0), min_score=0.3
    )
    assert found.b_points.tolist() == [[79.5, 103.5]]
    assert found.a_points == pytest.approx(found.b_points, abs=0.01)


def test_a_straight_edge_says_nothing_along_itself() -> None:
    step = np.full((300, 300), 60.0)
    step[:, 150:] = 190.0
    image = grey(cv2.GaussianBlur(step, (0, 0), 2.0), 8, noise=0.0)
    found = patch_shifts(
        image,
        image,
        corners=[(100, 100)],
        size=(96, 96),
        shift=(0.0, 0.0),
        min_score=0.3,
    )
    assert len(found.scores) == 0


def test_patches_are_taken_where_texture_is() -> None:
    image = np.full((256, 512), 128, np.uint8)
    image[64:160, 32:480] = grey(scene(5)[64:160, 32:480], 9)
    corners = pick_corners(texture_map(image), size=(64, 64), count=6)
    assert len(corners) >= 4
    for y, x in corners:
        assert y + 64 > 72
        assert y < 152
        assert 0 <= x <= 448


def test_no_patch_reaches_where_it_is_forbidden() -> None:
    texture = texture_map(grey(scene(6), 10))
    texture[:, 20:24] = -1.0
    corners = pick_corners(texture, size=(64, 64), count=20)
    assert corners
    for _, x in corners:
        assert x + 64 <= 20 * GRID_PX or x >= 24 * GRID_PX


def test_an_area_smaller_than_a_patch_has_none() -> None:
    assert pick_corners(np.ones((4, 40), np.float32), size=(64, 64), count=5) == []
    assert texture_map(np.zeros((6, 6), np.uint8)).size == 0
