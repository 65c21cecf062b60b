"""ETSimulations' files are taken unchanged; each of its defects is gone.

Where a test is of a defect, it computes what the old program gave, from its published
behaviour, and shows that ours differs.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import yaml

from em_platform.errors import ConfigError, OutputRefused, PlatformError
from em_platform.simulation.tilt_series.backends.embedded import Embedded
from em_platform.simulation.tilt_series.data_set import simulate
from em_platform.simulation.tilt_series.plan import FIDUCIAL, Plan
from em_platform.simulation.tilt_series.plan_file import read_plan
from em_platform.simulation.tilt_series.sample import assembling
from em_platform.simulation.tilt_series.series import tilts_of
from em_platform.simulation.tilt_series.tem_config import Component, parse, text_of

SIM_TXT = (Path(__file__).parents[2] / "data/sim.txt").read_text()

COORDINATES = """\
# x y z in pixels, then ZXZ angles
3 6
100 -706.7 0.5 0 0 0
0 33.25 -40 0 0 0
-706.7 0 0 0 0 0
"""

CONFIGS = """\
---
tem_simulator_executable: "/opt/elsewhere/TEM-simulator"
chimera_exec_path: "/opt/elsewhere/chimera"
model: "/opt/project/templates/bead.mrc"
root: "/opt/project/test"
config: "/opt/project/templates/sim.txt"
coord: "/opt/project/templates/coord.txt"
coord_error:
  mu: 0
  sigma: 50
num_stacks: 1
name: "Bead"
num_cores: 1
apix: 0.283
num_chimera_windows: 1
defocus_values: [1]
bead_map: "/opt/project/templates/bead.mrc"
bead_occupancy: 0.00025
assembler: "basic"
email: "someone@example.org"
custom_configs:
  orientations_source: "gauss(0, 1)"
  use_common_model: true
"""

Read = Callable[..., Plan]


def ball_map(path: Path, *, voxel_a: float = 4.0) -> None:
    z, y, x = np.indices((25, 25, 25)) - 12
    ball = (9.0 * (z**2 + y**2 + x**2 < 90)).astype(np.float32)
    with mrcfile.new(path, ball, overwrite=True) as file:
        file.voxel_size = voxel_a


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads a project like the published example, with some keys changed."""

    def of(
        changes: dict[str, Any] | None = None, sim: str = SIM_TXT, **own: Any
    ) -> Plan:
        content = yaml.safe_load(CONFIGS) | (changes or {})
        content["custom_configs"] |= own
        templates = tmp_path / "templates"
        templates.mkdir(exist_ok=True)
        (templates / "sim.txt").write_text(sim)
        (templates / "coord.txt").write_text(COORDINATES)
        ball_map(templates / "bead.mrc")
        config = tmp_path / "configs.yaml"
        config.write_text(yaml.safe_dump(content))
        return read_plan(config)

    return of


def sample(plan: Plan, stack: int = 0) -> Any:
    with assembling(plan, library=Path(plan.particles[0].file).parent) as sample_of:
        return sample_of(stack)


def test_the_example_becomes_a_plan_with_units(read: Read) -> None:
    plan = read()
    assert (plan.name, plan.stacks, plan.pixel_nm) == ("Bead", 1, 0.283)
    assert plan.tilts.first_deg == -54
    assert (plan.tilts.tilts, plan.tilts.step_deg) == (37, 3)
    assert plan.beam.dose_per_tilt_e_per_nm2 == 10_000
    assert plan.beam.energy_spread_ev == pytest.approx(1.3 / 2**0.5)
    assert not plan.beam.energy_filter
    assert plan.objective.defocus_um == (1,)  # of configs.yaml, not of sim.txt
    assert plan.objective.aperture_mrad == pytest.approx(25 / 3)
    assert (plan.camera.width_px, plan.camera.gain, plan.camera.dqe) == (2000, 1e4, 0.4)
    assert (plan.ice.thickness_nm, plan.ice.hole_nm) == (150, 10_000)
    assert (plan.errors.tilt_deg, plan.errors.rotation_deg) == (0.5, 0.25)
    # Beads of 10 nm: 0.00025 of the ice in the field of view.
    assert plan.beads.diameter_nm == pytest.approx(10)
    assert plan.beads.count == 23
    assert plan.particles[0].file.endswith("templates/bead.mrc")


def test_the_published_example_is_read_unchanged() -> None:
    project = os.environ.get("ETSIMULATIONS")
    if not project:
        pytest.skip("ETSIMULATIONS names no checkout of ETSimulations")
    plan = read_plan(Path(project) / "configs.yaml")
    assert (plan.name, plan.pixel_nm, plan.tilts.tilts) == ("Bead", 0.283, 37)
    assert len(sample(plan).particles) == 9 + plan.beads.count


def test_a_project_becomes_valid_stacks_and_is_resumed(
    read: Read, tmp_path: Path
) -> None:
    small = SIM_TXT.replace("= 2000", "= 64").replace("ntilts = 37", "ntilts = 3")
    plan = read(sim=small, changes={"num_stacks": 2})
    (tmp_path / "out/raw_data").mkdir(parents=True)
    with pytest.raises(OutputRefused, match="holds what em-platform did not make"):
        list(simulate(plan, tmp_path / "out", backend=Embedded()))
    output = tmp_path / "new"
    assert [each.made for each in simulate(plan, output, backend=Embedded())] == [3, 3]
    for name in ("Bead-0000.mrc", "Bead-0000_clean.mrc"):
        path = output / "Bead-0000" / name
        assert mrcfile.validate(path)
        with mrcfile.open(path) as file:
            assert file.data.shape == (3, 64, 64)
            assert float(file.voxel_size.x) == pytest.approx(2.83)
            # Half of the dose is lost in no more than 150 nm of ice.
            assert 0.5 < file.data.mean() / (10_000 * 0.283**2 * 10_000) < 1.05
    # Old: a project that was begun could not be run again.
    shutil.rmtree(output / "Bead-0001")
    assert [each.made for each in simulate(plan, output, backend=Embedded())] == [0, 3]


def test_a_hundred_pixels_of_0_283_nm_are_28_3_nm(read: Read) -> None:
    plan = read(changes={"coord_error": None})
    found = [particle.position_nm for particle in sample(plan).particles[:3]]
    assert found[0] == pytest.approx((28.3, -706.7 * 0.283, 0.5 * 0.283))
    # Old: the list was multiplied in place, twice; without coord_error 8.009 nm.
    twice = 100 * 0.283 * 0.283
    assert twice == pytest.approx(8.009, abs=1e-3)
    assert abs(found[0][0] - twice) > 20


def test_places_and_angles_keep_their_fractions(read: Read) -> None:
    made = sample(read(orientations_source="gauss(10, 3)"))
    angles = np.array(made.facts["custom_data"]["true_orientations"])
    places = np.array([each.position_nm for each in made.particles[:3]])
    # Old: both were written by `%d`, so that what was imaged was cut to integers.
    assert np.abs(angles - np.trunc(angles)).max() > 0.2
    assert np.abs(places - np.trunc(places)).max() > 0.2
    assert places[1].tolist() == pytest.approx([0, 33.25 * 0.283, -40 * 0.283])


@pytest.mark.parametrize("where", ["outside", "inside", "both"])
def test_coord_error_counts_wherever_it_stands(read: Read, where: str) -> None:
    error = {"mu": 0, "sigma": 50}
    own = {"coord_error": error} if where != "outside" else {}
    # Old: outside custom_configs, where the example has it, it was passed over.
    plan = read(changes={"coord_error": error if where != "inside" else None}, **own)
    made = sample(plan)
    assert plan.assembly.options["position_error_nm"]["sigma"] == pytest.approx(14.15)
    truth = np.array(made.facts["custom_data"]["true_coordinates"])
    off = np.array(made.facts["positions"]) - truth
    assert 5 < off.std() < 30
    assert made.particles[0].position_nm == pytest.approx(
        (28.3, -199.996, 0.1415), abs=1e-3
    )


def test_each_particle_has_its_own_map_without_a_common_model(read: Read) -> None:
    made = sample(read(use_common_model=False))
    # Old: one particle set has one source, so the last map was used for all.
    assert [each.template for each in made.particles[:3]] == [0, 1, 2]


def test_everything_that_is_drawn_follows_from_the_seed(read: Read) -> None:
    plan = read()
    one, same = sample(plan), sample(plan)
    # Old: Python's `random` without a seed, and no rand_seed for TEM-simulator.
    assert one.facts == same.facts
    assert [p.position_nm for p in one.particles] == [
        p.position_nm for p in same.particles
    ]
    assert tilts_of(plan, 0) == tilts_of(plan, 0)
    assert read(sim=SIM_TXT.replace("log_file", "rand_seed = 7\nlog_file")).seed == 7


def test_beads_and_errors_of_the_stage_are_known(read: Read) -> None:
    plan = read()
    made = sample(plan)
    kinds = [made.maps[each.template].name for each in made.particles]
    # Old: beads were placed by TEM-simulator, and its errors of tilts were not kept.
    assert kinds.count(FIDUCIAL) == 23
    tilts = tilts_of(plan, 0)
    errors = np.array([tilt.tilt_deg - tilt.nominal_deg for tilt in tilts])
    assert errors.std() == pytest.approx(0.5, rel=0.4)
    shifts = np.array([tilt.shift_nm for tilt in tilts])
    assert np.sqrt((shifts**2).sum(axis=1).mean()) == pytest.approx(0.25, rel=0.4)


def test_angles_come_from_a_file(read: Read, tmp_path: Path) -> None:
    (tmp_path / "angles.txt").write_text("90 0 0\n45 45.5 0\n")
    plan = read(orientations_source="angles.txt")
    assert plan.assembly.options["orientations"] == [[90, 0, 0], [45, 45.5, 0]]


def test_secretion_systems_take_their_own_keys(read: Read, tmp_path: Path) -> None:
    row = "1 1 1 0 0 0 10 20 30 " + "0 " * 17
    (tmp_path / "real.tbl").write_text(f"{row}\n")
    bead = "templates/bead.mrc"
    own = {
        "membrane_path": bead, "root": bead, "rod": bead, "num_rods": 5,
        "rod_distance_from_center": 150.0, "orientations_tbl": "real.tbl",
    }  # fmt: skip
    changes = {"assembler": "t4ss", "custom_configs": {}}
    plan = read(changes=changes, **own)
    assert [kind.name for kind in plan.particles] == ["membrane", "barrel", "rod"]
    assert plan.assembly.options["rod_distance_nm"] == 15
    assert plan.assembly.options["orientations_deg"] == ((-30, -20, -10),)
    assert [particle.template for particle in sample(plan).particles[:3]] == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"apix": 2.83}, "pixel_size / magnification of sim.txt is 0.283 nm"),
        ({"apix": 2.83}, "it looks like Å"),
        ({"apix": 0.4}, "one of the two is wrong"),
        ({"apix": 0}, "apix: found 0, expected more than 0"),
        ({"num_stack": 2}, "num_stack: is no known name; did you mean num_stacks?"),
        ({"assembler": "lattice"}, "basic or t4ss was expected"),
        ({"model": "/opt/missing.mrc"}, "model: found no file /opt/missing.mrc"),
        ({"model": None}, "found no model"),
        ({"coord": "sim.txt"}, "coord: found no file sim.txt"),
        ({"coord": "templates/sim.txt"}, "cannot be read as a table"),
        ({"bead_map": "templates/sim.txt"}, "cannot be read as an MRC map"),
        ({"custom_configs": {"model": True}}, "custom_configs: use_common_model"),
        ({"name": "a/b"}, "configs.yaml: name"),
    ],
)  # fmt: skip
def test_wrong_keys_get_one_sentence(
    read: Read, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(PlatformError) as caught:
        read(changes=changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_different_errors_of_coordinates_are_refused(read: Read) -> None:
    with pytest.raises(ConfigError, match="found two different coord_error"):
        read(coord_error={"mu": 1, "sigma": 2})


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("dqe = 0.4", "dqee = 0.4", "found detector's parameter dqee in line 44"),
        ("=== sample ===", "=== stage ===", "found the component stage in line 6"),
        ("theta_incr = 3", "theta_incr", "found 'theta_incr' in line 15"),
        ("cs = 2", "cs = two", "found cs = two in optics, a number was expected"),
        ("cs = 2", "", "optics has no cs, a number was expected"),
        ("gen_dose = yes", "gen_dose = no", "found gen_dose = no in electronbeam"),
        (
            "geom_errors = random",
            "geom_errors = file",
            "geom_errors = file in geometry",
        ),
        ("use_quantization = yes", "use_quantization = 1", "yes or no was expected"),
        (
            "=== optics ===",
            "=== volume ===\n=== optics ===",
            "a component volume, none",
        ),
        ("=== optics ===", "=== sample ===\n=== optics ===", "sample twice"),
        ("=== sample ===", "=== simulation ===", "simulation's parameter diameter"),
    ],
)
def test_a_wrong_sim_txt_gets_one_sentence(
    read: Read, old: str, new: str, words: str
) -> None:
    with pytest.raises(PlatformError) as caught:
        read(sim=SIM_TXT.replace(old, new, 1))
    assert words in str(caught.value)


def test_a_series_that_goes_down_is_sorted_by_angle(read: Read) -> None:
    sim = SIM_TXT.replace("theta_start = -54", "theta_start = 54")
    plan = read(sim=sim.replace("theta_incr = 3", "theta_incr = -3"))
    assert (plan.tilts.first_deg, plan.tilts.step_deg) == (-54, 3)


def test_what_is_written_is_read_again() -> None:
    components = [
        Component(
            kind="simulation", values={"generate_micrographs": True, "rand_seed": 3}
        ),
        Component(
            kind="particle",
            name="bead",
            values={"map_file_re_in": Path("/a b/c.mrc"), "voxel_size": 0.1234567891},
        ),
    ]
    found = parse(text_of(components), source="a test")
    assert [(each.kind, each.name) for each in found] == [
        ("simulation", ""),
        ("particle", "bead"),
    ]
    assert found[0].flag("generate_micrographs", False)
    assert found[1].values["map_file_re_in"] == "/a b/c.mrc"
    assert found[1].number("voxel_size") == pytest.approx(0.1234567891, abs=1e-9)
    with pytest.raises(PlatformError, match="without quotation marks"):
        text_of([Component(kind="detector", values={"image_file_out": 'a"b'})])
