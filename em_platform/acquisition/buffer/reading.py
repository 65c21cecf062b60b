"""Reads frames once after they were saved: checksum, length, size."""

import hashlib
import logging
import os
from pathlib import Path

import numpy as np

from em_platform.acquisition.buffer.journal import Journal
from em_platform.acquisition.buffer.tables import TileRow
from em_platform.errors import FormatError
from em_platform.formats import read_header

log = logging.getLogger(__name__)

_AT_ONCE = 64
_PIECE = 1 << 20


class Reader:
    """Notes what the frames' files hold, soon after they came: they are in memory yet.

    The checksum is the one that aloha gets: a file that changes later is found out.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def tick(self) -> None:
        """Read what nobody has read."""
        for tile in self._journal.unread_tiles(limit=_AT_ONCE):
            self.read(tile)

    def read(self, tile: TileRow) -> bool:
        """Read one frame; one that cannot be read is set aside with the sentence."""
        try:
            found = found_in(Path(tile.path))
        except FormatError as error:
            if str(error) != tile.sentence:
                log.warning("buffer: tile %s: %s", tile.tile_id, error)
            self._journal.note_refused(tile.tile_id, str(error))
            return False
        self._journal.note_read(tile.tile_id, found)
        return True


def found_in(path: Path) -> dict[str, int | str]:
    """Checksum, length, time and image size of a frame's file, by column.

    Raises
    ------
    FormatError
        It is not there, or no image of grey levels.
    """
    header = read_header(str(path))
    digest, length = hashlib.sha256(), 0
    try:
        with path.open("rb", buffering=0) as file:
            mtime_ns = os.fstat(file.fileno()).st_mtime_ns
            while piece := file.read(_PIECE):
                digest.update(piece)
                length += len(piece)
    except OSError as error:
        raise FormatError(
            f"{path}: cannot be read ({error.strerror}), expected a frame; check access"
        ) from error
    return {
        "sha256": digest.hexdigest(),
        "bytes": length,
        "mtime_ns": mtime_ns,
        "height_px": header.size.height_px,
        "width_px": header.size.width_px,
        "bits": np.dtype(header.dtype).itemsize * 8,
    }
