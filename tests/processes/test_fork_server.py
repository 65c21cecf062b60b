"""Programs that are forks of one process, which has imported what they need."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from em_platform.acquisition.session.rig import DEVICES, IMPORTS, RECORDER, SERVICES
from em_platform.processes import Child, Supervisor, members
from em_platform.processes.fork_server import ForkServer, NewPythons, python_programs
from tests.processes.test_supervisor import wait_until

PROGRAM = """
import json, os, signal, sys, threading, time
import costly
if __name__ == "__main__":
    if sys.argv[1:] == ["fails"]:
        sys.exit(7)
    print(json.dumps({
        "arguments": sys.argv[1:], "imported_by": costly.PID, "pid": os.getpid(),
        "folder": os.getcwd(), "setting": os.environ.get("OWN_SETTING"),
        "random": costly.numpy.random.random(), "threads": threading.active_count(),
        "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    }), flush=True)
    time.sleep(600)
"""


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "costly.py").write_text("import os, numpy\nPID = os.getpid()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Supervisor(tmp_path / "logs") as supervisor:
        yield supervisor
    assert members(supervisor.session) == []


def program(name: str, *arguments: str) -> Child:
    return Child(
        name=name,
        arguments=(sys.executable, "-m", "program", *arguments),
        imports=("costly",),
        environment={"OWN_SETTING": name},
        ready=lambda output: "pid" in output,
    )


def printed(supervisor: Supervisor, name: str) -> dict[str, object]:
    log = supervisor.logs / f"{name}.log"
    return dict(json.loads(log.read_text().splitlines()[-1]))


def fork_server_of(supervisor: Supervisor) -> psutil.Process:
    titles = {process: process.cmdline()[0] for process in supervisor.processes()}
    (server,) = [p for p, title in titles.items() if "fork server" in title]
    return server


def test_two_programs_share_what_was_imported_once(supervisor: Supervisor) -> None:
    supervisor.start(program("one", "--count", "1"), program("two"))
    one, two = printed(supervisor, "one"), printed(supervisor, "two")
    server = fork_server_of(supervisor)
    assert one["imported_by"] == two["imported_by"] == server.pid
    assert {"one": one["pid"], "two": two["pid"]} == supervisor.pids
    assert one["arguments"] == ["--count", "1"]
    assert (one["setting"], two["setting"]) == ("one", "two")
    assert one["folder"] == os.getcwd()
    assert one["random"] != two["random"]
    assert one["threads"] == 1
    assert one["interrupt"] is True


def test_programs_are_seen_by_their_own_names(supervisor: Supervisor) -> None:
    supervisor.start(program("one", "--count", "1"))
    process = psutil.Process(supervisor.pids["one"])
    assert " ".join(process.cmdline()).rstrip().endswith("-m program --count 1")
    assert process.name() == "one"
    # Each leads a group of its own, so Ctrl-C in a terminal does not reach it.
    assert os.getpgid(process.pid) == process.pid


def test_a_program_that_fails_or_is_killed_gives_its_status(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor.start(program("one"))
    os.kill(supervisor.pids["one"], signal.SIGKILL)
    wait_until(lambda: tended(supervisor).restarts["one"] == 1)
    assert "one ended with status -9" in caplog.text
    with pytest.raises(Exception, match="ended 3 times at the start"):
        supervisor.start(program("two", "fails"))
    assert "two ended with status 7" in caplog.text


def test_a_killed_fork_server_harms_no_program_and_is_replaced(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor.start(program("one"))
    first, server = supervisor.pids["one"], fork_server_of(supervisor)
    server.kill()
    server.wait(timeout=10)
    tended(supervisor)
    assert psutil.pid_exists(first)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: tended(supervisor).restarts["one"] == 1)
    assert "one ended with status 255" in caplog.text
    wait_until(lambda: printed(supervisor, "one")["pid"] == supervisor.pids["one"])
    assert printed(supervisor, "one")["imported_by"] == fork_server_of(supervisor).pid


def test_a_module_that_is_missing_is_the_programs_own_fault(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    (tmp_path / "costly.py").unlink()
    with pytest.raises(Exception, match="ended 3 times") as error:
        supervisor.start(program("one"))
    assert "No module named 'costly'" in str(error.value)


@pytest.mark.parametrize("forks", [True, False])
def test_a_program_reads_and_writes_the_files_that_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, forks: bool
) -> None:
    (tmp_path / "loud.py").write_text(
        "import sys\nprint(sys.stdin.read().upper())\nsys.exit('it failed')\n"
    )
    if not forks:
        monkeypatch.delattr(os, "pidfd_open")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    programs = python_programs(environment)
    assert isinstance(programs, ForkServer if forks else NewPythons)
    given, ours = os.pipe()
    with (
        (tmp_path / "output").open("wb") as output,
        (tmp_path / "errors").open("wb") as errors,
    ):
        process = programs.start(
            "loud",
            (sys.executable, "-m", "loud"),
            imports=(),
            environment=environment,
            stdin=given,
            output=output.fileno(),
            errors=errors.fileno(),
        )
    os.close(given)
    os.write(ours, b"a word")
    # Its input ends: the fork server keeps no copy of our end.
    os.close(ours)
    assert process.wait(60) == 1
    programs.close()
    assert (tmp_path / "output").read_text() == "A WORD\n"
    assert (tmp_path / "errors").read_text() == "it failed\n"


@pytest.mark.parametrize("name", ["broker", RECORDER, *DEVICES, *SERVICES])
def test_each_part_of_the_microscope_names_what_it_imports(name: str) -> None:
    for module in IMPORTS[name]:
        path = Path(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def tended(supervisor: Supervisor) -> Supervisor:
    supervisor.tend()
    return supervisor
