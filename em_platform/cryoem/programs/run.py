"""Runs a program of others: bounded in time, its output in a file, one plain answer."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from em_platform.cryoem.movies import open_movie
from em_platform.errors import FormatError, PlatformError, ToolFailed, ToolMissing
from em_platform.storage import atomic

# What a program that is asked to end may still take to clean up.
_GRACE_S = 5.0
_TAIL = 3
_MOST_BYTES = 4_000_000
_IMAGES = (".mrc", ".mrcs", ".st", ".ali", ".rec")
# Some load a framework for machine learning only to say their version.
_VERSION_S = 30.0
# CTFFIND's is in what it prints in any case.
_BANNER = re.compile(r"^\s*Version\s*:\s*(\d[\w.-]*)", re.M)
_NUMBER = re.compile(r"\d+(?:\.\d+)+[\w-]*")


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A program that ended well."""

    command: tuple[str, ...]
    output: str
    """stdout and stderr, as they came."""
    seconds: float

    @property
    def program(self) -> str:
        """Its name on PATH and its version, where it says one."""
        banner = _BANNER.search(self.output)
        version = banner[1] if banner else _version(shutil.which(self.command[0]) or "")
        return f"{Path(self.command[0]).name} {version}".rstrip()


def run_program(
    command: Sequence[str],
    *,
    log: Path,
    time_limit_s: float,
    makes: Iterable[Path] = (),
    answers: str = "",
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    is_fine: Callable[[str], bool] | None = None,
) -> Ran:
    """Run a program to its end.

    Parameters
    ----------
    log
        Gets the command and everything that the program prints, also when it fails,
        behind what is there.
    time_limit_s
        It and the processes that it started are ended after this time.
    makes
        Files that it has to have written then, each with something in it, and images
        to their end.
    answers
        Goes to its standard input, which is closed then.
    is_fine
        Whether what it printed tells of no failure, though its status does.

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
    with log.open("ab") as file:
        file.write(f"$ {shown}\n".encode())
        file.flush()
        start = file.tell()
        status = _run(
            command, file.fileno(), answers, folder, time_limit_s, environment
        )
    output = _output(log, start)
    found = ""
    if status is None:
        found = f"did not end in {time_limit_s:g} s ({_last_lines(output)}), a result "
        found += "was expected; it was stopped"
    elif status != 0 and not (is_fine and is_fine(output)):
        found = f"ended with {_named(status)} ({_last_lines(output)}), a result was "
        found += "expected; correct what it complains of"
    if found:
        raise ToolFailed(f"{name}: it {found}, see {log_place(log)}", command=shown)
    ran = Ran(command=tuple(command), output=output, seconds=time.monotonic() - began)
    check_written(ran, makes, log=log)
    return ran


def check_written(ran: Ran, files: Iterable[Path], *, log: Path) -> None:
    """Refuse files that a program has not written, or not to their end.

    Raises
    ------
    ToolFailed
        One is such.
    """
    for path in files:
        if not path.is_file() or path.stat().st_size == 0:
            found = f"wrote no {path.name} ({_last_lines(ran.output)}), that file was "
            found += "expected; run it by hand"
        elif path.suffix in _IMAGES and not _is_whole(path):
            found = f"wrote only a part of {path.name}, all of it was expected; look "
            found += "whether the disk is full"
        else:
            continue
        raise ToolFailed(
            f"{ran.command[0]}: it ended well but {found}, see {log_place(log)}",
            command=shlex.join(ran.command),
        )


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder for what a program writes beside what is wanted; it goes at the end."""
    own = folder / ".program"
    own.mkdir()
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


@contextmanager
def logs_kept(folder: Path) -> Iterator[None]:
    """Keep the logs in `folder` where what is done in the block fails.

    The folder of a stage that fails is never seen; its logs then stay beside it.
    """
    try:
        yield
    except PlatformError:
        logs = sorted(folder.glob("*.log"))
        if logs and (place := log_place(logs[0])) != logs[0]:
            content = b"".join(log.read_bytes() for log in logs)
            atomic.write_bytes(place, content)
        raise
    if _is_log(place := log_place(folder / "_.log")):
        place.unlink(missing_ok=True)  # of a try that failed


def log_place(log: Path) -> Path:
    """Where a log is to be found when the run that it is of fails."""
    for folder in log.parents:
        if (final := atomic.becomes(folder)) is not None:
            place = final.with_name(f"{final.name}.failed.log")
            # Another's file of this name stays, and the log goes nowhere.
            return place if not place.exists() or _is_log(place) else log
    return log


def _is_log(path: Path) -> bool:
    if not path.is_file() or path.suffix != ".log":
        return False
    with path.open("rb") as file:
        return file.read(2) == b"$ "


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


def _is_whole(path: Path) -> bool:
    try:
        open_movie(path)  # compares the header with the size of the file
    except FormatError:
        return False
    return True


@cache
def _version(program: str) -> str:
    """The version that a program states, or IMOD's beside its programs."""
    beside = Path(program).parent.parent / "VERSION"
    try:
        if beside.is_file():
            return beside.read_text().split()[0]
        asked = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_VERSION_S,
            check=False,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired, IndexError):
        return ""
    found = _NUMBER.search(asked.stdout.decode("utf-8", "replace"))
    return found[0] if found else ""


def _output(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(start)
        return file.read(_MOST_BYTES).decode("utf-8", "replace")


def _last_lines(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return " / ".join(lines[-_TAIL:])[-400:] or "it printed nothing"


def _named(status: int) -> str:
    if status < 0:
        return f"signal {signal.Signals(-status).name}"
    return f"status {status}"
