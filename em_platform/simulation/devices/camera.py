"""The simulated camera: exposes what lies under the beam and saves the frame."""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from TEM_comms.camera import Command
from TEM_comms.camera import Settings as CameraChange
from TEM_comms.scope import Status as ScopeStatus
from TEM_comms.scope.image_shift import Status as ShiftStatus
from TEM_comms.stage.aperture import Status as ApertureStatus
from TEM_comms.stage.motion import Status as StageStatus
from TEM_comms.stage.rotation import Status as TiltStatus
from TEM_comms.stage.transfer import Status as TransferStatus

from em_platform.acquisition.frame_paths import (
    acquisition_of,
    frame_path,
    frames_folder,
    truth_path,
)
from em_platform.config import Settings
from em_platform.errors import DeviceError
from em_platform.formats import encode_tiff
from em_platform.messaging.bus import Bus
from em_platform.simulation.devices.commanded import DeviceBus, FaultFile
from em_platform.simulation.devices.holder import MICROSCOPE
from em_platform.simulation.devices.sensor import Frame, Sensor
from em_platform.simulation.devices.truth import TruthFile
from em_platform.storage.atomic import whole_file

log = logging.getLogger(__name__)

TICK_S = 0.1  # truth and status are due within a tenth of their period
_PERIOD_S = 1.0  # of the status: late listeners learn size and exposure
_CLOSE_NM = 125  # as the stage has it: `stage.CLOSE_NM`


class Camera:
    """Turns messages into frames on disk.

    One handler takes the statuses and the commands in the order in which they came, so
    a frame is exposed where the stage stood when the command was sent, even when the
    session has moved it on since.

    A frame is whole or absent: it is renamed when written. It is not synced to the
    disk, which would cost more than to compute a small frame: a killed process loses
    nothing by that, and after a power cut the montage in hand is imaged again.
    """

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self._faults = FaultFile(settings.home)
        self._bus = DeviceBus(bus, "camera", self._faults)
        self._frames = frames_folder(settings)
        self._sensor = Sensor(settings.acquisition, self._faults.now)
        self._swallowed = (0.0, 0)
        self._tilting = False
        # here, so that the first command does not wait for it
        self._sensor.warm_up()
        self._truths: dict[str, TruthFile] = {}
        self._lock = threading.Lock()
        self._published_s = 0.0
        self._bus.subscribe_many(
            (
                "stage.motion.status",
                "stage.aperture.status",
                "stage.rotation.status",
                "stage.transfer.status",
                "scope.status",
                "scope.image_shift.status",
                "camera.settings",
                "camera.command",
            ),
            self._on_message,
        )

    def tick(self) -> None:
        """Publish its status each second; write the truth that waits."""
        # Half a tick less: one that comes a little early does not skip a period.
        if time.monotonic() - self._published_s >= _PERIOD_S - TICK_S / 2:
            self._publish_status()
            with self._lock:
                for truth in self._truths.values():
                    truth.flush()

    def close(self) -> None:
        """Write the truth that waits."""
        with self._lock:
            for truth in self._truths.values():
                truth.flush()

    def _on_message(self, message: Any, _: Mapping[str, str]) -> None:
        sensor = self._sensor
        match message:
            case StageStatus():
                sensor.stage = message
            case ApertureStatus():
                sensor.section = message.current_aperture
            case TiltStatus():
                self._tilting = message.in_motion
                sensor.tilt_rad = (message.angle_x, message.angle_y)
            case TransferStatus():
                sensor.holds_sample = message.current_station == MICROSCOPE
            case ShiftStatus():
                sensor.shift_nm = message.image_shift if message.enabled else (0, 0)
            case ScopeStatus():
                sensor.scope = message
            case CameraChange():
                sensor.change(message)
                self._publish_status()
            case Command():
                self._on_command(message)

    def _on_command(self, command: Command) -> None:
        """Save the commanded frame and publish it; a repeat only publishes."""
        if self._times_out():
            log.warning("camera: %s is lost, by a commanded fault", command.tile_id)
            return
        try:
            path = frame_path(self._frames, command.montage_id, command.tile_id)
            # frames without a montage are shown and deleted: each is exposed
            if not command.montage_id or not path.is_file():
                self._expose(command)
        except DeviceError as error:
            log.warning("%s", error)
            return
        self._bus.publish(
            "camera.image", tile_id=command.tile_id, montage_id=command.montage_id
        )

    def _times_out(self) -> bool:
        """Whether a commanded fault swallows this frame."""
        faults = self._faults.now()
        if faults.grown("camera_timeout_s"):
            # Wall clock: another process noted when it began.
            past_s = time.time() - faults.since("camera_timeout_s")
            if past_s < faults.value("camera_timeout_s"):
                return True
        since, count = self._swallowed
        begun = faults.since("camera_timeout_frames")
        # the fault was switched on anew: it counts from the start
        count = count if since == begun else 0
        if count >= faults.value("camera_timeout_frames"):
            return False
        self._swallowed = (begun, count + 1)
        return True

    def _expose(self, command: Command) -> None:
        check_stage(self._sensor.stage, command, section=self._sensor.section)
        if self._tilting:
            raise DeviceError(
                f"camera: {command.tile_id} was not exposed: the stage tilts; wait "
                "until it rests"
            )
        ends_s = time.monotonic() + self._sensor.exposure_us / 1e6
        frame = self._sensor.frame(command)  # drawn while it is exposed
        time.sleep(max(0.0, ends_s - time.monotonic()))
        if command.montage_id:
            # before the frame, which is not exposed again when it is there
            with self._lock:
                self._truth(command, frame).add(frame.tile)
        if "missing" not in frame.tile.faults:
            path = frame_path(self._frames, command.montage_id, command.tile_id)
            with whole_file(path) as beside:
                beside.write_bytes(encode_tiff(frame.image))

    def _truth(self, command: Command, frame: Frame) -> TruthFile:
        acquisition_id = acquisition_of(command.tile_id)
        if acquisition_id not in self._truths:
            # One acquisition at a time: the earlier one is over.
            for earlier in self._truths.values():
                earlier.flush()
            path = truth_path(self._frames, command.montage_id, acquisition_id)
            empty = frame.montage.model_copy(update={"acquisition_id": acquisition_id})
            self._truths = {acquisition_id: TruthFile(path, empty)}
        return self._truths[acquisition_id]

    def _publish_status(self) -> None:
        self._published_s = time.monotonic()
        self._bus.publish("camera.status", **self._sensor.status())


def check_stage(
    stage: StageStatus | None, command: Command, *, section: int | None
) -> None:
    """Refuse to expose where the stage is not at rest at the commanded place.

    Raises
    ------
    DeviceError
        It moves, is elsewhere, or has not reported its position or, for a frame of a
        montage, which aperture it holds.
    """
    who = f"camera: {command.tile_id} was not exposed"
    if stage is None or stage.x is None or stage.y is None:
        raise DeviceError(f"{who}: the stage has not reported its position; start it")
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
