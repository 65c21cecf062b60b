"""What every kind of list of tiles gives, whoever wrote it."""

import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from em_platform.formats import list_folder, read_text
from em_platform.model import Failure
from em_platform.model.modality import Modality
from em_platform.storage.layout import StorageOptions

# From a tenth of an atom to what no microscope has.
_PIXELS_NM = (1e-3, 1e9)


def pixel_size(value: Any) -> float | None:
    """A pixel's length in nm as a list or a person gives it; None where it is none."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if _PIXELS_NM[0] <= found <= _PIXELS_NM[1] else None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOptions:
    """What the caller knows beside what lies in the folder.

    `overlap` below 1 is a fraction of a tile, else pixels; None where the pixels have
    to say it. `level` is the mipmap level
    and `section` the section of a file that holds several. `options` are fsspec's.
    """

    pixel_nm: float | None = None
    overlap: float | None = None
    pattern: str | None = None
    level: int | None = None
    section: int | None = None
    image: str | None = None
    options: StorageOptions = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedTile:
    """One line of a list; the file was not looked at.

    The place is in pixels of the file; it is NaN where the list has none.
    """

    name: str
    uri: str
    x_px: float = math.nan
    y_px: float = math.nan
    row: int | None = None
    column: int | None = None
    stage_nm: tuple[float, float] | None = None
    mask_uri: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TileList:
    """A list as it was read: lines that are right, and what is wrong with the rest.

    `planned_tiles` is the size of the plan where it says more than the lines, else 0.
    """

    uri: str
    tiles: tuple[ListedTile, ...]
    failures: tuple[Failure, ...] = ()
    planned_tiles: int = 0
    on_grid: bool = False
    """Places are rows and columns; pixels follow from the overlap."""
    pixel_nm: float | None = None
    microscope: str = "unknown"
    modality: Modality | None = None
    magnification: int | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TileFolder:
    """A folder and what lies in it; listed once."""

    folder: str
    names: tuple[str, ...]
    options: StorageOptions = field(default_factory=dict, repr=False)

    def text(self, name: str) -> str:
        """The text of one file in the folder."""
        return read_text(self.uri(name), self.options)

    def uri(self, name: str) -> str:
        """The full address of one file in the folder."""
        return f"{self.folder.rstrip('/')}/{name}"


def open_tile_folder(folder: str, options: StorageOptions) -> TileFolder:
    """List a folder; StorageError where it may not be read."""
    names = tuple(list_folder(folder, options))
    return TileFolder(folder=folder, names=names, options=options)


class TileListKind(Protocol):
    """One way in which microscopes and programs list tiles."""

    def claims(self, name: str, content: Any) -> bool:
        """Whether a file of this name and content (text, or parsed JSON) is one."""

    def read(
        self, place: TileFolder, name: str, *, content: Any, options: InputOptions
    ) -> TileList:
        """The list; FormatError or ConfigError where nothing of it can be used."""
