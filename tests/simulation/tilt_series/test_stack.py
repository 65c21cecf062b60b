"""A stack's folder: real readers take it, equal plans give equal bytes, kills too."""

import hashlib
import json
import os
import resource
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import jsonschema
import mrcfile
import numpy as np
import pytest
import starfile
from mdocfile.data_models import Mdoc

from em_platform.errors import OutputRefused, StorageError
from em_platform.formats import describe, open_level
from em_platform.simulation.tilt_series.assemblers.assembler import Sample
from em_platform.simulation.tilt_series.backends.embedded import Embedded
from em_platform.simulation.tilt_series.data_set import simulate
from em_platform.simulation.tilt_series.geometry import Tilt
from em_platform.simulation.tilt_series.layers import scene_of
from em_platform.simulation.tilt_series.plan import Plan
from em_platform.simulation.tilt_series.sample import assembling
from em_platform.simulation.tilt_series.series import (
    TiltImage,
    image_tilt,
    shifted,
    tilts_of,
)
from em_platform.simulation.tilt_series.truth import Truth, truth_schema
from em_platform.stitching.compute import local_map


def digests(folder: Path) -> dict[str, str]:
    """Every file below, by its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def made(plan: Plan, output: Path, *, workers: int = 1) -> Path:
    """The folder of the plan's only stack."""
    (stack,) = simulate(plan, output, backend=Embedded(local_map(workers)))
    return stack.folder


@pytest.fixture
def folder(plan: Plan, tmp_path: Path) -> Path:
    return made(plan, tmp_path / "out")


def test_real_readers_take_the_files_and_find_the_truth_in_them(
    folder: Path, plan: Plan
) -> None:
    truth = Truth.model_validate_json((folder / "truth.json").read_text())
    for name in ("small-0000.mrc", "small-0000_clean.mrc"):
        assert mrcfile.validate(folder / name)
        with mrcfile.open(folder / name) as file:
            assert file.data.shape == (5, 48, 64)
            assert file.is_image_stack()
            assert float(file.voxel_size.x) == pytest.approx(20)
    angles = np.loadtxt(folder / "small-0000.rawtlt")
    assert angles.tolist() == [-40, -20, 0, 20, 40]
    mdoc = Mdoc.from_string((folder / "small-0000.mrc.mdoc").read_text())
    assert mdoc.global_data.PixelSpacing == 20
    assert mdoc.global_data.ImageSize == (64, 48)
    assert mdoc.global_data.Voltage == 300
    for section, tilt in zip(mdoc.section_data, truth.tilts, strict=True):
        assert section.TiltAngle == tilt.nominal_deg
        assert section.ExposureDose * 100 == pytest.approx(
            tilt.dose_e_per_nm2, abs=1e-2
        )
        prior = section.PriorRecordDose * 100
        assert prior == pytest.approx(tilt.prior_dose_e_per_nm2, abs=1e-2)
        assert -section.Defocus * 1000 == pytest.approx(tilt.defocus_nm[0], abs=0.01)
        assert section.TargetDefocus == -2
    table = starfile.read(folder / "particles.star")
    assert len(table) == len(truth.particles) == 6
    first = [table[f"rlnCenteredCoordinate{axis}Angst"][0] for axis in "XYZ"]
    assert first == pytest.approx([10 * p for p in truth.particles[0].position_nm])
    assert len(truth.fiducials) == 2
    (record,) = json.loads((folder / "sim_metadata.json").read_text())
    assert record.keys() == {
        *("output", "nonoise_output", "global_stack_no", "apix", "defocus"),
        *("sim_configs", "particle_coords", "positions", "orientations", "custom_data"),
    }
    assert record["positions"][0] == list(truth.particles[0].position_nm)
    (gathered,) = json.loads((folder.parent / "sim_metadata.json").read_text())
    assert (folder.parent / gathered["output"]).is_file()
    schema = json.loads(truth_schema())
    jsonschema.validate(json.loads((folder / "truth.json").read_text()), schema)


def test_labels_show_where_the_particles_and_beads_of_the_truth_are(
    folder: Path,
) -> None:
    truth = Truth.model_validate_json((folder / "truth.json").read_text())
    info = describe(str(folder / "labels.zarr"))
    assert info.units == ("nanometer",) * 3
    labels = np.asarray(open_level(str(folder / "labels.zarr"), 0)[:])
    assert labels.shape == (8, 12, 16)  # 60 x 96 x 128 nm in voxels of 8 nm
    assert {0, *range(1, 9)} >= set(np.unique(labels)) > {0}
    for number, each in enumerate((*truth.particles, *truth.fiducials), 1):
        places = np.argwhere(labels == number) - np.array([4, 6, 8])
        middle = 8 * places.mean(axis=0)[::-1]
        assert np.abs(middle - each.position_nm).max() < 8


def test_previews_show_rings_and_truth(folder: Path) -> None:
    names = {path.name for path in (folder / "previews").iterdir()}
    assert names == {
        f"{n}.png" for n in ("central_tilt", "thon_rings", "truth", "sample")
    }
    truth = cv2.imread(str(folder / "previews" / "truth.png"))
    assert truth.shape == (384, 512, 3)
    is_coloured = truth.max(axis=2).astype(int) - truth.min(axis=2) > 100
    assert 200 < is_coloured.sum() < 20_000


def test_movies_add_up_to_the_stack_and_drift_as_the_truth_says(
    plan: Plan, tmp_path: Path
) -> None:
    movies = plan.model_copy(
        update={
            "camera": plan.camera.model_copy(update={"frames": 4}),
            "errors": plan.errors.model_copy(update={"drift_nm_per_frame": 4.0}),
        }
    )
    folder = made(movies, tmp_path / "out")
    truth = Truth.model_validate_json((folder / "truth.json").read_text())
    mdoc = Mdoc.from_string((folder / "small-0000.mrc.mdoc").read_text())
    with mrcfile.open(folder / "small-0000.mrc") as file:
        stack = file.data.copy()
    for section, tilt in zip(mdoc.section_data, truth.tilts, strict=True):
        assert section.NumSubFrames == 4
        path = folder / "frames" / section.SubFramePath.name
        assert path.name == f"small-0000_{tilt.order:03d}_{tilt.nominal_deg:.1f}.mrc"
        assert mrcfile.validate(path)
        with mrcfile.open(path) as file:
            assert np.allclose(file.data.sum(axis=0), stack[tilt.section], rtol=1e-5)
        assert len(tilt.drift_nm) == 4
        assert tilt.drift_nm[0] == (0, 0)
    still = np.zeros((48, 64), np.float32)
    still[20, 30] = 1
    moved = shifted(still, np.array([3.0, -2.0]))
    assert np.unravel_index(moved.argmax(), moved.shape) == (23, 28)


def test_one_and_two_workers_write_the_same_bytes(
    folder: Path, plan: Plan, tmp_path: Path
) -> None:
    assert digests(made(plan, tmp_path / "two", workers=2)) == digests(folder)


def test_any_tilt_is_made_again_alone_with_the_same_bits(
    folder: Path, plan: Plan, tmp_path: Path
) -> None:
    tilt = tilts_of(plan, 0)[3]
    with assembling(plan, library=tmp_path / "library") as sample_of:
        sample = sample_of(0)
    image = image_tilt(plan, 0, tilt, scene=scene_of(sample, pixel_nm=plan.pixel_nm))
    with mrcfile.open(folder / "small-0000.mrc") as file:
        assert np.array_equal(file.data[3], image.noisy)


class _KilledAfter:
    """The embedded simulator, whose process is killed when it has made some tilts."""

    name = "embedded"

    def __init__(self, tilts: int) -> None:
        self._tilts = tilts

    def images(
        self, plan: Plan, stack: int, *, sample: Sample, tilts: Sequence[Tilt]
    ) -> Iterator[TiltImage]:
        images = Embedded().images(plan, stack, sample=sample, tilts=tilts)
        for number, image in enumerate(images):
            if number == self._tilts:
                os.kill(os.getpid(), signal.SIGKILL)
            yield image


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_killed_stack_is_resumed_to_the_same_bytes(
    folder: Path, plan: Plan, tmp_path: Path
) -> None:
    output = tmp_path / "killed"
    child = os.fork()
    if not child:
        list(simulate(plan, output, backend=_KilledAfter(3)))
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert not (output / "small-0000").exists()
    # One section was damaged by the fall of the power: it is made again.
    with (output / ".small-0000.partial" / "small-0000.mrc").open("r+b") as file:
        file.seek(1024 + 4 * 48 * 64 * 1 + 8)
        file.write(b"\1\2\3\4")
    (stack,) = simulate(plan, output, backend=Embedded())
    assert stack.made == 3
    assert digests(stack.folder) == digests(folder)
    assert [path.name for path in output.iterdir() if path.name[0] == "."] == []


def test_what_stands_is_kept_and_another_plan_replaces_it_only_when_asked(
    folder: Path, plan: Plan
) -> None:
    output = folder.parent
    before = digests(folder)
    (stack,) = simulate(plan, output, backend=Embedded())
    assert (stack.made, digests(folder)) == (0, before)
    other = plan.model_copy(update={"seed": 12})
    with pytest.raises(OutputRefused, match="other settings"):
        list(simulate(other, output, backend=Embedded()))
    assert digests(folder) == before
    list(simulate(other, output, backend=Embedded(), overwrite=True))
    assert digests(folder).keys() == before.keys()
    assert digests(folder) != before


def test_a_folder_that_others_changed_is_not_replaced(folder: Path, plan: Plan) -> None:
    (folder / "notes.txt").write_text("three weeks of work")
    for chosen in (plan, plan.model_copy(update={"seed": 12})):
        with pytest.raises(OutputRefused, match="was changed"):
            list(simulate(chosen, folder.parent, backend=Embedded(), overwrite=True))
    assert (folder / "notes.txt").read_text() == "three weeks of work"


@pytest.mark.parametrize("room", [60_000, 70_000], ids=["stack", "movie"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_made(
    plan: Plan, tmp_path: Path, room: int
) -> None:
    """The kernel refuses files beyond a limit, as it does on a full disk."""
    movies = plan.model_copy(
        update={"camera": plan.camera.model_copy(update={"frames": 6})}
    )
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(StorageError, match=r"could not be written \(File too large\)"):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
            list(simulate(movies, tmp_path / "out", backend=Embedded()))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"em_platform.json", "library"}


def test_a_second_stack_leaves_the_first_as_it_stands(folder: Path, plan: Plan) -> None:
    more = plan.model_copy(update={"stacks": 2})
    first, second = simulate(more, folder.parent, backend=Embedded())
    assert (first.made, second.made) == (0, 5)
    one, two = (
        Truth.model_validate_json((each.folder / "truth.json").read_text())
        for each in (first, second)
    )
    assert one.particles != two.particles
    assert two.tilts[0].defocus_nm[0] == pytest.approx(3000, abs=300)
