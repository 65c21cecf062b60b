"""What the simulated camera computes: one frame from all that the devices have said."""

import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from TEM_comms.camera import Command
from TEM_comms.camera import Settings as CameraChange
from TEM_comms.scope import Status as ScopeStatus
from TEM_comms.stage.motion import Status as StageStatus

from em_platform.acquisition.devices.faults import TileErrors, tile_errors
from em_platform.acquisition.devices.optics import place, radial_lens, view
from em_platform.acquisition.devices.specimen import (
    EMPTY_GREY,
    Specimen,
    open_specimen,
)
from em_platform.acquisition.devices.truth import GainTruth, MontageTruth, TileTruth
from em_platform.acquisition.raster import image_position
from em_platform.config import AcquisitionSettings
from em_platform.imaging.exposure import beam_level, camera_gain, defocused, expose
from em_platform.model import LensModel, Size, TilePlacement

_FOCUS_PER_PX = 50.0  # steps of the focus knob that blur by one pixel
_DARK_ELECTRONS = 0.002  # share of the light that a closed screen lets through


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame and what is true of it."""

    image: NDArray[np.uint8] | NDArray[np.uint16]
    tile: TileTruth
    montage: MontageTruth


class Sensor:
    """Keeps what stage and column have last said; makes frames from it.

    The same command, seed and stage position give the same bytes.
    """

    def __init__(self, settings: AcquisitionSettings) -> None:
        simulation = settings.simulation
        self.stage: StageStatus | None = None
        self.scope: ScopeStatus | None = None
        self.section: int | None = None
        self.exposure_us = simulation.exposure_ms * 1000
        self._settings, self._simulation = settings, simulation
        self._gain_db = 0.0
        self._size = Size(height_px=simulation.tile_px, width_px=simulation.tile_px)
        self._specimens: dict[float, Specimen] = {}
        self._prepare()

    def change(self, change: CameraChange) -> None:
        """Take new settings; None keeps a value."""
        size = self._size
        self._gain_db = self._gain_db if change.gain is None else change.gain
        if change.exposure is not None and change.exposure > 0:
            self.exposure_us = change.exposure
        self._size = Size(
            height_px=change.height or size.height_px,
            width_px=change.width or size.width_px,
        )
        if self._size != size:
            self._prepare()

    def status(self) -> dict[str, Any]:
        """The fields of `camera.status`."""
        return {
            "exposure": self.exposure_us,
            "gain": self._gain_db,
            "width": self._size.width_px,
            "height": self._size.height_px,
            "temp": -10.0,
            "target_temp": -10.0,
            "device_name": "Simulated camera",
            "device_model_id": "em-platform",
            "device_sn": f"SIM-{self._simulation.seed}",
            "bit_depth": self._simulation.bit_depth,
        }

    def warm_up(self) -> None:
        """Compile what the first frame needs, so that it comes as fast as the rest."""
        small = Size(height_px=64, width_px=64)
        corner = place("warm-up", y_px=0, x_px=0, size=small)
        view(self._specimen(), corner, size=small)
        if self._lens is not None:
            lens = radial_lens(small, edge_px=1.0)
            view(self._specimen(), corner, size=small, lens=lens)

    def frame(self, command: Command) -> Frame:
        """The frame of one command at the stage's last known place."""
        settings = self._settings
        errors = tile_errors(
            self._simulation,
            montage_id=command.montage_id,
            row=command.row,
            column=command.column,
            raster=(settings.rows, settings.columns),
        )
        tile = self._truth_of(command, errors)
        light = self._light(tile.placement, errors)
        relative = self.exposure_us / (self._simulation.exposure_ms * 1000)
        image = expose(
            light,
            noise_key=[
                self._simulation.seed,
                zlib.crc32(command.montage_id.encode()),
                command.row,
                command.column,
            ],
            gain=self._gain,
            beam=tile.beam * relative * 10 ** (self._gain_db / 20),
            electrons=self._simulation.electrons * relative,
            bit_depth=self._simulation.bit_depth,
        )
        return Frame(image=image, tile=tile, montage=self._montage(command.montage_id))

    def _light(
        self, placement: TilePlacement, errors: TileErrors
    ) -> NDArray[np.float32]:
        shape = (self._size.height_px, self._size.width_px)
        if self.scope is not None and self.scope.screen == "down":
            return np.full(shape, 255.0 * _DARK_ELECTRONS, np.float32)
        if "blank" in errors.faults:
            return np.full(shape, EMPTY_GREY, np.float32)
        light = view(
            self._specimen(),
            placement,
            size=self._size,
            section=self.section or 0,
            lens=self._lens,
        )
        blur_px = self._simulation.blur_px if "blurred" in errors.faults else 0.0
        if self.scope is not None:
            blur_px = math.hypot(blur_px, self.scope.focus / _FOCUS_PER_PX)
        return defocused(light, blur_px) if blur_px > 0.2 else light

    def _truth_of(self, command: Command, errors: TileErrors) -> TileTruth:
        stage = self.stage
        x_nm = 0 if stage is None or stage.x is None else stage.x
        y_nm = 0 if stage is None or stage.y is None else stage.y
        middle_y, middle_x = image_position(
            x_nm,
            y_nm,
            pixel_nm=self._pixel_nm(),
            rotation_rad=math.radians(self._simulation.rotation_deg),
        )
        y = middle_y - self._size.height_px / 2
        x = middle_x - self._size.width_px / 2
        number = command.row * self._settings.columns + command.column
        return TileTruth(
            tile_id=command.tile_id,
            row=command.row,
            column=command.column,
            placement=place(
                command.tile_id,
                y_px=y + errors.dy_px,
                x_px=x + errors.dx_px,
                size=self._size,
                rotation_rad=errors.turn_rad,
            ),
            nominal_y_px=y,
            nominal_x_px=x,
            beam=beam_level(
                number, seed=self._simulation.seed, drift=self._simulation.drift
            ),
            faults=errors.faults,
        )

    def _montage(self, montage_id: str) -> MontageTruth:
        return MontageTruth(
            acquisition_id="",
            montage_id=montage_id,
            seed=self._simulation.seed,
            section=self.section or 0,
            pixel_nm=self._pixel_nm(),
            size=self._size,
            lens=self._lens,
            gain=self._gain_truth,
        )

    def _pixel_nm(self) -> float:
        """Of the specimen; as the magnification falls, a pixel covers more of it."""
        settings = self._settings
        if self.scope is None:
            return settings.pixel_nm
        magnification = int(self.scope.mag)
        return settings.pixel_nm * settings.magnification / magnification

    def _specimen(self) -> Specimen:
        pixel_nm = self._pixel_nm()
        if pixel_nm not in self._specimens:
            self._specimens[pixel_nm] = open_specimen(
                self._simulation.specimen,
                seed=self._simulation.seed,
                pixel_nm=pixel_nm,
            )
        return self._specimens[pixel_nm]

    def _prepare(self) -> None:
        """Lens and gain for the present size."""
        simulation = self._simulation
        self._lens: LensModel | None = None
        if simulation.lens_px:
            self._lens = radial_lens(self._size, edge_px=simulation.lens_px)
        self._gain_truth = GainTruth(
            seed=simulation.seed,
            vignette=simulation.vignette,
            pattern=simulation.pattern,
            dust=simulation.dust,
        )
        self._gain = camera_gain(
            self._size.height_px, self._size.width_px, **self._gain_truth.model_dump()
        )
