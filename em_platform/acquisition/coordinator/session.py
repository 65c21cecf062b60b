"""What the states of the machine do: the queue, the acquisition, the reasons to stop.

The machine decides when; this does what. It knows no state and sends no trigger.
"""

import logging
from typing import Any

from em_platform.acquisition.coordinator import roi_queue
from em_platform.acquisition.coordinator.imaging import Imaging
from em_platform.acquisition.coordinator.lens import LENS, LensMontages
from em_platform.acquisition.coordinator.publisher import Publisher
from em_platform.acquisition.coordinator.registry import (
    Begun,
    Optics,
    Registry,
    is_dark,
    verdicts_of,
    with_retries,
    with_stop,
    with_verdict,
)
from em_platform.acquisition.coordinator.requirements import Requirements
from em_platform.acquisition.coordinator.roi_queue import Entry
from em_platform.acquisition.frame_paths import acquisition_of
from em_platform.acquisition.machines.machine import Context
from em_platform.acquisition.roi import RoiFields
from em_platform.errors import PlatformError, StorageError

log = logging.getLogger(__name__)


class Session:
    """The queue and the acquisition that is imaged, on disk and on the bus."""

    def __init__(
        self,
        context: Context,
        registry: Registry,
        publisher: Publisher,
        *,
        available: frozenset[str],
    ) -> None:
        self.context = context
        self.registry = registry
        self.publisher = publisher
        self.imaging: Imaging | None = None
        self.optics = Optics(context, registry)
        self.requirements = Requirements(
            context, registry, self.optics, available=available
        )
        self.lens = LensMontages(context, registry, self.optics)
        self.errors = 0
        self.stop_now = ""
        self.stop_at_end = ""
        self.pause_wanted = False
        self.preview_aperture: int | None = None
        self.sent_to_nm: tuple[int, int] | None = None
        self.beam_mean: float | None = None
        self._settings = context.settings.acquisition

    # --- the queue ---

    @property
    def entry(self) -> Entry:
        """The region that is imaged."""
        return self.requirements.entry

    def take(self) -> bool:
        """Make the next region, or the one that was interrupted, the active one.

        False when there is none, or when the session is to stop here.
        """
        entry = self.registry.current
        # a montage that was begun is finished first
        if self.stop_at_end and self.registry.state.begun is None:
            if entry is not None:
                self._become("paused")
            log.info("coordinator: the session stops here: %s", self.stop_at_end)
            self.registry.change(mode="preview")
            return False
        if entry is None:
            entry = self.lens.due() or roi_queue.following(self.registry.state.queue)
            if entry is None:
                self.registry.change(mode="preview")
                return False
        entry = entry.changed(status="active", error=None)
        queue = roi_queue.with_entry(self.registry.state.queue, entry)
        self.registry.change(queue=queue, mode="running")
        self._publish_entry()
        return True

    def _become(self, status: roi_queue.Status, error: str | None = None) -> None:
        self.registry.change_current(status=status, error=error)
        self._publish_entry()

    def _publish_entry(self) -> None:
        if (entry := self.registry.current) is not None:
            self.publisher.roi(entry, self.imaging)
        self.publisher.queue(self.registry.state)

    def calibrated(self, name: str) -> None:
        """Note that a calibration of the region is done."""
        if (entry := self.registry.current) is not None:
            self.registry.change_current(calibrated=(*entry.calibrated, name))

    # --- the montage ---

    def begin(self, roi: RoiFields, *, lens: bool = False) -> Imaging:
        """Begin the acquisition of `roi`, or resume it where it was interrupted.

        Raises
        ------
        PlatformError
            No camera has published its frame size, the region cannot be imaged, the
            disk fails.
        """
        begun = self.registry.state.begun
        resumed = begun is not None and begun.roi["montage_id"] == roi["montage_id"]
        if begun is None or not resumed:
            begun = self.requirements.new_acquisition(roi, lens=lens)
        imaging = self.imaging
        if imaging is None or imaging.acquisition_id != begun.acquisition_id:
            imaging = self._imaging_of(begun)
            if resumed:
                imaging.find_done()
        # what is not on the disk could not be resumed
        if self.registry.complaint:
            raise StorageError(self.registry.complaint)
        self.imaging = imaging
        if resumed:
            begun = self._take_missed_verdicts(begun, imaging)
        if begun.stopped:
            # less one: the first frame was one of the tries
            begun = with_retries(
                begun, unsaved=imaging.unsaved(), most=self._settings.request_tries - 1
            )
            self.registry.change(begun=begun)
            imaging.image_again(begun.superseded)
        imaging.link_references()
        imaging.rested()
        self.publisher.roi_current(begun.roi)
        self.publisher.montage("resumed" if resumed else "started", imaging)
        for raw in imaging.unsure:  # a killed process may not have published them
            self.publisher.tile(raw)
        imaging.unsure = []
        return imaging

    def judged(self, verdict: Any) -> None:
        """Note what quality control says of a tile of the acquisition."""
        begun = self.registry.state.begun
        if begun is None or acquisition_of(verdict.tile_id) != begun.acquisition_id:
            return
        if self.imaging is not None:
            self.imaging.unjudged.discard(verdict.tile_id)
            self.imaging.has_verdicts = True
        self.registry.change(
            begun=with_verdict(begun, verdict.tile_id, dark=is_dark(verdict))
        )

    def _take_missed_verdicts(self, begun: Begun, imaging: Imaging) -> Begun:
        """The acquisition with the verdicts published while no coordinator ran."""
        found = verdicts_of(begun, self.context.settings)
        if found:  # else no recorder has run, and which tiles are judged is not known
            imaging.unjudged.update(imaging.tiles)
        for verdict in found.values():
            self.judged(verdict)
        return self.registry.state.begun or begun

    def _imaging_of(self, begun: Begun) -> Imaging:
        frames, overlap = self.context.frames, self._settings.overlap
        return Imaging(begun, frames=frames, overlap=overlap)

    def imaged(self, imaging: Imaging) -> None:
        """Record and publish that the next tile is on disk."""
        self.publisher.tile(imaging.imaged())
        self.publisher.montage("in_progress", imaging)

    def completed(self, imaging: Imaging) -> None:
        """Record and publish that all tiles of the acquisition are there."""
        aperture_id = imaging.begun.roi.get("aperture_id")
        # before it is recorded: killed in between, it publishes the same once more
        self.publisher.complete(imaging.complete(self.optics.centroid(aperture_id)))
        self.publisher.montage("completed", imaging)
        self.imaging = None
        self.lens.steps += imaging.tilt != {}  # only steps of a tilt series count
        if imaging.begun.lens:
            self.registry.change(begun=None)
            return
        done = self.entry.tilts_done + 1
        steps = len(self.entry.roi.get("tilt_angles") or [0.0])
        if self.entry.roi.get("acquisition_type") != "tilt_series" or done >= steps:
            self.finish_entry(tiles=len(imaging.stops))
        else:
            entry = self.entry.changed(tilts_done=done)
            queue = roi_queue.with_entry(self.registry.state.queue, entry)
            self.registry.change(queue=queue, begun=None)  # in one write

    def finish_entry(self, *, tiles: int | None = None) -> None:
        """Record and publish that the region is imaged."""
        before = self.registry.state
        entry = self.entry.changed(
            status="complete", error=None, current_tile=tiles, total_tiles=tiles
        )
        self.registry.change(
            queue=roi_queue.with_entry(before.queue, entry),
            begun=None,
            completed=before.completed + 1,
            since_lens=before.since_lens + (entry.roi.get("acquisition_type") != LENS),
        )
        self.publisher.roi(entry)
        self.publisher.queue(self.registry.state)

    # --- trouble ---

    def paused(self) -> None:
        """Record and publish that the session rests."""
        self.registry.change(mode="paused")
        if self.imaging is not None:
            self.publisher.montage("paused", self.imaging)
        entry = self.registry.current
        self._become("paused", None if entry is None else entry.error)

    def going_on(self) -> None:
        """Record and publish that it goes on after a rest or a failure."""
        self.pause_wanted = False
        self.stop_now = self.stop_at_end = ""
        self.beam_mean = None  # of a dark tile: it would forbid what is to replace it
        self.registry.change(mode="running")
        if self.registry.current is not None:
            self._become("active")

    def halted(self) -> None:
        """Publish why all was stopped; what was imaged in the dark is imaged again."""
        begun, imaging = self.registry.state.begun, self.imaging
        if begun is not None and imaging is not None:
            # Without quality control no verdict is to come, and none is missing.
            unjudged = imaging.unjudged if imaging.has_verdicts else ()
            self.registry.change(
                begun=with_stop(begun, unjudged=unjudged, exposing=imaging.exposing)
            )
        self._publish_failure(f"coordinator: stopped now: {self.stop_now}")

    def spare_specimen(self) -> None:
        """Stop the stage where it is, and put the screen into the beam."""
        # the place where it is stops it: there is no other command to halt
        status = self.context.latest("stage.motion.status")
        if status is not None and status.x is not None and status.y is not None:
            self.publisher.send("stage.motion.command", x=status.x, y=status.y)
        # the screen blanks the beam; the specimen gets no more dose
        self.publisher.send("scope.command", screen="down")
        self.sent_to_nm = None

    def failed(self, sentence: str) -> None:
        """Record and publish what went wrong; nothing is lost."""
        self.errors += 1
        self._publish_failure(sentence + self.requirements.full_disk(reason=sentence))

    def preview_failed(self, sentence: str) -> None:
        """Publish what went wrong while nothing is imaged."""
        log.error("%s", sentence)
        self.publisher.trouble("", sentence)

    def _publish_failure(self, sentence: str) -> None:
        log.error("%s", sentence)
        self.registry.change(mode="paused")
        self._become("failed", sentence)
        if self.imaging is not None:
            self.publisher.montage("error", self.imaging, error=sentence)
        else:
            entry = self.registry.current
            self.publisher.trouble("" if entry is None else entry.montage_id, sentence)

    def given_up(self, reason: str) -> None:
        """Record and publish that the current region is not imaged any further."""
        self._cancel_begun(reason)
        entry = self.registry.change_current(status="aborted", error=reason)
        self.registry.change(mode="preview")
        if entry is not None:
            self.publisher.roi(entry)
            self.publisher.queue(self.registry.state)

    def left(self) -> None:
        """Give up a lens montage that was made for no region and interrupted."""
        begun = self.registry.state.begun
        if begun is not None and begun.for_montage is None:
            self._cancel_begun("the operator looks at something else")

    def _cancel_begun(self, reason: str) -> None:
        begun = self.registry.state.begun
        if begun is None:
            return
        try:
            imaging = self.imaging or self._imaging_of(begun)
            self.publisher.montage("cancelled", imaging, error=reason)
        except PlatformError as error:
            # given up all the same, though its raster cannot be planned any more
            log.warning("%s", error)
        self.imaging = None
        self.registry.change(begun=None)

    def publish_status(self) -> None:
        """Publish the queue and the active region's progress again."""
        # with each status: the disk may have room again
        if self.registry.complaint:
            self.registry.save()
        self._publish_entry()
