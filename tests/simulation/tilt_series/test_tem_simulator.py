"""TEM-simulator as back-end: what it is given, what it leaves, what goes wrong.

The program of most tests is a small one that reads the same files and leaves an MRC
with the same defects; the last tests run the real one where it is on PATH.
"""

import inspect
import shutil
import struct
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from em_platform.errors import ConfigError, FormatError, ToolFailed, ToolMissing
from em_platform.simulation.tilt_series.assemblers.assembler import DensityMap, Sample
from em_platform.simulation.tilt_series.backends import backend_of
from em_platform.simulation.tilt_series.backends.embedded import Embedded
from em_platform.simulation.tilt_series.backends.tem_simulator import (
    TemSimulator,
    components,
    read_image,
    tilt_tables,
    write_sample,
)
from em_platform.simulation.tilt_series.data_set import simulate
from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.sample import assembling
from em_platform.simulation.tilt_series.series import tilts_of
from em_platform.simulation.tilt_series.tem_config import parse, read_table, text_of
from em_platform.simulation.tilt_series.truth import Truth
from em_platform.stitching.compute import local_map


def defective(path, width, height, images, grey):  # type: ignore[no-untyped-def]
    """As TEM-simulator 1.3 writes it: version 0, two bytes a tilt, no RMS."""
    header = bytearray(1024 + 2 * images)
    struct.pack_into("<4i", header, 0, width, height, images, 2)
    struct.pack_into("<3i", header, 28, width, height, images)
    struct.pack_into("<6f", header, 40, width, height, images, 90, 90, 90)
    struct.pack_into("<3i", header, 64, 1, 2, 3)
    struct.pack_into("<i", header, 92, 2 * images)
    struct.pack_into("<2h", header, 128, 2, 1)
    header[208:212] = b"MAP "
    struct.pack_into("<h", header, 212, 0x4444)
    with open(path, "wb") as file:
        file.write(header + struct.pack("<" + "f" * len(grey), *grey))


PROGRAM = (
    """#!{python} -SEs
import struct, sys, time
"""
    + inspect.getsource(defective)
    + """
values, images = {{}}, []
for line in open(sys.argv[1]):
    if line.startswith("==="):
        values = {{}}
    elif "=" in line:
        name, _, value = (part.strip() for part in line.partition("="))
        values[name] = value
        if name == "image_file_out":
            images.append(dict(values))
angle = float(open("geometry.txt").read().split()[3])
{fault}
for detector in images:
    width, height = int(detector["det_pix_x"]), int(detector["det_pix_y"])
    grey = [angle + (number % width) / 100 for number in range(width * height)]
    defective(detector["image_file_out"], width, height, 1, grey)
"""
)

MakeProgram = Callable[[str], str]


@pytest.fixture
def program(tmp_path: Path) -> MakeProgram:
    def make(fault: str = "") -> str:
        path = tmp_path / "TEM-simulator"
        path.write_text(PROGRAM.format(python=sys.executable, fault=fault))
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture
def sample(plan: Plan, tmp_path: Path) -> Sample:
    with assembling(plan, library=tmp_path / "library") as sample_of:
        return sample_of(0)


def test_the_configuration_says_what_the_truth_says(
    plan: Plan, sample: Sample, tmp_path: Path
) -> None:
    tilt = tilts_of(plan, 0)[3]
    text = text_of(components(plan, 0, tilt, sample=sample, folder=tmp_path / "a b"))
    found = parse(text, source="a test")
    kinds = [each.kind for each in found]
    assert (
        kinds.count("particle") == kinds.count("particleset") == len(sample.maps) == 2
    )
    by_kind = {each.kind: each for each in found}
    optics, detector = by_kind["optics"], by_kind["detector"]
    pixel_nm = 1000 * detector.number("pixel_size") / optics.number("magnification")
    assert pixel_nm == pytest.approx(plan.pixel_nm)
    assert (detector.number("det_pix_x"), detector.number("det_pix_y")) == (64, 48)
    assert (detector.number("gain"), detector.number("dqe")) == (2, 0.5)
    assert by_kind["sample"].number("thickness_center") == 60
    spread = by_kind["electronbeam"].number("energy_spread")
    assert spread == pytest.approx(2**0.5 * plan.beam.energy_spread_ev)
    particle = next(each for each in found if each.kind == "particle")
    assert particle.values["map_file_re_in"] == str(tmp_path / "a b/map-0.mrc")
    assert particle.number("famp") == pytest.approx(0.07, rel=0.01)
    seeds = {
        components(plan, 0, each, sample=sample, folder=tmp_path)[0].values["rand_seed"]
        for each in tilts_of(plan, 0)
    }
    assert len(seeds) == 5


def test_the_tables_have_angles_shifts_dose_and_defocus_of_the_truth(
    plan: Plan, sample: Sample, tmp_path: Path
) -> None:
    tilt = tilts_of(plan, 0)[3]
    for name, text in tilt_tables(plan, tilt).items():
        (tmp_path / name).write_text(text)

    def row(name: str) -> list[float]:
        return list(read_table(tmp_path / name, least_columns=1)[0])

    axis = tilt.axis_deg
    assert row("geometry.txt") == pytest.approx([-axis, tilt.tilt_deg, axis])
    # Its middle lies between two pixels of an even image: half a pixel of 2 nm.
    y, x = tilt.shift_nm
    assert row("errors.txt") == pytest.approx([0, 0, 0, x + 1, y + 1])
    assert row("dose.txt") == pytest.approx([tilt.dose_per_nm2])
    assert row("defocus.txt") == pytest.approx([tilt.defocus.u_nm / 1000])
    write_sample(tmp_path, sample)
    table = read_table(tmp_path / "particles-0.txt", least_columns=6)
    own = [each for each in sample.particles if each.template == 0]
    assert table[:, :3] == pytest.approx(np.array([each.position_nm for each in own]))
    with mrcfile.open(tmp_path / "map-0.mrc") as file:
        assert file.data.shape == (25, 25, 25)  # odd, as its middle is a voxel's
        assert float(file.voxel_size.x) == pytest.approx(10)


def test_a_defective_mrc_is_read_and_a_valid_one_comes_of_it(
    plan: Plan, program: MakeProgram, tmp_path: Path
) -> None:
    grey = [float(number) for number in range(41 * 12)]
    defective(tmp_path / "old.mrc", 4, 3, 41, grey)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not mrcfile.validate(tmp_path / "old.mrc", print_file=None)
    image = read_image(tmp_path / "old.mrc", shape=(3, 4))
    assert image.tolist() == np.reshape(grey[:12], (3, 4)).tolist()
    with pytest.raises(FormatError, match="4 x 4 px were expected"):
        read_image(tmp_path / "old.mrc", shape=(4, 4))

    backend = TemSimulator(program(""), run=local_map(2))
    (made,) = simulate(plan, tmp_path / "out", backend=backend)
    (own,) = simulate(plan, tmp_path / "own", backend=Embedded())
    files, own_files = (
        sorted(path.name for path in each.folder.iterdir()) for each in (made, own)
    )
    assert files == own_files
    truth = Truth.model_validate_json((made.folder / "truth.json").read_text())
    assert truth.backend == "tem_simulator"
    for name in ("small-0000.mrc", "small-0000_clean.mrc"):
        assert mrcfile.validate(made.folder / name)
        with mrcfile.open(made.folder / name) as file:
            assert float(file.voxel_size.x) == pytest.approx(20)
            angles = [tilt.tilt_deg for tilt in truth.tilts]
            assert file.data[:, 0, 0] == pytest.approx(angles, abs=1e-4)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("time.sleep(60)", "took longer than 0.2 s and was ended"),
        (
            "print('Warning: no beam'); sys.exit(1)",
            "ended with status 1: Warning: no beam",
        ),
        ("sys.exit(0)", "it left no noisy image of 64 x 48 px: it printed nothing"),
        ("images[0]['det_pix_x'] = '9'", "it left no noisy image of 64 x 48"),
        ("open('noisy.mrc', 'w').write('x'); sys.exit(0)", "it left no noisy image"),
    ],
)
def test_what_the_program_does_wrong_is_one_sentence_and_nothing_stays(
    plan: Plan, program: MakeProgram, tmp_path: Path, fault: str, words: str
) -> None:
    backend = TemSimulator(program(fault), timeout_s=0.2 if "sleep" in fault else 30)
    with pytest.raises(ToolFailed) as caught:
        list(simulate(plan, tmp_path / "out", backend=backend))
    assert words in str(caught.value)
    assert not (tmp_path / "out" / "small-0000").exists()


def test_a_program_that_is_missing_is_one_sentence() -> None:
    with pytest.raises(ToolMissing, match="found no program /nowhere/TEM"):
        backend_of("tem_simulator", workers=1, program="/nowhere/TEM")


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("objective", {"astigmatism_nm": 50.0}),
        ("objective", {"phase_plate_deg": 90.0}),
        ("camera", {"frames": 4}),
    ],
)
def test_what_it_cannot_image_is_refused(
    plan: Plan,
    program: MakeProgram,
    tmp_path: Path,
    field: str,
    change: dict[str, float],
) -> None:
    part = getattr(plan, field).model_copy(update=change)
    plan = plan.model_copy(update={field: part})
    with pytest.raises(ConfigError, match=f"{field}.{next(iter(change))} in the plan"):
        list(simulate(plan, tmp_path / "out", backend=TemSimulator(program(""))))


def test_more_maps_than_it_reads_are_refused(
    plan: Plan, sample: Sample, program: MakeProgram
) -> None:
    many = replace(sample, maps=sample.maps * 11)
    backend = TemSimulator(program(""))
    with pytest.raises(ConfigError, match="more than 20 different maps"):
        next(backend.images(plan, 0, sample=many, tilts=tilts_of(plan, 0)))


@pytest.fixture
def real() -> str:
    found = shutil.which("TEM-simulator")
    if found is None:
        pytest.skip("TEM-simulator is not on PATH")
    return found


def test_the_real_program_sees_what_ours_sees(
    real: str, plan: Plan, tmp_path: Path
) -> None:
    """Places, angles, tilts, shifts and axes: one convention."""
    fields = {
        "mode": "multislice",
        "camera": plan.camera.model_copy(update={"width_px": 128, "height_px": 96}),
        "ice": plan.ice.model_copy(update={"grain": False}),
        "errors": plan.errors.model_copy(update={"radiation_damage": False}),
        "beads": plan.beads.model_copy(update={"count": 0}),
    }
    plan = plan.model_copy(update=fields)
    with assembling(plan, library=tmp_path / "library") as sample_of:
        sample = sample_of(0)
    tilts = tilts_of(plan, 0)
    ours = Embedded().images(plan, 0, sample=sample, tilts=tilts)
    theirs = TemSimulator(real).images(plan, 0, sample=sample, tilts=tilts)
    for own, other in zip(ours, theirs, strict=True):
        a, b = (each.clean - each.clean.mean() for each in (own, other))
        alike = float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
        assert alike > 0.9
        assert abs(other.noisy.mean() / other.clean.mean() - 1) < 0.02


def test_the_real_program_gives_the_same_bytes_again(
    real: str, plan: Plan, sample: Sample, tmp_path: Path
) -> None:
    assert isinstance(sample.maps[0], DensityMap)
    tilts = tilts_of(plan, 0)[:2]
    one, two = (
        [
            image.noisy.tobytes()
            for image in TemSimulator(real, run=local_map(workers)).images(
                plan, 0, sample=sample, tilts=tilts
            )
        ]
        for workers in (1, 2)
    )
    assert one == two
    assert one[0] != one[1]
