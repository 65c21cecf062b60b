"""What survives the end of the process: the verdict, and which tiles have theirs.

`<home>/qc/state.json` holds the verdict. `<home>/qc/tiles/<acquisition_id>.jsonl` has a
line for every part of a tile that was heard and for every tile that was judged.
"""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from em_platform.acquisition.qc.judge import Fault
from em_platform.acquisition.qc.verdict import Verdict
from em_platform.acquisition.qc.watch import Judged, Watch
from em_platform.acquisition.recorder.lines import Lines
from em_platform.errors import StorageError
from em_platform.model import Model
from em_platform.storage.atomic import write_bytes

log = logging.getLogger(__name__)

_KEPT = 3  # acquisitions: late messages of the one before still find it


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


def lines_of(folder: Path) -> Lines:
    """The journal of the tiles."""
    return Lines(folder / "tiles", kept=_KEPT)


def replay(lines: Lines, watch: Watch, now_s: float) -> None:
    """Bring a fresh watch to where its lines end."""
    for line in lines.read(watch.acquisition_id):
        _follow(watch, line, now_s)
    watch.deafened()


def verdicts_of(home: Path, acquisition_id: str) -> dict[str, bool]:
    """Tile -> whether it passed, of the verdicts that were published."""
    lines = lines_of(home / "qc").read(acquisition_id)
    return {line[1]: not line[3] for line in lines if line[0] == "judged"}


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
                cell=pending.cell,
                counted=counted,
                faults=tuple(Fault(**fault) for fault in faults),
            )
            watch.remember(judged, pending.facts())
        case ["forgiven"]:
            watch.forgive()
        case ["complete"]:
            watch.is_complete = True
