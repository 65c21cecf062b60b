"""A program of others ends well, or with one sentence: real executables show it."""

import shutil
import stat
import time
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from em_platform.cryoem.programs.run import run_program
from em_platform.cryoem.stages import motion
from em_platform.errors import PlatformError, ToolFailed, ToolMissing


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shell script `ctffind`, which is on PATH."""
    path = tmp_path / "bin/ctffind"
    path.parent.mkdir()
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
    return path


def written(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_its_answers_output_and_files(program: Path, tmp_path: Path) -> None:
    written(
        program, 'cat > out.txt; echo "did $1"; echo warning >&2; echo $FI_PROVIDER'
    )
    made, log = tmp_path / "out.txt", tmp_path / "logs/run.out"
    ran = run_program(
        ["ctffind", "a b"],
        log=log,
        makes=[made],
        answers="x\ny\n",
        time_limit_s=60,
        folder=tmp_path,
        environment={"FI_PROVIDER": "tcp"},
    )
    assert made.read_text() == "x\ny\n"
    assert ran.output == "did a b\nwarning\ntcp\n"
    assert log.read_text() == "$ ctffind 'a b'\n" + ran.output


@pytest.mark.parametrize(
    ("script", "kind", "sentence"),
    [
        (
            None,
            ToolMissing,
            r"was to run `ctffind -x`; install it, or choose the built",
        ),
        (
            "echo no gpu >&2; exit 3",
            ToolFailed,
            r"ended with status 3 \(no gpu\), a re",
        ),
        ("kill -9 $$", ToolFailed, r"ended with signal SIGKILL \(it printed nothing\)"),
        ("echo fine", ToolFailed, r"ended well but wrote no out.txt \(fine\)"),
        (": > out.txt", ToolFailed, "ended well but wrote no "),
    ],
)
def test_what_can_go_wrong_is_one_sentence(
    program: Path,
    tmp_path: Path,
    script: str | None,
    kind: type[PlatformError],
    sentence: str,
) -> None:
    if script is not None:
        written(program, script)
    made = tmp_path / "out.txt"
    with pytest.raises(kind, match=sentence):
        run_program(
            ["ctffind", "-x"],
            log=tmp_path / "log",
            makes=[made],
            folder=tmp_path,
            time_limit_s=60,
        )


def test_one_that_hangs_is_ended_with_what_it_started(
    program: Path, tmp_path: Path
) -> None:
    # A child that outlives its parent would write the file.
    written(program, "(sleep 2; touch late) & echo begun; sleep 60")
    began = time.monotonic()
    with pytest.raises(ToolFailed, match=r"did not end in 0\.3 s"):
        run_program(
            ["ctffind"], log=tmp_path / "log", folder=tmp_path, time_limit_s=0.3
        )
    assert time.monotonic() - began < 2
    assert (tmp_path / "log").read_text() == "$ ctffind\nbegun\n"
    while time.monotonic() - began < 2.2:
        time.sleep(0.05)
    assert not (tmp_path / "late").exists()


def test_motion_is_corrected_by_debians_relion(tmp_path: Path) -> None:
    if shutil.which("relion_run_motioncorr") is None:
        pytest.skip("RELION is not installed: apt-get install relion")
    rng = np.random.default_rng(5)
    specimen = gaussian_filter(rng.normal(size=(272, 272)), 2) * 60
    specimen = specimen.clip(-18) + 20
    frames = [rng.poisson(specimen[8:264, 8 + 2 * i : 264 + 2 * i]) for i in range(4)]
    movie = tmp_path / "m.mrc"
    with mrcfile.new(movie, data=np.array(frames, np.int16)) as file:
        file.voxel_size = 2.0
    given = motion.Parameters(
        movie=movie, pixel_size=2.0, dose_per_frame=1.0, patch_sizes=(1, 1),
        engine="relion",
    )  # fmt: skip
    folder = tmp_path / "out"
    folder.mkdir()
    result = motion.run(given, folder)
    assert result.shift_x_px == pytest.approx((0, 2, 4, 6), abs=0.2)
    assert result.shift_y_px == pytest.approx((0, 0, 0, 0), abs=0.2)
    assert result.total_motion_a == pytest.approx(12, abs=0.8)
    assert result.program == "relion_run_motioncorr 3.1.3"
    # Nothing that another movie in the same folder would write, too.
    assert all(path.name.startswith("m") for path in folder.iterdir())
