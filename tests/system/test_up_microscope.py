"""`em-platform up --microscope`, and another command that uses its microscope."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from em_platform.acquisition.recorder import ledger_of
from em_platform.acquisition.session.report import LiveReport
from em_platform.cli.runs import montage_runs
from em_platform.config import Settings, load_settings
from em_platform.model.dataset import DatasetRecord
from em_platform.processes import free_port
from em_platform.storage import layout, store_of

pytestmark = [pytest.mark.system, pytest.mark.timeout(420)]


def test_acquire_uses_the_microscope_of_the_platform(
    make_platform, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    with make_platform(tmp_path / "home") as platform:
        port = free_port("127.0.0.1")
        platform.environment["EM_ACQUISITION__OPERATOR__PORT"] = str(port)
        platform.start("--microscope")
        wait_until(
            lambda: "Ctrl-C ends all" in platform.said(),
            timeout_s=180,
            what=platform.said,
        )
        assert f"operator  http://127.0.0.1:{port}" in platform.said()
        report = tmp_path / "report.json"
        command = (sys.executable, "-m", "em_platform", "acquire", "--exit")
        told = subprocess.run(
            (*command, "--report", str(report)),
            env={**os.environ, **platform.environment},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert told.returncode == 0, told.stdout + told.stderr + platform.said()
        assert "a microscope answers, it is used" in told.stdout
        assert f"operator's page at http://127.0.0.1:{port}" in told.stdout
        found = LiveReport.model_validate(json.loads(report.read_text()))
        assert found.is_good
        (made,) = found.montages
        wait_until(
            lambda: montage_runs(platform.url, made.acquisition_id).did_last_step,
            timeout_s=180,
            what=platform.said,
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


def test_a_live_montage_without_four_of_its_frames_needs_review(
    make_platform, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    with make_platform(tmp_path / "home") as platform:
        platform.environment |= {
            "EM_ACQUISITION__OPERATOR__PORT": str(free_port("127.0.0.1")),
            "EM_ACQUISITION__ROWS": "6",
            "EM_ACQUISITION__COLUMNS": "6",
            "EM_ACQUISITION__SIMULATION__TILE_PX": "256",
            "EM_ACQUISITION__SIMULATION__MISSING": "4",
        }
        platform.start("--microscope")
        wait_until(
            lambda: "Ctrl-C ends all" in platform.said(),
            timeout_s=180,
            what=platform.said,
        )
        settings = load_settings(environment=platform.environment)
        command = (sys.executable, "-m", "em_platform", "acquire", "--exit")
        told = {**os.environ, **platform.environment}
        # It waits for the frames that never come to be uploaded: nobody waits for it.
        with subprocess.Popen(command, env=told, stdout=subprocess.DEVNULL) as it:
            try:
                wait_until(
                    lambda: any(
                        montage_runs(platform.url, key).did_last_step
                        for key in recorded(settings)
                    ),
                    timeout_s=200,
                    what=platform.said,
                )
            finally:
                it.terminate()
        [key] = recorded(settings)
        check = montage_runs(platform.url, key).checks["montage_is_complete"]
        assert not check.passed
        assert check.sentence.startswith("Missing: 4 of 36 tiles")
        record = store_of(settings).read(layout.dataset_record(key), DatasetRecord)
        assert record.status == "needs_review"


def recorded(settings: Settings) -> list[str]:
    """The montages that the microscope has completed."""
    with ledger_of(settings) as recorder:
        return [key for _, key in recorder.montages()]
