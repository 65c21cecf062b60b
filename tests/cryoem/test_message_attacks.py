"""Attacks on the services, as a client of RabbitMQ makes them: nothing is destroyed."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import PIL.Image
import pytest

from em_platform.cryoem.services import load_service
from em_platform.cryoem.services.step import ServiceContext, handle_message
from em_platform.errors import MessageRejected, OutputRefused, PlatformError


@pytest.fixture
def place(root: Path) -> Iterator[ServiceContext]:
    opened = ServiceContext(ispyb_url="sqlite://", roots=(root,))
    yield opened
    opened.close()


@pytest.fixture
def micrograph(root: Path) -> Path:
    path = root / "m.mrc"
    noise = np.random.default_rng(1).normal(100, 10, (64, 64)).astype(np.float32)
    with mrcfile.new(path, data=noise) as file:
        file.voxel_size = 1.0
    return path


def send(service: str, message: dict[str, Any], place: ServiceContext) -> list[Any]:
    return handle_message(load_service(service), {}, message, place)


def test_a_message_runs_no_program_of_its_own(
    micrograph: Path, place: ServiceContext, tmp_path: Path
) -> None:
    """round3 4.2: `cryolo_command: python3 -c ...` ran with the service's rights."""
    ran = tmp_path / "ran"
    message = {
        "input_path": str(micrograph),
        "output_path": f"{micrograph.parent}/AutoPick/job004/m.star",
        "pixel_size": 1,
        "engine": "cryolo",
        "cryolo_command": f"touch {ran}",
    }
    with pytest.raises(MessageRejected, match="the settings alone choose programs"):
        send("CrYOLO", message, place)
    assert not ran.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"output_suffix": ".mrc"},
        {"output_suffix": "/../../outside/a.mrc"},
        {"image_command": "picked_particles", "diameter": 9, "outfile": "{root}/m.mrc"},
        {"image_command": "tiff_to_apng", "outfile": "{root}/m.tif"},
        {"file": "{root}/link/a.mrc"},
        {"file": "{root}/../outside/a.mrc"},
    ],
)
def test_pictures_overwrite_nothing_but_pictures_of_ours(
    change: dict[str, Any], micrograph: Path, place: ServiceContext, root: Path
) -> None:
    """round3 4.3: a suffix or a path of a message overwrote raw data by a JPEG."""
    before = contents(root.parent)
    filled = {k: str(v).format(root=root) for k, v in change.items()}
    message = {"image_command": "mrc_to_jpeg", "file": str(micrograph), **filled}
    with pytest.raises(MessageRejected):
        send("Images", message, place)
    assert contents(root.parent) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_micrograph_is_never_deleted(micrograph: Path, place: ServiceContext) -> None:
    """round3 4.3: `remove_input` deleted the micrograph."""
    raw = micrograph.read_bytes()
    message = {
        "image_command": "picked_particles",
        "file": str(micrograph),
        "coordinates": [["9", "9"]],
        "diameter": 9,
        "pixel_size": 1,
        "remove_input": True,
    }
    for _ in range(2):  # our own picture is replaced
        send("Images", message, place)
    assert micrograph.read_bytes() == raw
    with PIL.Image.open(micrograph.with_suffix(".jpeg")) as picture:
        assert picture.size == (64, 64)


def test_a_picture_of_others_and_what_a_link_leads_to_stay(
    micrograph: Path, place: ServiceContext, root: Path
) -> None:
    """round3 4.3: every write goes through the guard."""
    message = {"image_command": "mrc_to_jpeg", "file": str(micrograph)}
    theirs = micrograph.with_suffix(".jpeg")
    theirs.write_bytes(b"\xff\xd8 of the microscope")
    with pytest.raises(OutputRefused, match="is not a picture of em-platform"):
        send("Images", message, place)
    assert theirs.read_bytes() == b"\xff\xd8 of the microscope"
    theirs.unlink()
    planted = root.parent / "outside/planted.jpeg"
    theirs.symlink_to(planted)
    send("Images", message, place)
    assert not planted.exists() and not theirs.is_symlink()


def report(root: Path, **change: Any) -> dict[str, Any]:
    """What NodeCreator is sent of a tilt."""
    common = {
        "job_type": "relion.importtomo",
        "experiment_type": "tomography",
        "input_file": f"{root}/TS_1_001_3.0_x.mrc",
        "output_file": f"{root}/p/Import/job001/Movies/TS_1_001_3.0_x.mrc",
    }
    return common | change


@pytest.mark.parametrize(
    "change",
    [
        # 4.5: each wrote outside of the project, or into another's file.
        {"relion_options": {"tilt_series": "../../../../escaped", "tilt_angle": 1}},
        {"relion_options": {"tilt_series": "a\ndata_b", "tilt_angle": 1}},
        {"relion_options": {"tilt_series": "a b", "tilt_angle": 1}},
        {"results": {"tilt_series": "a\nloop_"}, "job_type": "relion.denoisetomo",
         "output_file": "{root}/p/Denoise/job007/a.mrc"},
        {"alias": "../../x"},
        {"alias": "a b"},
        {"output_file": "{outside}/Import/job001/a.mrc", "stdout": "text"},
        {"output_file": "{root}/linked/Import/job001/a.mrc", "stdout": "text"},
        {"output_file": "{root}/q/Import/job001/a.mrc", "stdout": "text"},
        {"output_file": "{root}/r/Import/job001/TS_1_001_3.0_x.mrc", "stdout": "text"},
        {"output_file": "{root}/p/Import/job001/a\n_b.mrc"},
        {"input_file": "/etc/passwd:{root}/a"},
    ],
)  # fmt: skip
def test_reports_write_into_their_project_alone(
    change: dict[str, Any], root: Path, place: ServiceContext
) -> None:
    """round3 4.5"""
    outside = root.parent / "outside"
    (root / "linked").symlink_to(outside)
    (root / "q").mkdir()
    (root / "q/Import").symlink_to(outside)
    (root / "r/Import/job001").mkdir(parents=True)
    (root / "r/Import/job001/job.star").write_text("data_job of RELION")
    before = contents(root.parent), links(root.parent)
    filled = {
        k: v.format(root=root, outside=outside) if isinstance(v, str) else v
        for k, v in change.items()
    }
    with pytest.raises(PlatformError):
        send("NodeCreator", report(root, **filled), place)
    after = contents(root.parent)
    assert {p: after.get(p) for p in before[0]} == before[0]
    assert links(root.parent) == before[1]
    new = after.keys() - before[0].keys()
    assert all("p" in path.relative_to(root).parts for path in new)
    assert not any("b" == path.stem or "escaped" in path.name for path in new)


def links(folder: Path) -> dict[Path, str]:
    return {p: os.readlink(p) for p in folder.rglob("*") if p.is_symlink()}


def test_links_planted_in_a_job_are_not_followed(
    root: Path, place: ServiceContext
) -> None:
    """round3 4.5: what a link leads to is neither written nor copied."""
    send("NodeCreator", report(root), place)
    job, outside = root / "p/Import/job001", root.parent / "outside"
    (outside / "secret").write_text("secret")
    for name in ("run.out", "run.err", "note.txt", "RELION_JOB_EXIT_SUCCESS"):
        (job / name).unlink()
        (job / name).symlink_to(outside / ("secret" if "t" in name[-3:] else "new"))
    shutil.rmtree(job / "tilt_series")
    before = contents(outside)
    send("NodeCreator", report(root, stdout="a", stderr="b", command="c"), place)
    assert contents(outside) == before
    assert (job / "run.err").read_text() == "b\n"
    assert (job / "note.txt").read_text() == "c\n"
    (job / "tilt_series").rename(job / "moved")
    (job / "tilt_series").symlink_to(outside)
    with pytest.raises(OutputRefused, match="leads out of"):
        send("NodeCreator", report(root), place)
    assert contents(outside) == before


def test_a_project_lies_in_the_roots_as_its_files_do(
    micrograph: Path, place: ServiceContext, root: Path
) -> None:
    """round3 4.3: `ROOT/job002/m.mrc` is of a project beside ROOT: that was written."""
    before = sorted(root.parent.rglob("*"))
    message = {"movie": str(micrograph), "pixel_size": 1}
    with pytest.raises(MessageRejected, match="a job's project"):
        send("MotionCorr", message | {"mrc_out": f"{root}/job002/m.mrc"}, place)
    particles = {"input_file": f"{root}/job002/m.star", "image_size": 8}
    with pytest.raises(MessageRejected, match="a job's project"):
        send("SelectParticles", particles | {"batch_size": 9}, place)
    assert sorted(root.parent.rglob("*")) == before


@pytest.mark.parametrize("folder", ["[a]", "b"])
def test_a_pattern_fits_no_file_elsewhere(
    folder: str, place: ServiceContext, root: Path
) -> None:
    """round3 4.3: hidden files, and folders with a star in their names, passed."""
    (root / "b").mkdir()
    (root / "b/.x.mrc").symlink_to(root.parent / "outside/a.mrc")
    (root / "[a]").symlink_to(root.parent / "outside")
    message = {"path_pattern": f"{root}/{folder}/*.mrc", "pixel_size": 1}
    message |= {"stack_file": f"{root}/p/Tomograms/job006/tomograms/s.mrc"}
    with pytest.raises(MessageRejected, match="path_pattern is"):
        send("AreTomoAlign", message, place)


def test_folders_beside_an_output_are_no_links_elsewhere(
    micrograph: Path, place: ServiceContext, root: Path
) -> None:
    """round3 4.3: particles and alignments have folders that no message names."""
    outside = root.parent / "outside"
    extracted = root / "p/Extract/job005"
    aligned = root / "p/Tomograms/job006/tomograms"
    for link in (extracted / "m", aligned / "s_alignment"):
        link.parent.mkdir(parents=True)
        link.symlink_to(outside)
    picks = root / "m.star"
    picks.touch()
    before = contents(outside)
    message = {
        **{"micrographs_file": str(micrograph), "coord_list_file": str(picks)},
        **{"output_file": f"{extracted}/m.star", "pixel_size": 1},
        "particle_diameter": 10,
    }
    with pytest.raises(OutputRefused, match="leads out of"):
        send("Extract", message, place)
    message = {"stack_file": f"{aligned}/s.mrc", "pixel_size": 1}
    with pytest.raises(OutputRefused, match="leads out of"):
        send("AreTomoAlign", message, place)
    assert contents(outside) == before


def test_a_job_has_one_name_and_no_alias_that_is_anothers(
    place: ServiceContext, root: Path
) -> None:
    """round3 4.5: `job1` and an alias `job007` took the places of other jobs."""
    project = root / "p"
    send("NodeCreator", report(root), place)
    known = (project / "default_pipeline.star").read_bytes()
    for change in (
        {"alias": "job007"},
        {"output_file": f"{project}/Import/job99999999999/Movies/a.mrc"},
        {"output_file": f"{project}/Import/job٢/Movies/a.mrc"},
    ):
        with pytest.raises(PlatformError, match="job"):
            send("NodeCreator", report(root, **change), place)
        assert (project / "default_pipeline.star").read_bytes() == known
    same = report(root)["output_file"].replace("job001", "job1")
    send("NodeCreator", report(root, output_file=same), place)
    assert [path.name for path in (project / "Import").iterdir()] == ["job001"]


@pytest.mark.parametrize(
    ("service", "field", "others"),
    [
        ("Images", "file", {"image_command": "tiff_to_apng"}),
        ("SelectParticles", "input_file", {"batch_size": 9, "image_size": 8}),
    ],
)
def test_a_pipe_holds_no_service(
    service: str, field: str, others: dict[str, Any], place: ServiceContext, root: Path
) -> None:
    """round3 4.4: who reads it waited without end, and all messages with it."""
    os.mkfifo(root / "a.tif")
    with pytest.raises(MessageRejected, match="a pipe or a device"):
        send(service, {**others, field: f"{root}/a.tif"}, place)
