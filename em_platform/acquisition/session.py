"""Images a list of montages by driving the devices over the bus."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from em_platform.acquisition.frame_paths import (
    complete_body_path,
    frame_path,
    montage_folder,
    reserve_id,
    tile_body_path,
    tile_name,
)
from em_platform.acquisition.instrument import Instrument
from em_platform.acquisition.progress import progress_fields
from em_platform.acquisition.raster import MontagePlan, Stop, overlap_px, raster
from em_platform.config import AcquisitionSettings
from em_platform.errors import DeviceError, PlatformError
from em_platform.messaging.topics import fitting
from em_platform.model import Model, Size
from em_platform.storage.atomic import write_bytes

log = logging.getLogger(__name__)

Progress = Callable[["Acquisition"], None]


class Imaged(Model):
    """One montage that was imaged, and how fast."""

    acquisition_id: str
    montage_id: str
    folder: Path
    tiles: int
    size: Size
    seconds: float

    @property
    def mpix_per_s(self) -> float:
        """Raw pixels over the wall time of the whole montage."""
        pixels = self.tiles * self.size.height_px * self.size.width_px
        return pixels / 1e6 / self.seconds


@dataclass(slots=True, kw_only=True)
class Acquisition:
    """One montage while it is imaged."""

    acquisition_id: str
    plan: MontagePlan
    stops: tuple[Stop, ...]
    started_at: datetime
    begun_s: float = field(default_factory=time.monotonic)
    tiles: dict[str, dict[str, Any]] = field(default_factory=dict)
    cycles_s: list[float] = field(default_factory=list)
    move_s: float = 0.0
    capture_s: float = 0.0

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self.begun_s


class Session:
    """Drives the microscope through montages; has no states, and asks no one.

    Every message is written beside the frames before it is sent, so that nothing is
    lost when nobody listens.
    """

    def __init__(
        self,
        instrument: Instrument,
        settings: AcquisitionSettings,
        *,
        frames: Path,
        rotation_rad: float = 0.0,
        progress: Progress = lambda _: None,
    ) -> None:
        self._instrument = instrument
        self._settings = settings
        self._frames = frames
        self._rotation_rad = rotation_rad
        self._progress = progress

    def image(self, plans: Sequence[MontagePlan]) -> Iterator[Imaged]:
        """Image one montage after the other.

        Raises
        ------
        DeviceError
            A device did not answer in time, or refused; `montage.status` says it too.
        """
        for plan in plans:
            self._instrument.prepare()
            yield self._image(plan)

    def _image(self, plan: MontagePlan) -> Imaged:
        size = self._instrument.frame_size
        started_at = datetime.now(UTC)
        acquisition = Acquisition(
            acquisition_id=reserve_id(self._frames, plan.montage_id, started_at),
            plan=plan,
            started_at=started_at,
            stops=raster(
                plan,
                size,
                pixel_nm=self._settings.pixel_nm,
                rotation_rad=self._rotation_rad,
            ),
        )
        try:
            self._run(acquisition, size)
        except (PlatformError, KeyboardInterrupt) as error:
            state = "error" if isinstance(error, PlatformError) else "cancelled"
            with suppress(PlatformError):
                self._tell(acquisition, state, error_message=str(error) or state)
            raise
        return Imaged(
            acquisition_id=acquisition.acquisition_id,
            montage_id=plan.montage_id,
            folder=montage_folder(self._frames, plan.montage_id),
            tiles=len(acquisition.tiles),
            size=size,
            seconds=acquisition.seconds,
        )

    def _run(self, acquisition: Acquisition, size: Size) -> None:
        self._instrument.to_aperture(acquisition.plan.aperture_id)
        self._tell(acquisition, "started")
        stops = acquisition.stops
        self._instrument.start_move(stops[0])
        for stop, following in zip(stops, (*stops[1:], None), strict=True):
            begun_s = time.monotonic()
            self._image_tile(acquisition, stop, following, size)
            acquisition.cycles_s.append(time.monotonic() - begun_s)
            self._tell(acquisition, "in_progress")
            self._progress(acquisition)
        self._complete(acquisition)
        self._tell(acquisition, "completed")

    def _image_tile(
        self, acquisition: Acquisition, stop: Stop, following: Stop | None, size: Size
    ) -> None:
        tries = self._settings.request_tries
        for attempt in range(1, tries + 1):
            begun_s = time.monotonic()
            status = self._instrument.finish_move(
                stop, aperture_id=acquisition.plan.aperture_id
            )
            acquisition.move_s = time.monotonic() - begun_s
            fields = _tile_fields(acquisition, stop, status, size)
            try:
                self._instrument.expose(fields, move_on=following)
            except DeviceError as error:
                if attempt == tries:
                    raise
                log.warning("%s Try %d of %d.", error, attempt + 1, tries)
                self._instrument.start_move(stop)
                continue
            acquisition.capture_s = time.monotonic() - begun_s - acquisition.move_s
            break
        self._note(acquisition, stop, fields)

    def _note(
        self, acquisition: Acquisition, stop: Stop, fields: dict[str, Any]
    ) -> None:
        """Say that the tile is there, on disk and on the bus."""
        montage_id, tile_id = fields["montage_id"], fields["tile_id"]
        path = frame_path(self._frames, montage_id, tile_id)
        raw = {**fields, "path": str(path)}
        body = tile_body_path(self._frames, montage_id, tile_id)
        write_bytes(body, fitting("tile.raw", raw).model_dump_json().encode())
        self._instrument.publish("tile.raw", raw)
        acquisition.tiles[tile_id] = {
            "raster_index": stop.index,
            "stage_position": fields["stage_position"],
            "raster_position": (stop.column, stop.row),
        }

    def _complete(self, acquisition: Acquisition) -> None:
        plan = acquisition.plan
        complete = {
            "montage_id": plan.montage_id,
            "tiles": acquisition.tiles,
            "acquisition_id": acquisition.acquisition_id,
            "start_time": acquisition.started_at,
            "pixel_size": self._settings.pixel_nm,
            "rotation_angle": self._rotation_rad,
            "aperture_centroid": (0, 0),
        }
        path = complete_body_path(
            self._frames, plan.montage_id, acquisition.acquisition_id
        )
        body = fitting("montage.complete", complete).model_dump_json()
        write_bytes(path, body.encode())
        self._instrument.publish("montage.complete", complete)

    def _tell(
        self, acquisition: Acquisition, state: str, *, error_message: str | None = None
    ) -> None:
        self._instrument.publish(
            "montage.status",
            {
                "montage_id": acquisition.plan.montage_id,
                "state": state,
                "error_message": error_message,
                **progress_fields(acquisition, datetime.now(UTC)),
            },
        )


def _tile_fields(
    acquisition: Acquisition, stop: Stop, status: Any, size: Size
) -> dict[str, Any]:
    """The fields that `camera.command` and `tile.raw` share."""
    return {
        "tile_id": tile_name(acquisition.acquisition_id, stop.row, stop.column),
        "montage_id": acquisition.plan.montage_id,
        "row": stop.row,
        "column": stop.column,
        "overlap": overlap_px(acquisition.plan, size),
        "stage_position": (status.x, status.y),
    }
