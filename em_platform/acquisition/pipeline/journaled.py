"""What the journal keeps of a tile, and what two mentions of a tile have in common."""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import psutil

from em_platform.acquisition.frame_paths import acquisition_of
from em_platform.messaging.topics import Body
from em_platform.model import Box, Json, Size
from em_platform.stitching.sidecar_files import processed_path

Step = Literal["process", "match"]

_SENDING = ("source", "sent_at", "sequence")  # as in recorder.events
_TILE = ("tile_id", "montage_id", "roi_id", "row", "column", "overlap")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large a processed tile is, and which part of it shows specimen."""

    size: Size
    valid: Box


@dataclass(frozen=True, slots=True, kw_only=True)
class JournaledTile:
    """One tile of which a message came; `body` is that of its `tile.raw`.

    `number` grows in which they came. `montage` is the acquisition that the tile
    belongs to, empty for a frame that belongs to none. `failure` is the sentence of a
    frame that could not be processed.
    """

    key: str
    montage: str
    body: Body
    number: int = 0
    attempts: int = 0
    shape: Shape | None = None
    failure: str = ""

    @property
    def tile_id(self) -> str:
        """As the camera has it."""
        return str(self.body["tile_id"])

    @property
    def place(self) -> tuple[int, int]:
        """Row and column in the raster."""
        return int(self.body["row"]), int(self.body["column"])

    @property
    def path(self) -> str:
        """Of the raw frame."""
        return str(self.body["path"])

    @property
    def processed_path(self) -> str:
        """Of the processed frame, beside the raw one."""
        return processed_path(self.path)

    def fields(self) -> dict[str, Json]:
        """Those that all messages about the tile share."""
        place = self.body.get("stage_position")
        shared = {name: self.body.get(name) for name in _TILE}
        return shared | {"stage_position": None if place is None else tuple(place)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One step of one tile; of a match also the neighbours that came before."""

    step: Step
    tile: JournaledTile
    neighbours: tuple[JournaledTile, ...] = field(default=())


def journaled(body: Body, headers: Mapping[str, str]) -> JournaledTile:
    """The tile of one `tile.raw`; the same for the same tile sent twice.

    Frames without a montage may have the same id again and again: of these each sending
    is a tile of its own.
    """
    montage = montage_of(body)
    key = str(body["tile_id"])
    if not montage:
        key = "|".join((key, *(headers.get(name, "") for name in _SENDING)))
    return JournaledTile(key=key, montage=montage, body=body)


def montage_of(body: Body) -> str:
    """Which tiles are neighbours: those of one acquisition.

    Where the tile's id does not tell it, those of one montage and tilt.
    """
    if not body["montage_id"]:
        return ""
    tile_id = str(body["tile_id"])
    # An id of another system comes back as it is.
    acquisition = acquisition_of(tile_id)
    if acquisition != tile_id:
        return acquisition
    # Each angle of a tilt series has tiles at the same rows and columns.
    tilt = body.get("tilt_index")
    return str(body["montage_id"]) + ("" if tilt is None else f"|{tilt}")


def shape_text(shape: Shape | None) -> str:
    """As it is kept."""
    if shape is None:
        return ""
    size, box = shape.size, shape.valid
    numbers = (size.height_px, size.width_px, box.y0, box.x0, box.y1, box.x1)
    return json.dumps(numbers)


def shape_of(text: str) -> Shape | None:
    """Undoes the former."""
    if not text:
        return None
    height, width, y0, x0, y1, x1 = json.loads(text)
    return Shape(
        size=Size(height_px=height, width_px=width),
        valid=Box(y0=y0, x0=x0, y1=y1, x1=x1),
    )


@cache
def own_name() -> str:
    """Host, process id and start of this process; no other process ever has it."""
    pid = os.getpid()
    return f"{socket.gethostname()}|{pid}|{psutil.Process(pid).create_time()}"


def is_gone(name: str) -> bool:
    """Whether the process of `name` has ended; False where that is not known."""
    host, _, rest = name.rpartition("|")[0].partition("|")
    started = name.rpartition("|")[2]
    # Processes of another computer cannot be seen: their lease decides.
    if host != socket.gethostname() or not rest.isdigit():
        return False
    try:
        process = psutil.Process(int(rest))
        # A process id comes again, but not with the same start.
        is_other = abs(process.create_time() - float(started)) > 1.0
        # A zombie has ended; its parent has only not asked for it yet.
        return is_other or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, ValueError):
        return False
