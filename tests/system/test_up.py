"""`em-platform up` beside others, refused, healed and ended."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from em_platform.processes import members

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


def up(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "em_platform", "up"),
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_two_platforms_do_not_disturb_each_other(
    make_platform, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    with make_platform(tmp_path / "a") as one, make_platform(tmp_path / "b") as other:
        wanted = one.environment["EM_WEB__PORT"]
        one.start()
        # The other wants the same web port, and gets a free one.
        other.environment["EM_WEB__PORT"] = wanted
        other.start(check_loaded=False)
        wait_until(lambda: "Ctrl-C ends all" in other.said(), timeout_s=120)
        assert f"port {wanted} is taken, the web UI is at " in other.said()

        refused = up(one.environment)
        assert refused.returncode == 1
        assert "a platform already runs in" in refused.stderr
        assert refused.stderr.count("\n") == 1
        third = one.environment | {"EM_HOME": str(tmp_path / "c")}
        refused = up(third)
        assert refused.returncode == 1
        port = one.environment["EM_BROKER__PORT"]
        assert f"port {port} on 127.0.0.1 is taken" in refused.stderr

        sessions = one.session, other.session
        other.stop()
        assert other.process.returncode == 0
        assert members(sessions[1]) == []
        assert one.is_loaded()

        killed = one.part("daemon")
        killed.kill()
        wait_until(
            lambda: (
                (found := one.part("daemon")) is not None and found.pid != killed.pid
            ),
            timeout_s=30,
        )
        assert "daemon ended with status -9; it starts again" in one.said()
        one.stop()
        assert members(sessions[0]) == []
