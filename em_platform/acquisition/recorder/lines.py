"""What a service heard of each acquisition, line by line, so that it survives a kill.

`<folder>/<acquisition_id>.jsonl`; lines are added and never changed. A line has reached
the kernel when `note` returns, so that `kill -9` of the process loses none.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from em_platform.acquisition.recorder.events import safe_id

log = logging.getLogger(__name__)

_SUFFIX = ".jsonl"


class Lines:
    """The `kept` acquisitions that were begun last; older files are deleted."""

    def __init__(self, folder: Path, *, kept: int) -> None:
        self._folder = folder
        self._keep = kept
        self._files: dict[str, TextIO] = {}
        # As they were begun: a line that is added to an old one does not make it new.
        self._begun = self.acquisitions()

    def acquisitions(self) -> list[str]:
        """The ids of the acquisitions that are kept, the oldest first."""
        return [path.name.removesuffix(_SUFFIX) for path in self._kept()]

    def note(self, acquisition_id: str, *line: Any) -> None:
        """Add one line; where the disk is full, that is logged and the line is lost."""
        try:
            file = self._files.get(safe_id(acquisition_id))
            file = file or self._open(acquisition_id)
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
            file.flush()
        except OSError as error:
            log.error(
                "%s: a line about %s could not be kept (%s), after a restart it would "
                "be missed; free space on the disk",
                self._folder.parent.name,
                acquisition_id,
                error.strerror or error,
            )

    def read(self, acquisition_id: str) -> Iterator[list[Any]]:
        """All lines of one acquisition; a broken one is passed over."""
        path = self._path(acquisition_id)
        if not path.is_file():
            return
        with path.open(encoding="utf-8", errors="replace") as file:
            for text in file:
                try:
                    yield json.loads(text)
                except ValueError:
                    continue  # the disk was full in the middle of this line

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _open(self, acquisition_id: str) -> TextIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(acquisition_id)
        file = path.open("a", encoding="utf-8")
        if file.tell():
            file.write("\n")  # after a line that a full disk has cut
        name = safe_id(acquisition_id)
        self._files[name] = file
        if name not in self._begun:
            self._begun.append(name)
        self._forget_old()
        return file

    def _forget_old(self) -> None:
        for name in self._begun[: -self._keep]:
            old = self._files.pop(name, None)
            if old is not None:
                old.close()
            self._path(name).unlink(missing_ok=True)
        del self._begun[: -self._keep]

    def _kept(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        found = self._folder.glob(f"*{_SUFFIX}")
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def _path(self, acquisition_id: str) -> Path:
        return self._folder / f"{safe_id(acquisition_id)}{_SUFFIX}"
