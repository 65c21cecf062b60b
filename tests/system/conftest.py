"""A platform of real processes: started, killed in parts, looked at, ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import psutil
import pytest

from em_platform.errors import SourceUnavailable
from em_platform.processes import end_session, members
from em_platform.processes.web_ui import ask
from em_platform.resources.code_server import RUNS_TITLE
from tests.ports import reserve_port

SMALL = {
    "EM_ACQUISITION__ROWS": "2",
    "EM_ACQUISITION__COLUMNS": "2",
    "EM_ACQUISITION__SIMULATION__TILE_PX": "256",
    "EM_ACQUISITION__OVERLAP": "0.25",
    "EM_STITCHING__MATCH__SEARCH_PX": "32",
    "EM_DASK__WORKERS": "1",
}
"""Settings of a montage that costs little."""

_MARKS = {
    "broker": ("em_platform", "broker"),
    "recorder": ("em_platform", "recorder"),
    "daemon": ("dagster._daemon", "run"),
    "web": ("em_platform.resources.web_server",),
    "code_server": ("em_platform.resources.code_server", "api"),
}
"""Words of the command line by which a process of the platform is known."""


@dataclass(slots=True, kw_only=True)
class PlatformUnderTest:
    """`em-platform up` in a home of its own."""

    home: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of the web UI."""
        return f"http://127.0.0.1:{self.environment['EM_WEB__PORT']}"

    @property
    def session(self) -> str:
        """The mark that all present processes carry."""
        return (self.home / "session").read_text()

    def start(self, *options: str, check_loaded: bool = True) -> None:
        """Start it, and wait until Dagster has loaded our definitions."""
        with (self.home / "up.out").open("ab") as output:
            self.process = subprocess.Popen(
                (sys.executable, "-m", "em_platform", "up", *options),
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        if check_loaded:
            wait_until(self.is_loaded, timeout_s=120, what=self.output)

    def is_loaded(self) -> bool:
        """Whether the web UI knows the sensors."""
        assert self.process is not None
        assert self.process.poll() is None, self.output()
        query = (
            "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"
        )
        try:
            return bool(ask(self.url, query)["repositoriesOrError"].get("nodes"))
        except SourceUnavailable:
            return False

    def output(self) -> str:
        """What `up` printed."""
        return (self.home / "up.out").read_text()

    def part(self, name: str) -> psutil.Process | None:
        """The present process of one part."""
        words = _MARKS[name]
        for process in members(self.session):
            try:
                # One word, as a fork's title is.
                line = " ".join(process.cmdline()).split()
            except psutil.Error:
                continue
            if all(word in line for word in words):
                return process
        return None

    def run_worker(self) -> psutil.Process | None:
        """The process of a run, forked by the code server's fork server."""
        for process in self._fork_server_children():
            return process
        return None

    def _fork_server_children(self) -> list[psutil.Process]:
        server = self.part("code_server")
        for child in server.children() if server else []:
            if RUNS_TITLE in " ".join(child.cmdline()):
                return child.children()
        return []

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """Dagster's own memory of all that happened."""
        with dg.DagsterInstance.from_config(str(self.home / "dagster")) as instance:
            yield instance

    def kill(self) -> None:
        """kill -9 of the parent alone; returns when nothing of it is left."""
        assert self.process is not None
        session = self.session
        self.process.kill()
        self.process.wait()
        wait_until(lambda: not members(session), timeout_s=30)

    def stop(self) -> None:
        """End it by SIGINT, as Ctrl-C does."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(timeout=60)
        finally:
            self.process.kill()
            self.process.wait()
            end_session(self.session, grace_s=2)


def wait_until(
    truth: Callable[[], bool],
    *,
    timeout_s: float,
    what: Callable[[], str] = lambda: "",
    pause_s: float = 1.0,
) -> None:
    """Return when `truth` holds; fail with `what` it says otherwise."""
    deadline = time.monotonic() + timeout_s
    while not truth():
        assert time.monotonic() < deadline, f"not within {timeout_s} s. {what()}"
        time.sleep(pause_s)


@contextmanager
def platform_at(home: Path) -> Iterator[PlatformUnderTest]:
    """A platform in `home`, not yet started; ended after the block."""
    home.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        **SMALL,
        "EM_HOME": str(home),
        "EM_BROKER__PORT": str(reserve_port()),
        "EM_WEB__PORT": str(reserve_port()),
    }
    under_test = PlatformUnderTest(home=home, environment=environment)
    try:
        yield under_test
    finally:
        under_test.stop()


@pytest.fixture(scope="session")
def make_platform() -> Callable[..., AbstractContextManager[PlatformUnderTest]]:
    """`platform_at`, for tests that cannot import it from here."""
    return platform_at


@pytest.fixture(scope="session", name="wait_until")
def wait_until_fixture() -> Callable[..., None]:
    """`wait_until`, for tests that cannot import it from here."""
    return wait_until
