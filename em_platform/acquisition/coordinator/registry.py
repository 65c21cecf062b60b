"""The session on disk: the queue, the acquisition under way, the calibrated optics."""

import logging
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from TEM_comms.qc import Tile

from em_platform.acquisition.coordinator import roi_queue
from em_platform.acquisition.coordinator.roi_queue import Entry, Queue
from em_platform.acquisition.frame_paths import retry_of
from em_platform.acquisition.machines.machine import Context
from em_platform.acquisition.qc.judge import CRITICAL
from em_platform.acquisition.recorder import ledger_of
from em_platform.acquisition.roi import RoiFields, rotation_rad
from em_platform.config import Settings
from em_platform.errors import PlatformError, StorageError
from em_platform.messaging.topics import Body
from em_platform.model import Model, Size
from em_platform.storage.atomic import write_bytes

log = logging.getLogger(__name__)

Mode = Literal["preview", "running", "paused"]


class Begun(Model):
    """An acquisition that was begun and is not finished.

    `roi` is what it images, in frames of that size and scale; `for_montage` the entry
    of the queue for which it is done (None: for none).

    After a STOP_NOW it is `stopped` until it resumes; `rejected` are the tiles that
    quality control found dark, `unjudged` those imaged before the stop without a
    verdict, `superseded` the ids of frames that are imaged again.
    """

    acquisition_id: str
    started_at: datetime
    roi: RoiFields
    for_montage: str | None
    frame: Size
    pixel_nm: float
    rotation_rad: float
    lens: bool = False
    tilt_index: int | None = None
    stopped: bool = False
    rejected: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()
    superseded: tuple[str, ...] = ()

    @property
    def tilt_fields(self) -> Body:
        """The fields of its messages that name the step of a tilt series, if any."""
        if self.tilt_index is None:
            return {}
        angles = self.roi["tilt_angles"]
        return {
            "tilt_angle": angles[self.tilt_index],
            "tilt_series_id": self.roi["montage_id"],
            "tilt_index": self.tilt_index,
            "tilt_total": len(angles),
        }


class Scale(Model):
    """How the image lies on the stage; `settings` are those for which it was found."""

    pixel_nm: float
    rotation_rad: float
    settings: str = ""


class SessionState(Model):
    """All of it."""

    queue: Queue = ()
    begun: Begun | None = None
    mode: Mode = "preview"
    completed: int = 0
    since_lens: int = 0
    lens_setup: Body | None = None
    scales: dict[str, Scale] = Field(default_factory=dict)
    centroids_nm: dict[int, tuple[int, int]] = Field(default_factory=dict)


class Registry:
    """The session's state, written to one file with every change.

    When it cannot be written the change holds in this process, `complaint` says why,
    and `save` tries again.
    """

    def __init__(self, path: Path) -> None:
        self.complaint = ""
        self._path = path
        self.state = _read(path)

    @property
    def current(self) -> Entry | None:
        """The region that has been begun and is not finished."""
        return roi_queue.current(self.state.queue)

    def has_work(self) -> bool:
        """Whether a region has been begun or waits."""
        return bool(self.current or roi_queue.following(self.state.queue))

    def change(self, **changes: Any) -> None:
        """Change fields and write all; nothing is written when nothing changes."""
        state = self.state.model_copy(update=changes)
        # a sync to the disk costs more than to compare
        if state != self.state:
            self.state = state
            self.save()

    def save(self) -> None:
        """Write the whole state."""
        try:
            write_bytes(self._path, self.state.model_dump_json(indent=1).encode())
        except StorageError as error:
            if not self.complaint:  # once: `save` is tried again with each tick
                log.error("%s", error)
            # no aperture is begun with it, see Requirements.problem
            self.complaint = str(error)
        else:
            self.complaint = ""

    def change_current(self, **changes: Any) -> Entry | None:
        """Change the current entry; what it is then."""
        entry = self.current
        if entry is None:
            return None
        entry = entry.changed(**changes)
        self.change(queue=roi_queue.with_entry(self.state.queue, entry))
        return entry


def _read(path: Path) -> SessionState:
    try:
        return SessionState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return SessionState()
    except (OSError, ValidationError) as error:
        # not an empty session: the next change would overwrite the queue
        raise StorageError(
            f"coordinator: the session in {path} cannot be read "
            f"({str(error).splitlines()[0]}), its queue was expected there; move the "
            "file away to begin anew",
            url=str(path),
        ) from error


def verdicts_of(begun: Begun, settings: Settings) -> Mapping[str, Tile]:
    """The verdicts on its tiles that the ledger has; empty where it cannot be read."""
    try:
        with ledger_of(settings) as ledger:
            return ledger.verdicts(begun.roi["montage_id"], begun.acquisition_id)
    except PlatformError as error:
        log.warning("coordinator: it resumes without verdicts: %s", error)
        return {}


def is_dark(verdict: Tile) -> bool:
    """Whether a `qc.tile` rejects its frame for what stops a scope at once.

    The first dark tiles of a row are only `transient`, so that their kind counts, too.
    """
    return not verdict.passed and any(
        fault.fault_type in CRITICAL or str(fault.scope) == "critical"
        for fault in verdict.faults or ()
    )


def with_verdict(begun: Begun, tile_id: str, *, dark: bool) -> Begun:
    """The acquisition after a verdict on one of its tiles."""
    rejected = begun.rejected
    # a late verdict on a frame that is imaged again counts no more
    if dark and tile_id not in (*rejected, *begun.superseded):
        rejected = (*rejected, tile_id)
    unjudged = tuple(each for each in begun.unjudged if each != tile_id)
    return begun.model_copy(update={"rejected": rejected, "unjudged": unjudged})


def with_stop(begun: Begun, *, unjudged: Collection[str], exposing: str) -> Begun:
    """The acquisition after a STOP_NOW; the frame that was being exposed is doubtful.

    The camera may have saved it already, in the dark, and would not expose it again.
    """
    superseded = begun.superseded
    # no verdict will come for a frame that was never published
    if exposing and exposing not in superseded:
        superseded = (*superseded, exposing)
    return begun.model_copy(
        update={
            "stopped": True,
            # a set has no order, and an equal state is not written again
            "unjudged": tuple(sorted(unjudged)),
            "superseded": superseded,
        }
    )


def with_retries(begun: Begun, *, unsaved: Collection[str], most: int) -> Begun:
    """The acquisition when it resumes: dark, unjudged and unsaved frames superseded.

    A tile that was dark `most` times more stays as it is: the specimen may be dark
    there, and would stop the session for ever.
    """
    # a tile may be in several of them
    wanted = dict.fromkeys((*begun.rejected, *begun.unjudged, *unsaved))
    again = [
        tile_id
        for tile_id in wanted
        if retry_of(tile_id) < most and tile_id not in begun.superseded
    ]
    return begun.model_copy(
        update={
            "stopped": False,
            "rejected": (),
            "unjudged": (),
            "superseded": (*begun.superseded, *again),
        }
    )


class Optics:
    """What was calibrated, else what the settings give."""

    def __init__(self, context: Context, registry: Registry) -> None:
        self.context = context
        self.registry = registry
        self._settings = context.settings.acquisition

    def frame_size(self) -> Size | None:
        """Of the camera's frames, as its last status gives it."""
        status = self.context.latest("camera.status")
        if status is None:
            return None
        return Size(height_px=status.height, width_px=status.width)

    def scale(self, *, survey: bool = False) -> Scale:
        """How the image lies on the stage, calibrated or from the settings."""
        magnification = self._settings.magnification
        wanted = self._settings.coordinator.survey_magnification if survey else None
        scale = Scale(
            pixel_nm=self._settings.pixel_nm,
            rotation_rad=rotation_rad(self.context.settings),
        )
        kept = self.registry.state.scales
        if (known := kept.get(str(magnification))) and known.settings == self._key():
            scale = known
        if wanted is None or wanted == magnification:
            return scale
        if (known := kept.get(str(wanted))) and known.settings == self._key():
            return known
        # uncalibrated: the pixel covers the more the lower the magnification
        return scale.model_copy(
            update={"pixel_nm": scale.pixel_nm * magnification / wanted}
        )

    def note_scales(self, message: Any) -> None:
        """Keep the scales of a `calibration.resolution`."""
        found: dict[str, Scale] = {}
        for table in (message.lowmag, message.mag):
            found |= {
                str(magnification): Scale(
                    pixel_nm=sum(each.nm_per_px) / 2,  # the raster knows one size
                    rotation_rad=each.rotation,
                    settings=self._key(),
                )
                for magnification, each in table.items()
            }
        self.registry.change(scales={**self.registry.state.scales, **found})

    def note_centroid(self, message: Any) -> None:
        """Keep the place of a `calibration.centroid`."""
        known = self.registry.state.centroids_nm
        place = (message.x, message.y)
        self.registry.change(centroids_nm={**known, message.aperture_id: place})

    def centroid(self, aperture_id: int | None) -> tuple[int, int]:
        """The middle of an aperture on the stage, (x, y) in nm; 0, 0 if unknown."""
        known = self.registry.state.centroids_nm
        return (0, 0) if aperture_id is None else known.get(aperture_id, (0, 0))

    def _key(self) -> str:
        """What a calibration is valid for."""
        acquisition = self._settings
        return (
            f"{acquisition.microscope} {acquisition.magnification} "
            f"{acquisition.pixel_nm:g} {acquisition.expected_rotation_deg:g}"
        )
