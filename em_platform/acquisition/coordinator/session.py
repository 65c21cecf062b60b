"""What the states of the machine do: the queue, the acquisition, the reasons to stop.

The machine says when; this says what. It knows no state and sends no trigger.
"""

import logging
from typing import Any

from em_platform.acquisition.coordinator import roi_queue
from em_platform.acquisition.coordinator.book import Begun, Book
from em_platform.acquisition.coordinator.imaging import Imaging, now
from em_platform.acquisition.coordinator.lens_montage import LENS, LensMontages
from em_platform.acquisition.coordinator.needs import Needs
from em_platform.acquisition.coordinator.optics import Optics
from em_platform.acquisition.coordinator.retries import (
    is_dark,
    with_retries,
    with_stop,
    with_verdict,
)
from em_platform.acquisition.coordinator.roi_queue import Entry
from em_platform.acquisition.coordinator.teller import Teller
from em_platform.acquisition.frame_paths import acquisition_of, reserve_id
from em_platform.acquisition.machines.bench import Bench
from em_platform.errors import AcquisitionError, PlatformError, StorageError

log = logging.getLogger(__name__)


class Session:
    """The queue and the acquisition that is imaged, on disk and on the bus."""

    def __init__(
        self, bench: Bench, book: Book, teller: Teller, *, available: frozenset[str]
    ) -> None:
        self.bench = bench
        self.book = book
        self.teller = teller
        self.imaging: Imaging | None = None
        self.optics = Optics(bench, book)
        self.needs = Needs(bench, book, self.optics, available=available)
        self.lens = LensMontages(bench, book, self.optics)
        self.errors = 0
        self.stop_now = ""
        self.stop_at_end = ""
        self.pause_wanted = False
        self.preview_aperture: int | None = None
        self.sent_to_nm: tuple[int, int] | None = None
        self.beam_mean: float | None = None
        self._settings = bench.settings.acquisition

    # --- the queue ---

    @property
    def entry(self) -> Entry:
        """The region that is imaged."""
        return self.needs.entry

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
            self.book.change(mode="preview")
            return False
        if entry is None:
            entry = self.lens.due() or roi_queue.following(self.book.pages.queue)
            if entry is None:
                self.book.change(mode="preview")
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
        return self.needs.problem(errors=self.errors, beam_mean=self.beam_mean)

    def calibrated(self, name: str) -> None:
        """Note that a calibration of the region is done."""
        if (entry := self.book.current) is not None:
            self.book.change_current(calibrated=(*entry.calibrated, name))

    # --- the montage ---

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
        if self.book.complaint:
            raise StorageError(self.book.complaint)
        if begun.stopped:
            self._image_rejected_again(begun, imaging)
        imaging.link_references()
        imaging.rested()
        self.imaging = imaging
        self.teller.roi_current(begun.roi)
        self.teller.montage("resumed" if resumed else "started", imaging)
        for raw in imaging.unsure:
            self.teller.tile(raw)
        imaging.unsure = []
        return imaging

    def _image_rejected_again(self, begun: Begun, imaging: Imaging) -> None:
        begun = with_retries(
            begun, unsaved=imaging.unsaved(), most=self._settings.request_tries - 1
        )
        self.book.change(begun=begun)
        imaging.image_again(begun.superseded)

    def judged(self, verdict: Any) -> None:
        """Note what quality control says of a tile of the acquisition."""
        begun = self.book.pages.begun
        if begun is None or acquisition_of(verdict.tile_id) != begun.acquisition_id:
            return
        if self.imaging is not None:
            self.imaging.unjudged.discard(verdict.tile_id)
            self.imaging.has_verdicts = True
        self.book.change(
            begun=with_verdict(begun, verdict.tile_id, dark=is_dark(verdict))
        )

    def _begin(self, roi: dict[str, Any], *, lens: bool) -> Begun:
        frame = self.optics.frame_size()
        if frame is None:
            raise AcquisitionError(
                f"coordinator: {roi['montage_id']} cannot be planned: no camera has "
                "said the size of its frames; start the camera, then retry"
            )
        scale = self.optics.scale(survey=roi.get("acquisition_type") == "survey")
        started_at = now()
        is_preview = self.book.pages.mode == "preview"
        entry = None if is_preview else self.book.current
        is_tilted = (
            entry is not None and not lens and self.needs.tilt_wanted() is not None
        )
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
        else:
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
        entry = self.book.current
        self._become("paused", None if entry is None else entry.error)

    def going_on(self) -> None:
        """Note and tell that it goes on after a rest or a failure."""
        self.pause_wanted = False
        self.stop_now = self.stop_at_end = ""
        self.beam_mean = None  # of a dark tile: it would forbid what is to replace it
        self.book.change(mode="running")
        if self.book.current is not None:
            self._become("active")

    def resumed(self) -> None:
        """Tell that the montage goes on with its next tile."""
        if self.imaging is not None:
            self.imaging.rested()
            self.teller.montage("resumed", self.imaging)

    def halted(self) -> None:
        """Tell why all was stopped; what was imaged in the dark is imaged again."""
        begun, imaging = self.book.pages.begun, self.imaging
        if begun is not None and imaging is not None:
            # Without quality control no verdict is to come, and none is missing.
            unjudged = imaging.unjudged if imaging.has_verdicts else ()
            self.book.change(
                begun=with_stop(begun, unjudged=unjudged, exposing=imaging.exposing)
            )
        self._tell_failure(f"coordinator: stopped now: {self.stop_now}")

    def spare_specimen(self) -> None:
        """Stop the stage where it is, and put the screen into the beam."""
        status = self.bench.latest("stage.motion.status")
        if status is not None and status.x is not None and status.y is not None:
            self.teller.send("stage.motion.command", x=status.x, y=status.y)
        self.teller.send("scope.command", screen="down")
        self.sent_to_nm = None

    def failed(self, sentence: str) -> None:
        """Note and tell what went wrong; nothing is lost."""
        self.errors += 1
        self._tell_failure(sentence + self.needs.full_disk(said=sentence))

    def preview_failed(self, sentence: str) -> None:
        """Tell what went wrong while nothing is imaged."""
        log.error("%s", sentence)
        self.teller.trouble("", sentence)

    def _tell_failure(self, sentence: str) -> None:
        log.error("%s", sentence)
        self.book.change(mode="paused")
        self._become("failed", sentence)
        if self.imaging is not None:
            self.teller.montage("error", self.imaging, error=sentence)
        else:
            entry = self.book.current
            self.teller.trouble("" if entry is None else entry.montage_id, sentence)

    def given_up(self, reason: str) -> None:
        """Note and tell that the current region is not imaged any further."""
        self._cancel_begun(reason)
        entry = self.book.change_current(status="aborted", error=reason)
        self.book.change(mode="preview")
        if entry is not None:
            self.teller.roi(entry)
            self.teller.queue(self.book.pages)

    def left(self) -> None:
        """Give up a lens montage that was made for no region and broken off."""
        begun = self.book.pages.begun
        if begun is not None and begun.for_montage is None:
            self._cancel_begun("the operator looks at something else")

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

    def tell(self) -> None:
        """Say again what is in the queue, and how the active region is doing."""
        if self.book.complaint:
            self.book.save()
        self._tell_entry()
