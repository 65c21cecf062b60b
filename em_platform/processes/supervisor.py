"""Starts named child processes, restarts those that die, stops all in order."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import psutil

from em_platform.errors import ToolFailed, ToolMissing
from em_platform.processes.fork_server import ForkedProcess, ForkServer
from em_platform.processes.session import SESSION_VARIABLE, end_session, members

log = logging.getLogger(__name__)

# What was killed is back at once; what cannot start does not take a core for itself.
_BACKOFF_S = (0.2, 1.0, 2.0, 5.0, 10.0, 30.0)
_STEADY_S = 60.0
"""A child that lived this long starts again at the first step of the backoff."""
_TRIES_BEFORE_READY = 3  # one death may be chance, as of a port not yet given back
_LOG_LIMIT_BYTES = 20_000_000  # and as much in `.log.1`, for each of some 16 processes
# A process of its own, since nothing in this one can act after `kill -9`.
_WATCHDOG = "from em_platform.processes.session import watch; watch()"
# glibc gives up to eight heaps a core to the threads of a process, and memory that one
# of them has freed is of no use to another.
_ALLOCATOR = {"MALLOC_ARENA_MAX": "2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One process to keep running.

    `ready` is given what the child has logged since it was started. One of
    `python -m ...` that names its `imports` is a fork of a process that has them.
    """

    name: str
    arguments: tuple[str, ...]
    imports: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    ready: Callable[[str], bool] = lambda _: True
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_s: float = 8.0


@dataclass(slots=True)
class _Running:
    """A child and its present process."""

    child: Child
    process: subprocess.Popen[bytes] | ForkedProcess
    log_path: Path
    log_start: int
    started_at: float
    deaths: int = 0
    restarts: int = 0
    due_at: float | None = None

    def output(self) -> str:
        with self.log_path.open("rb") as file:
            file.seek(self.log_start)
            return file.read().decode(errors="replace")


class Supervisor:
    """The parent of one session of processes.

    Every process below carries the session's mark in its environment; a watchdog ends
    them all when this process ends, even by `kill -9`. `on_ready` is called with the
    name of each child when it serves. A `fork_server` that several sessions use is not
    closed.
    """

    def __init__(
        self,
        logs: Path,
        *,
        session: str = "",
        on_ready: Callable[[str], None] = lambda _: None,
        fork_server: ForkServer | None = None,
    ) -> None:
        self.session = session or uuid.uuid4().hex
        self.stopping = threading.Event()
        self.logs = logs
        self._on_ready = on_ready
        self._groups: list[list[_Running]] = []
        self._watchdog = self._start_watchdog()
        self._shared = self._fork_server = fork_server

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def restarts(self) -> dict[str, int]:
        """How often each child was started again."""
        return {running.child.name: running.restarts for running in self._all()}

    @property
    def pids(self) -> dict[str, int]:
        """The present process id of each child."""
        return {running.child.name: running.process.pid for running in self._all()}

    def start(self, *children: Child, timeout_s: float = 60.0) -> None:
        """Start `children` side by side and return when all are ready.

        Raises
        ------
        ToolFailed
            One was not ready in time, or kept dying; with the end of its log.
        """
        self.start_all([children], timeout_s=timeout_s)

    def start_all(
        self, groups: Iterable[Iterable[Child]], *, timeout_s: float = 60.0
    ) -> None:
        """Start several groups at once; they stop one after the other, last first.

        For processes that wait for each other by themselves.

        Raises
        ------
        ToolFailed
            One was not ready in time, or kept dying; with the end of its log.
        """
        if self.stopping.is_set():
            return
        waiting: list[_Running] = []
        for children in groups:
            group = [self._launch(child) for child in children]
            self._groups.append(group)
            waiting += group
        deadline = time.monotonic() + timeout_s
        while waiting and not self.stopping.is_set():
            self.tend()
            for running in waiting:
                if running.deaths >= _TRIES_BEFORE_READY:
                    raise _failed(running, f"ended {running.deaths} times at the start")
                if time.monotonic() > deadline:
                    raise _failed(running, f"was not ready within {timeout_s:g} s")
            ready = [each for each in waiting if each.child.ready(each.output())]
            for running in ready:
                self._on_ready(running.child.name)
                waiting.remove(running)
            time.sleep(0.05)

    def tend(self) -> None:
        """Start again what has died, after a pause that grows with each death."""
        if self._watchdog.poll() is not None:
            log.warning("the watchdog ended; started again")
            _release(self._watchdog)
            self._watchdog = self._start_watchdog()
        for running in self._all():
            if running.process.poll() is not None:
                self._revive(running)
            # Not by the child's own logger: Dagster and crashes write here as well.
            elif running.log_path.stat().st_size > _LOG_LIMIT_BYTES:
                _rotate(running)

    def run(self, *, tick_s: float = 0.2) -> None:
        """Tend the children until `stopping` is set."""
        while not self.stopping.wait(tick_s):
            self.tend()

    def stop(self) -> None:
        """Stop all children, the last started group first; nothing is left behind."""
        self.stopping.set()
        for group in reversed(self._groups):
            for running in group:
                if running.process.poll() is None:
                    running.process.send_signal(running.child.stop_signal)
            for running in group:
                try:
                    running.process.wait(timeout=running.child.stop_grace_s)
                except subprocess.TimeoutExpired:
                    name = running.child.name
                    log.warning("%s did not stop after its signal; killed", name)
                    running.process.kill()
                    running.process.wait()
        self._groups.clear()
        if self._fork_server is not None and self._fork_server is not self._shared:
            self._fork_server.close()
        # Run workers are children of the code server, and may outlive it.
        end_session(self.session, grace_s=5.0)
        _release(self._watchdog)

    @contextmanager
    def until_signalled(self) -> Iterator[None]:
        """Within the block SIGINT, SIGTERM and SIGHUP set `stopping`, and no more."""
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {
            number: signal.signal(number, lambda *_: self.stopping.set())
            for number in signals
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def processes(self) -> list[psutil.Process]:
        """Every live process of the session: children, their children, orphans."""
        return members(self.session)

    def _all(self) -> Iterator[_Running]:
        for group in self._groups:
            yield from group

    def _launch(self, child: Child) -> _Running:
        self.logs.mkdir(parents=True, exist_ok=True)
        path = self.logs / f"{child.name}.log"
        with path.open("ab") as file:
            written = file.tell()
            forks = child.imports and hasattr(os, "pidfd_open")
            start = self._fork if forks else self._popen
            process = start(child, file.fileno())
        log.info("%s started (process %s)", child.name, process.pid)
        return _Running(child, process, path, written, time.monotonic())

    def _environment(self, own: Mapping[str, str]) -> dict[str, str]:
        # SPT_NOENV: a child that changes its title must not wipe the mark.
        marks = {SESSION_VARIABLE: self.session, "SPT_NOENV": "1"}
        return {**_ALLOCATOR, **os.environ, **own, **marks}

    def _fork(self, child: Child, output: int) -> ForkedProcess:
        for _ in range(_TRIES_BEFORE_READY):
            if self._fork_server is not None and not self._fork_server.serves:
                self._fork_server.close()
                self._fork_server = None
            if self._fork_server is None:
                self._fork_server = ForkServer(self._environment({}))
            with suppress(OSError):  # it was killed just now
                return self._fork_server.start(
                    child.name,
                    child.arguments,
                    imports=child.imports,
                    environment=self._environment(child.environment),
                    output=output,
                )
        raise ToolFailed(
            f"{child.name}: cannot be started, the fork server ends at once; see what "
            "ends processes on this computer (memory?)",
            command=" ".join(child.arguments),
        )

    def _popen(self, child: Child, output: int) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                child.arguments,
                env=self._environment(child.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us only, we keep the order
            )
        except OSError as error:
            raise ToolMissing(
                f"{child.name}: {child.arguments[0]} cannot be started "
                f"({error.strerror}); install it",
                program=child.arguments[0],
            ) from error

    def _revive(self, running: _Running) -> None:
        now = time.monotonic()
        if running.due_at is None:
            steady = now - running.started_at > _STEADY_S
            running.deaths = 1 if steady else running.deaths + 1
            pause = _BACKOFF_S[min(running.deaths, len(_BACKOFF_S)) - 1]
            running.due_at = now + pause
            log.warning(
                "%s ended with status %s; it starts again in %g s",
                running.child.name,
                running.process.returncode,
                pause,
            )
        elif now >= running.due_at and not self.stopping.is_set():
            fresh = self._launch(running.child)
            running.process, running.log_start = fresh.process, fresh.log_start
            running.started_at, running.due_at = fresh.started_at, None
            running.restarts += 1

    def _start_watchdog(self) -> subprocess.Popen[bytes]:
        # Without the mark, else who ends the session would end its watchdog.
        environment = {k: v for k, v in os.environ.items() if k != SESSION_VARIABLE}
        return subprocess.Popen(
            (sys.executable, "-c", _WATCHDOG, self.session, str(os.getpid())),
            env=environment,
            stdin=subprocess.PIPE,  # the kernel closes it when we end, however
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C must not end it before the others
        )


def _release(watchdog: subprocess.Popen[bytes]) -> None:
    """Close the pipe; the watchdog then ends the session, finds none, and ends."""
    if watchdog.stdin is not None:
        watchdog.stdin.close()
    watchdog.wait(timeout=30)


def _failed(running: _Running, what: str) -> ToolFailed:
    # The sentence of its error is in the last of them.
    last = " | ".join(running.output().splitlines()[-3:])
    return ToolFailed(
        f"{running.child.name}: {what}, a running process was expected; "
        f"see the end of {running.log_path}: {last}",
        command=" ".join(running.child.arguments),
    )


def _rotate(running: _Running) -> None:
    """Keep the last log beside; the child goes on writing at the file's end."""
    shutil.copyfile(running.log_path, running.log_path.with_suffix(".log.1"))
    os.truncate(running.log_path, 0)
    running.log_start = 0
