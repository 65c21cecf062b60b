"""`em-platform demo montages`: what it says when a check fails, and at its end."""

import errno
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.docs.page_runner import blocks_of

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

TUTORIAL = "docs/tutorials/live-session.md"


def test_the_demo_says_where_all_is_and_ends_with_an_error_when_a_check_fails(
    make_platform, repository: Path, tmp_path: Path
) -> None:
    """round3 1.2.1: the operator's page stood in the first lines only.

    And the tutorial's search, which needs the demo before, did not find the montages.
    """
    with make_platform(tmp_path / "home") as platform:
        strict = {"EM_STITCHING__QUALITY__MIN_FOCUS": "1", "COLUMNS": "200"}
        environment = platform.environment | strict
        master, slave = pty.openpty()
        demo = subprocess.Popen(
            (
                *(sys.executable, "-m", "em_platform", "demo", "montages"),
                *("--montages", "1", "--home", str(platform.home)),
            ),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        output = _read(master, "serving until Ctrl-C")
        last = output.splitlines()[-4:]
        assert "web UI           http://127.0.0.1:" in last[-3], output
        assert "operator's page  http://127.0.0.1:" in last[-2], output
        for command in _searches(repository, platform.home):
            found = subprocess.run(
                ["bash", "-c", f"set -e\n{command}"],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            )
            assert "  acquisition  " in found.stdout, found.stderr
        demo.send_signal(signal.SIGINT)
        ending = _read(master, "")
        assert demo.wait(60) == 1, output + ending
        assert "some parts failed" in output
        assert "ERROR: " in output
        # round3 1.2.10: an address that stops serving was printed while stopping.
        assert "http" not in ending


def _searches(repository: Path, home: Path) -> list[str]:
    """What the tutorial does after its demo, in the home of this one."""
    replace = {
        "EM_HOME=.em_platform/demo": f"EM_HOME={home}",
        " em-platform catalog": f" {sys.executable} -m em_platform catalog",
    }
    blocks = blocks_of(repository / TUTORIAL, replace)
    found = [b.text for b in blocks if b.noted("not run") == "needs the demo before"]
    assert found
    return found


def _read(terminal: int, until: str) -> str:
    """What is printed up to some words; all of it, where there are none."""
    deadline, output = time.monotonic() + 550, b""
    while time.monotonic() < deadline and not (until and until in output.decode()):
        try:
            output += os.read(terminal, 1 << 16)
        except OSError as error:
            # The other end is closed: the demo has ended.
            if error.errno != errno.EIO:
                raise
            break
    text = output.decode()
    assert until in text, text
    return text
