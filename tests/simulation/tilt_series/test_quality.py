"""The checks of a simulated stack pass where it is right, and fail where it is not."""

import shutil
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from em_platform.errors import ConfigError, FormatError
from em_platform.simulation.tilt_series.assemblers.assembler import DensityMap, Sample
from em_platform.simulation.tilt_series.backends import backend_of
from em_platform.simulation.tilt_series.image import Particle
from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.planned import planned_stack
from em_platform.simulation.tilt_series.quality import (
    check_counts,
    check_files,
    check_projections,
    check_rings,
)
from em_platform.simulation.tilt_series.sample_file import decode_sample, encode_sample
from em_platform.simulation.tilt_series.stack import simulate_stack
from em_platform.simulation.tilt_series.truth import Truth, read_truth

PLAN = Plan.model_validate(
    {
        "name": "q",
        "pixel_nm": 1.0,
        "tilts": {"first_deg": -30, "step_deg": 30, "tilts": 3},
        "camera": {"width_px": 128, "height_px": 128},
        "ice": {"thickness_nm": 60},
        "objective": {"defocus_um": [3.0]},
    }
)


def sample() -> Sample:
    z, y, x = np.indices((24, 24, 24)) - 12
    blob = 6 * np.exp(-(z**2 + y**2 + x**2) / 30).astype(np.float32)
    places = ((-30.0, 10.0, 5.0), (25.0, -20.0, -8.0), (3.0, 40.0, 12.0))
    return Sample(
        maps=(DensityMap(name="blob", potential_v=blob, voxel_nm=1.0),),
        particles=tuple(
            Particle(template=0, position_nm=place, rotation=np.eye(3))
            for place in places
        ),
        facts={"positions": [1.5]},
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stack")
    backend = backend_of("embedded", workers=1)
    simulate_stack(PLAN, 0, folder, sample_of=lambda _: sample(), backend=backend)
    return folder


@pytest.fixture
def stack(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "q-0000", tmp_path / "q-0000")
    return tmp_path / "q-0000"


@pytest.fixture
def truth(made: Path) -> Truth:
    return read_truth(made / "q-0000")


def test_a_stack_that_is_right_passes_all(stack: Path, truth: Truth) -> None:
    checks = (
        check_files(stack, truth),
        check_counts(stack, truth),
        check_rings(stack, truth),
        check_projections(stack, truth, sample()),
    )
    assert [check.name for check in checks if not check.passed] == []


def test_a_cut_file_is_not_valid(stack: Path, truth: Truth) -> None:
    path = stack / "q-0000_clean.mrc"
    path.write_bytes(path.read_bytes()[:-4000])
    check = check_files(stack, truth)
    assert not check.passed
    assert "q-0000_clean.mrc" in check.sentence


def test_counts_that_are_three_percent_off_are_named(stack: Path, truth: Truth) -> None:
    with mrcfile.mmap(stack / "q-0000.mrc", mode="r+") as file:
        file.data[2] *= 1.03
    check = check_counts(stack, truth)
    assert not check.passed
    assert check.items == ("30 degrees",)
    assert check.value == pytest.approx(0.03, abs=0.006)


@pytest.mark.parametrize("off", [-0.06, 0.06])
def test_another_defocus_than_that_of_the_truth_is_found(
    stack: Path, truth: Truth, off: float
) -> None:
    tilts = tuple(
        tilt.model_copy(update={"defocus_nm": (3000 * (1 + off),) * 2})
        for tilt in truth.tilts
    )
    check = check_rings(stack, truth.model_copy(update={"tilts": tilts}))
    assert not check.passed
    assert check.value == pytest.approx(abs(off), abs=0.02)


def test_without_rings_the_defocus_is_not_judged(stack: Path, truth: Truth) -> None:
    ice = truth.plan.ice.model_copy(update={"grain": False})
    plan = truth.plan.model_copy(update={"ice": ice})
    check = check_rings(stack, truth.model_copy(update={"plan": plan}))
    assert check.passed
    assert check.value is None
    assert not check.is_applicable


def test_particles_elsewhere_do_not_give_the_images(stack: Path, truth: Truth) -> None:
    # Without the ice's own grain, which is the same wherever particles lie.
    ice = truth.plan.ice.model_copy(update={"grain": False})
    moved = [
        each.model_copy(update={"position_nm": tuple(-v for v in each.position_nm)})
        for each in truth.particles
    ]
    wrong = truth.model_copy(
        update={
            "particles": tuple(moved),
            "plan": truth.plan.model_copy(update={"ice": ice}),
        }
    )
    check = check_projections(stack, wrong, sample())
    assert not check.passed
    assert check.value is not None
    assert check.value < 0.5


def test_a_sample_is_read_as_it_was_kept() -> None:
    kept = sample()
    found = decode_sample(encode_sample(kept), source="sample.npz")
    assert found.facts == kept.facts
    assert [m.name for m in found.maps] == ["blob"]
    assert np.array_equal(found.maps[0].potential_v, kept.maps[0].potential_v)
    for one, other in zip(found.particles, kept.particles, strict=True):
        assert one.position_nm == other.position_nm
        assert np.array_equal(one.rotation, other.rotation)
    with pytest.raises(FormatError, match=r"sample.npz cannot be read as a sample"):
        decode_sample(encode_sample(kept)[:200], source="sample.npz")


def test_a_stack_is_found_by_its_name_among_plans(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: q\nstacks: 3\n")
    (tmp_path / "b.yml").write_text("name: q-2\nstacks: 1\n")
    plan, number = planned_stack(tmp_path, "q-0002")
    assert (plan.name, number) == ("q", 2)
    assert planned_stack(tmp_path, "q-2-0000")[0].name == "q-2"
    with pytest.raises(ConfigError, match="has a stack q-0003"):
        planned_stack(tmp_path, "q-0003")
