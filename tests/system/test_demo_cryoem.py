"""`em-platform demo cryoem`: sessions through Dagster, each result beside its truth."""

import subprocess
import sys
from pathlib import Path

import pytest
import starfile

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
_MOVIES, _TILTS = 5, 17


def test_the_simulated_sessions_agree_with_their_truth_by_default(
    make_platform, tmp_path: Path
) -> None:
    """round3 1.1.1: 14 of 17 defoci agreed, and nobody saw it without the tilts."""
    with make_platform(tmp_path / "home") as platform:
        done = subprocess.run(
            (
                *(sys.executable, "-m", "em_platform", "demo", "cryoem"),
                *("--exit", "--home", str(platform.home)),
            ),
            env=platform.environment,
            capture_output=True,
            text=True,
            timeout=550,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    of_both = ("motion_matches", "defocus_matches")
    of_session = ("classes_match", "averages_match", "shifts_match", "tomogram_matches")
    counts = [(name, count) for name in of_both for count in (_MOVIES, _TILTS)]
    counts += [("picks_match", _MOVIES), *((name, 1) for name in of_session)]
    for name, count in counts:
        assert f"{name}_truth: {count} of {count} passed" in done.stdout
    project = platform.home / "cryoem_results/particles/relion_project"
    edges = starfile.read(project / "default_pipeline.star")["pipeline_input_edges"]
    assert edges.rlnPipeLineEdgeProcess.iloc[-1] == "Class2D/job007/"
