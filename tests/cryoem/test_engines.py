"""Programs of others do what a stage does, and the rest sees no difference.

Each is stood in for by an executable on PATH that keeps its command line and writes the
files that its documentation says (`standin_program.sh`).
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

from em_platform.cryoem.alignment_files import read_alignment
from em_platform.cryoem.methods.coordinates import read_points
from em_platform.cryoem.services import load_service
from em_platform.cryoem.services.step import ServiceContext, handle_message
from em_platform.cryoem.stages import load_stage
from em_platform.errors import ConfigError, PlatformError, ToolFailed
from tests.cryoem.standin_programs import VOLUME, write_programs


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-ins, what they write, and what stages are given."""
    folder = tmp_path_factory.mktemp("given")
    write_programs(folder)
    return folder


@pytest.fixture(autouse=True)
def standin(given: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The programs on PATH, with nothing else that could be taken for one."""
    monkeypatch.setenv("STANDIN", str(given))
    monkeypatch.setenv("PATH", f"{given / 'bin'}:/usr/bin:/bin")
    yield
    for name in ("asked", "answers"):
        (given / name).unlink(missing_ok=True)


class Case:
    """A stage by a program: what it is given, and what the program has to be asked."""

    def __init__(self, stage: str, engine: str, asked: str, **given: Any) -> None:
        self.stage, self.engine, self.asked, self.given = stage, engine, asked, given

    def __repr__(self) -> str:
        return f"{self.stage}-{self.engine}"

    def run(self, given: Path, folder: Path, **more: Any) -> Any:
        stage = load_stage(self.stage)
        values = {
            name: given / value if (given / str(value)).is_file() else value
            for name, value in self.given.items()
        }
        parameters = stage.Parameters(engine=self.engine, **values, **more)
        folder.mkdir(exist_ok=True)
        return stage.run(parameters, folder)


MOVIE: dict[str, Any] = {"movie": "m.mrc", "pixel_size": 2.0, "dose_per_frame": 1.0}
SERIES: dict[str, Any] = {"stack_file": "s.mrc", "pixel_size": 2.0}
ALIGNED = SERIES | {"alignment": "found.aln", "out_bin": 1, "vol_z": 8}
CORES = len(os.sched_getaffinity(0))
CASES = [
    Case(
        *("motion", "motioncor2"),
        "MotionCor2 -InMrc IN/m.mrc -OutMrc OUT/m.mrc -PixSize 2.0 -FmDose 1.0 "
        "-Patch 5 5 -Gpu 0 -FmRef 0",
        **MOVIE,
    ),
    Case(
        *("motion", "relion"),
        "relion_motion_correction --use_own --in_movie IN/m.mrc --out_mic OUT/m.mrc "
        "--angpix 2.0 --dose_per_frame 1.0 --patch_x 5 --patch_y 5 --j 1 "
        "--dose_weighting --i dummy",
        **MOVIE,
    ),
    Case("ctf", "ctffind4", "ctffind ", input_image="m.mrc", pixel_size=2.0),
    Case("ctf", "ctffind5", "ctffind5 ", input_image="m.mrc", pixel_size=2.0),
    Case(
        *("tilt-align", "aretomo3"),
        "AreTomo3 -Cmd 1 -InPrefix OWN/s.mrc -OutDir OWN -TiltCor 1 -TiltAxis 85.0 1 "
        "-AtBin 4 -PixSize 2.0 -VolZ 0 -ExtZ 400 -FlipVol 0 -OutImod 1",
        **SERIES,
    ),
    Case(
        *("tilt-align", "aretomo2"),
        "AreTomo2 -InMrc OWN/s.mrc -OutMrc OWN/s_ali.mrc -AngFile OWN/s_TLT.txt "
        "-TiltCor 1 -TiltAxis 85.0 1 -PixSize 2.0 -VolZ 0 -OutBin 4 -FlipVol 0 "
        "-OutImod 1",
        **SERIES,
    ),
    Case(
        *("tilt-align", "imod"),
        f"batchruntomo -directive OWN/batchDirective.adoc -cpus {CORES} -bypass "
        "-EndingStep 6",
        **SERIES,
    ),
    Case(
        *("reconstruct", "aretomo3"),
        "AreTomo3 -Cmd 2 -InPrefix OWN/s.mrc -OutDir OWN -TiltCor -1 -TiltAxis 84.5 -1 "
        "-AtBin 1 -PixSize 2.0 -VolZ 8 -FlipVol 0",
        **ALIGNED,
    ),
    Case(
        *("reconstruct", "aretomo2"),
        "AreTomo2 -InMrc OWN/s.mrc -OutMrc OWN/s_Vol.mrc -AngFile OWN/s_TLT.txt "
        "-TiltCor -1 -TiltAxis 84.5 -1 -PixSize 2.0 -VolZ 8 -OutBin 1 -FlipVol 0 "
        "-AlnFile OWN/s.aln",
        **ALIGNED,
    ),
    Case(
        *("reconstruct", "imod"),
        "newstack -input OWN/s.mrc -output OWN/s.ali -xform OWN/s.xf -bin 1 -mode 2 "
        "-size 32,32\ntilt -StandardInput",
        **ALIGNED,
    ),
    Case(
        *("denoise", "topaz"),
        "topaz denoise3d IN/v.mrc -o OWN --suffix .denoised -m unet-3d-10a -d -1",
        volume="v.mrc", pixel_size=2.0, model="unet-3d-10a", device=-1,
    ),
    Case(
        *("pick", "cryolo"),
        "cryolo_predict.py -i IN/p.mrc --conf OWN/cryolo_config.json -o OWN --otf "
        "--weights IN/w.h5 --threshold 0.3 --distance 0 --norm_margin 0 "
        "--prediction_batch_size 3 --num_cpu 1",
        micrograph="p.mrc", pixel_size=2.0, cryolo_model_weights="w.h5",
    ),
    Case(
        *("pick", "topaz"),
        "topaz preprocess -s 2 -o OWN/scaled IN/p.mrc\n"
        "topaz extract -m resnet16 -r 2 -x 2 -t -6 -o OWN/picks.txt OWN/scaled/p.mrc",
        micrograph="p.mrc", pixel_size=2.0, particle_diameter=16.0, scale=2,
    ),
    Case(
        *("classify", "relion"),
        "relion_refine --i OWN/particles.star --o OWN/run --particle_diameter 22 "
        "--dont_combine_weights_via_disc --preread_images --pool 100 --pad 2 "
        "--tau2_fudge 2 --K 2 --flatten_solvent --zero_mask --oversampling 1 "
        "--psi_step 12.0 --offset_range 5 --offset_step 2.0 --norm --scale "
        "--random_seed 0 --j 1 --iter 25",
        particles_file="particles.star", particle_diameter=20.0,
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_a_program_does_what_the_stage_does(
    given: Path, tmp_path: Path, case: Case
) -> None:
    folder = tmp_path / "out"
    result = case.run(given, folder)
    asked = (given / "asked").read_text().replace(str(given), "IN")
    asked = asked.replace(f"{folder}/.program", "OWN").replace(str(folder), "OUT")
    assert asked.splitlines() == case.asked.split("\n")
    program, version = result.program.split()
    assert program == case.asked.split("\n")[-1].split()[0]
    assert version == {"ctf": "4.1.14"}.get(case.stage, "9.8.7")
    (log,) = folder.glob("*.log")
    assert log.read_text().startswith(f"$ {case.asked.split()[0]}")
    for name, value in dict(result).items():
        # What the result names is there; nothing of the program's own is left over.
        if isinstance(value, str) and Path(value).suffix in SUFFIXES:
            assert (folder / value).is_file(), name
    assert all(path.is_file() for path in folder.iterdir())


SUFFIXES = (".mrc", ".png", ".txt", ".star", ".aln", ".xf", ".mrcs", ".cbox", ".jpeg")
FAULTS = {
    "fails": r"ended with status 3 \(no GPU was found\), a result was expected; .* see",
    "hangs": r"did not end in 0\.2 s .*, a result was expected; it was stopped, see",
    "nothing": r"ended well but wrote no .*, see|found in what it printed",
    "half": r"wrote only a part of|cannot be read|has no |angles in s",
}


def case(stage: str, engine: str) -> Case:
    return next(c for c in CASES if (c.stage, c.engine) == (stage, engine))


@pytest.mark.parametrize("engine", ["aretomo2", "aretomo3", "imod"])
def test_an_alignment_is_that_of_the_program(
    given: Path, tmp_path: Path, engine: str
) -> None:
    folder = tmp_path / "out"
    result = case("tilt-align", engine).run(given, folder)
    by_aretomo = engine != "imod"
    assert len(result.tilts) == (4 if by_aretomo else 5)
    first = result.tilts[0]
    found = (first.dx_px, first.dy_px, first.rotation_deg, first.angle_deg)
    assert found == ((-1.5, 2.25, 84.5, -38.5) if by_aretomo else (-1.5, 2.25, 0, -40))
    if by_aretomo:
        (dark,) = result.excluded
        assert (dark.section, dark.angle_deg) == (4, 40)
        assert dark.reason == f"left out by {result.program}"
        assert (result.tilt_offset_deg, result.thickness_a) == (1.5, 40)
        assert (result.alignment_quality, result.residual_px) == (0.87, None)
    else:
        assert (result.residual_px, result.thickness_px) == (0.512, None)
    # What the next stage reads is the same from each of the files.
    for name in (result.aln, result.xf):
        read = read_alignment(folder / name).images
        assert [image.section for image in read] == [t.section for t in result.tilts]
        assert [image.dx_px for image in read] == pytest.approx(
            [tilt.dx_px for tilt in result.tilts], abs=2e-3
        )


def test_an_alignment_of_other_images_is_refused(given: Path, tmp_path: Path) -> None:
    # The stand-in aligns four and leaves out one, whatever it is given.
    with pytest.raises(ToolFailed, match="aligned an image 4, 3 images were given"):
        case("tilt-align", "aretomo3").run(given, tmp_path / "out", exclude=(2, 3))


@pytest.mark.parametrize("engine", ["aretomo2", "aretomo3", "imod"])
def test_a_tomogram_is_laid_out_as_our_own(
    given: Path, tmp_path: Path, engine: str
) -> None:
    folder = tmp_path / "out"
    invert = engine == "imod"  # AreTomo does it itself
    result = case("reconstruct", engine).run(given, folder, flip_int=invert)
    assert (result.size_z, result.size_y, result.size_x) == VOLUME.shape
    assert (result.thickness_px, result.tilts, result.pixel_size_a) == (20, 4, 2.0)
    with mrcfile.open(folder / result.tomogram) as file:
        np.testing.assert_array_equal(file.data, -VOLUME if invert else VOLUME)
        assert file.voxel_size.x == 2.0


@pytest.mark.parametrize("engine", ["cryolo", "topaz"])
def test_picks_are_those_of_the_program(
    given: Path, tmp_path: Path, engine: str
) -> None:
    folder = tmp_path / "out"
    result = case("pick", engine).run(given, folder)
    points = read_points(folder / result.coordinates)
    # The surer one first, and none below the threshold.
    assert points == ((20.0, 8.0), (10.0, 12.0))
    assert read_points(folder / result.cbox) == points
    assert result.median_diameter_a == 16.0
    assert result.median_score == pytest.approx({"cryolo": 0.65, "topaz": 1.0}[engine])


def test_no_particles_is_no_failure_of_cryolo(given: Path, tmp_path: Path) -> None:
    script = given / "cryolo_predict.py.sh"
    before = script.read_text()
    script.write_text("echo 'IndexError: list index out of range'; exit 1")
    try:
        result = case("pick", "cryolo").run(given, tmp_path / "out")
    finally:
        script.write_text(before)
    assert (result.particles, result.median_score) == (0, None)


def test_classes_are_those_of_relion(given: Path, tmp_path: Path) -> None:
    result = case("classify", "relion").run(given, tmp_path / "out")
    found = [(c.number, c.particles, c.share, c.resolution_a) for c in result.classes]
    assert found == [(2, 15, 0.75, 12.5), (1, 5, 0.25, None)]
    assert (result.particles, result.pixel_size_a) == (20, 2.0)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_a_program_that_goes_wrong_is_one_sentence(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case, fault: str
) -> None:
    monkeypatch.setenv("FAULT", fault)
    limit = {"time_limit_s": 0.2} if fault == "hangs" else {}
    with pytest.raises(PlatformError, match=FAULTS[fault]) as raised:
        case.run(given, tmp_path / "out", **limit)
    assert "\n" not in str(raised.value)


def test_what_a_failed_program_printed_stays_beside_the_folder(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from em_platform.cryoem.sessions.run_stage import run_stage

    values = {"engine": "ctffind5", "input_image": given / "m.mrc", "pixel_size": 2.0}
    log = tmp_path / "out.failed.log"
    monkeypatch.setenv("FAULT", "fails")
    with pytest.raises(ToolFailed, match=f"see {log}"):
        run_stage("ctf", values, tmp_path / "out")
    assert log.read_text() == "$ ctffind5\nno GPU was found\n"
    assert [path.name for path in tmp_path.iterdir()] == [log.name]
    log.write_text("my own notes")  # another's file of that name
    with pytest.raises(ToolFailed):
        run_stage("ctf", values, tmp_path / "out")
    assert log.read_text() == "my own notes"
    log.write_text("$ ctffind5\nno GPU was found\n")
    monkeypatch.delenv("FAULT")
    run_stage("ctf", values, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    there = json.loads((tmp_path / "out/result.json").read_bytes())
    assert there["result"]["program"] == "ctffind5 4.1.14"
    assert there["parameters"]["engine"] == "ctffind5"


def test_messages_and_settings_name_engines(given: Path) -> None:
    ctf, motion = load_stage("ctf").Parameters, load_stage("motion").Parameters
    values = {"input_image": "m.mrc", "pixel_size": 1.0}
    for engine, version, expected in (
        ("ctffind", None, "ctffind4"),
        ("ctffind", 5, "ctffind5"),
        ("ctffind4", 5, "ctffind5"),
        ("builtin", 5, "builtin"),
    ):
        more = {} if version is None else {"ctffind_version": version}
        assert ctf(engine=engine, **values, **more).engine == expected
    assert motion(**MOVIE, use_motioncor2=True).engine == "motioncor2"
    assert motion(**MOVIE, engine="relion", use_motioncor2=False).engine == "relion"


TILT = "TS_1_{}_20260101_1200_fractions.mrc"
TOMO = {"experiment_type": "tomography", "frame_count": 2}
MC2 = {"use_motioncor2": True}
EER = {"gain_ref": "gain.mrc", "fm_int_file": "fm.txt"}


# round3 6.2: words from cryoem-services 1.5.1's own MotionCorr, given these messages.
@pytest.mark.parametrize(
    ("movie", "change", "words"),
    [
        ("m.mrc", {}, "--j 1"),
        ("m.mrc", {"voltage": 200}, "--j 1 --voltage 200"),
        ("m.mrc", MC2, "-Patch 5 5 -Gpu 0 -FmRef 0"),
        ("m.mrc", MC2 | {"voltage": 300}, "-Patch 5 5 -Gpu 0 -FmRef 0 -Kv 300"),
        (TILT.format("001_0.0"), TOMO, "--j 1 --preexposure 0.0"),
        (TILT.format("002_3.0"), TOMO, "--j 1 --preexposure 2.0"),
        # round3 1.1.3: its two frames stand in the movie; upstream says no dose then.
        (
            TILT.format("002_3.0"),
            TOMO | {"frame_count": None},
            "--j 1 --preexposure 2.0",
        ),
        ("m.mrc", {"gain_ref": "gain.mrc"}, "--j 1 --gainref IN/gain.mrc"),
        ("m.eer", EER, "--j 1 --gainref IN/gain.gain --eer_grouping 20"),
        (
            *("m.eer", EER | MC2),
            "-Patch 5 5 -Gpu 0 -Gain IN/gain.mrc -FmRef 0 -FmIntFile IN/fm.txt",
        ),
    ],
)
def test_a_message_asks_a_program_for_what_upstream_asks(
    given: Path, tmp_path: Path, movie: str, change: dict[str, Any], words: str
) -> None:
    for name in ("gain.mrc", "gain.gain", "fm.txt", movie):
        if not (given / name).exists():
            (given / name).write_text("2 20 1.0\n")
    if movie.startswith("TS_"):
        (given / movie).write_bytes((given / "m.mrc").read_bytes())
    message = MOVIE | {
        "movie": str(given / movie),
        "mrc_out": f"{tmp_path}/MotionCorr/job002/Movies/o.mrc",
        **{k: str(given / v) if k in EER else v for k, v in change.items()},
    }
    place = ServiceContext(
        ispyb_url="sqlite://", stages={"motion": {"engine": "relion"}}
    )
    handle_message(load_service("MotionCorr"), {}, message, place)
    asked = (given / "asked").read_text().strip().replace(str(given), "IN")
    _, _, asked = asked.partition("--patch_y 5 " if "--patch_y" in asked else "1.0 ")
    assert asked.removesuffix(" --dose_weighting --i dummy") == words


def test_what_a_program_cannot_do_is_refused(given: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="throw: it was given, which RELION"):
        CASES[1].run(given, tmp_path / "out", throw=1)
    assert not (given / "asked").exists()
