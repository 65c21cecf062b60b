"""What a region needs before its montage begins, and what forbids it."""

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from em_platform.acquisition.coordinator.imaging import now
from em_platform.acquisition.coordinator.registry import Begun, Optics, Registry
from em_platform.acquisition.coordinator.roi_queue import Entry
from em_platform.acquisition.frame_paths import reserve_id
from em_platform.acquisition.machines.machine import Context
from em_platform.acquisition.machines.requests import CLOSE_RAD
from em_platform.acquisition.roi import RoiFields, stops_of
from em_platform.config import CoordinatorSettings
from em_platform.errors import AcquisitionError

STATES = {
    "find_aperture": "FindAperture",
    "auto_exposure": "AutoExposure",
    "beam_center": "BeamCenter",
    "beam_spread": "BeamSpread",
    "calibrate_resolution": "CalibrateResolution",
    "bright_field": "Brightfield",
    "dark_field": "Darkfield",
    "auto_focus": "AutoFocus",
}
"""Calibration -> state, in the order in which they are done before a montage."""

_GB = 1e9  # bytes: decimal, as disks are sold and the settings have it


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is known before an aperture is imaged.

    `needed_bytes` is what its frames will take, `beam_mean` the mean grey of the last
    tile (None: unknown), `calibrations` those that the region asks for.
    """

    montage_id: str
    frames: Path
    needed_bytes: int
    errors: int
    beam_mean: float | None
    calibrations: frozenset[str]
    is_continued: bool


def problem(situation: Situation, settings: CoordinatorSettings) -> str:
    """Why the aperture must not be imaged now, in a sentence; empty when it may."""
    return next(_problems(situation, settings), "")


def free_bytes(folder: Path) -> int:
    """What is free on the disk of a folder that need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _problems(situation: Situation, settings: CoordinatorSettings) -> Iterator[str]:
    who = f"coordinator: {situation.montage_id} is not imaged"
    yield from _disk(who, situation, settings.min_free_gb * _GB)
    if situation.errors >= settings.max_errors:
        yield (
            f"{who}: {situation.errors} requests failed in this session, at most "
            f"{settings.max_errors - 1} are passed over; see to the devices, then retry"
        )
    mean, least = situation.beam_mean, settings.min_beam_mean
    # the first tile of a session has no mean yet
    if least > 0 and mean is not None and mean < least:
        yield (
            f"{who}: the last tile's mean is {mean:g} grey levels, at least {least:g} "
            "is expected; see to the beam, then retry"
        )
    for kind, required in (
        ("bright", settings.require_brightfield),
        ("dark", settings.require_darkfield),
    ):
        path = situation.frames / "references" / f"{kind}.tiff"
        asked = f"{kind}_field" in situation.calibrations
        if required and not asked and not path.is_file():
            yield (
                f"{who}: there is no {kind}field ({path}), one is required; acquire "
                "one, then retry"
            )
    folder = situation.frames / situation.montage_id
    if settings.existing_data == "refuse" and not situation.is_continued:
        # by the names of tiles: linked references are no frames
        if next(folder.glob("*_[0-9]*_[0-9]*.tiff"), None) is not None:
            yield (
                f"{who}: {folder} holds frames already, an empty folder is expected; "
                "choose another montage_id, or move them, then retry"
            )


def _disk(who: str, situation: Situation, least: float) -> Iterator[str]:
    folder = situation.frames
    free = free_bytes(folder)
    if free < least + situation.needed_bytes:
        yield (
            f"{who}: {folder} has {free / _GB:.1f} GB free, its frames take "
            f"{situation.needed_bytes / _GB:.1f} GB and {least / _GB:g} GB are to stay "
            "free; free space, then retry"
        )


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
                # a byte a pixel, as 8-bit frames take
                needed = len(stops) * frame.height_px * frame.width_px
        except AcquisitionError as error:
            return str(error)
        begun = self.registry.state.begun
        # a session that is not on the disk would be lost with the process
        return self.registry.complaint or problem(
            Situation(
                montage_id=entry.montage_id,
                frames=self.context.frames,
                needed_bytes=needed,
                errors=errors,
                # None until the pipeline has measured a tile
                beam_mean=beam_mean,
                calibrations=frozenset(self.wanted()),
                is_continued=begun is not None
                or entry.tilts_done > 0
                # imaged anew on purpose: frames are there, under other names
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
        if free >= own.min_free_gb * _GB or "GB free" in reason:
            return ""
        return (
            f" (the disk of {self.context.frames} has only {free / _GB:.1f} GB free; "
            "free space first)"
        )

    def wants_aperture(self) -> bool:
        """Whether the region is in another aperture than that under the beam."""
        wanted = self.entry.roi.get("aperture_id")
        status = self.context.latest("stage.aperture.status")
        return wanted is not None and (
            # unknown counts as another: changing twice does no harm
            status is None or status.current_aperture != wanted
        )

    def aperture(self) -> dict[str, int]:
        """Fields of the `stage.aperture.command` for the region."""
        return {"aperture_id": self.entry.roi["aperture_id"]}

    def column(self) -> dict[str, str | int]:
        """Fields of the `scope.command` before the region is imaged."""
        magnification = self._settings.magnification
        if self.entry.roi.get("acquisition_type") == "survey":
            magnification = self._settings.coordinator.survey_magnification
        # the JEOL 1200 has no MAG below 2000, see simulation.devices.scope
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
        # level is an angle, too: after a series the stage goes back
        off_rad = abs(status.angle_x - math.radians(wanted or 0.0))
        return bool(status.in_motion or off_rad > CLOSE_RAD)

    def tilt(self) -> dict[str, float]:
        """Fields of the `stage.rotation.command` for the region."""
        return {"angle_x": math.radians(self.tilt_wanted() or 0.0)}

    def new_acquisition(self, roi: RoiFields, *, lens: bool) -> Begun:
        """The acquisition of `roi`, registered, with an id that no other has.

        Raises
        ------
        AcquisitionError
            No camera has published the size of its frames.
        """
        frame = self.optics.frame_size()
        if frame is None:
            raise AcquisitionError(
                f"coordinator: {roi['montage_id']} cannot be planned: no camera has "
                "published its frame size; start the camera, then retry"
            )
        scale = self.optics.scale(survey=roi.get("acquisition_type") == "survey")
        started_at = now()
        # a lens montage by ui.setup belongs to no region
        is_preview = self.registry.state.mode == "preview"
        entry = None if is_preview else self.registry.current
        is_tilted = entry is not None and not lens and self.tilt_wanted() is not None
        begun = Begun(
            acquisition_id=reserve_id(
                self.context.frames, roi["montage_id"], started_at
            ),
            started_at=started_at,
            roi=roi,
            for_montage=None if entry is None else entry.montage_id,
            frame=frame,
            pixel_nm=scale.pixel_nm,
            rotation_rad=scale.rotation_rad,
            lens=lens,
            tilt_index=entry.tilts_done if entry is not None and is_tilted else None,
        )
        self.registry.change(begun=begun)
        return begun
