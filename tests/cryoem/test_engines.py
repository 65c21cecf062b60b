"""Programs of others do what a stage does, and the rest sees no difference.

Each is stood in for by an executable on PATH that keeps its command line and writes the
files that its documentation says (`standin_program.sh`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

from em_platform.cryoem.stages import load_stage
from em_platform.errors import ConfigError, PlatformError, ToolFailed

SIDE = 32
STANDIN = Path(__file__).with_name("standin_program.sh")
FILES = {
    "MotionCor2.sh": 'put image.mrc "$(behind -OutMrc "$@")"; cat "$STANDIN/shifts"',
    "relion_motion_correction.sh": (
        'out=$(behind --out_mic "$@"); put image.mrc "$out"\n'
        'put shifts.star "${out%.mrc}.star"'
    ),
    "ctffind.sh": (
        "echo '  Version : 4.1.14'; out=$(sed -n 2p \"$STANDIN/answers\")\n"
        'put image.mrc "$out"; put fit.txt "${out%.mrc}.txt"\n'
        'put rings.txt "${out%.mrc}_avrot.txt"'
    ),
    "shifts": "...... Frame (  1) shift: 1.5 -2.0\n...... Frame (  2) shift: 4.5 2.0\n",
    "shifts.star": "data_global_shift\n\nloop_\n_rlnMicrographFrameNumber #1\n"
    "_rlnMicrographShiftX #2\n_rlnMicrographShiftY #3\n1 0 0\n2 3 4\n",
    "fit.txt": "# columns\n1.0 15000.5 14500.0 33.0 0.5 0.12 4.25\n",
    "rings.txt": "# c\n0.24 0.26\n1 -2\n0 0\n",
}


def image(path: Path, shape: tuple[int, ...], *, pixel_a: float = 2.0) -> Path:
    rng = np.random.default_rng(3)
    with mrcfile.new(path) as file:
        file.set_data(rng.normal(100, 5, shape).astype(np.float32))
        file.voxel_size = pixel_a
    return path


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-ins, what they write, and what stages are given."""
    folder = tmp_path_factory.mktemp("given")
    for name, content in FILES.items():
        (folder / name).write_text(content)
    (folder / "bin").mkdir()
    for script in folder.glob("*.sh"):
        program = folder / "bin" / script.stem
        program.symlink_to(STANDIN)
    (folder / "bin/ctffind5").symlink_to(STANDIN)
    (folder / "ctffind5.sh").symlink_to("ctffind.sh")
    image(folder / "image.mrc", (SIDE, SIDE))
    image(folder / "m.mrc", (2, SIDE, SIDE))
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
            name: given / value if str(value).startswith("m.") else value
            for name, value in self.given.items()
        }
        parameters = stage.Parameters(engine=self.engine, **values, **more)
        folder.mkdir(exist_ok=True)
        return stage.run(parameters, folder)


MOVIE: dict[str, Any] = {"movie": "m.mrc", "pixel_size": 2.0, "dose_per_frame": 1.0}
CASES = [
    Case(
        *("motion", "motioncor2"),
        "MotionCor2 -InMrc IN/m.mrc -OutMrc OUT/m.mrc -PixSize 2.0 -FmDose 1.0 "
        "-Patch 5 5 -Gpu 0 -FmRef 0 -Kv 300",
        **MOVIE,
    ),
    Case(
        *("motion", "relion"),
        "relion_motion_correction --use_own --in_movie IN/m.mrc --out_mic OUT/m.mrc "
        "--angpix 2.0 --dose_per_frame 1.0 --patch_x 5 --patch_y 5 --j 1 --voltage 300 "
        "--dose_weighting --i dummy",
        **MOVIE,
    ),
    Case("ctf", "ctffind4", "ctffind ", input_image="m.mrc", pixel_size=2.0),
    Case("ctf", "ctffind5", "ctffind5 ", input_image="m.mrc", pixel_size=2.0),
]


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_a_program_does_what_the_stage_does(
    given: Path, tmp_path: Path, case: Case
) -> None:
    folder = tmp_path / "out"
    result = case.run(given, folder)
    asked = (given / "asked").read_text().replace(str(given), "IN")
    assert asked.replace(str(folder), "OUT").splitlines() == case.asked.split("\n")
    program, version = result.program.split()
    assert program == case.asked.split("\n")[-1].split()[0]
    assert version == {"ctf": "4.1.14"}.get(case.stage, "9.8.7")
    (log,) = folder.glob("*.log")
    assert log.read_text().startswith(f"$ {case.asked.split()[0]}")
    for name, value in dict(result).items():
        # What the result names is there; nothing of the program's own is left over.
        if isinstance(value, str) and Path(value).suffix in (".mrc", ".png", ".txt"):
            assert (folder / value).is_file(), name
    assert all(path.is_file() for path in folder.iterdir())


FAULTS = {
    "fails": r"ended with status 3 \(no GPU was found\), a result was expected; .* see",
    "hangs": r"did not end in 0\.2 s, a result was expected; it was stopped, see",
    "nothing": r"ended well but wrote no .*, see|found in what it printed",
    "half": r"wrote only a part of|cannot be read|has no ",
}


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


def test_what_a_program_cannot_do_is_refused(given: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="throw: it was given, which RELION"):
        CASES[1].run(given, tmp_path / "out", throw=1)
    assert not (given / "asked").exists()
