"""The simulated camera: exposes what lies under the beam and saves the frame."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from TEM_comms.camera import Command
from TEM_comms.camera import Settings as CameraChange
from TEM_comms.scope import Status as ScopeStatus
from TEM_comms.stage.aperture import Status as ApertureStatus
from TEM_comms.stage.motion import Status as StageStatus

from em_platform.acquisition.devices.sensor import Frame, Sensor
from em_platform.acquisition.devices.truth import TruthFile
from em_platform.acquisition.frame_paths import (
    acquisition_of,
    frame_path,
    frames_folder,
    truth_path,
)
from em_platform.config import Settings
from em_platform.errors import DeviceError
from em_platform.formats.tiff import write_tiff
from em_platform.messaging.bus import Bus

log = logging.getLogger(__name__)

TICK_S = 0.1
_PERIOD_S = 1.0
_CLOSE_NM = 125


class Camera:
    """Turns messages into frames on disk.

    One handler takes the statuses and the commands in the order in which they came, so
    a frame is exposed where the stage stood when the command was sent, even when the
    session has moved it on since.
    """

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self._bus = bus
        self._frames = frames_folder(settings)
        self._sensor = Sensor(settings.acquisition)
        self._sensor.warm_up()
        self._truths: dict[str, TruthFile] = {}
        self._lock = threading.Lock()
        self._told_s = 0.0
        self._acts: dict[type, Callable[[Any], None]] = {
            StageStatus: self._on_stage,
            ApertureStatus: self._on_aperture,
            ScopeStatus: self._on_scope,
            CameraChange: self._on_settings,
            Command: self._on_command,
        }
        bus.subscribe_many(
            (
                "stage.motion.status",
                "stage.aperture.status",
                "scope.status",
                "camera.settings",
                "camera.command",
            ),
            self._on_message,
        )

    def tick(self) -> None:
        """Say its state each second; write the truth that waits."""
        if time.monotonic() - self._told_s >= _PERIOD_S - TICK_S / 2:
            self._tell()
            with self._lock:
                for truth in self._truths.values():
                    truth.flush()

    def close(self) -> None:
        """Write the truth that waits."""
        with self._lock:
            for truth in self._truths.values():
                truth.flush()

    def _on_message(self, message: Any, _: Mapping[str, str]) -> None:
        self._acts[type(message)](message)

    def _on_stage(self, status: StageStatus) -> None:
        self._sensor.stage = status

    def _on_aperture(self, status: ApertureStatus) -> None:
        self._sensor.section = status.current_aperture

    def _on_scope(self, status: ScopeStatus) -> None:
        self._sensor.scope = status

    def _on_settings(self, change: CameraChange) -> None:
        self._sensor.change(change)
        self._tell()

    def _on_command(self, command: Command) -> None:
        """Save the commanded frame and say so; the same command again only says so."""
        try:
            path = frame_path(self._frames, command.montage_id, command.tile_id)
            if not command.montage_id or not path.is_file():
                self._expose(command)
        except DeviceError as error:
            log.warning("%s", error)
            return
        self._bus.publish(
            "camera.image", tile_id=command.tile_id, montage_id=command.montage_id
        )

    def _expose(self, command: Command) -> None:
        check_stage(self._sensor.stage, command, section=self._sensor.section)
        time.sleep(self._sensor.exposure_us / 1e6)
        frame = self._sensor.frame(command)
        if "missing" not in frame.tile.faults:
            path = frame_path(self._frames, command.montage_id, command.tile_id)
            write_tiff(path, frame.image)
        if command.montage_id:
            with self._lock:
                self._truth(command, frame).add(frame.tile)

    def _truth(self, command: Command, frame: Frame) -> TruthFile:
        acquisition_id = acquisition_of(command.tile_id)
        if acquisition_id not in self._truths:
            for earlier in self._truths.values():
                earlier.flush()
            path = truth_path(self._frames, command.montage_id, acquisition_id)
            empty = frame.montage.model_copy(update={"acquisition_id": acquisition_id})
            self._truths = {acquisition_id: TruthFile(path, empty)}
        return self._truths[acquisition_id]

    def _tell(self) -> None:
        self._told_s = time.monotonic()
        self._bus.publish("camera.status", **self._sensor.status())


def check_stage(
    stage: StageStatus | None, command: Command, *, section: int | None
) -> None:
    """Refuse to expose where the stage is not at rest at the commanded place.

    Raises
    ------
    DeviceError
        It moves, is elsewhere, or has not said where it is or, for a frame of a
        montage, which aperture it holds.
    """
    who = f"camera: {command.tile_id} was not exposed"
    if stage is None or stage.x is None or stage.y is None:
        raise DeviceError(f"{who}: the stage has not said where it is; start it")
    if command.montage_id and section is None:
        raise DeviceError(f"{who}: the stage holds no aperture; change to one")
    if stage.in_motion:
        raise DeviceError(f"{who}: the stage moves; wait until it rests")
    wanted = command.stage_position
    if wanted is None:
        return
    off_nm = max(abs(stage.x - wanted[0]), abs(stage.y - wanted[1]))
    if off_nm > _CLOSE_NM:
        raise DeviceError(
            f"{who}: the stage is at {stage.x}, {stage.y} nm, the command says "
            f"{wanted[0]}, {wanted[1]}; move it there first"
        )
