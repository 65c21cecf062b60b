"""What survives the end of the process: the verdict, and which tiles have theirs.

`<home>/qc/state.json` holds the verdict. `<home>/qc/tiles/<acquisition_id>.jsonl` has a
line for every part of a tile that was heard and for every tile that was judged; lines
are added and never changed. They reach the kernel before the handler returns, so that
`kill -9` loses none.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from em_platform.acquisition.events import safe_id
from em_platform.acquisition.qc.judge import Fault
from em_platform.acquisition.qc.verdict import Verdict
from em_platform.acquisition.qc.watch import Judged, Watch
from em_platform.errors import StorageError
from em_platform.model import Model
from em_platform.storage.atomic import write_bytes

log = logging.getLogger(__name__)

_KEPT = 3  # acquisitions: late messages of the one before still find it
_SUFFIX = ".jsonl"


class State(Model):
    """The verdict, who brought it about, and which words of others were heard."""

    verdict: Verdict = Verdict()
    by: str = ""
    heard: tuple[str, ...] = ()


def read_state(folder: Path) -> State:
    """As it was last written; GOOD where it never was."""
    path = folder / "state.json"
    try:
        return State.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return State()
    except (ValidationError, OSError) as error:
        log.error("qc: %s cannot be read (%s); starting without it", path, error)
        return State()


def write_state(folder: Path, state: State) -> None:
    """Keep the verdict; a full disk is logged, the verdict is said all the same."""
    try:
        write_bytes(folder / "state.json", state.model_dump_json().encode())
    except StorageError as error:
        log.error("%s", error)


class Journal:
    """The lines of the present acquisitions."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tiles"
        self._files: dict[str, TextIO] = {}

    def acquisitions(self) -> list[str]:
        """The ids of the acquisitions that are kept, the oldest first."""
        try:
            return [path.name.removesuffix(_SUFFIX) for path in self._kept()]
        except OSError:
            return []

    def note(self, acquisition_id: str, *line: Any) -> None:
        """Add one line; a full disk is logged."""
        try:
            file = self._files.get(acquisition_id) or self._open(acquisition_id)
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
            file.flush()
        except OSError as error:
            log.error(
                "qc: the journal of %s cannot be written (%s), tiles judged now would "
                "be judged again after a restart; free space on the disk",
                acquisition_id,
                error.strerror or error,
            )

    def replay(self, watch: Watch, now_s: float) -> None:
        """Bring a fresh watch to where the journal ends."""
        for line in self._lines(watch.acquisition_id):
            _follow(watch, line, now_s)
        watch.deafened()

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _open(self, acquisition_id: str) -> TextIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        # Line-buffered: one write per line, so that a kill leaves whole lines.
        file = self._path(acquisition_id).open("a", buffering=1, encoding="utf-8")
        self._files[acquisition_id] = file
        self._forget_old()
        return file

    def _forget_old(self) -> None:
        for path in self._kept()[:-_KEPT]:
            path.unlink(missing_ok=True)
            if (file := self._files.pop(path.name.removesuffix(_SUFFIX), None)) is None:
                continue
            file.close()

    def _kept(self) -> list[Path]:
        found = self._folder.glob(f"*{_SUFFIX}") if self._folder.is_dir() else ()
        return sorted(found, key=lambda path: path.stat().st_mtime_ns)

    def _path(self, acquisition_id: str) -> Path:
        return self._folder / f"{safe_id(acquisition_id)}{_SUFFIX}"

    def _lines(self, acquisition_id: str) -> Iterator[list[Any]]:
        path = self._path(acquisition_id)
        if not path.is_file():
            return
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(text)
            except ValueError:
                continue  # the disk was full in the middle of this line


def line_of(judged: Judged) -> tuple[Any, ...]:
    """The line that says that a tile has its verdict."""
    faults = [asdict(fault) for fault in judged.faults]
    return "judged", judged.tile_id, judged.counted, faults


def _follow(watch: Watch, line: list[Any], now_s: float) -> None:
    match line:
        case ["raw", fields]:
            watch.announce(fields, now_s)
        case ["expected", fields]:
            watch.expect(fields, now_s)
        case ["part", fields, part]:
            watch.take(fields, part, now_s)
        case ["judged", tile_id, counted, faults] if tile_id in watch.pending:
            pending = watch.pending.pop(tile_id)
            judged = Judged(
                number=pending.number,
                tile_id=tile_id,
                counted=counted,
                faults=tuple(Fault(**fault) for fault in faults),
            )
            watch.remember(judged, pending.facts())
        case ["forgiven"]:
            watch.forgive()
        case ["complete"]:
            watch.is_complete = True
