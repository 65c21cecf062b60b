"""An acquisition as the buffer sends it to aloha, and aloha to the TEM database."""

from collections import Counter
from datetime import datetime
from typing import Any, Literal

from pydantic import Field, model_validator

from em_platform.model.base import Model, Size
from em_platform.model.montage import Failure

# Ids that are names of folders and partitions, too.
# No slash, no leading dot: they cannot lead out of a folder or hide.
SAFE_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

Point = tuple[float, float]
TilePart = Literal["processed frame", "figures", "matches", "verdict"]


class MeasuredTile(Model):
    """What the pixels of one tile say.

    Grey levels are those of the image that was measured: the processed tile for the
    `pipeline`, the frame for `aloha`, which measures a tile that the pipeline did not.
    `focus_score` is higher for a sharper tile: 1 - the focus of
    `tile.statistics.focus`, in which lower is better.
    """

    minimum: float
    maximum: float
    mean: float
    std: float
    focus_score: float
    measured_by: Literal["pipeline", "aloha"] = "pipeline"


class NeighbourMatch(Model):
    """How one tile lies to a neighbour: one entry of `tile.matches`.

    `row` and `column` are the neighbour's, `position` says where it is seen from the
    tile. Offsets are in pixels, `rotation_rad` in radians. `tile_points` and
    `neighbour_points` are matched places `(y, x)` in pixels of each image.
    """

    row: int
    column: int
    position: Literal["top", "bottom", "left", "right"]
    dx_px: float
    dy_px: float
    dx_std_px: float
    dy_std_px: float
    distance_px: float
    rotation_rad: float
    tile_points: tuple[Point, ...] = ()
    neighbour_points: tuple[Point, ...] = ()


class UploadedTile(Model):
    """One tile as announced; `sha256` and `bytes` are those of the frame's file.

    `stage_x_nm, stage_y_nm` is where the stage stood. `passed` and `faults` repeat
    `qc.tile`. `missing` names what should have been made of it and was not when it was
    announced. `uri` is empty until aloha has stored the tile.
    """

    tile_id: str = Field(pattern=SAFE_ID, max_length=200)
    raster_index: int = Field(ge=0)
    row: int
    column: int
    stage_x_nm: int
    stage_y_nm: int
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(gt=0)
    statistics: MeasuredTile | None = None
    matches: tuple[NeighbourMatch, ...] = ()
    passed: bool | None = None
    faults: tuple[dict[str, Any], ...] = ()
    missing: tuple[TilePart, ...] = ()
    uri: str = ""


class UsedInstrument(Model):
    """With what an acquisition was imaged; from `camera.status` and `scope.status`."""

    microscope: str = "unknown"
    camera_model: str = "unknown"
    camera_serial: str = "unknown"
    camera_bit_depth: int | None = Field(default=None, gt=0)
    exposure_us: float | None = Field(default=None, ge=0)
    magnification: int | None = None
    spot_size: int | None = None
    tank_voltage_kv: int | None = None


class AcquisitionUpload(Model):
    """One acquisition: everything that is known of it but its pixels.

    `roi` is the body of `roi.current`; `task_id` and `replaces_acquisition_id` stand in
    its `metadata` where the TEM database had planned the acquisition. `failures` are
    the announced tiles whose frames could not be sent. Of an acquisition that was
    aborted `pixel_nm` may be unknown, and no tiles are announced.
    """

    acquisition_id: str = Field(pattern=SAFE_ID, max_length=200)
    montage_id: str
    kind: Literal["montage", "tilt_series", "lens_correction", "survey"] = "montage"
    specimen_id: str | None = None
    section_id: str | None = None
    aperture_id: int | None = None
    task_id: str | None = None
    replaces_acquisition_id: str | None = None
    tilt_angle_deg: float | None = None
    tilt_series_id: str | None = None
    started_at: datetime
    ended_at: datetime | None = None
    pixel_nm: float | None = Field(default=None, gt=0)
    rotation_rad: float = 0.0
    aperture_centroid_x_nm: int = 0
    aperture_centroid_y_nm: int = 0
    overlap_px: int | None = None
    tile_size: Size
    bit_depth: int | None = Field(default=None, gt=0)
    instrument: UsedInstrument = UsedInstrument()
    roi: dict[str, Any] = Field(default_factory=dict)
    tiles: tuple[UploadedTile, ...] = ()
    failures: tuple[Failure, ...] = ()

    @model_validator(mode="after")
    def _each_tile_once(self) -> "AcquisitionUpload":
        for name in ("tile_id", "raster_index"):
            values = [getattr(tile, name) for tile in self.tiles]
            if len(set(values)) < len(values):
                twice = next(v for v in values if values.count(v) > 1)
                raise ValueError(
                    f"{name} {twice} stands twice; announce each tile once"
                )
        return self

    @property
    def what_is_missing(self) -> str:
        """One sentence on what was not made of its tiles; empty where all was."""
        counts = Counter(part for tile in self.tiles for part in tile.missing)
        if not counts:
            return ""
        named = ", ".join(f"{count} without {part}" for part, count in counts.items())
        return (
            f"acquisition {self.acquisition_id}: {named}, expected all of its "
            f"{len(self.tiles)} tiles with each; see the logs of the pipeline and of "
            "quality control"
        )

    def tile(self, tile_id: str) -> UploadedTile | None:
        """The announced tile of this id."""
        return next((tile for tile in self.tiles if tile.tile_id == tile_id), None)


class StoredTile(Model):
    """Aloha's answer to a tile: what it took, and where it now lies."""

    sha256: str
    bytes: int
    uri: str
