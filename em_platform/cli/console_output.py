"""Lines of progress on the terminal, each with the seconds since the start."""

import logging
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from em_platform.errors import PlatformError, fault_of_ours

if TYPE_CHECKING:
    from em_platform.stitching.stitch import Progress

VERBOSITY = "em_platform.verbosity"
"""Key of the click context's `meta`: -1 quiet, 0, 1 verbose, 2 for developers."""

_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}


def verbosity() -> int:
    """What `-q` and `-v` ask for: -1 quiet, 0, 1 verbose, 2 for developers."""
    # There is none where no command runs, as in a test.
    context = click.get_current_context(silent=True)
    return 0 if context is None else int(context.find_root().meta.get(VERBOSITY, 0))


def print_messages() -> None:
    """Print the log messages of this process on stderr, as many as were asked for."""
    # From -vv on.
    level = _LEVELS.get(verbosity(), logging.DEBUG)
    logging.basicConfig(level=level, format="%(message)s")


def own_fault(error: Exception) -> PlatformError:
    """What is printed of an unforeseen error; its traceback goes into a file."""
    try:
        # Not in the home, which may be what the error is about.
        with tempfile.NamedTemporaryFile(
            "w", prefix="em-platform-", suffix=".log", delete=False, encoding="utf-8",
            errors="backslashreplace",
        ) as log:  # fmt: skip
            log.write("".join(traceback.format_exception(error)))
        where = f"the traceback is in {log.name}, please report it with that file"
    except OSError:
        where = "no file could be written for the traceback; free disk space"
    return PlatformError(f"{fault_of_ours(error)}; {where}")


@dataclass(slots=True)
class ConsoleOutput:
    """Lines of progress on the terminal, each with its time."""

    console: Console = field(default_factory=lambda: Console(highlight=False))
    is_quiet: bool = field(default_factory=lambda: verbosity() < 0)
    begun_s: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.begun_s

    def line(self, line: str) -> None:
        """One line of progress that stays; nothing where it is quiet."""
        if not self.is_quiet:
            self._write(line, end="\n")

    def status(self, line: str) -> None:
        """A line that the next one overwrites; nothing where there is no terminal."""
        if self.console.is_terminal and not self.is_quiet:
            # Padded, so that it wipes a longer line that stood there.
            self._write(f"{line:<70}", end="\r")

    def result(self, line: str) -> None:
        """One line that is printed in any case."""
        self._write(line, end="\n")

    def _write(self, line: str, *, end: str) -> None:
        # As it is: a path must not be broken, nor brackets be taken for colours.
        self.console.print(
            f"{self.seconds:6.1f} s  {line}", soft_wrap=True, markup=False, end=end
        )


@contextmanager
def step_progress(begun: str = "reading tiles") -> Iterator["Progress | None"]:
    """A line with the step and how much of it is done, on a terminal only."""
    console = Console(stderr=True)
    if not console.is_terminal or verbosity() < 0:
        yield None
        return
    with console.status(begun) as status:

        def report_progress(step: str, done: int, total: int, /) -> None:
            status.update(f"{step}: {done} of {total} pieces" if total else step)

        yield report_progress


def short(path: Path) -> str:
    """A path, seen from the present folder where it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
