"""What jobs report becomes a project of RELION's: rows, nodes and edges, once each."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import starfile

from em_platform.cli import main
from em_platform.cryoem.project import JobReport, rebuild_pipeline, record_job
from em_platform.cryoem.project.lock import LOCK
from em_platform.cryoem.project.pipeline import PIPELINE
from em_platform.errors import (
    FormatError,
    OutputRefused,
    PlatformError,
    RecordError,
)

OPTIONS = {
    "pixel_size": 1.5,
    "voltage": 300,
    "dose_per_frame": 0.5,
    "frame_count": 8,
    "small_boxsize": 64,
    "tilt_axis_angle": 85.3,
}
MOTION = {"total_motion": 3.0, "early_motion": 2.0, "late_motion": 1.0}
FIT = {
    "defocus_u": 15200.5,
    "defocus_v": 14800.0,
    "astigmatism_angle": 33.0,
    "cc_value": 0.12,
    "resolution": 4.2,
    "ice_ring_density": 0.4,
}
ALIGNED = {
    "TomoXTilt": 0,
    "TomoYTilt": -59.9,
    "TomoZRot": 84.8,
    "TomoXShiftAngst": 12.5,
    "TomoYShiftAngst": -3,
}


def report(project: Path, kind: str, taken: str, made: str, **more: Any) -> JobReport:
    """Paths within the project; of the microscope where they begin with `/`."""
    return JobReport(
        job_type=kind,
        input_file=taken if taken.startswith("/") else f"{project}/{taken}",
        output_file=f"{project}/{made}",
        relion_options=OPTIONS,
        **more,
    )


def record_spa(project: Path, name: str, dialect: Any = "labels") -> None:
    movie, image = f"Import/job001/Movies/{name}.tiff", f"Movies/{name}.mrc"
    corrected = f"MotionCorr/job002/{image}"
    picks = f"AutoPick/job004/Movies/{name}_autopick.star"
    of_one = project / f"Extract/job005/Movies/{name}_extract.star"
    for each in (
        report(project, "relion.import.movies", f"/raw/{name}.tiff", movie),
        report(
            project,
            "relion.motioncorr.own",
            movie,
            corrected,
            results=MOTION,
            alias="Live_motioncorr",
            command=f"relion_motion_correction {name}",
            stdout="fine",
        ),
        report(
            project,
            "relion.ctffind.ctffind4",
            corrected,
            f"CtfFind/job003/Movies/{name}.ctf",
            results=FIT,
        ),
    ):
        record_job(each, dialect=dialect)
    taken = f"CtfFind/job003/{image}"
    record_job(report(project, "relion.autopick.log", taken, picks), dialect=dialect)
    of_one.parent.mkdir(parents=True, exist_ok=True)
    of_one.write_text(
        "data_particles\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"
        f"_rlnImageName #3\n10 20 000001@{name}.mrcs\n30 40 000002@{name}.mrcs\n"
    )
    cut = str(of_one.relative_to(project))
    extracted = report(project, "relion.extract", picks, cut)
    record_job(extracted, dialect=dialect)


def test_a_session_is_one_project_however_often_it_is_reported(tmp_path: Path) -> None:
    for name in ("a_1", "a_2", "a_1"):
        record_spa(tmp_path, name)
    first = (tmp_path / PIPELINE).read_bytes()
    record_spa(tmp_path, "a_2")
    assert (tmp_path / PIPELINE).read_bytes() == first
    found = starfile.read(tmp_path / PIPELINE, always_dict=True)
    assert found["pipeline_general"]["rlnPipeLineJobCounter"] == 6
    processes = found["pipeline_processes"]
    assert list(processes["rlnPipeLineProcessName"]) == [
        *("Import/job001/", "MotionCorr/job002/", "CtfFind/job003/"),
        *("AutoPick/job004/", "Extract/job005/"),
    ]
    assert set(processes["rlnPipeLineProcessStatusLabel"]) == {"Succeeded"}
    assert processes["rlnPipeLineProcessAlias"][1] == "MotionCorr/Live_motioncorr/"
    edges = found["pipeline_input_edges"]
    assert list(edges.itertuples(index=False, name=None)) == [
        ("Import/job001/movies.star", "MotionCorr/job002/"),
        ("MotionCorr/job002/corrected_micrographs.star", "CtfFind/job003/"),
        ("CtfFind/job003/micrographs_ctf.star", "AutoPick/job004/"),
        ("AutoPick/job004/autopick.star", "Extract/job005/"),
    ]
    assert len(found["pipeline_output_edges"]) == 5
    job = tmp_path / "MotionCorr/job002"
    assert (tmp_path / "MotionCorr/Live_motioncorr").resolve() == job
    assert (job / "note.txt").read_text() == (
        "relion_motion_correction a_1\nrelion_motion_correction a_2\n"
    )
    assert (job / "run.out").read_text() == "fine"
    assert (job / "RELION_JOB_EXIT_SUCCESS").exists()


def test_the_tables_have_relions_columns_and_a_row_for_each_micrograph(
    tmp_path: Path,
) -> None:
    for name in ("a_1", "a_2", "a_1"):
        record_spa(tmp_path, name)
    fits = starfile.read(tmp_path / "CtfFind/job003/micrographs_ctf.star")
    assert fits["optics"].rlnMicrographOriginalPixelSize[0] == 1.5
    assert list(fits["micrographs"].rlnMicrographName) == [
        *("MotionCorr/job002/Movies/a_1.mrc", "MotionCorr/job002/Movies/a_2.mrc"),
    ]
    row = fits["micrographs"].iloc[0]
    assert row.rlnCtfImage == "CtfFind/job003/Movies/a_1.ctf:mrc"
    assert (row.rlnDefocusU, row.rlnCtfAstigmatism) == (15200.5, 400.5)
    assert row.rlnCtfIceRingDensity == 0.4
    corrected = starfile.read(
        tmp_path / "MotionCorr/job002/corrected_micrographs.star"
    )["micrographs"]
    assert list(corrected.columns) == [
        *("rlnMicrographName", "rlnMicrographMetadata", "rlnOpticsGroup"),
        *("rlnAccumMotionTotal", "rlnAccumMotionEarly", "rlnAccumMotionLate"),
    ]
    picks = starfile.read(tmp_path / "AutoPick/job004/autopick.star")
    assert list(picks.columns) == ["rlnMicrographName", "rlnMicrographCoordinates"]
    particles = starfile.read(tmp_path / "Extract/job005/particles.star")
    assert len(particles["particles"]) == 4
    assert particles["optics"].rlnImageSize[0] == 64
    stacks = [f"Extract/job005/Movies/{name}.mrcs" for name in ("a_1", "a_2")]
    names = [f"{n:06}@{stack}" for stack in stacks for n in (1, 2)]
    assert list(particles["particles"].rlnImageName) == names


def test_relion_3_1_gets_numbers_and_its_own_name_of_the_picks(tmp_path: Path) -> None:
    record_spa(tmp_path, "a", dialect="relion31")
    found = starfile.read(tmp_path / PIPELINE, always_dict=True)
    processes = found["pipeline_processes"]
    assert list(processes.rlnPipeLineProcessType) == [0, 1, 2, 4, 5]
    assert set(processes.rlnPipeLineProcessStatus) == {2}
    nodes = dict(found["pipeline_nodes"].itertuples(index=False, name=None))
    assert nodes["AutoPick/job004/coords_suffix_autopick.star"] == 2
    assert nodes["Extract/job005/particles.star"] == 3
    # No quotes: RELION 3.1 takes them for part of the name.
    assert "'" not in (tmp_path / PIPELINE).read_text()
    text = (tmp_path / "AutoPick/job004/coords_suffix_autopick.star").read_text()
    assert text == "CtfFind/job003/micrographs_ctf.star\n"


def test_what_relion_has_added_stays(tmp_path: Path) -> None:
    record_spa(tmp_path, "a", dialect="relion31")
    path = tmp_path / PIPELINE
    own = "Extract/job005/ None            5            2"
    text = " ".join(path.read_text().replace("\n", "\n ").split(" "))
    text = text.replace("JobCounter 6", "JobCounter 9")
    text = text.replace(
        "Extract/job005/ None 5 2", f"{own}\nClass2D/job008/ Class2D/mine/ 8 0"
    )
    path.write_text(text)
    record_spa(tmp_path, "b", dialect="labels")  # a pipeline keeps its dialect
    found = starfile.read(path, always_dict=True)
    assert found["pipeline_general"]["rlnPipeLineJobCounter"] == 9
    last = found["pipeline_processes"].iloc[-1]
    assert list(last) == ["Class2D/job008/", "Class2D/mine/", 8, 0]
    assert rebuild_pipeline(tmp_path, dialect="relion31") == 5
    assert len(starfile.read(path, always_dict=True)["pipeline_processes"]) == 6


def test_a_lost_pipeline_is_made_anew(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = tmp_path / "p"
    record_spa(project, "a")
    first = (project / PIPELINE).read_bytes()
    (project / PIPELINE).unlink()
    with pytest.raises(SystemExit) as end:
        main(["cryoem", "project", "rebuild", str(project)])
    assert not end.value.code
    assert "p: 5 jobs" in capsys.readouterr().out
    assert (project / PIPELINE).read_bytes() == first
    with pytest.raises(SystemExit):
        main(["cryoem", "project", "rebuild", str(home)])
    assert "has no job of this program" in capsys.readouterr().err
    assert list(home.iterdir()) == []


def record_tilts(
    project: Path,
    naming: str,
    exposures: tuple[Any, Any],
    dialect: Any = "labels",
) -> None:
    """Two tilts and their tomogram; `exposures` are the doses before them."""
    series = naming.partition("_{")[0]
    for number, angle in ((1, "0.0"), (2, "3.0")):
        stem = naming.format(number=number, angle=angle)
        known = {"pre_exposure": exposures[number - 1]}
        movie = f"Import/job001/Movies/{stem}.eer"
        image = f"MotionCorr/job002/Movies/{stem}_motion_corrected.mrc"
        for kind, taken, made, results in (
            ("relion.importtomo", f"/raw/{stem}.eer", movie, {}),
            ("relion.motioncorr.own", movie, image, MOTION),
            (
                "relion.ctffind.ctffind4",
                image,
                f"CtfFind/job003/Movies/{stem}_motion_corrected.ctf",
                FIT,
            ),
            (
                "relion.excludetilts",
                image,
                f"ExcludeTiltImages/job004/tilts/{stem}.mrc",
                {},
            ),
            (
                "relion.aligntiltseries.aretomo",
                image,
                f"AlignTiltSeries/job005/tilts/{stem}.mrc",
                ALIGNED,
            ),
        ):
            each = report(
                project, kind, taken, made, results=results,
                experiment_type="tomography",
            )  # fmt: skip
            if "align" not in kind:  # which knows the series, and not its tilts
                each = replace(each, relion_options={**OPTIONS, **known})
            record_job(each, dialect=dialect)
    volume = f"Tomograms/job006/tomograms/{series}_stack_Vol.mrc"
    denoised = f"Denoise/job007/tomograms/{series}_stack_Vol.denoised.mrc"
    for kind, taken, made, named in (
        ("relion.reconstructtomograms", "AlignTiltSeries/job005/x", volume, series),
        ("relion.denoisetomo", volume, denoised, None),
    ):
        each = report(project, kind, taken, made, experiment_type="tomography")
        record_job(replace(each, results={"tilt_series": named}))


@pytest.mark.parametrize(
    ("naming", "exposures", "doses"),
    [
        # Upstream's services do not say the dose before a tilt.
        ("TS_1_{number:03}_{angle}_20260101_1200_fractions", (None, None), [0.0, 4.0]),
        ("lamella_{number:03}[{angle}]-7_fractions", (0.0, 7.5), [0.0, 7.5]),
        # round3 1.1.3: a camera's counter is no count of doses.
        ("TS_1_{number:05}_{angle}", (None, None), [0.0, 0.0]),
    ],
)
def test_a_tilt_series_has_its_tables_from_movie_to_denoised_tomogram(
    tmp_path: Path, naming: str, exposures: tuple[Any, Any], doses: list[float]
) -> None:
    name = naming.partition("_{")[0]
    for _ in range(2):
        record_tilts(tmp_path, naming, exposures)
    aligned = starfile.read(
        tmp_path / f"AlignTiltSeries/job005/tilt_series/{name}.star"
    )
    assert list(aligned.rlnTomoNominalStageTiltAngle) == [0.0, 3.0]
    assert list(aligned.rlnMicrographPreExposure) == doses
    assert list(aligned.rlnDefocusU) == [15200.5] * 2
    assert list(aligned.rlnTomoZRot) == [84.8] * 2
    listed = starfile.read(
        tmp_path / "CtfFind/job003/tilt_series_ctf.star", always_dict=True
    )["global"]
    assert listed.rlnTomoName[0] == name
    star = f"CtfFind/job003/tilt_series/{name}.star"
    assert listed.rlnTomoTiltSeriesStarFile[0] == star
    (done,) = starfile.read(
        tmp_path / "Denoise/job007/tomograms.star", always_dict=True
    ).values()
    assert list(done.rlnTomoName) == [name]
    volume = f"Tomograms/job006/tomograms/{name}_stack_Vol.mrc"
    assert done.rlnTomoReconstructedTomogram[0] == volume
    edges = starfile.read(tmp_path / PIPELINE)["pipeline_input_edges"]
    assert len(edges) == 6


def test_a_failed_file_fails_the_job_only_while_no_other_succeeded(
    tmp_path: Path,
) -> None:
    def record(name: str, *, success: bool) -> str:
        made = f"MotionCorr/job002/{name}.mrc"
        record_job(
            report(
                tmp_path, "relion.motioncorr.own", "/raw/a", made, results=MOTION,
                success=success, stderr=f"{name} broke\n" * (not success),
            )
        )  # fmt: skip
        processes = starfile.read(tmp_path / PIPELINE)["pipeline_processes"]
        return str(processes["rlnPipeLineProcessStatusLabel"].iloc[0])

    assert record("a", success=False) == "Failed"
    assert (tmp_path / "MotionCorr/job002/RELION_JOB_EXIT_FAILURE").exists()
    assert record("b", success=True) == "Succeeded"
    assert record("c", success=False) == "Succeeded"
    corrected = tmp_path / "MotionCorr/job002/corrected_micrographs.star"
    assert len(starfile.read(corrected)["micrographs"]) == 1
    log = (tmp_path / "MotionCorr/job002/run.err").read_text()
    assert log.split("\n\n")[:2] == ["a broke", "c broke"]


@pytest.mark.parametrize(
    ("change", "kind", "sentence"),
    [
        ({"job_type": "relion.magic"}, RecordError, "is no type of a spa job"),
        ({"output_file": "/x/m.mrc"}, RecordError, "/x/m.mrc lies in no job"),
        ({"results": {}}, RecordError, "has no total_motion among its results"),
        ({"job_type": "relion.motioncorr.motioncor2"}, OutputRefused, "another number"),
        ({"alias": "taken"}, OutputRefused, "taken is not this job's"),
    ],
)
def test_a_report_that_does_not_fit_is_one_sentence(
    tmp_path: Path, change: dict[str, Any], kind: type[PlatformError], sentence: str
) -> None:
    usual = report(
        tmp_path, "relion.motioncorr.own", "/raw/a", "MotionCorr/job002/a.mrc",
        results=MOTION,
    )  # fmt: skip
    record_job(usual)
    (tmp_path / "MotionCorr/taken").mkdir()
    fields = {name: getattr(usual, name) for name in JobReport.__slots__}
    with pytest.raises(kind, match=sentence):
        record_job(JobReport(**(fields | change)))
    assert not (tmp_path / LOCK).exists()


def test_a_broken_pipeline_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / PIPELINE).write_text("data_other\n\n_rlnX 1\n")
    with pytest.raises(FormatError, match="cannot be read"):
        record_spa(tmp_path, "a")
    assert (tmp_path / PIPELINE).read_text() == "data_other\n\n_rlnX 1\n"


def test_services_at_once_lose_no_row(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=record_spa, args=(tmp_path, f"m{number}"))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fits = starfile.read(tmp_path / "CtfFind/job003/micrographs_ctf.star")
    assert len(fits["micrographs"]) == 4
    assert len(starfile.read(tmp_path / PIPELINE)["pipeline_processes"]) == 5
