"""What the region that is imaged needs before its montage begins."""

import math
from typing import Any

from em_platform.acquisition.coordinator.checks import (
    Situation,
    free_bytes,
    problem,
)
from em_platform.acquisition.coordinator.names import STATES
from em_platform.acquisition.coordinator.optics import Optics
from em_platform.acquisition.coordinator.registry import Registry
from em_platform.acquisition.coordinator.roi_queue import Entry
from em_platform.acquisition.machines.context import Context
from em_platform.acquisition.machines.requests import CLOSE_RAD
from em_platform.acquisition.roi import stops_of
from em_platform.errors import AcquisitionError


class Requirements:
    """Compares what the current region asks for with how the microscope is."""

    def __init__(
        self,
        context: Context,
        registry: Registry,
        optics: Optics,
        *,
        available: frozenset[str],
    ) -> None:
        self.context = context
        self.registry = registry
        self.optics = optics
        self.available = available
        self._settings = context.settings.acquisition

    @property
    def entry(self) -> Entry:
        """The region that is imaged."""
        entry = self.registry.current
        if entry is None:
            raise AcquisitionError(
                "coordinator: no region is imaged, one was expected; start again"
            )
        return entry

    def problem(self, *, errors: int, beam_mean: float | None) -> str:
        """Why the region must not be imaged now; empty when it may."""
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
        begun = self.registry.state.begun
        return self.registry.complaint or problem(
            Situation(
                montage_id=entry.montage_id,
                frames=self.context.frames,
                needed_bytes=needed,
                errors=errors,
                beam_mean=beam_mean,
                calibrations=frozenset(self.wanted()),
                is_continued=begun is not None
                or entry.tilts_done > 0
                or "replaces_acquisition_id" in (entry.roi.get("metadata") or {}),
            ),
            self._settings.coordinator,
        )

    def full_disk(self, *, reason: str) -> str:
        """What to add to the reason of a failure when the frames' disk is full.

        Empty where `reason` names the disk already.
        """
        own = self._settings.coordinator
        free = free_bytes(self.context.frames)
        if free >= own.min_free_gb * 1e9 or "GB free" in reason:
            return ""
        return (
            f" (the disk of {self.context.frames} has only {free / 1e9:.1f} GB free; "
            "free space first)"
        )

    def wants_aperture(self) -> bool:
        """Whether the region is in another aperture than that under the beam."""
        wanted = self.entry.roi.get("aperture_id")
        status = self.context.latest("stage.aperture.status")
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
        status = self.context.latest("scope.status")
        camera = self.context.latest("camera.status")
        return (
            status is not None
            and camera is not None
            and all(getattr(status, n) == v for n, v in self.column().items())
        )

    def wanted(self) -> list[str]:
        """The calibrations that the region asks for and that are not done, in order."""
        entry = self.entry
        asked = entry.roi.get("calibrations") or {}
        return [
            name
            for name in STATES
            if asked.get(name)
            and name in self.available
            and name not in entry.calibrated
        ]

    def tilt_wanted(self) -> float | None:
        """The angle in degrees that the stage is to have for the region, if any."""
        entry = self.entry
        if entry.roi.get("acquisition_type") != "tilt_series":
            return None
        return float(entry.roi["tilt_angles"][entry.tilts_done])

    def must_tilt(self) -> bool:
        """Whether the stage must be tilted for the region, or back after a series."""
        wanted = self.tilt_wanted()
        status = self.context.latest("stage.rotation.status")
        if status is None:
            return wanted is not None
        off_rad = abs(status.angle_x - math.radians(wanted or 0.0))
        return bool(status.in_motion or off_rad > CLOSE_RAD)

    def tilt(self) -> dict[str, Any]:
        """Fields of the `stage.rotation.command` for the region."""
        return {"angle_x": math.radians(self.tilt_wanted() or 0.0)}
