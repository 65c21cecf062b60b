"""When a lens montage is due, and what is imaged for it."""

import logging
from typing import Any

from em_platform.acquisition.coordinator import roi_queue
from em_platform.acquisition.coordinator.imaging import now
from em_platform.acquisition.coordinator.optics import Optics
from em_platform.acquisition.coordinator.registry import Registry
from em_platform.acquisition.coordinator.roi_queue import Entry
from em_platform.acquisition.machines.context import Context
from em_platform.acquisition.roi import created, middle_nm, roi_of

log = logging.getLogger(__name__)

LENS = "lens_correction"


class LensMontages:
    """The cadence of `lens_correction.setup`, and the regions of lens montages.

    `steps` counts tilt steps since the last lens montage.
    """

    def __init__(self, context: Context, registry: Registry, optics: Optics) -> None:
        self.steps = 0
        self._context = context
        self._registry = registry
        self._optics = optics

    def set_up(self, message: Any) -> None:
        """Keep what a `` reports."""
        self._registry.change(lens_setup=message.model_dump(mode="json"))

    def due(self) -> Entry | None:
        """A lens montage for the queue, put in front, when so many regions are done.

        There is none behind the last region: its lens would correct nothing.
        """
        pages = self._registry.state
        setup = pages.lens_setup or {}
        every = setup.get("every_n_rois", 0) if setup.get("enabled") else 0
        if (
            not every
            or pages.since_lens < every
            or not roi_queue.following(pages.queue)
        ):
            return None
        entry = Entry(roi=self.region(None), source="cadence")
        queue = roi_queue.added(pages.queue, entry, None)
        self._registry.change(queue=queue, since_lens=0)
        return entry

    def wanted(self, entry: Entry) -> bool:
        """Whether the lens is to be imaged now, for a region or as the region."""
        if entry.roi.get("acquisition_type") == LENS:
            return True
        asked = (entry.roi.get("calibrations") or {}).get(LENS)
        if asked and LENS not in entry.calibrated:
            return True
        begun = self._registry.state.begun
        if begun is not None:
            return begun.lens
        setup = self._registry.state.lens_setup or {}
        every = setup.get("every_n_tilt_steps", 0) if setup.get("enabled") else 0
        return 0 < every <= self.steps

    def region(self, entry: Entry | None) -> dict[str, Any]:
        """Fields of the `roi.create` of the lens montage for a region, or for none.

        One that was begun goes on. A region of the type lens_correction with a polygon
        is imaged as it is.
        """
        begun = self._registry.state.begun
        if begun is not None and begun.lens:
            return begun.roi
        is_lens = entry is not None and entry.roi.get("acquisition_type") == LENS
        if entry is not None and is_lens and len(entry.roi.get("vertices") or ()) > 2:
            return dict(entry.roi)
        settings = self._context.settings
        setup = self._registry.state.lens_setup or {}
        own = settings.acquisition.coordinator
        percent = setup.get("overlap_pct")
        scale = self._optics.scale()
        fields = roi_of(
            entry.montage_id if entry is not None and is_lens else _new_id(entry),
            self._aperture(entry),
            setup.get("tiles_y") or own.lens_tiles,
            setup.get("tiles_x") or own.lens_tiles,
            (own.lens_overlap if percent is None else round(percent) / 100),
            settings,
            acquisition_type=LENS,
            frame=self._optics.frame_size(),
            center_nm=self._center_nm(entry, setup),
            pixel_nm=scale.pixel_nm,
            rotation=scale.rotation_rad,
        )
        if entry is not None:
            kept = ("metadata", "specimen_id", "section_id", "roi_name")
            fields |= {name: entry.roi.get(name) for name in kept}
        made: dict[str, Any] = created(fields).model_dump(mode="json")
        return made

    def _aperture(self, entry: Entry | None) -> int | None:
        if entry is not None and entry.roi.get("aperture_id") is not None:
            return int(entry.roi["aperture_id"])
        status = self._context.latest("stage.aperture.status")
        return None if status is None else status.current_aperture

    def _center_nm(
        self, entry: Entry | None, setup: dict[str, Any]
    ) -> tuple[float, float]:
        """As the setup gives it, else the region's middle, else where the stage is."""
        center = setup.get("center")
        if entry is not None and entry.roi.get("overview_nm_per_pixel") is None:
            center = entry.roi.get("center") or center
        if center is not None:
            return center["x"], center["y"]
        if entry is not None and len(entry.roi.get("vertices") or ()) > 2:
            return middle_nm(entry.message)
        status = self._context.latest("stage.motion.status")
        if status is None or status.x is None or status.y is None:
            return 0.0, 0.0
        return status.x, status.y


def _new_id(entry: Entry | None) -> str:
    stamp = f"{now():%Y%m%dt%H%M%S}"
    return f"lens-{stamp}" if entry is None else f"{entry.montage_id}-lens-{stamp}"
