"""The flat field that lies beside the frames, read again when it has changed."""

import logging
from pathlib import Path

from em_platform.errors import DataError
from em_platform.stitching.flat_field import (
    KnownFlatField,
    acquired_flat_field,
    mirrored,
)

log = logging.getLogger(__name__)

BRIGHT, DARK = "bright.tiff", "dark.tiff"

_KEPT = 4
_State = tuple[tuple[int, int], ...]


class References:
    """Flat fields of folders; one that cannot be used is complained of and left out."""

    def __init__(self, *, flip: bool = False) -> None:
        self._flip = flip
        self._held: dict[Path, tuple[_State, KnownFlatField | None]] = {}

    def flat_field(self, folder: Path) -> KnownFlatField | None:
        """From the bright frame in `folder`, and the dark one; None without these."""
        state = (_state(folder / BRIGHT), _state(folder / DARK))
        held = self._held.get(folder)
        if held is None or held[0] != state:
            field = self._read(folder) if state[0] != (0, 0) else None
            held = (state, field)
            self._held.pop(folder, None)
            self._held[folder] = held
            while len(self._held) > _KEPT:
                del self._held[next(iter(self._held))]
        return held[1]

    def _read(self, folder: Path) -> KnownFlatField | None:
        try:
            found = acquired_flat_field(str(folder))
        except DataError as error:
            log.warning("%s; tiles stay as they are until there is a better one", error)
            return None
        return mirrored(found) if found is not None and self._flip else found


def _state(path: Path) -> tuple[int, int]:
    """Changes with the file; zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_ino
