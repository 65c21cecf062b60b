"""Lines of progress on the terminal, each with the seconds since the start."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console


@dataclass(slots=True)
class ConsoleOutput:
    """Lines of progress on the terminal, each with its time."""

    console: Console = field(default_factory=lambda: Console(highlight=False))
    begun_s: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.begun_s

    def line(self, line: str) -> None:
        """One line that stays."""
        self._write(line, end="\n")

    def status(self, line: str) -> None:
        """A line that the next one overwrites; nothing where there is no terminal."""
        if os.isatty(1):
            self._write(f"{line:<70}", end="\r")

    def _write(self, line: str, *, end: str) -> None:
        self.console.print(
            f"{self.seconds:6.1f} s  {line}", soft_wrap=True, markup=False, end=end
        )


def short(path: Path) -> str:
    """A path, seen from the present folder where it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
