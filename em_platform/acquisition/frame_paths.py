"""Where the camera and the session leave what they make, one folder a montage.

`<frames>/<montage_id>/` holds, all of them whole or absent:

- `<tile_id>.tiff`, the frame, and `<tile_id>.json`, the body of its `tile.raw`;
- `<acquisition_id>.complete.json`, the body of `montage.complete`;
- `<acquisition_id>.recipe.json`, how its frames become tiles, decided at the first one,
  with the planes of its flat field in `<acquisition_id>.<digest>.npz`;
- `<acquisition_id>.truth.json`, what a simulated microscope knows: the fit is compared
  with it (`stitching.truth`).
"""

import os
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from em_platform.config import Settings
from em_platform.errors import DataError, DeviceError
from em_platform.stitching.sidecar_files import TRUTH

# No slash leads out of the folder, no leading dot hides it: those names are
# of reservations and of files that are being written.
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# As `tile_name` writes them: from 1000 on a row has more than three digits.
_TILE = re.compile(r"(.+)_\d{3,}_\d{3,}(?:r(\d+))?")
_SHOWN = 200  # characters of a path that a stranger may have written
PREVIEW = "preview"
"""Folder of frames that belong to no montage (`montage_id` is empty)."""


def frames_folder(settings: Settings) -> Path:
    """The folder in which the camera saves."""
    chosen = settings.acquisition.frames
    return (Path(chosen) if chosen else settings.home / "frames").absolute()


def frame_path(frames: Path, montage_id: str, tile_id: str) -> Path:
    """Of one frame."""
    return montage_folder(frames, montage_id) / f"{_safe(tile_id)}.tiff"


def checked_frame(frames: Path, path: str, montage_id: str, tile_id: str) -> Path:
    """The path that a message names, where it is that of its own frame.

    So no message makes us read, write beside or delete another file: not one outside of
    the folder, none of another montage, none by the network.

    Raises
    ------
    DataError
        The rule gives another path, or a link leads out of the folder.
    """
    try:
        expected = frame_path(frames, montage_id, tile_id)
    except DeviceError as error:
        raise DataError(str(error)) from error
    root, named = os.path.realpath(frames), Path(path)
    folder = os.path.join(root, expected.parent.name)
    # Real paths: all computers may name the folder of frames by links of their own.
    is_rule = (
        named.is_absolute()
        and named.name == expected.name
        and os.path.realpath(named.parent) == folder
    )
    if is_rule and os.path.realpath(named).startswith(f"{root}{os.sep}"):
        return named
    raise DataError(
        f"tile {tile_id}: its message names the frame {path[:_SHOWN]!r}, expected "
        f"{expected}; correct its sender, or let acquisition.frames name the folder "
        "of the camera"
    )


def tile_body_path(frames: Path, montage_id: str, tile_id: str) -> Path:
    """Of the body of the frame's `tile.raw`."""
    return montage_folder(frames, montage_id) / f"{_safe(tile_id)}.json"


def complete_body_path(frames: Path, montage_id: str, acquisition_id: str) -> Path:
    """Of the body of the acquisition's `montage.complete`."""
    folder = montage_folder(frames, montage_id)
    return folder / f"{_safe(acquisition_id)}.complete.json"


def truth_path(frames: Path, montage_id: str, acquisition_id: str) -> Path:
    """Of what the simulation knows about the acquisition."""
    folder = montage_folder(frames, montage_id)
    return folder / f"{_safe(acquisition_id)}{TRUTH}"


def montage_folder(frames: Path, montage_id: str) -> Path:
    """Of all that belongs to one montage."""
    return frames / (_safe(montage_id) if montage_id else PREVIEW)


def tile_name(acquisition_id: str, row: int, column: int, *, retry: int = 0) -> str:
    """The id of one tile, unique among all acquisitions and all of its retries.

    A frame that is imaged again has an id of its own: what is still on its way about
    the rejected frame cannot be taken for the new one.
    """
    name = f"{acquisition_id}_{row:03d}_{column:03d}"
    return f"{name}r{retry}" if retry else name


def acquisition_of(tile_id: str) -> str:
    """The acquisition that a tile of `tile_name` belongs to; else the id itself."""
    found = _TILE.fullmatch(tile_id)
    return found[1] if found else tile_id


def owner_of(tile_id: str, montage_id: str) -> str:
    """The acquisition of a tile; its montage where another system has named the tile.

    All tiles of such a montage go together.
    """
    acquisition_id = acquisition_of(tile_id)
    return acquisition_id if acquisition_id != tile_id else montage_id


def retry_of(tile_id: str) -> int:
    """How often the tile had been imaged before this frame; 0 for the first one."""
    found = _TILE.fullmatch(tile_id)
    return int(found[2] or 0) if found else 0


def reserve_id(frames: Path, montage_id: str, started_at: datetime) -> str:
    """A path-safe id that no other run of this montage has or will have.

    It is the montage's id and the second of the start; a second run in that second
    gets a letter more. An empty hidden file keeps the id.
    """
    folder = montage_folder(frames, montage_id)
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{montage_id}-{started_at:%Y%m%dt%H%M%S}"
    letter: str
    for letter in ("", *"abcdefghijklmnopqrstuvwxyz"):
        with suppress(FileExistsError):
            # O_EXCL: of several processes only one makes the file
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
            os.close(os.open(folder / f".{stem}{letter}.reserved", flags))
            return stem + letter
    raise DeviceError(
        f"frames: 27 runs of {montage_id} began in one second; wait a second"
    )


def _safe(name: str) -> str:
    if not _SAFE.fullmatch(name):
        raise DeviceError(
            f"frames: the id {name!r} cannot be a file's name, expected letters, "
            "digits, '.', '_' and '-'; choose another id"
        )
    return name
