import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from em_platform.errors import ToolFailed, ToolMissing
from em_platform.processes import Child, Supervisor, members

SLEEPER = "import time; print('ready', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER
WITH_GRANDCHILD = (
    "import subprocess, sys; subprocess.Popen([sys.executable, '-c', "
    f"{STUBBORN!r}], start_new_session=True); " + SLEEPER
)
PARENT = """
import logging, sys
from pathlib import Path
from em_platform.processes import Child, Supervisor
code = sys.argv[2]
with Supervisor(Path(sys.argv[1]), session=sys.argv[3]) as supervisor:
    with supervisor.until_signalled():
        supervisor.start(
            Child(name="one", arguments=(sys.executable, "-c", code)),
            Child(name="two", arguments=(sys.executable, "-c", code)),
        )
        print("started", flush=True)
        supervisor.run()
print("stopped", flush=True)
"""


def child(name: str, code: str = SLEEPER) -> Child:
    return Child(
        name=name,
        arguments=(sys.executable, "-c", code),
        ready=lambda output: "ready" in output,
    )


def wait_until(truth: Callable[[], bool], *, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not truth():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def start_parent(folder: Path, code: str, *, session: str) -> subprocess.Popen[str]:
    parent = subprocess.Popen(
        (sys.executable, "-c", PARENT, str(folder), code, session),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "started\n"
    return parent


def test_a_child_that_is_killed_is_started_again_and_counted(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(child("worker"), child("bystander"))
        first = supervisor.pids
        os.kill(first["worker"], signal.SIGKILL)

        def back() -> bool:
            supervisor.tend()
            return supervisor.restarts["worker"] == 1

        wait_until(back)
        assert supervisor.pids["worker"] != first["worker"]
        assert supervisor.pids["bystander"] == first["bystander"]
        assert supervisor.restarts == {"worker": 1, "bystander": 0}
    assert members(supervisor.session) == []


def test_groups_stop_in_the_reverse_of_their_order(tmp_path: Path) -> None:
    order = tmp_path / "order"
    code = (
        "import signal, sys, time\n"
        "def stop(*_):\n"
        f"    open({str(order)!r}, 'a').write(sys.argv[1] + ' ')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    with Supervisor(tmp_path) as supervisor:
        for name in ("broker", "recorder", "daemon"):
            arguments = (sys.executable, "-c", code, name)
            one_child = Child(
                name=name, arguments=arguments, ready=lambda s: "ready" in s
            )
            supervisor.start(one_child)
    assert order.read_text().split() == ["daemon", "recorder", "broker"]


def test_killing_the_parent_leaves_no_process_behind(tmp_path: Path) -> None:
    bystander = start_parent(tmp_path / "b", SLEEPER, session="a-later-session")
    parent = start_parent(tmp_path / "a", WITH_GRANDCHILD, session="killed-session")
    try:
        wait_until(lambda: len(members("killed-session")) == 4)
        parent.kill()
        parent.communicate()
        wait_until(lambda: members("killed-session") == [])
        assert len(members("a-later-session")) == 2
    finally:
        bystander.terminate()
        assert "stopped" in bystander.communicate(timeout=30)[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_and_the_watchdog_too(
    tmp_path: Path, number: signal.Signals
) -> None:
    session = f"signalled-{number}"
    parent = start_parent(tmp_path, STUBBORN.replace("600", "6"), session=session)
    watchdogs = [p for p in psutil.Process(parent.pid).children() if watches(p)]
    assert len(watchdogs) == 1
    parent.send_signal(number)
    assert "stopped" in parent.communicate(timeout=30)[0]
    assert parent.returncode == 0
    assert members(session) == []
    assert not watchdogs[0].is_running()


def watches(process: psutil.Process) -> bool:
    return any("processes.session import watch" in part for part in process.cmdline())


def test_a_killed_watchdog_is_replaced(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        me = psutil.Process()
        # A program that has just begun has no words in `/proc` for an instant.
        wait_until(lambda: any(map(watches, me.children())))
        [first] = [p for p in me.children() if watches(p)]
        first.kill()
        first.wait(timeout=10)
        supervisor.tend()
        wait_until(lambda: any(map(watches, me.children())))
        assert first not in me.children()


def test_a_child_that_keeps_dying_at_the_start_shows_its_last_words(
    tmp_path: Path,
) -> None:
    with Supervisor(tmp_path) as supervisor:
        with pytest.raises(ToolFailed, match="broken: ended 3 times") as caught:
            supervisor.start(child("broken", "raise SystemExit('port taken')"))
        assert "port taken" in str(caught.value)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        nothing = Child(name="x", arguments=("no-such-program",))
        with pytest.raises(ToolMissing, match="no-such-program cannot be started"):
            supervisor.start(nothing)


def test_a_long_log_is_turned_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(child("talker", "print('ready' * 100)\n" + SLEEPER))
        monkeypatch.setattr("em_platform.processes.supervisor._LOG_LIMIT_BYTES", 100)
        supervisor.tend()
    assert (tmp_path / "talker.log").stat().st_size < 100
    assert (tmp_path / "talker.log.1").read_text().startswith("readyready")


def test_groups_start_at_once_and_stop_one_after_the_other(tmp_path: Path) -> None:
    first_waits = (
        "import signal, sys, time; from pathlib import Path\n"
        f"out = Path({str(tmp_path)!r})\n"
        "def end(*_):\n"
        "    (out / sys.argv[1]).write_text(str(time.time()))\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "while not (out / 'go').exists() and sys.argv[1] == 'base': time.sleep(0.01)\n"
        "(out / 'go').touch()\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )

    def named(name: str) -> Child:
        return Child(
            name=name,
            arguments=(sys.executable, "-c", first_waits, name),
            ready=lambda output: "ready" in output,
        )

    with Supervisor(tmp_path / "logs") as supervisor:
        # The base group is ready only when the second one has been started.
        supervisor.start_all([[named("base")], [named("top"), named("side")]])
        assert set(supervisor.pids) == {"base", "top", "side"}
    base = float((tmp_path / "base").read_text())
    assert max(float((tmp_path / n).read_text()) for n in ("top", "side")) <= base
