"""Starts Python programs as forks of one process that has imported what they need.

A service of the microscope imports for a second before it does anything, a process of
Dagster for three, and mostly the same. The fork server imports each module once, does
nothing else, and becomes each program by a fork: no thread and no connection is copied.

It speaks with its parent through one socket: an order goes in, with the files for the
program's input and output; the program's number comes back, and later its exit status.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing import connection
from typing import Any

from setproctitle import setproctitle, setthreadtitle

_ORDER_BYTES = 1 << 20
_STATUS_UNKNOWN = 255
"""Of a program that ended after its fork server was killed, as in `multiprocessing`."""
# A title has the room of the arguments; this is more than any command of ours needs.
_ROOM_FOR_TITLES = "." * 500
_SERVER = "from em_platform.processes.fork_server import serve; serve()"


class ForkedProcess:
    """A program that the fork server has become, with the words of `Popen`."""

    def __init__(self, server: "ForkServer", pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server
        try:
            # Not its number: that may be another process's once it has ended.
            self._handle = os.pidfd_open(pid)
        except ProcessLookupError:
            self._handle = -1

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._status_within(0)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status when it has ended.

        Raises
        ------
        subprocess.TimeoutExpired
            It still runs after `timeout` seconds.
        """
        status = self._status_within(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return status

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def _status_within(self, timeout_s: float | None) -> int | None:
        if self.returncode is None and self._handle >= 0:
            # The handle of a process is readable once it has ended.
            if not connection.wait([self._handle], timeout_s):
                return None
            os.close(self._handle)
            self._handle = -1
        if self.returncode is None:
            self.returncode = self._server.status_of(self.pid)
        return self.returncode


class ForkServer:
    """The parent's end: starts the fork server and gives it orders."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._ended: dict[int, int] = {}
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                (sys.executable, "-c", _SERVER, str(number), _ROOM_FOR_TITLES),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(number,),
                start_new_session=True,
            )

    @property
    def serves(self) -> bool:
        """Whether its process lives."""
        return self._process.poll() is None

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        imports: Sequence[str],
        environment: Mapping[str, str],
        output: int,
        errors: int | None = None,
        stdin: int | None = None,
    ) -> ForkedProcess:
        """Run `python -m MODULE ...` in a fork that has imported `imports`.

        `top` shows it as `name`; `output`, `errors` and `stdin` are descriptors. Errors
        go where the output goes, and the input is empty, where none is given.

        Raises
        ------
        OSError
            The fork server has ended.
        """
        files = {0: stdin, 1: output, 2: output if errors is None else errors}
        given = {number: file for number, file in files.items() if file is not None}
        order = {
            "name": name,
            "arguments": list(arguments),
            "imports": list(imports),
            "environment": dict(environment),
            "folder": os.getcwd(),
            "files": list(given),
        }
        with self._lock:
            text = json.dumps(order).encode()
            socket.send_fds(self._link, [text], list(given.values()))
            while True:
                answer = self._receive()
                if "started" in answer:
                    return ForkedProcess(self, answer["started"])

    def status_of(self, pid: int) -> int:
        """The exit status of a program that has ended."""
        deadline = time.monotonic() + 5
        # ValueError: the link is closed, after the fork server was killed.
        with self._lock, contextlib.suppress(OSError, ValueError):
            while pid not in self._ended and time.monotonic() < deadline:
                if connection.wait([self._link], 0.5):
                    self._receive()
        return self._ended.pop(pid, _STATUS_UNKNOWN)

    def close(self) -> None:
        """End the fork server, not what it has started."""
        self._link.close()
        self._process.wait(timeout=30)

    def _receive(self) -> dict[str, int]:
        received = self._link.recv(_ORDER_BYTES)
        if not received:
            raise ConnectionResetError("the fork server has ended")
        answer: dict[str, int] = json.loads(received)
        if "ended" in answer:
            self._ended[answer["ended"]] = answer["status"]
        return answer


class NewPythons:
    """In the place of a fork server: each program is a Python of its own."""

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        imports: Sequence[str],
        environment: Mapping[str, str],
        output: int,
        errors: int | None = None,
        stdin: int | None = None,
    ) -> "subprocess.Popen[bytes]":
        """As `ForkServer.start`; it imports by itself, and has its command's name."""
        return subprocess.Popen(
            arguments,
            env=environment,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=output,
            stderr=output if errors is None else errors,
            start_new_session=True,
        )

    def close(self) -> None:
        """Nothing is kept open."""


def python_programs(environment: Mapping[str, str]) -> ForkServer | NewPythons:
    """What starts Python programs here; forks need Linux's process handles."""
    return ForkServer(environment) if hasattr(os, "pidfd_open") else NewPythons()


def serve() -> None:
    """Take orders until the parent ends; in each fork, become the program."""
    link = socket.socket(fileno=int(sys.argv[1]))
    setproctitle("em_platform fork server")
    gc.disable()  # what is imported stays
    order, files = _next_program(link)
    link.close()
    _become(order, files)


def _next_program(link: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Serve; returns in a fork only, with its order and files."""
    woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    while True:
        ready = connection.wait([link, woken])
        if woken in ready:
            os.read(woken, 4096)
            _report_ended(link)
        if link in ready:
            text, files, *_ = socket.recv_fds(link, _ORDER_BYTES, 3)
            if not text:
                os._exit(0)
            order = json.loads(text)
            for name in order["imports"]:
                # The program itself then says what is wrong with it.
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
            gc.freeze()  # so that a collection in a fork copies none of it
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.close(woken)
                os.close(waker)
                return order, files
            for file in files:
                os.close(file)
            link.send(json.dumps({"started": pid}).encode())


def _report_ended(link: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            status = os.waitstatus_to_exitcode(ended[1])
            link.send(json.dumps({"ended": ended[0], "status": status}).encode())


def _become(order: dict[str, Any], files: list[int]) -> None:
    os.setsid()  # Ctrl-C reaches the supervisor only, which keeps the order
    for number, file in zip(order["files"], files, strict=True):
        os.dup2(file, number)
        os.close(file)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    gc.enable()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # each fork would draw the same numbers
    setproctitle(" ".join(order["arguments"]))
    setthreadtitle(order["name"])
    _, _, module, *arguments = order["arguments"]
    sys.argv = [module, *arguments]
    # As a new Python's, so that objects of the module are found by name.
    runpy.run_module(module, run_name="__main__", alter_sys=True)
