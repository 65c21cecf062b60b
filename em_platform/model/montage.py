"""Many tiles of one region: as imaged, and as fitted together."""

from datetime import datetime

from pydantic import Field

from em_platform.model.base import Model, Size
from em_platform.model.modality import Modality
from em_platform.model.tile import Tile, TileMatch


class Failure(Model):
    """One item that was excluded, with the one sentence that says why."""

    item: str
    error: str
    sentence: str


class PlannedTile(Model):
    """A tile that a montage had when it was first recorded, and its place in it."""

    tile_id: str
    row: int
    column: int


class Montage(Model):
    """The tiles of one region as the microscope (or a folder) gave them.

    `acquisition_id` is path-safe and is the Dagster partition key. `failures` are the
    items that were planned and could not be taken in; the rest is still good.
    `expected_tiles` is the size of the plan: what completeness is judged against.
    `planned` are the tiles that were once there, so that a later run misses those
    that have gone; empty where nothing was recorded before.
    """

    # A file's name may have 255 bytes; the rest is for suffixes.
    acquisition_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)
    montage_id: str
    tiles: tuple[Tile, ...]
    tile_size: Size
    pixel_nm: float | None = Field(default=None, gt=0)
    microscope: str = "unknown"
    modality: Modality | None = None
    """By the list or the files of the tiles; None where neither says it."""
    magnification: int | None = None
    specimen_id: str | None = None
    section_id: str | None = None
    expected_tiles: int
    started_at: datetime | None = None
    ended_at: datetime | None = None
    failures: tuple[Failure, ...] = ()
    planned: tuple[PlannedTile, ...] = ()

    @property
    def pixels(self) -> int:
        """How many pixels all tiles have."""
        return len(self.tiles) * self.tile_size.height_px * self.tile_size.width_px


class TilePlacement(Model):
    """Where one tile lies in the montage.

    A tile pixel `(y, x)` is at `(y_px, x_px) + [[yy, yx], [xy, xx]] @ (y, x)`, after
    the lens correction where there is one. `component` is its connected
    component by matches: 0 is the largest, and a tile outside of it is kept at its
    nominal stage position.
    """

    tile_id: str
    y_px: float
    x_px: float
    yy: float = 1.0
    yx: float = 0.0
    xy: float = 0.0
    xx: float = 1.0
    residual_px: float | None = None
    component: int = 0


class MontageFit(Model):
    """One place for every tile, and how well each match agrees with it."""

    acquisition_id: str
    placements: tuple[TilePlacement, ...]
    matches: tuple[TileMatch, ...]
    residual_px: float


class LensModel(Model):
    """A polynomial displacement field: `corrected = measured + field(measured)`.

    The polynomial runs over normalised coordinates `u = (2 y - (h - 1)) / max(h, w)`,
    `v = (2 x - (w - 1)) / max(h, w)`; coefficient k multiplies `u**i * v**j` in the
    order of increasing total degree, then increasing j. Displacements are in pixels.
    The constant and the magnification/rotation part are zero by choice of gauge.
    """

    microscope: str
    magnification: int
    size: Size
    degree: int = Field(ge=2, le=9)
    dy_px: tuple[float, ...]
    dx_px: tuple[float, ...]
    residual_mean_px: float
    residual_std_px: float
    points: int
