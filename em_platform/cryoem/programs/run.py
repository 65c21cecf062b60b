"""Runs a program of others: bounded in time, its output in a file, one plain answer."""

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from em_platform.errors import ToolFailed, ToolMissing

# What a program that is asked to end may still take to clean up.
_GRACE_S = 5.0
_TAIL = 3
_MOST_BYTES = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A program that ended well."""

    command: tuple[str, ...]
    output: str
    """stdout and stderr, as they came."""
    seconds: float


def run_program(
    command: Sequence[str],
    *,
    log: Path,
    makes: Iterable[Path] = (),
    answers: str = "",
    folder: Path | None = None,
    time_limit_s: float = 3600.0,
    environment: Mapping[str, str] | None = None,
) -> Ran:
    """Run a program to its end.

    Parameters
    ----------
    log
        Gets the command and everything that the program prints, also when it fails.
    makes
        Files that it has to have written then, each with something in it.
    answers
        Goes to its standard input, which is closed then.
    time_limit_s
        It and the processes that it started are ended after this time.

    Raises
    ------
    ToolMissing
        It is not installed; the sentence has the command that would have run.
    ToolFailed
        It ended with an error, did not end in time, or did not write a file.
    """
    name = command[0]
    shown = shlex.join(command)
    if shutil.which(name) is None:
        raise ToolMissing(
            f"{name}: it was not found on PATH, which was to run `{shown}`; install "
            "it, or choose the built-in engine"
        )
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with log.open("wb") as file:
        file.write(f"$ {shown}\n".encode())
        file.flush()
        status = _run(
            command, file.fileno(), answers, folder, time_limit_s, environment
        )
    output = _output(log)
    if status is None:
        raise ToolFailed(
            f"{name}: it did not end in {time_limit_s:g} s and was stopped "
            f"({_last_lines(output)}), a result was expected; it ran as `{shown}`",
            command=shown,
        )
    if status != 0:
        raise ToolFailed(
            f"{name}: it ended with {_named(status)} ({_last_lines(output)}), a result "
            f"was expected; it ran as `{shown}`",
            command=shown,
        )
    for path in makes:
        if not path.is_file() or path.stat().st_size == 0:
            raise ToolFailed(
                f"{name}: it ended well but wrote no {path.name} "
                f"({_last_lines(output)}), that file was expected; it ran as `{shown}`",
                command=shown,
            )
    return Ran(command=tuple(command), output=output, seconds=time.monotonic() - began)


def _run(
    command: Sequence[str],
    output: int,
    answers: str,
    folder: Path | None,
    time_limit_s: float,
    environment: Mapping[str, str] | None,
) -> int | None:
    """The exit status, or None where the time was up."""
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        # A group of its own: MPI and shell scripts leave children behind.
        start_new_session=True,
    )
    try:
        # Also where it closes its input unread.
        process.communicate(answers.encode(), timeout=time_limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end_group(process)
    return process.returncode


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the program and what it started, also where we are interrupted."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            break
        end = time.monotonic() + _GRACE_S
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
    process.wait()


def _output(log: Path) -> str:
    with log.open("rb") as file:
        file.readline()  # the command
        return file.read(_MOST_BYTES).decode("utf-8", "replace")


def _last_lines(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return " / ".join(lines[-_TAIL:])[-400:] or "it printed nothing"


def _named(status: int) -> str:
    if status < 0:
        return f"signal {signal.Signals(-status).name}"
    return f"status {status}"
