"""`em-platform standins` as a process, and what it refuses."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner
from dotenv import dotenv_values

from em_platform.cli import cli, main


@pytest.mark.system
def test_it_serves_until_it_is_reported_to_end(tmp_path: Path) -> None:
    written = tmp_path / "world.env"
    command = [sys.executable, "-m", "em_platform", "standins", "--sources", "ebi"]
    command += ["--size", "small", "--folder", str(tmp_path / "world")]
    command += ["--write", str(written), "--fault", "status:/empiar/api/*:1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if line.strip() == "ready standins":
                break
        variables = dotenv_values(written)
        assert [f"{n}={v}" for n, v in variables.items()] == lines[: len(variables)]
        url = f"{variables['EM_INGEST__EBI__API_URL']}/entry/11759/"
        seen = [requests.get(url, timeout=10).status_code for _ in range(2)]
        assert seen == [503, 200]
        control = lines[-2].removeprefix("# control: ")
        assert len(requests.get(f"{control}/requests", timeout=10).json()) == 2
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--fault", "flood:*"], "no fault 'flood'"),
        (["--fault", "cut"], "expected KIND:PATH"),
        (["--sources", "moon"], "no source 'moon'"),
    ],
)
def test_what_it_does_not_know_is_reported_in_one_sentence(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["standins", *arguments])
    assert caught.value.code == 1
    printed = capsys.readouterr().err
    assert sentence in printed
    assert len(printed.splitlines()) == 1


def test_it_is_in_the_help() -> None:
    assert "standins" in CliRunner().invoke(cli, ["--help"]).output
