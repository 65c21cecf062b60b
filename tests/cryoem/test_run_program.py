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
from em_platform.cryoem.stages import ctf, motion
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
            ["ctffind", "-x"], log=tmp_path / "log", makes=[made], folder=tmp_path
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


CTFFIND = r"""
read image; read output; cat > answers.txt
echo picture > "$output"
base="${output%.mrc}"
printf '# c\n1.0 15000.5 14500.0 33.0 0.5 0.12 4.25\n' > "$base.txt"
printf '# c\n0.24 0.26\n1 -2\n0 0\n' > "${base}_avrot.txt"
"""


def test_a_ctf_is_fitted_by_ctffind_where_it_is_asked_for(
    program: Path, tmp_path: Path
) -> None:
    written(program, CTFFIND)
    given = ctf.Parameters(
        input_image=tmp_path / "m.mrc", pixel_size=1.5, engine="ctffind"
    )
    folder = tmp_path / "out"
    folder.mkdir()
    result = ctf.run(given, folder)
    assert (result.defocus_u_a, result.defocus_v_a) == (15000.5, 14500.0)
    assert (result.astigmatism_deg, result.fit_resolution_a) == (33.0, 4.25)
    assert result.phase_shift_deg == pytest.approx(28.648, abs=1e-3)
    assert result.ice_ring_density == 2.0
    answers = (folder / "answers.txt").read_text().split("\n")
    assert answers[:2] == ["1.5", "300.0"]
    assert len(answers) == 15 + 1  # as many questions remain, and a newline
    program.unlink()
    with pytest.raises(ToolMissing, match=r"ctffind: it was not found on PATH"):
        ctf.run(given, folder)


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
    assert {"m.mrc", "m.star", "m_motion.log"} <= {p.name for p in folder.iterdir()}
