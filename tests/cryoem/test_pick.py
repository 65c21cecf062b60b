"""Particles are found where a simulated micrograph has them."""

from pathlib import Path

import mrcfile
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from em_platform.cryoem.methods.coordinates import read_points, read_scores
from em_platform.cryoem.methods.motion_sum import move_back
from em_platform.cryoem.methods.pick_log import find_particles
from em_platform.cryoem.stages import pick
from em_platform.errors import PlatformError
from em_platform.simulation.single_particles import ParticlePlan, micrograph, movie

PLAN = ParticlePlan(signal_to_noise=0.3, side_px=512, particles=20, seed=4)


def write(path: Path, image: NDArray[np.float32], *, pixel_a: float = 4) -> Path:
    with mrcfile.new(path) as file:
        file.set_data(image)
        file.voxel_size = pixel_a
    return path


def test_most_particles_are_found_and_little_else(tmp_path: Path) -> None:
    truth = micrograph(PLAN, 0)
    path = write(tmp_path / "grid.mrc", truth.image)
    given = pick.Parameters(micrograph=path, pixel_size=4, particle_diameter=150)
    result = pick.run(given, tmp_path)
    points = np.array(read_points(tmp_path / result.coordinates))
    away, which = cKDTree(truth.points).query(points)
    right = away < 12  # px: a third of the diameter
    assert len({*which[right]}) >= 18
    assert right.mean() > 0.8
    assert np.median(away[right]) < 4
    # The surest are first, in both files, and both have the same middles.
    scores = read_scores(tmp_path / result.coordinates)
    assert scores is not None
    assert (np.diff(scores) <= 0).all()
    boxed = np.array(read_points(tmp_path / result.cbox))
    assert np.allclose(boxed, points, atol=2e-3)
    assert (tmp_path / result.picture).read_bytes()[:3] == b"\xff\xd8\xff"
    before = (tmp_path / result.coordinates).read_bytes()
    assert pick.run(given, tmp_path) == result
    assert (tmp_path / result.coordinates).read_bytes() == before


@pytest.mark.parametrize("middle", [(100.0, 60.0), (101.5, 62.25), (60.0, 140.0)])
def test_a_disc_is_found_to_a_fraction_of_a_pixel(middle: tuple[float, float]) -> None:
    y, x = np.mgrid[:200, :240]
    disc = 1 / (1 + np.exp(2 * (np.hypot(x - middle[0], y - middle[1]) - 20)))
    noise = np.random.default_rng(1).normal(0, 0.2, disc.shape)
    found = find_particles(noise - disc, diameters_px=(32, 50), threshold=8)
    assert found.points.shape == (1, 2)
    assert np.abs(found.points[0] - middle).max() < 0.6
    assert 36 <= found.diameters_px[0] <= 45


def test_streaks_at_the_borders_of_a_corrected_movie_are_no_particles() -> None:
    plan = ParticlePlan(signal_to_noise=0.3, side_px=384, particles=12, seed=4)
    frames, truth, path = movie(plan, 0, frames=6, drift_px=20)
    still = [np.tile(np.float32(xy[::-1]), (26, 26, 1)) for xy in path]
    image = np.sum(
        [move_back(frame, shift) for frame, shift in zip(frames, still, strict=True)],
        axis=0,
    )
    found = find_particles(image, diameters_px=(31, 45), threshold=3)
    away, which = cKDTree(truth.points).query(found.points)
    assert len({*which[away < 12]}) >= 10
    # No true one is nearer to a side than its radius.
    at_border = np.minimum(found.points, 383 - found.points).min(axis=1) < 19
    assert at_border.sum() <= 1


def test_ice_alone_has_no_particles(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    path = write(tmp_path / "ice.mrc", noise)
    given = {"input_path": path, "pix_size": 4, "particle_diameter": 200}
    result = pick.run(pick.Parameters(**given, log_threshold=6), tmp_path)
    assert (result.particles, result.median_score) == (0, None)
    assert read_points(tmp_path / result.coordinates) == ()
    assert "\n_rlnCoordinateX #1\n" in (tmp_path / result.coordinates).read_text()


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.full((64, 64), 3, np.float32), "all pixels are 3"),
        (np.full((64, 64), np.nan, np.float32), "not finite"),
        (np.eye(64, dtype=np.float32), "at most half of it was expected"),
    ],
)
def test_images_without_particles_are_one_sentence(
    tmp_path: Path, image: NDArray[np.float32], sentence: str
) -> None:
    path = write(tmp_path / "bad.mrc", np.nan_to_num(image))
    with mrcfile.mmap(path, mode="r+") as file:
        file.data[:] = image
    given = pick.Parameters(micrograph=path, pixel_size=1, particle_diameter=150)
    with pytest.raises(PlatformError, match=sentence):
        pick.run(given, tmp_path)
