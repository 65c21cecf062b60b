"""What the page remembers over a restart, and what the frames' folder adds to it."""

import json
import logging
from pathlib import Path

from pydantic import ValidationError

from em_platform.acquisition.frame_paths import acquisition_of, montage_folder
from em_platform.acquisition.recorder.reconcile import OF_THE_MONTAGE
from em_platform.errors import AcquisitionError, StorageError
from em_platform.messaging.topics import Body, read_body
from em_platform.operator.board import Board
from em_platform.operator.shared_board import SharedBoard
from em_platform.operator.tile_map import TileMap
from em_platform.storage.atomic import write_bytes

log = logging.getLogger(__name__)

_ENDS_SHOWN = 20  # each is a file to be read before the page is served


def restore(board: Board, path: Path) -> None:
    """Show again what `keep` wrote; a file that cannot be read is passed over."""
    try:
        kept = json.loads(path.read_bytes())
        tile_map = TileMap.restored(kept["map"], 1)
        board.finished.restore(kept["finished"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning(
            "operator: %s cannot be read (%s), what was shown last was expected; the "
            "page begins anew",
            path,
            error,
        )
        return
    board.show_map(tile_map)
    board.show_finished()


def keep(shared: SharedBoard, path: Path) -> None:
    """Write what no message would repeat; StorageError where it cannot be."""
    with shared.locked() as board:
        kept = {"map": board.map.kept(), "finished": board.finished.shown()}
        text = json.dumps(kept)
    write_bytes(path, text.encode())


def fill_map(shared: SharedBoard, frames: Path) -> None:
    """Mark the tiles of the shown montage whose frames are on disk and were missed.

    Where no tile was received yet, of the montage that runs: its latest acquisition.
    """
    with shared.locked() as board:
        montage_id = board.map.montage_id
        acquisition_id = board.map.acquisition_id
        known = {tile.tile_id for tile in board.map.tiles.values()}
        version = board.parts.version
    if not montage_id:
        return
    try:
        folder = montage_folder(frames, montage_id)
        acquisition_id = acquisition_id or _latest_acquisition(folder)
        # the bodies of tile.raw: written before they are published
        paths = sorted(folder.glob(f"{acquisition_id}_*.json"))
    except (AcquisitionError, OSError):
        return  # an id of another system, or a folder that is not there
    bodies = [_raw(path) for path in paths if path.stem not in known]
    with shared.locked() as board:
        # the map may have changed while the folder was read
        if board.map.montage_id != montage_id or not acquisition_id:
            return
        if board.map.acquisition_id not in ("", acquisition_id):
            return
        board.map.acquisition_id = acquisition_id
        version = board.parts.bump()
        for body in bodies:
            place = (body["row"], body["column"]) if body else None
            # what came by message meanwhile is newer
            if body and place not in board.map.tiles:
                board.map.imaged(body, version)


def find_finished(shared: SharedBoard, frames: Path) -> None:
    """Show the latest montages that were completed, as found in their folders."""
    ends = sorted(
        frames.glob("*/*.complete.json"), key=lambda path: path.stat().st_mtime
    )[-_ENDS_SHOWN:]
    for path in ends:
        try:
            body = json.loads(path.read_bytes())
            with shared.locked() as board:
                board.finished.completed(body, path.stat().st_mtime)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("operator: %s is passed over (%s)", path, error)
    with shared.locked() as board:
        board.show_finished()


def keep_or_complain(shared: SharedBoard, path: Path) -> None:
    """`keep`, where a full disk is a line in the log and not the end of the page."""
    try:
        keep(shared, path)
    except StorageError as error:
        log.warning("%s", error)


def _latest_acquisition(folder: Path) -> str:
    bodies = [p for p in folder.glob("*.json") if not p.name.endswith(OF_THE_MONTAGE)]
    if not bodies:
        return ""
    return acquisition_of(max(bodies, key=lambda path: path.stat().st_mtime).stem)


def _raw(path: Path) -> Body | None:
    try:
        message = read_body("tile.raw", path.read_bytes())
    except (OSError, ValidationError):
        return None
    body: Body = message.model_dump(mode="json")
    return body
