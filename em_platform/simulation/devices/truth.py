"""What the simulation knows and a real microscope does not, written for tests."""

import time
from pathlib import Path

from pydantic import Field

from em_platform.model import LensModel, Model, Size, TilePlacement
from em_platform.simulation.devices.faults import Fault
from em_platform.storage.atomic import write_bytes

_SMALL = 64  # tiles; up to here the file is written with each tile
_PERIOD_S = 1.0


class GainTruth(Model):
    """Arguments of imaging.exposure.camera_gain that give the camera's gain."""

    seed: int
    vignette: float
    pattern: float
    dust: int


class TileTruth(Model):
    """Where one tile truly lies, and what is wrong with it.

    `placement` is in world pixels: world = placement(p + field(p)) for the camera's
    pixel p and the displacement field of the lens. `nominal_*` is the corner where the
    stage reported to be.
    """

    tile_id: str
    row: int
    column: int
    placement: TilePlacement
    nominal_y_px: float
    nominal_x_px: float
    beam: float
    faults: tuple[Fault, ...] = ()


class MontageTruth(Model):
    """All that decides the pixels of one acquisition."""

    acquisition_id: str
    montage_id: str
    seed: int
    section: int
    pixel_nm: float
    size: Size
    lens: LensModel | None = None
    gain: GainTruth
    tiles: dict[str, TileTruth] = Field(default_factory=dict)


class TruthFile:
    """One acquisition's truth on disk; goes on where an earlier process ended."""

    def __init__(self, path: Path, empty: MontageTruth) -> None:
        self._path = path
        self._truth = empty
        if path.is_file():
            earlier = MontageTruth.model_validate_json(path.read_bytes())
            self._truth = empty.model_copy(update={"tiles": earlier.tiles})
        self._written_s = 0.0
        self._waiting = False

    def add(self, tile: TileTruth) -> None:
        """Note one tile; of a large montage the file follows within a second."""
        self._truth.tiles[tile.tile_id] = tile
        self._waiting = True
        recent = time.monotonic() - self._written_s < _PERIOD_S
        if len(self._truth.tiles) <= _SMALL or not recent:
            self.flush()

    def flush(self) -> None:
        """Write what is not on disk yet."""
        if self._waiting:
            write_bytes(self._path, self._truth.model_dump_json(indent=1).encode())
            self._written_s, self._waiting = time.monotonic(), False
