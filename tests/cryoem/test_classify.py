"""Simulated particles of known views come into classes of one view each."""

import shutil
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from numpy.typing import NDArray

from em_platform.cryoem.image_files import write_mrc
from em_platform.cryoem.methods.boxes import cut_boxes
from em_platform.cryoem.methods.particle_star import (
    OpticsGroup,
    particle_star,
    read_particles,
)
from em_platform.cryoem.sessions.particles_truth import best_correlations
from em_platform.cryoem.stages import classify
from em_platform.errors import PlatformError
from em_platform.simulation.single_particles import ParticlePlan, micrograph, view_of

PLAN = ParticlePlan(views=3, signal_to_noise=0.3, side_px=512, particles=20, seed=1)
MICROGRAPHS = 6
BOX_PX = 48


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and a stack a micrograph, cut up to 2 px off."""
    folder = tmp_path_factory.mktemp("particles")
    rng = np.random.default_rng(3)
    for number in range(MICROGRAPHS):
        seen = micrograph(PLAN, number)
        points = seen.points + rng.uniform(-2, 2, seen.points.shape)
        boxes = cut_boxes(
            seen.image, [(x, y) for x, y in points.tolist()],
            box_px=BOX_PX, small_px=BOX_PX, invert=True, normalise=True,
        )  # fmt: skip
        write(folder, number, boxes, defocus_a=seen.defocus_a)
    return folder


def write(
    folder: Path, number: int, boxes: NDArray[np.float32], *, defocus_a: float
) -> Path:
    write_mrc(folder / f"{number}.mrcs", boxes, pixel_size_a=PLAN.pixel_a)
    optics = OpticsGroup(
        voltage_kv=300, spherical_mm=2.7, amplitude_contrast=0.1,
        pixel_size_a=PLAN.pixel_a, box_px=boxes.shape[-1],
    )  # fmt: skip
    common = {"DefocusU": defocus_a, "DefocusV": defocus_a, "DefocusAngle": 0.0}
    points = [(0.0, 0.0)] * len(boxes)
    star = particle_star(points, stack=f"{number}.mrcs", optics=optics, common=common)
    path = folder / f"{number}.star"
    path.write_bytes(star)
    return path


def given(folder: Path) -> classify.Parameters:
    return classify.Parameters(
        particles_file=tuple(folder / f"{n}.star" for n in range(MICROGRAPHS)),
        class2d_nr_classes=3,
        class2d_nr_iter=15,
        particle_diameter=150,
        offset_range=3,
    )


def test_classes_are_of_one_view_and_their_averages_show_it(
    particles: Path, tmp_path: Path
) -> None:
    result = classify.run(given(particles), tmp_path)
    table = read_particles(tmp_path / result.data_star)
    at = table.columns.index("ClassNumber")
    found = np.array([int(row[at]) for row in table.rows])
    views = np.concatenate([micrograph(PLAN, n).views for n in range(MICROGRAPHS)])
    assert len(found) == result.particles == len(views) == 120
    assert [each.particles for each in result.classes] == [*np.bincount(found)[1:]]
    common = [np.bincount(views[found == n]).argmax() for n in (1, 2, 3)]
    right = sum((views[found == n] == common[n - 1]).sum() for n in (1, 2, 3))
    assert {*common} == {0, 1, 2}
    assert right / len(views) > 0.9
    with mrcfile.open(tmp_path / result.averages) as file:
        averages = file.data.copy()
    for average, view in zip(averages, common, strict=True):
        true = view_of(PLAN, int(view))
        cut = (len(true) - BOX_PX) // 2
        true = true[cut : cut + BOX_PX, cut : cut + BOX_PX]
        assert best_correlations(average, true[None])[0] > 0.85
    assert max(each.resolution_a or 99 for each in result.classes) < 25

    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    classify.run(given(particles), tmp_path)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_angles_and_offsets_lay_particles_on_their_average(
    particles: Path, tmp_path: Path
) -> None:
    """As RELION applies them: first the offset, then the turn."""
    result = classify.run(given(particles), tmp_path)
    table = read_particles(tmp_path / result.data_star)
    names = "ClassNumber", "AnglePsi", "OriginXAngst", "OriginYAngst"
    at = [table.columns.index(name) for name in names]
    rows = np.array([[float(row[i]) for i in at] for row in table.rows])
    views = np.concatenate([micrograph(PLAN, n).views for n in range(MICROGRAPHS)])
    turns = np.concatenate([micrograph(PLAN, n).angles_deg for n in range(MICROGRAPHS)])
    for number in (1, 2, 3):
        mine = rows[:, 0] == number
        view = np.bincount(views[mine]).argmax()
        mine &= views == view
        # Angles of one view differ from the true ones by one angle only.
        error = np.exp(1j * np.deg2rad(rows[mine, 1] - turns[mine]))
        assert abs(error.mean()) > 0.95
    assert np.abs(rows[:, 2:]).max() <= 3.01 * PLAN.pixel_a


def test_too_few_particles_are_one_sentence(tmp_path: Path) -> None:
    boxes = np.random.default_rng(0).normal(size=(4, 16, 16)).astype(np.float32)
    path = write(tmp_path, 0, boxes, defocus_a=1e4)
    with pytest.raises(PlatformError, match="found 4 particles, at least 10"):
        classify.run(classify.Parameters(particles_file=(path,)), tmp_path)


@pytest.mark.parametrize(
    ("side", "value", "sentence"),
    [(18, 0, "boxes of 2 sizes"), (16, np.nan, "not numbers")],
)
def test_particles_that_do_not_fit_are_one_sentence(
    tmp_path: Path, side: int, value: float, sentence: str
) -> None:
    noise = np.random.default_rng(0).normal(size=(10, side, side)).astype(np.float32)
    paths = (
        write(tmp_path, 0, np.ones((10, 16, 16), np.float32), defocus_a=1e4),
        write(tmp_path, 1, noise, defocus_a=1e4),
    )
    with mrcfile.mmap(tmp_path / "1.mrcs", mode="r+") as file:
        file.data[0, 0, 0] = value
    with pytest.raises(PlatformError, match=sentence):
        classify.run(classify.Parameters(particles_file=paths), tmp_path)


def test_relion_sorts_them_too(tmp_path: Path) -> None:
    if shutil.which("relion_refine") is None:
        pytest.skip("RELION is not installed: apt-get install relion")
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:32, :32] - 15.5
    round_, long = np.hypot(x, y) < 8, (np.abs(x) < 3) & (np.abs(y) < 11)
    images = np.stack([round_, 2.0 * long] * 20) + rng.normal(0, 0.7, (40, 32, 32))
    table = write(tmp_path, 0, images.astype(np.float32), defocus_a=15000)
    asked = classify.Parameters(
        particles_file=table, class2d_nr_classes=2, class2d_nr_iter=3,
        particle_diameter=25 * PLAN.pixel_a, engine="relion", seed=1,
    )  # fmt: skip
    folder = tmp_path / "out"
    folder.mkdir()
    result = classify.run(asked, folder)
    assert result.program == "relion_refine 3.1.3"
    assert sorted(each.particles for each in result.classes) == [20, 20]
    found = read_particles(folder / result.data_star)
    place = found.columns.index("ClassNumber")
    one, other = ({row[place] for row in found.rows[i::2]} for i in range(2))
    assert len(one) == len(other) == 1 and one != other
    assert found.images[0] == (0, tmp_path / "0.mrcs")
    assert {"run.log", "classes.jpeg", result.averages} <= {
        path.name for path in folder.iterdir()
    }
