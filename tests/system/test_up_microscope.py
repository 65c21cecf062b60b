"""`em-platform up --microscope`, and another command that uses its microscope."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from em_platform.acquisition.session.report import LiveReport
from em_platform.cli.runs import montage_runs
from tests.ports import reserve_port

pytestmark = [pytest.mark.system, pytest.mark.timeout(420)]


def test_acquire_uses_the_microscope_of_the_platform(
    make_platform, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    with make_platform(tmp_path / "home") as platform:
        port = reserve_port()
        platform.environment["EM_ACQUISITION__OPERATOR__PORT"] = str(port)
        platform.start("--microscope")
        wait_until(
            lambda: "Ctrl-C ends all" in platform.output(),
            timeout_s=180,
            what=platform.output,
        )
        assert f"operator  http://127.0.0.1:{port}" in platform.output()
        report = tmp_path / "report.json"
        command = (sys.executable, "-m", "em_platform", "acquire", "--exit")
        done = subprocess.run(
            (*command, "--report", str(report)),
            env={**os.environ, **platform.environment},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stdout + done.stderr + platform.output()
        assert "a microscope answers, it is used" in done.stdout
        assert f"operator's page at http://127.0.0.1:{port}" in done.stdout
        found = LiveReport.model_validate(json.loads(report.read_text()))
        assert found.is_good
        (made,) = found.montages
        wait_until(
            lambda: montage_runs(platform.url, made.acquisition_id).did_last_step,
            timeout_s=180,
            what=platform.output,
        )
        checks = montage_runs(platform.url, made.acquisition_id).checks
        assert checks["montage_is_complete"].passed, checks
        again = subprocess.run(
            (sys.executable, "-m", "em_platform", "up", "--microscope"),
            env={**os.environ, **platform.environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert again.returncode == 1
        assert "a microscope already runs in" in again.stderr
