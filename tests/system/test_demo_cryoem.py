"""`em-platform demo cryoem`: sessions through Dagster, each result beside its truth."""

import subprocess
import sys
from pathlib import Path

import pytest
import starfile

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
_MOVIES = 2


def test_a_simulated_session_agrees_with_its_truth_from_movies_to_classes(
    make_platform, tmp_path: Path
) -> None:
    with make_platform(tmp_path / "home") as platform:
        done = subprocess.run(
            (
                *(sys.executable, "-m", "em_platform", "demo", "cryoem"),
                *("--exit", "--home", str(platform.home)),
                *("--movies", str(_MOVIES), "--tilts", "0"),
            ),
            env=platform.environment,
            capture_output=True,
            text=True,
            timeout=550,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    of_movies = ("motion_matches", "defocus_matches", "picks_match")
    of_session = ("classes_match", "averages_match")
    counts = {**dict.fromkeys(of_movies, _MOVIES), **dict.fromkeys(of_session, 1)}
    for name, count in counts.items():
        assert f"{name}_truth: {count} of {count} passed" in done.stdout
    project = platform.home / "cryoem_results/particles/relion_project"
    edges = starfile.read(project / "default_pipeline.star")["pipeline_input_edges"]
    assert edges.rlnPipeLineEdgeProcess.iloc[-1] == "Class2D/job007/"
