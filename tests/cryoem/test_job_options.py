"""RELION and ccpem-pipeliner read our jobs, and can run them again."""

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from em_platform.cryoem.project import JobReport, rebuild_pipeline, record_job
from em_platform.cryoem.project.jobs import EXTERNAL_31, JOB_TYPES
from em_platform.cryoem.project.options import job_star, options_of
from em_platform.cryoem.project.pipeline import PIPELINE, read_pipeline
from em_platform.errors import RecordError
from tests.cryoem.test_project import MOTION, record_spa, record_tilts, report

KNOWN: dict[str, Any] = {
    **{"pixel_size": 0.75, "voltage": 200.0, "spher_aber": 1.4, "ampl_contrast": 0.07},
    **{"dose_per_frame": 0.5, "pre_exposure": 0.0, "eer_grouping": 20, "threads": 4},
    **{"motion_corr_binning": 2.0, "patches_x": 7, "patches_y": 5, "rot_gain": 3},
    **{"flip_gain": 2, "gain_ref": "gain.mrc", "b_factor": 500.0, "raw": "I/*.tiff"},
    **{"mdoc": "/raw/*.mdoc", "min_defocus": 2000.0, "max_defocus": 90000.0},
    **{"defocus_step": 100.0, "ampl_spectrum": 1024, "min_res": 40.0, "max_res": 3.5},
    **{"min_diameter": 100.0, "max_diameter": 144.5, "particle_diameter": 120.0},
    **{"boxsize": 200, "small_boxsize": 64, "downscale": True, "batch_size": 100},
    **{"class2d_nr_classes": 30, "class2d_nr_iter": 12, "mask_diameter": 132.0},
    **{"thickness_nm": 240.4, "tilt_axis_angle": 84.8, "vol_z": 1200.0},
    **{"tomo_size_x": 4092, "tomo_size_y": 5760, "pixel_size_downscaled": 6.0},
    **{"manual_tilt_offset": -10.5, "cryolo_threshold": 0.15, "cryolo_box_size": 160},
}
SPA = {
    "relion.motioncorr.own": [("Import/job001", "relion.import.movies")],
    "relion.ctffind.ctffind4": [("MotionCorr/job002", "relion.motioncorr.own")],
    "relion.autopick.log": [("CtfFind/job003", "relion.ctffind.ctffind4")],
    "relion.extract": [
        ("CtfFind/job003", "relion.ctffind.ctffind4"),
        ("AutoPick/job004", "relion.autopick.log"),
    ],
    "relion.select.split": [("Extract/job005", "relion.extract")],
    "relion.class2d.em": [("Select/job006", "relion.select.split")],
}
"""Type -> the jobs before."""
BATCH = "particles_split1.star"


def taken_by(job_type: str) -> list[tuple[str, str, str, str]]:
    return [(folder, of, "spa", BATCH) for folder, of in SPA.get(job_type, ())]


def pipeliner(name: str) -> Any:
    if importlib.util.find_spec("pipeliner") is None:
        pytest.skip("ccpem-pipeliner is not installed: make install")
    return importlib.import_module(f"pipeliner.{name}")


@pytest.mark.parametrize("job_type", JOB_TYPES)
def test_ccpem_pipeliner_reads_every_type_with_all_of_its_options(
    tmp_path: Path, job_type: str
) -> None:
    """round3 6.2: MotionCorr raised, Import, LoG, Tomograms and Denoise were others."""
    factory = pipeliner("job_factory")
    is_tomo = not JOB_TYPES[job_type].spa
    path = tmp_path / "job.star"
    kinds: dict[str, Any] = {"known": KNOWN, "taken": taken_by(job_type)}
    for is_continue in (False, True):
        path.write_bytes(
            job_star(
                job_type,
                dialect="labels",
                is_tomo=is_tomo,
                is_continue=is_continue,
                **kinds,
            )
        )
        job = factory.read_job(str(path))
        assert (job.PROCESS_NAME, job.is_continue) == (job_type, is_continue)
        assert job.OUT_DIR == JOB_TYPES[job_type].folder
    ours = options_of(job_type, dialect="labels", **kinds)
    # Those that RELION's own window has are among them.
    job.add_compatibility_joboptions()
    assert ours.keys() == job.joboptions.keys()
    for name, option in factory.read_job(str(path)).joboptions.items():
        assert _same(option.value_string, ours[name]), name


def _same(theirs: str, ours: str) -> bool:
    try:
        return float(theirs) == float(ours)
    except ValueError:
        return theirs == ours


@pytest.mark.parametrize("job_type", SPA)
def test_a_job_can_be_run_again_with_its_own_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job_type: str
) -> None:
    factory = pipeliner("job_factory")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.star").write_bytes(
        job_star(
            job_type,
            dialect="labels",
            is_tomo=False,
            is_continue=False,
            known=KNOWN,
            taken=taken_by(job_type),
        )
    )
    job = factory.read_job("job.star")
    job.output_dir = f"{JOB_TYPES[job_type].folder}/job020/"
    # The first of some asks for the program's version.
    words = [str(each) for command in job.get_commands() for each in command.cmd]
    asked = " ".join(each.removesuffix(".0") for each in words)
    for each in COMMANDS[job_type]:
        assert each in asked


COMMANDS = {
    "relion.motioncorr.own": (
        *("--i Import/job001/movies.star", "--bin_factor 2", "--bfactor 500"),
        *("--dose_per_frame 0.5", "--patch_x 7 --patch_y 5", "--gainref gain.mrc"),
        *("--gain_rot 3", "--gain_flip 2", "--j 4"),
    ),
    "relion.ctffind.ctffind4": (
        *("--i MotionCorr/job002/corrected_micrographs.star", "--Box 1024"),
        *("--ResMin 40", "--ResMax 3.5", "--dFMin 2000 --dFMax 90000", "--FStep 100"),
    ),
    "relion.autopick.log": (
        "--i CtfFind/job003/micrographs_ctf.star",
        "--LoG_diam_min 100 --LoG_diam_max 144.5",
    ),
    "relion.extract": (
        "--i CtfFind/job003/micrographs_ctf.star",
        *("--coord_list AutoPick/job004/autopick.star", "--extract_size 200"),
        "--scale 64",
    ),
    "relion.select.split": ("--i Extract/job005/particles.star", "--size_split 100"),
    "relion.class2d.em": (
        *("--i Select/job006/particles_split1.star", "--K 30", "--iter 12"),
        "--particle_diameter 132",
    ),
}


@pytest.mark.parametrize("job_type", [*SPA, "relion.import.movies"])
def test_relion_3_1_takes_every_option_of_a_job(tmp_path: Path, job_type: str) -> None:
    kinds: dict[str, Any] = {
        **{"dialect": "relion31", "known": KNOWN, "taken": taken_by(job_type)}
    }
    (tmp_path / "in.star").write_bytes(
        job_star(job_type, is_tomo=False, is_continue=False, **kinds)
    )
    (tmp_path / "default_pipeline.star").write_text(
        "\n# version 30001\n\ndata_pipeline_general\n\n_rlnPipeLineJobCounter 1\n\n"
    )
    add_by_relion(tmp_path, "in.star")
    (written,) = tmp_path.glob(f"{JOB_TYPES[job_type].folder}/job001/job.star")
    theirs = written.read_text().split()
    for name, value in options_of(job_type, **kinds).items():
        at = theirs.index(name) + 1
        assert " ".join(theirs[at:]).strip('"').startswith(value.strip('"')), name


@pytest.mark.parametrize(
    ("kind", "job", "taken"),
    [
        ("spa", "AutoPick/job004", "CtfFind/job003/micrographs_ctf.star"),
        ("tomo", "CtfFind/job003", "MotionCorr/job002/corrected_tilt_series.star"),
    ],
)
def test_relion_3_1_opens_a_project_and_adds_its_job_once_more(
    tmp_path: Path, kind: str, job: str, taken: str
) -> None:
    if kind == "spa":
        record_spa(tmp_path, "a", "relion31")
    else:
        naming = "TS_1_{number:03}_{angle}_20260101_1200_fractions"
        record_tilts(tmp_path, naming, (0.0, 4.0), "relion31")
    before = read_pipeline(tmp_path / PIPELINE)
    add_by_relion(tmp_path, f"{job}/job.star")
    after = read_pipeline(tmp_path / PIPELINE)
    assert before is not None
    assert after is not None
    (added,) = after.processes.keys() - before.processes.keys()
    assert before.processes.items() <= after.processes.items()
    assert (taken, added) in after.inputs


def add_by_relion(project: Path, job_star: str) -> None:
    """A job to a project, without a word of what RELION 3.1 does not know."""
    if shutil.which("relion_pipeliner") is None:
        pytest.skip("RELION is not installed: apt-get install relion")
    ran = subprocess.run(
        ("relion_pipeliner", "--addJobFromStar", job_star),
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1"},
    )
    assert (ran.returncode, "WARNING" in ran.stdout + ran.stderr) == (0, False)


def test_the_jobs_of_a_project_know_how_they_ran(tmp_path: Path) -> None:
    """A session's project, read whole: type, tables of the job before, numbers."""
    factory = pipeliner("job_factory")
    spa, tomo = tmp_path / "spa", tmp_path / "tomo"
    record_spa(spa, "a")
    record_tilts(tomo, "TS_1_{number:03}_{angle}_20260101_1200_fractions", (0.0, 4.0))
    found = {}
    for job in sorted(tmp_path.glob("*/*/job*/job.star")):
        read = factory.read_job(str(job))
        own = {name: option.value for name, option in read.joboptions.items()}
        found[read.PROCESS_NAME] = own
        note = json.loads(job.with_name("em_platform_job.json").read_bytes())
        assert read.PROCESS_NAME == note["job_type"]
    assert found["relion.import.movies"]["fn_in_raw"] == "Import/job001/Movies/*.tiff"
    assert found["relion.import.movies"]["angpix"] == 1.5
    own = found["relion.motioncorr.own"]
    assert own["input_star_mics"] == "Import/job001/movies.star"
    assert own["dose_per_frame"] == 0.5
    own = found["relion.motioncorr.tomo.own"]
    assert own["input_star_mics"] == "Import/job001/tilt_series.star"
    assert found["relion.importtomo"]["tilt_angle"] == 85.3
    assert found["relion.importtomo"]["fn_mdoc"] == "/raw/*.mdoc"
    taken = "MotionCorr/job002/corrected_tilt_series.star"
    assert found["relion.ctffind.tomo.ctffind4"]["input_star_mics"] == taken
    assert found["relion.excludetilts"]["in_tiltseries"] == taken
    assert (
        found["relion.denoisetomo"]["in_tomoset"] == "Tomograms/job006/tomograms.star"
    )
    assert len(found) == 5 + 7
    # In the other dialect, the same jobs by its names.
    rebuild_pipeline(spa, dialect="relion31")
    text = (spa / "AutoPick/job004/job.star").read_text()
    assert "_rlnJobType 4\n" in text
    assert "Label" not in text


def test_an_import_is_of_all_grid_squares(tmp_path: Path) -> None:
    for square in ("GridSquare_1", "GridSquare_2"):
        made = f"Import/job001/Movies/{square}/Data/a.tiff"
        job = record_job(report(tmp_path, "relion.import.movies", "/raw/a.tiff", made))
    text = (job / "job.star").read_text()
    assert "\nfn_in_raw Import/job001/Movies/*/*/*.tiff\n" in text


def test_a_tilt_series_has_its_own_type_whoever_reports_it(tmp_path: Path) -> None:
    """cryoem-services says `tomo`; before, ours did not, and such jobs go on."""
    each = report(
        *(tmp_path, "relion.motioncorr.own", "/raw/TS_1_001_0.0.eer"),
        "MotionCorr/job002/TS_1_001_0.0.mrc",
        **{"results": MOTION, "experiment_type": "tomography"},
    )
    job = record_job(each)
    note = job / "em_platform_job.json"
    old = json.loads(note.read_bytes()) | {"job_type": "relion.motioncorr.own"}
    del old["options"]
    note.write_text(json.dumps(old))
    pipeline = tmp_path / "default_pipeline.star"
    label = "relion.motioncorr.tomo.own"
    pipeline.write_text(pipeline.read_text().replace(label, "relion.motioncorr.own"))
    record_job(replace(each, job_type=label))
    assert f" {label} Succeeded" in pipeline.read_text()
    assert all(
        kind.number == EXTERNAL_31
        for name, kind in JOB_TYPES.items()
        if name in ("relion.reconstructtomograms", "relion.denoisetomo")
    )


@pytest.mark.parametrize(
    "gain", ["g.mrc; touch x", "$(x).mrc", "g.mrc --o y", "-g.mrc", "g\n.mrc"]
)
def test_what_a_message_names_is_no_command(tmp_path: Path, gain: str) -> None:
    """RELION writes it into a command line, which another person starts."""
    (tmp_path / gain).write_bytes(b"")
    each = _motion(tmp_path, gain_ref=gain, other_args="; x", qsub="x", mpi_command="x")
    job = record_job(each)
    text = (job / "job.star").read_text()
    assert "fn_gain_ref ''\n" in text
    assert gain not in text
    assert "\nqsub qsub\n" in text
    assert "; x" not in text


def test_an_option_that_is_no_number_is_one_sentence(tmp_path: Path) -> None:
    for value in ("many", "nan", [1], {}):
        with pytest.raises(RecordError, match=r"b_factor is .*, a number was"):
            record_job(_motion(tmp_path, b_factor=value))
    with pytest.raises(RecordError, match=r"vol_z is 'thick'"):
        record_job(_motion(tmp_path, vol_z="thick"))


def _motion(project: Path, **options: Any) -> JobReport:
    each = report(
        *(project, "relion.motioncorr.own", "/raw/a.tiff", "MotionCorr/job002/a.mrc"),
        results=MOTION,
    )
    return replace(each, relion_options={**each.relion_options, **options})
