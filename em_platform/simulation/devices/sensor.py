"""What the simulated camera computes: one frame from the devices' last statuses."""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from TEM_comms.camera import Command
from TEM_comms.camera import Settings as CameraChange
from TEM_comms.scope import Status as ScopeStatus
from TEM_comms.stage.motion import Status as StageStatus

from em_platform.acquisition.raster import image_position
from em_platform.config import AcquisitionSettings
from em_platform.imaging.exposure import beam_level, camera_gain, defocused, expose
from em_platform.messaging.topics import Body
from em_platform.model import LensModel, Size, TilePlacement
from em_platform.model.truth import GainTruth, MontageTruth, TileTruth
from em_platform.simulation.devices.commanded import Faults
from em_platform.simulation.devices.illumination import Lighting, misalignment_of
from em_platform.simulation.devices.optics import (
    TAPE_GREY,
    label_view,
    place,
    radial_lens,
    slot,
    tilted,
    view,
)
from em_platform.simulation.devices.truth import NO_ERRORS, TileErrors, tile_errors
from em_platform.simulation.specimen import (
    EMPTY_GREY,
    Labels,
    Specimen,
    open_specimen,
)

FOCUS_PER_PX = 50.0  # steps of the focus knob that blur by one pixel
_TILT_PX = 1e-4  # shift by a step of beam tilt, for each step out of focus
_DARK_ELECTRONS = 0.002  # share of the light that a closed screen lets through


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame and what is true of it."""

    image: NDArray[np.uint8] | NDArray[np.uint16]
    tile: TileTruth
    montage: MontageTruth


class Sensor:
    """Keeps the last statuses of stage and column; makes frames from them.

    The same command, seed and stage position give the same bytes. `faults` are those
    that are switched on while it runs.
    """

    def __init__(
        self, settings: AcquisitionSettings, faults: Callable[[], Faults] = Faults
    ) -> None:
        simulation = settings.simulation
        self.stage: StageStatus | None = None
        self.scope: ScopeStatus | None = None
        self.section: int | None = None
        self.tilt_rad = (0.0, 0.0)
        self.shift_nm = (0, 0)
        self.holds_sample = True
        self._faults, self._misalignment = faults, misalignment_of(simulation)
        self._lighting = Lighting(settings, self._misalignment)
        self.exposure_us = simulation.exposure_ms * 1000
        self._settings, self._simulation = settings, simulation
        self._gain_db = 0.0
        self._size = Size(height_px=simulation.tile_px, width_px=simulation.tile_px)
        # by pixel size: going back to a magnification draws nothing anew
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

    def status(self) -> Body:
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
        """The frame of one command at the stage's last known place.

        One that belongs to no montage is at the stage's position, and has no faults.
        """
        settings, errors = self._settings, NO_ERRORS
        # crc32 and not hash(), which differs from process to process.
        noise_key = [self._simulation.seed, zlib.crc32(command.tile_id.encode())]
        if command.montage_id:
            errors = tile_errors(
                self._simulation,
                montage_id=command.montage_id,
                row=command.row,
                column=command.column,
                raster=(settings.rows, settings.columns),
            )
            montage = zlib.crc32(command.montage_id.encode())
            # by place: an acquisition of the same montage has the same noise
            noise_key[1:] = [montage, command.row, command.column]
        tile = self._truth_of(command, errors)
        uneven_px = self._focus_gradient_px(command) if command.montage_id else 0.0
        light, level = self._light(tile.placement, errors, blur_px=uneven_px), 1.0
        if not self._is_closed:
            light, level = self._lighting.lit(light, self.scope, self._faults())
        # 1 at the settings' exposure, for which their electrons hold
        relative = self.exposure_us / (self._simulation.exposure_ms * 1000)
        gain = 10 ** (self._gain_db / 20)
        image = expose(
            light,
            noise_key=noise_key,
            gain=self._gain,
            beam=tile.beam * relative * gain * level,
            # a grey level is so many electrons, however long they took to come
            electrons=self._simulation.electrons / gain,
            bit_depth=self._simulation.bit_depth,
        )
        return Frame(image=image, tile=tile, montage=self._montage(command.montage_id))

    @property
    def _is_closed(self) -> bool:
        return self.scope is not None and self.scope.screen == "down"

    def _light(
        self, placement: TilePlacement, errors: TileErrors, *, blur_px: float
    ) -> NDArray[np.float32]:
        shape = self._size.height_px, self._size.width_px
        if self._is_closed:
            return np.full(shape, 255.0 * _DARK_ELECTRONS, np.float32)
        if "blank" in errors.faults or not self.holds_sample:
            return np.full(shape, EMPTY_GREY, np.float32)
        shown = self._slot()
        if shown is not None and not shown.any():
            return np.full(shape, TAPE_GREY, np.float32)
        light = view(
            self._specimen(),
            placement,
            size=self._size,
            section=self.section or 0,
            lens=self._lens,
        )
        if shown is not None and not shown.all():
            light = np.where(shown, light, np.float32(TAPE_GREY))
        # Widths of Gaussians add as squares.
        if "blurred" in errors.faults:
            blur_px = math.hypot(blur_px, self._simulation.blur_px)
        if self.scope is not None:
            blur_px = math.hypot(blur_px, self._defocus() / FOCUS_PER_PX)
        # less than that no pixel shows, and blurring costs time
        return defocused(light, blur_px) if blur_px > 0.2 else light

    def _focus_gradient_px(self, command: Command) -> float:
        """Blur of a tile of a tape that is not level: none in the middle column."""
        half = 0.5 * (self._settings.columns - 1)
        off = abs(command.column - half) / half if half else 0.0
        return self._simulation.focus_gradient_px * off

    def labels(self, tile: TileTruth, montage: MontageTruth) -> Labels | None:
        """Cell and class of each pixel of a frame; None where that is not known."""
        if tile.faults and {"blank", "missing"} & set(tile.faults):
            return None
        return label_view(
            self._specimen(),
            tile.placement,
            size=montage.size,
            section=montage.section,
            lens=montage.lens,
        )

    def _slot(self) -> NDArray[np.bool_] | None:
        """Where the frame shows the aperture; None where the tape is never seen."""
        if self.scope is None or self.scope.mag_mode != "LOWMAG":
            return None
        return slot(
            self._size.height_px,
            self._size.width_px,
            stage_nm=self._seen_nm(),
            pixel_nm=self._pixel_nm(),
            middle_nm=self._misalignment.aperture_nm,
            settings=self._simulation,
        )

    def _defocus(self) -> float:
        """Steps of the focus knob from the sharp image."""
        if self.scope is None or self.scope.mag_mode == "LOWMAG":
            return 0.0
        best = self._misalignment.focus + self._faults().grown("focus_drift")
        return float(self.scope.focus - best)

    def _seen_nm(self) -> tuple[float, float]:
        """Stage (x, y) that the frame's middle shows."""
        stage = self.stage
        x_nm = 0 if stage is None or stage.x is None else stage.x
        y_nm = 0 if stage is None or stage.y is None else stage.y
        crept = self._faults().grown("stage_drift")
        return x_nm + self.shift_nm[0] + crept, y_nm + self.shift_nm[1]

    def _truth_of(self, command: Command, errors: TileErrors) -> TileTruth:
        stage = self.stage
        x_nm = 0 if stage is None or stage.x is None else stage.x
        y_nm = 0 if stage is None or stage.y is None else stage.y
        y, x = self._corner(x_nm, y_nm)
        seen_y, seen_x = self._corner(*self._seen_nm())
        # A tilted beam shifts the image that is out of focus.
        tilt_x, tilt_y = (self.scope and self.scope.beam_tilt) or (0, 0)
        px_a_step = _TILT_PX * self._defocus()
        number = command.row * self._settings.columns + command.column
        placement = place(
            command.tile_id,
            y_px=seen_y + errors.dy_px + tilt_y * px_a_step,
            x_px=seen_x + errors.dx_px + tilt_x * px_a_step,
            size=self._size,
            rotation_rad=errors.turn_rad,
        )
        return TileTruth(
            tile_id=command.tile_id,
            row=command.row,
            column=command.column,
            placement=tilted(
                placement,
                size=self._size,
                angle_x=self.tilt_rad[0],
                angle_y=self.tilt_rad[1],
            ),
            nominal_y_px=y,
            nominal_x_px=x,
            beam=beam_level(
                number, seed=self._simulation.seed, drift=self._simulation.drift
            ),
            faults=errors.faults,
        )

    def _corner(self, x_nm: float, y_nm: float) -> tuple[float, float]:
        """World pixel (y, x) of the corner of a frame about a stage position."""
        middle_y, middle_x = image_position(
            x_nm,
            y_nm,
            pixel_nm=self._pixel_nm(),
            rotation_rad=math.radians(self._simulation.rotation_deg),
        )
        size = self._size
        return middle_y - size.height_px / 2, middle_x - size.width_px / 2

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
        pixel_nm = settings.pixel_nm * self._misalignment.pixel
        if self.scope is None:
            return pixel_nm
        return pixel_nm * settings.magnification / int(self.scope.mag)

    def _specimen(self) -> Specimen:
        pixel_nm = self._pixel_nm()
        if pixel_nm not in self._specimens:
            self._specimens[pixel_nm] = open_specimen(
                self._simulation.specimen,
                seed=self._simulation.seed,
                pixel_nm=pixel_nm,
                repeat_px=self._simulation.tissue_repeat_px,
                knife_marks=self._simulation.knife_marks,
                folds=self._simulation.folds,
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
