"""The microscope of a session is the same in all that is made of its movies."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import starfile
from pydantic import ValidationError
from sqlalchemy import select

from em_platform.config import load_settings
from em_platform.config.cryoem import SessionSettings
from em_platform.cryoem.ispyb import tables
from em_platform.cryoem.optics import optics_of, stages_of
from em_platform.cryoem.project.tables import optics_row
from em_platform.cryoem.recipes import placeholders_of, read_recipe
from em_platform.cryoem.services import load_service
from em_platform.cryoem.services.local import completed, place_of, run_recipe
from em_platform.cryoem.services.process_recipe import requested
from em_platform.cryoem.services.step import ServiceContext, handle_message
from em_platform.cryoem.sessions.processing import open_sessions
from em_platform.cryoem.sessions.records import project_of, record_movie
from em_platform.cryoem.sessions.run_stage import parameters_of
from em_platform.cryoem.stages import ctf, motion
from em_platform.errors import MessageRejected, ToolFailed
from tests.cryoem.standin_programs import write_programs

KV, CS_MM = 200.0, 1.4
STARS = (
    *("Import/job001/movies.star", "MotionCorr/job002/corrected_micrographs.star"),
    *("CtfFind/job003/micrographs_ctf.star", "Extract/job005/particles.star"),
    "Select/job006/particles_split1.star",
)


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four frames of dark discs in noise."""
    rng = np.random.default_rng(5)
    specimen = np.full((256, 256), 40.0)
    y, x = np.mgrid[:256, :256]
    for row in range(40, 240, 60):
        for column in range(40, 240, 60):
            specimen[np.hypot(y - row, x - column) < 12] -= 12
    path = tmp_path_factory.mktemp("raw") / "m.mrc"
    frames = rng.poisson(specimen, (4, 256, 256)).astype(np.int16)
    with mrcfile.new(path, data=frames) as file:
        file.voxel_size = 4
    return path


def by_session(
    movie: Path, home: Path, amplitude: float
) -> tuple[Path, ServiceContext]:
    """By assets, whose session has its own settings."""
    folder = home / "cryoem/grid1"
    folder.mkdir(parents=True)
    shutil.copy(movie, folder)
    (folder / "session.yaml").write_text(
        f"pixel_size_a: 4\nvoltage_kv: {KV}\ndose_per_frame: 0.5\ncs_mm: {CS_MM}\n"
        f"amplitude_contrast: {amplitude}\nparticle_diameter_a: 96\n"
    )
    place = place_of(load_settings())
    with open_sessions(load_settings()) as sessions:
        sessions.look(1e12)
        key = "grid1~m"
        for make in (sessions.correct, sessions.fit_ctf, sessions.pick):
            make(key)
        sessions.extract(key)
        fitted = parameters_of(sessions.step_folder(key, "ctf"))
        assert (fitted["spher_aber"], fitted["ampl_contrast"]) == (CS_MM, amplitude)
        record_movie(sessions, key, place)
        return project_of(sessions, "grid1"), place


def by_services(
    movie: Path, home: Path, more: dict[str, Any], place: ServiceContext
) -> tuple[Path, ServiceContext]:
    """By live services; `more` goes into the step of the motion correction."""
    project = home / "project"
    given = {
        "movie": str(movie),
        "mrc_out": f"{project}/MotionCorr/job002/Movies/m.mrc",
        **{"pixel_size": "4", "fm_dose": "0.5", "kv": f"{KV}"},
        "particle_diameter": "96",
    }
    for recipe in ("em-spa-preprocess", "em-spa-extract"):
        wanted = placeholders_of(read_recipe(recipe))
        filled = completed(given, recipe=recipe, wanted=wanted, place=place)
        _, content = requested({"recipes": [recipe], "parameters": filled})
        if recipe == "em-spa-preprocess":
            content[2]["parameters"] |= more
        ran = list(run_recipe(content, place, guid="g"))
        assert [each.error for each in ran if each.error] == []
        if recipe == "em-spa-preprocess":
            (picked,) = (each.payload for each in ran if each.is_outside)
            found = picked["extraction_parameters"]
            own = {k: str(v) for k, v in found.items() if k != "relion_options"}
            given |= own | {"batch_size": "100", "downscale": "False"}
    return project, place


@pytest.mark.parametrize(
    ("way", "amplitude"),
    [("session", 0.07), ("session", 0.0), ("settings", 0.07), ("message", 0.0)],
)
def test_the_microscope_of_a_session_stands_in_all_its_tables(
    movie: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    amplitude: float,
) -> None:
    """round3 1.1.2: 2.7 and 0.1 stood in all three STAR files; 0 became 0.1."""
    if way == "session":
        project, place = by_session(movie, home, amplitude)
    elif way == "settings":
        monkeypatch.setenv("EM_CRYOEM__SESSION__CS_MM", str(CS_MM))
        monkeypatch.setenv("EM_CRYOEM__SESSION__AMPLITUDE_CONTRAST", str(amplitude))
        place = place_of(load_settings())
        project, place = by_services(movie, home, {}, place)
    else:
        own = {"relion_options": {"spher_aber": CS_MM, "ampl_contrast": amplitude}}
        project, place = by_services(movie, home, own, place_of(load_settings()))
    for star in STARS:
        (optics,) = starfile.read(project / star)["optics"].itertuples()
        assert optics.rlnVoltage == KV, star
        assert optics.rlnSphericalAberration == CS_MM, star
        assert optics.rlnAmplitudeContrast == amplitude, star
    with place.ispyb.engine.connect() as connection:
        recorded = connection.execute(select(tables.CTF.c.amplitudeContrast)).scalars()
        assert recorded.all() == [pytest.approx(amplitude)]
    (table,) = (project / "CtfFind/job003").rglob("*_ctf.txt")
    head = f"aberration: {CS_MM:.2f} mm ; amplitude contrast: {amplitude:.2f}\n"
    assert head in table.read_text()
    place.close()
    if shutil.which("relion_star_printtable") is None:
        pytest.skip("RELION is not installed: apt-get install relion")
    columns = ("_rlnSphericalAberration", "_rlnAmplitudeContrast")
    printed = subprocess.run(
        ["relion_star_printtable", str(project / STARS[2]), "data_optics", *columns],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert [float(each) for each in printed.split()] == [CS_MM, amplitude]


def test_a_null_says_nothing_of_the_microscope_and_0_does() -> None:
    """round3 1.1.2"""
    row = optics_row({"spher_aber": 0, "ampl_contrast": None, "voltage": "200"})
    assert row["SphericalAberration"] == 0
    assert (row["AmplitudeContrast"], row["Voltage"]) == (0.1, 200)
    with pytest.raises(
        MessageRejected, match=r"ampl_contrast: found 7, expected at most 1"
    ):
        optics_of({"ampl_contrast": 7})
    for name in ("spher_aber", "voltage"):  # round3 1.2.10: a fault of em-platform
        with pytest.raises(MessageRejected, match=f"{name}.*expected at most"):
            optics_of({name: 1e300})
    with pytest.raises(ValidationError, match=r"max_defocus\n.*less than or equal"):
        ctf.Parameters(input_image="m.mrc", pixel_size=1, max_defocus=1e300)
    # Of two that say it, whatever they call it, the last counts.
    assert optics_of({"cs": 1.4}, {"spher_aber": 2.0}).spher_aber == 2.0


def test_settings_of_a_stage_cannot_give_it_another_microscope() -> None:
    """round3 1.1.2"""
    own = SessionSettings(cs_mm=1.4, stages={"ctf": {"min_res": 20.0}})
    assert stages_of(own)["ctf"] == {
        **{"spher_aber": 1.4, "ampl_contrast": 0.1, "min_res": 20.0}
    }
    assert stages_of(own)["reconstruct"]["spher_aber"] == 1.4
    with pytest.raises(ValidationError, match=r"stages\.ctf\.cs: .* set cs_mm of"):
        SessionSettings(stages={"ctf": {"cs": 2.0}})


def test_programs_are_asked_with_the_microscope_of_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """round3 1.1.2: RELION's table of the movie had 2.7 and 0.1, AreTomo nothing."""
    given = tmp_path / "given"
    given.mkdir()
    write_programs(given)
    monkeypatch.setenv("STANDIN", str(given))
    monkeypatch.setenv("PATH", f"{given / 'bin'}:/usr/bin:/bin")
    stack = tmp_path / "p/Tomograms/job006/tomograms/s.mrc"
    stack.parent.mkdir(parents=True)
    shutil.copy(given / "s.mrc", stack)
    shutil.copy(given / "s.rawtlt", stack.parent)
    message = {
        **{"stack_file": str(stack), "pixel_size": 2.0, "out_bin": 1, "vol_z": 8},
        "relion_options": {"spher_aber": 1.4, "ampl_contrast": 0},
    }
    stages = {key: {"engine": "aretomo3"} for key in ("tilt-align", "reconstruct")}
    place = ServiceContext(ispyb_url="sqlite://", stages=stages)
    handle_message(load_service("AreTomoAlign"), {}, message, place)
    commands = (given / "asked").read_text().splitlines()
    assert len(commands) == 2
    assert all("-Cs 1.4 -AmpContrast 0.0" in each for each in commands)
    alone = tmp_path / "bin/relion_run_motioncorr"
    alone.parent.mkdir()
    alone.write_text('#!/bin/sh\n[ "$1" = --i ] && cp "$2" "$STANDIN/asked"; exit 3\n')
    alone.chmod(0o755)
    monkeypatch.setenv("PATH", f"{alone.parent}:/usr/bin:/bin")
    lens = {"voltage": 200, "spher_aber": 1.4, "ampl_contrast": 0}
    movie = motion.Parameters(
        movie=given / "m.mrc", pixel_size=2.0, engine="relion", **lens
    )
    with pytest.raises(ToolFailed, match="ended with status 3"):
        motion.run(movie, tmp_path)
    assert "opticsGroup1 1 2.0 200.0 1.4 0.0\n" in (given / "asked").read_text()
