"""The recipes of a movie run to their end: files, rows, pictures and a project."""

import socket
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import starfile
from sqlalchemy import func, select

from em_platform.cryoem.ispyb.tables import METADATA
from em_platform.cryoem.project.pipeline import PIPELINE
from em_platform.cryoem.recipes import placeholders_of, read_recipe
from em_platform.cryoem.services import load_service
from em_platform.cryoem.services.local import StepRun, completed, run_recipe
from em_platform.cryoem.services.process_recipe import requested
from em_platform.cryoem.services.step import ServiceContext, handle_message
from em_platform.errors import (
    MessageRejected,
    OutputRefused,
    PlatformError,
    may_pass,
)

PIXEL_A = 4.0


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four frames of dark discs in noise, moved by one pixel a frame."""
    rng = np.random.default_rng(5)
    specimen = np.full((272, 272), 40.0)
    y, x = np.mgrid[:272, :272]
    for row in range(40, 240, 60):
        for column in range(40, 240, 60):
            specimen[np.hypot(y - row, x - column) < 12] -= 12
    frames = [rng.poisson(specimen[8 : 8 + 256, 8 + i : 8 + i + 256]) for i in range(4)]
    path = tmp_path_factory.mktemp("raw") / "TS_1_002_3.0_20260101_1200_fractions.mrc"
    with mrcfile.new(path, data=np.array(frames, np.int16)) as file:
        file.voxel_size = PIXEL_A
    return path


def run(
    recipe: str, place: ServiceContext, movie: Path, project: Path, **more: Any
) -> list[StepRun]:
    parameters = {
        "movie": str(movie),
        "mrc_out": f"{project}/MotionCorr/job002/Movies/{movie.stem}.mrc",
        "pixel_size": str(PIXEL_A),
        "fm_dose": "0.5",
        "kv": "300",
        **more,
    }
    wanted = placeholders_of(read_recipe(recipe))
    parameters = completed(parameters, recipe=recipe, wanted=wanted, place=place)
    _, content = requested({"recipes": [recipe], "parameters": parameters})
    return list(run_recipe(content, place, guid="g"))


def counts(place: ServiceContext) -> dict[str, int]:
    with place.ispyb.engine.connect() as connection:
        found = {
            name: connection.execute(select(func.count()).select_from(table)).scalar()
            for name, table in METADATA.tables.items()
        }
    return {name: count for name, count in found.items() if count}


def test_a_tilt_is_corrected_fitted_pictured_recorded_and_in_the_project(
    movie: Path, tmp_path: Path
) -> None:
    place = ServiceContext(ispyb_url=f"sqlite:///{tmp_path / 'i.sqlite'}")
    project = tmp_path / "project"
    for number in range(2):
        ran = run("em-tomo-preprocess", place, movie, project, frame_count="4")
        assert [str(each.error) for each in ran if each.error] == []
        image = project / f"MotionCorr/job002/Movies/{movie.stem}.mrc"
        if number == 0:
            made = image.stat().st_mtime_ns
        assert image.stat().st_mtime_ns == made  # the second time it is found
    outside = [each.payload for each in ran if each.is_outside]
    assert outside == [
        {"register": "motion_corrected", "movie": str(movie), "mrc_out": str(image)}
    ]
    found = counts(place)
    assert (found["Movie"], found["MotionCorrection"], found["CTF"]) == (1, 1, 1)
    assert image.with_suffix(".jpeg").is_file()
    assert len(list(project.glob("CtfFind/job003/Movies/*.jpeg"))) == 1
    tilts = starfile.read(project / "CtfFind/job003/tilt_series/TS_1.star")
    assert list(tilts.rlnTomoNominalStageTiltAngle) == [3.0]
    assert list(tilts.rlnMicrographPreExposure) == [2.0]
    assert (project / tilts.rlnCtfImage[0].removesuffix(":mrc")).is_file()
    processes = starfile.read(project / PIPELINE)["pipeline_processes"]
    assert list(processes.rlnPipeLineProcessTypeLabel) == [
        *("relion.importtomo", "relion.motioncorr.tomo.own"),
        "relion.ctffind.tomo.ctffind4",
    ]
    place.close()


def test_a_movie_of_particles_is_picked_and_its_particles_are_cut(
    movie: Path, tmp_path: Path
) -> None:
    place = ServiceContext(ispyb_url=f"sqlite:///{tmp_path / 'i.sqlite'}")
    project = tmp_path / "project"
    ran = run("em-spa-preprocess", place, movie, project, particle_diameter="96")
    assert [str(each.error) for each in ran if each.error] == []
    (feedback,) = (each.payload for each in ran if each.is_outside)
    assert feedback["number_of_particles"] == pytest.approx(16, abs=3)
    assert counts(place)["ParticlePicker"] == 1
    given = feedback["extraction_parameters"] | {"kv": "300", "batch_size": "100"}
    given |= {"particle_diameter": "96", "downscale": "False"}
    # What Murfey would answer, step by step.
    selected = further("em-spa-extract", place, given)
    table = starfile.read(project / "Extract/job005/particles.star")
    particles = table["particles"]
    assert len(particles) == pytest.approx(16, abs=3)
    stack = particles.rlnImageName.iloc[0].partition("@")[2]
    assert (project / stack).is_file()
    batch = project / "Select/job006/particles_split1.star"
    assert list(starfile.read(batch)["particles"].rlnImageName) == list(
        particles.rlnImageName
    )
    assert [each["register"] for each in selected] == [
        *("incomplete_particles_file", "done_particle_selection")
    ]
    asked = selected[0]["class2d_message"]
    assert asked["particles_file"] == str(batch)
    given = asked | {"class2d_dir": f"{asked['class2d_dir']}007/", "nr_iter": "3"}
    given |= {"nr_classes": "2", "particle_diameter": "96"}
    pictures = project / "Class2D/job007"
    for _ in range(2):
        done = further("em-spa-class2d", place, given)
        assert done == [
            {"register": "done_incomplete_2d_batch", "job_dir": str(pictures)}
        ]
    found = counts(place)
    assert found["ParticleClassificationGroup"] == 1
    made = len(list(pictures.glob("run_it003_classes_*.jpeg")))
    assert found["ParticleClassification"] == made > 0
    of_classes = starfile.read(pictures / "run_it003_data.star")["particles"]
    # Within the project, so that RELION reads them wherever it is moved to.
    assert set(of_classes.rlnImageName) == set(particles.rlnImageName)
    edges = starfile.read(project / PIPELINE)["pipeline_input_edges"]
    assert list(edges.itertuples(index=False, name=None))[2:] == [
        ("MotionCorr/job002/corrected_micrographs.star", "AutoPick/job004/"),
        ("CtfFind/job003/micrographs_ctf.star", "Extract/job005/"),
        ("AutoPick/job004/autopick.star", "Extract/job005/"),
        ("Extract/job005/particles.star", "Select/job006/"),
        ("Select/job006/particles_split1.star", "Class2D/job007/"),
    ]
    place.close()


def test_without_a_data_collection_a_recipe_runs_without_ispyb(
    movie: Path, tmp_path: Path
) -> None:
    """round3 6.2: it was a dead letter at its first step."""
    place = ServiceContext(ispyb_url=f"sqlite:///{tmp_path / 'i.sqlite'}")
    project = tmp_path / "project"
    given = {
        **{"movie": str(movie), "pixel_size": str(PIXEL_A), "fm_dose": "0.5"},
        "mrc_out": f"{project}/MotionCorr/job002/Movies/{movie.stem}.mrc",
        **{"feedback_queue": "murfey_feedback", "particle_diameter": "96"},
    }
    _, content = requested({"recipes": ["em-spa-preprocess"], "parameters": given})
    ran = list(run_recipe(content, place, guid="g"))
    assert [str(each.error) for each in ran if each.error] == []
    assert sum(each.is_outside for each in ran) == 1
    assert (project / "AutoPick/job004/autopick.star").is_file()
    assert counts(place) == {}
    place.close()


def further(recipe: str, place: ServiceContext, given: dict[str, Any]) -> list[Any]:
    """What a recipe that follows sends to Murfey."""
    known = {k: str(v) for k, v in given.items() if k != "relion_options"}
    wanted = placeholders_of(read_recipe(recipe))
    parameters = completed(known, recipe=recipe, wanted=wanted, place=place)
    _, content = requested({"recipes": [recipe], "parameters": parameters})
    ran = list(run_recipe(content, place, guid="g"))
    assert [str(each.error) for each in ran if each.error] == []
    return [each.payload for each in ran if each.is_outside]


@pytest.mark.parametrize(
    ("change", "kind", "sentence"),
    [
        ({"pixel_size": None}, MessageRejected, "pixel_size.*: Field required; send"),
        ({"mrc_out": None}, MessageRejected, "mrc_out is missing"),
        ({"mrc_out": "/data/m.mrc"}, MessageRejected, "/data/m.mrc lies in no job"),
        ({"movie": "/nowhere/m.mrc"}, PlatformError, "/nowhere/m.mrc"),
        ({"gain_ref": "/nowhere/g.mrc"}, PlatformError, "/nowhere/g.mrc"),
    ],
)
def test_a_message_that_cannot_be_met_is_one_sentence(
    movie: Path,
    tmp_path: Path,
    change: dict[str, Any],
    kind: type[PlatformError],
    sentence: str,
) -> None:
    message = {
        "movie": str(movie),
        "mrc_out": f"{tmp_path}/MotionCorr/job002/Movies/m.mrc",
        "pixel_size": PIXEL_A,
        "patch_sizes": {"x": 1, "y": 1},
    } | change
    given = {name: value for name, value in message.items() if value is not None}
    place = ServiceContext(ispyb_url="sqlite://")
    with pytest.raises(kind, match=sentence):
        handle_message(load_service("MotionCorr"), {}, given, place)
    assert not list(tmp_path.rglob("*.mrc"))


def test_a_file_of_others_is_not_replaced(movie: Path, tmp_path: Path) -> None:
    image = tmp_path / "MotionCorr/job002/Movies/m.mrc"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"of RELION")
    dead = f".m.motion.{socket.gethostname()}.{2**22 + 1}.00000000.partial"
    (image.parent / dead).mkdir()  # what a killed service was making
    message = {
        "movie": str(movie),
        "mrc_out": str(image),
        "pixel_size": PIXEL_A,
        "patch_sizes": {"x": 1, "y": 1},
    }
    handler, place = load_service("MotionCorr"), ServiceContext(ispyb_url="sqlite://")
    with pytest.raises(OutputRefused, match=r"m\.mrc was not made by em-platform"):
        handle_message(handler, {}, message, place)
    assert image.read_bytes() == b"of RELION"
    assert list(image.parent.iterdir()) == [image]


def test_a_program_that_is_not_there_ends_its_branch_alone(
    movie: Path, tmp_path: Path
) -> None:
    place = ServiceContext(
        ispyb_url=f"sqlite:///{tmp_path / 'i.sqlite'}",
        stages={"ctf": {"engine": "ctffind5"}},
    )
    ran = run("em-tomo-preprocess", place, movie, tmp_path / "project")
    (failed,) = [each for each in ran if each.error]
    assert failed.service == "CTFFind"
    assert "ctffind5: it was not found on PATH" in str(failed.error)
    # A dead letter at once: trying again would change nothing.
    assert not may_pass(failed.error)  # type: ignore[arg-type]
    done = {each.service for each in ran if not each.error}
    assert {"MotionCorr", "Images", "EMISPyB", "NodeCreator"} <= done
    wrong = ServiceContext(
        ispyb_url=place.ispyb_url, stages={"ctf": {"engin": "ctffind5"}}
    )
    ran = run("em-tomo-preprocess", wrong, movie, tmp_path / "project")
    assert "ctf has no parameter engin" in str(next(e.error for e in ran if e.error))
