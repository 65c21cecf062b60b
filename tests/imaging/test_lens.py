import numpy as np
import pytest

from em_platform.imaging.lens import (
    basis,
    distort_points,
    lens_field,
    undistort_points,
)
from em_platform.model import LensModel, Size

SIZE = Size(height_px=400, width_px=600)


def cubic(strength_px: float) -> LensModel:
    """Radial: a point at radius r (1 at the middle of the long edge) moves r**3."""
    dy, dx = [0.0] * 10, [0.0] * 10
    dy[6] = dy[8] = strength_px  # u**3 and u * v**2
    dx[7] = dx[9] = strength_px  # u**2 * v and v**3
    return LensModel(
        microscope="m",
        magnification=1,
        size=SIZE,
        degree=3,
        dy_px=tuple(dy),
        dx_px=tuple(dx),
        residual_mean_px=0.0,
        residual_std_px=0.0,
        points=0,
    )


def test_monomials_come_by_degree_and_then_by_the_power_of_v() -> None:
    values = basis(np.array(2.0), np.array(3.0), degree=3)
    assert values.tolist() == [1, 2, 3, 4, 6, 9, 8, 12, 18, 27]


def test_a_radial_lens_moves_points_outwards_by_the_cube() -> None:
    y, x = np.array([199.5, 199.5, 349.5]), np.array([299.5, 599.5, 299.5])
    dy, dx = lens_field(cubic(4.0), y, x)
    assert dy == pytest.approx([0.0, 0.0, 4.0 * 0.5**3])
    assert dx == pytest.approx([0.0, 4.0, 0.0])


def test_distortion_undoes_correction() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform((0, 0), (399, 599), (50, 2))
    lens = cubic(9.0)
    there = undistort_points(lens, points)
    assert np.abs(there - points).max() > 3.0
    assert distort_points(lens, there) == pytest.approx(points, abs=1e-9)
