"""What the states of the machine do: the queue, the acquisition, the reasons to stop.

The machine says when; this says what. It knows no state and sends no trigger.
"""

import logging
import math
from typing import Any

from em_platform.acquisition.coordinator import roi_queue
from em_platform.acquisition.coordinator.book import Begun, Book
from em_platform.acquisition.coordinator.checks import Situation, problem
from em_platform.acquisition.coordinator.imaging import Imaging, now
from em_platform.acquisition.coordinator.lens_montage import LensMontages
from em_platform.acquisition.coordinator.optics import Optics
from em_platform.acquisition.coordinator.roi_queue import Entry
from em_platform.acquisition.coordinator.teller import Teller
from em_platform.acquisition.frame_paths import reserve_id
from em_platform.acquisition.machines.bench import Bench
from em_platform.acquisition.roi import stops_of
from em_platform.errors import AcquisitionError, PlatformError

log = logging.getLogger(__name__)

LENS = "lens_correction"
CALIBRATIONS = (
    "find_aperture",
    "auto_exposure",
    "beam_center",
    "beam_spread",
    "calibrate_resolution",
    "bright_field",
    "dark_field",
    "auto_focus",
)
"""In the order in which they are done before a montage; the lens comes last."""


class Session:
    """The queue and the acquisition that is imaged, on disk and on the bus."""

    def __init__(self, bench: Bench, book: Book, teller: Teller) -> None:
        self.bench = bench
        self.book = book
        self.teller = teller
        self.imaging: Imaging | None = None
        self.optics = Optics(bench, book)
        self.lens = LensMontages(bench, book, self.optics)
        self.errors = 0
        self.stop_now = ""
        self.stop_at_end = ""
        self.pause_wanted = False
        self.beam_mean: float | None = None
        self._settings = bench.settings.acquisition

    # --- the queue ---

    @property
    def entry(self) -> Entry:
        """The region that is imaged."""
        entry = self.book.current
        if entry is None:
            raise AcquisitionError(
                "coordinator: no region is imaged, one was expected; start again"
            )
        return entry

    def has_work(self) -> bool:
        """Whether a region has been begun or waits."""
        queue = self.book.pages.queue
        return bool(roi_queue.current(queue) or roi_queue.following(queue))

    def take(self) -> bool:
        """Make the next region, or the one that was broken off, the active one.

        False when there is none, or when the session is to stop here.
        """
        entry = self.book.current
        if self.stop_at_end and self.book.pages.begun is None:
            if entry is not None:
                self._become("paused")
            log.info("coordinator: the session stops here: %s", self.stop_at_end)
            return False
        if entry is None:
            entry = self.lens.due() or roi_queue.following(self.book.pages.queue)
            if entry is None:
                return False
            queue = roi_queue.with_entry(
                self.book.pages.queue, entry.changed(status="active")
            )
            self.book.change(queue=queue, mode="running")
            self._tell_entry()
        else:
            self.book.change(mode="running")
            self._become("active")
        return True

    def _become(self, status: roi_queue.Status, error: str | None = None) -> None:
        self.book.change_current(status=status, error=error)
        self._tell_entry()

    def _tell_entry(self) -> None:
        entry = self.book.current
        if entry is not None:
            self.teller.roi(self.followed(entry))
        self.teller.queue(self.book.pages)

    def followed(self, entry: Entry) -> Entry:
        """The entry with how far its montage is now."""
        imaging = self.imaging
        if imaging is None or imaging.montage_id != entry.montage_id:
            return entry
        return entry.model_copy(
            update={
                "current_tile": len(imaging.tiles),
                "total_tiles": len(imaging.stops),
            }
        )

    # --- before the montage ---

    def check(self) -> str:
        """Why the current region must not be imaged now; empty when it may."""
        entry = self.entry
        roi = entry.message
        frame = self.optics.frame_size()
        scale = self.optics.scale(survey=roi.acquisition_type == "survey")
        needed = 0
        try:
            if frame is not None and roi.vertices:
                stops = stops_of(
                    roi,
                    frame,
                    pixel_nm=scale.pixel_nm,
                    overlap=self._settings.overlap,
                    rotation_rad=scale.rotation_rad,
                )
                needed = len(stops) * frame.height_px * frame.width_px
        except AcquisitionError as error:
            return str(error)
        begun = self.book.pages.begun
        return problem(
            Situation(
                montage_id=entry.montage_id,
                frames=self.bench.frames,
                needed_bytes=needed,
                errors=self.errors,
                beam_mean=self.beam_mean,
                calibrations=frozenset(self.wanted()),
                is_continued=begun is not None
                or entry.tilts_done > 0
                or "replaces_acquisition_id" in (entry.roi.get("metadata") or {}),
            ),
            self._settings.coordinator,
        )

    def wants_aperture(self) -> bool:
        """Whether the region is in another aperture than that under the beam."""
        wanted = self.entry.roi.get("aperture_id")
        status = self.bench.latest("stage.aperture.status")
        return wanted is not None and (
            status is None or status.current_aperture != wanted
        )

    def aperture(self) -> dict[str, Any]:
        """Fields of the `stage.aperture.command` for the region."""
        return {"aperture_id": self.entry.roi["aperture_id"]}

    def column(self) -> dict[str, Any]:
        """Fields of the `scope.command` before the region is imaged."""
        magnification = self._settings.magnification
        if self.entry.roi.get("acquisition_type") == "survey":
            magnification = self._settings.coordinator.survey_magnification
        mode = "LOWMAG" if magnification < 2000 else "MAG"
        return {"mag_mode": mode, "mag": magnification, "screen": "up"}

    def is_prepared(self) -> bool:
        """Whether the column and the camera are ready for the region."""
        status = self.bench.latest("scope.status")
        camera = self.bench.latest("camera.status")
        return (
            status is not None
            and camera is not None
            and all(getattr(status, n) == v for n, v in self.column().items())
        )

    def wanted(self) -> list[str]:
        """The calibrations that the region asks for and that are not done, in order."""
        entry = self.entry
        asked = entry.roi.get("calibrations") or {}
        return [n for n in CALIBRATIONS if asked.get(n) and n not in entry.calibrated]

    def calibrated(self, name: str) -> None:
        """Note that a calibration of the region is done."""
        if (entry := self.book.current) is not None:
            self.book.change_current(calibrated=(*entry.calibrated, name))

    # --- the montage ---

    def tilt_wanted(self) -> float | None:
        """The angle in degrees that the stage is to have for the region, if any."""
        entry = self.entry
        if entry.roi.get("acquisition_type") != "tilt_series":
            return None
        return float(entry.roi["tilt_angles"][entry.tilts_done])

    def tilt(self) -> dict[str, Any]:
        """Fields of the `stage.rotation.command` for the region."""
        return {"angle_x": math.radians(self.tilt_wanted() or 0.0)}

    def begin(self, roi: dict[str, Any], *, lens: bool = False) -> Imaging:
        """Begin the acquisition of `roi`, or go on with it where it was broken off.

        Raises
        ------
        PlatformError
            No camera has said its size, the region cannot be imaged, the disk fails.
        """
        begun = self.book.pages.begun
        resumed = begun is not None and begun.roi["montage_id"] == roi["montage_id"]
        if begun is None or not resumed:
            begun = self._begin(roi, lens=lens)
        imaging = self.imaging
        if imaging is None or imaging.acquisition_id != begun.acquisition_id:
            imaging = Imaging(
                begun,
                frames=self.bench.frames,
                overlap=self._settings.overlap,
                tilt=self._tilt_fields(begun),
            )
            if resumed:
                imaging.find_done()
        imaging.link_references()
        self.imaging = imaging
        self.teller.roi_current(begun.roi)
        self.teller.montage("resumed" if resumed else "started", imaging)
        for raw in imaging.unsure:
            self.teller.tile(raw)
        imaging.unsure = []
        return imaging

    def _begin(self, roi: dict[str, Any], *, lens: bool) -> Begun:
        frame = self.optics.frame_size()
        if frame is None:
            raise AcquisitionError(
                f"coordinator: {roi['montage_id']} cannot be planned: no camera has "
                "said the size of its frames; start the camera, then retry"
            )
        scale = self.optics.scale(survey=roi.get("acquisition_type") == "survey")
        started_at = now()
        entry = self.book.current
        is_tilted = entry is not None and not lens and self.tilt_wanted() is not None
        begun = Begun(
            acquisition_id=reserve_id(self.bench.frames, roi["montage_id"], started_at),
            started_at=started_at,
            roi=roi,
            for_montage=None if entry is None else entry.montage_id,
            frame=frame,
            pixel_nm=scale.pixel_nm,
            rotation_rad=scale.rotation_rad,
            lens=lens,
            tilt_index=entry.tilts_done if entry is not None and is_tilted else None,
        )
        self.book.change(begun=begun)
        return begun

    def _tilt_fields(self, begun: Begun) -> dict[str, Any]:
        if begun.tilt_index is None:
            return {}
        angles = begun.roi["tilt_angles"]
        return {
            "tilt_angle": angles[begun.tilt_index],
            "tilt_series_id": begun.roi["montage_id"],
            "tilt_index": begun.tilt_index,
            "tilt_total": len(angles),
        }

    def imaged(self, imaging: Imaging) -> None:
        """Note and tell that the next tile is on disk."""
        self.teller.tile(imaging.imaged())
        self.teller.montage("in_progress", imaging)

    def completed(self, imaging: Imaging) -> None:
        """Note and tell that all tiles of the acquisition are there."""
        aperture_id = imaging.begun.roi.get("aperture_id")
        self.teller.complete(imaging.complete(self.optics.centroid(aperture_id)))
        self.teller.montage("completed", imaging)
        self.imaging = None
        self.lens.steps += imaging.tilt != {}
        if imaging.begun.lens:
            self.book.change(begun=None)
            return
        self._tell_entry()
        self._finish_step(imaging)

    def _finish_step(self, imaging: Imaging) -> None:
        entry = self.entry
        done = entry.tilts_done + 1
        steps = len(entry.roi.get("tilt_angles") or [0.0])
        if entry.roi.get("acquisition_type") != "tilt_series" or done >= steps:
            self.finish_entry(tiles=len(imaging.stops))
        else:
            entry = entry.changed(tilts_done=done)
            queue = roi_queue.with_entry(self.book.pages.queue, entry)
            self.book.change(queue=queue, begun=None)

    def finish_entry(self, *, tiles: int | None = None) -> None:
        """Note and tell that the region is imaged."""
        pages = self.book.pages
        entry = self.entry.changed(
            status="complete", error=None, current_tile=tiles, total_tiles=tiles
        )
        is_lens = entry.roi.get("acquisition_type") == LENS
        self.book.change(
            queue=roi_queue.with_entry(pages.queue, entry),
            begun=None,
            completed=pages.completed + 1,
            since_lens=pages.since_lens + (not is_lens),
        )
        self.teller.roi(entry)
        self.teller.queue(self.book.pages)

    # --- trouble ---

    def paused(self) -> None:
        """Note and tell that the session rests."""
        self.book.change(mode="paused")
        if self.imaging is not None:
            self.teller.montage("paused", self.imaging)
        self._become("paused")

    def going_on(self) -> None:
        """Note and tell that it goes on after a rest or a failure."""
        self.pause_wanted = False
        self.book.change(mode="running")
        if self.book.current is not None:
            self._become("active")
        if self.imaging is not None:
            self.teller.montage("resumed", self.imaging)

    def failed(self, sentence: str) -> None:
        """Note and tell what went wrong; nothing is lost."""
        self.errors += 1
        log.error("%s", sentence)
        self.book.change(mode="paused")
        self._become("failed", sentence)
        if self.imaging is not None:
            self.teller.montage("error", self.imaging, error=sentence)
        elif self.book.current is not None:
            self.teller.trouble(self.entry.montage_id, sentence)
        else:
            self.teller.trouble("", sentence)

    def given_up(self, reason: str) -> None:
        """Note and tell that the current region is not imaged any further."""
        self._cancel_begun(reason)
        entry = self.book.change_current(status="aborted", error=reason)
        self.book.change(mode="preview")
        if entry is not None:
            self.teller.roi(entry)
            self.teller.queue(self.book.pages)

    def left(self) -> None:
        """Note that nothing is imaged any more."""
        self._cancel_begun("the operator looks at something else")
        self.book.change(mode="preview")

    def _cancel_begun(self, reason: str) -> None:
        begun = self.book.pages.begun
        if begun is None:
            return
        try:
            imaging = self.imaging or Imaging(
                begun,
                frames=self.bench.frames,
                overlap=self._settings.overlap,
                tilt=self._tilt_fields(begun),
            )
            self.teller.montage("cancelled", imaging, error=reason)
        except PlatformError as error:
            log.warning("%s", error)
        self.imaging = None
        self.book.change(begun=None)
