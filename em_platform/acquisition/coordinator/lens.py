"""LensCorrection { Montage -> AwaitTransform }, and when a lens montage is due."""

from collections.abc import Callable
from typing import Any

from em_platform.acquisition.coordinator import roi_queue
from em_platform.acquisition.coordinator.imaging import now
from em_platform.acquisition.coordinator.montage import Montage
from em_platform.acquisition.coordinator.registry import Optics, Registry
from em_platform.acquisition.coordinator.roi_queue import Entry
from em_platform.acquisition.machines.machine import Context, Machine, on_message
from em_platform.acquisition.roi import RoiFields, created, middle_nm, roi_of
from em_platform.config import AcquisitionSettings
from em_platform.messaging.topics import Body

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
        """Keep what a `lens_correction.setup` asks for."""
        self._registry.change(lens_setup=message.model_dump(mode="json"))

    def due(self) -> Entry | None:
        """A lens montage for the queue, put in front, when so many regions are done.

        There is none behind the last region: its lens would correct nothing.
        """
        state = self._registry.state
        setup = state.lens_setup or {}
        every = setup.get("every_n_rois", 0) if setup.get("enabled") else 0
        if (
            not every
            or state.since_lens < every
            or not roi_queue.following(state.queue)
        ):
            return None
        entry = Entry(roi=self.region(None), source="cadence")
        queue = roi_queue.added(state.queue, entry, None)
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
        # an interrupted montage is finished first, of whichever kind
        if begun is not None:
            return begun.lens
        setup = self._registry.state.lens_setup or {}
        every = setup.get("every_n_tilt_steps", 0) if setup.get("enabled") else 0
        return 0 < every <= self.steps

    def region(self, entry: Entry | None) -> RoiFields:
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
        # the page's setup first, then the settings
        own = settings.acquisition.coordinator
        percent = setup.get("overlap_pct")  # 0 is a value, so no `or` below
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
            # so that its frames are found with those of the region
            kept = ("metadata", "specimen_id", "section_id", "roi_name")
            fields |= {name: entry.roi.get(name) for name in kept}
        made: RoiFields = created(fields).model_dump(mode="json")
        return made

    def _aperture(self, entry: Entry | None) -> int | None:
        if entry is not None and entry.roi.get("aperture_id") is not None:
            return int(entry.roi["aperture_id"])
        # else where it is: a lens montage needs no region
        status = self._context.latest("stage.aperture.status")
        return None if status is None else status.current_aperture

    def _center_nm(self, entry: Entry | None, setup: Body) -> tuple[float, float]:
        """As the setup gives it, else the region's middle, else where the stage is."""
        center = setup.get("center")
        # in an overview its center is in pixels, and no place on the stage
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


class LensCorrection(Machine):
    """Images a lens montage and waits for the transform that is solved from it.

    A bad transform, or none in time, has the montage imaged again; after
    `coordinator.lens_tries` times the session stops here.

    Parameters
    ----------
    entry
        Gives the region for which it is done, if any.
    """

    def __init__(
        self, settings: AcquisitionSettings, entry: Callable[[], Entry | None]
    ) -> None:
        own = settings.coordinator
        self._entry = entry
        self._tries = own.lens_tries
        self._left = self._tries
        self._timeout_s = own.lens_timeout_s
        self._montage_id = ""
        self._answer = ""
        super().__init__(
            on_enter=self.reset,
            states=[
                {
                    "name": "Montage",
                    "children": Montage(settings, self._region, lens=True),
                    "remap": {"Success": "AwaitTransform"},
                },
                {
                    "name": "AwaitTransform",
                    "timeout": own.lens_timeout_s,
                    "on_timeout": "again",
                },
                "Success",
                "Failure",
            ],
            transitions=[
                {
                    "trigger": "again",
                    "source": "AwaitTransform",
                    "dest": "Montage",
                    "conditions": "has_tries",
                    "before": "count_try",
                },
                {
                    "trigger": "again",
                    "source": "AwaitTransform",
                    "dest": "Failure",
                    "before": "explain",
                },
                {"trigger": "solved", "source": "AwaitTransform", "dest": "Success"},
                {
                    "trigger": "resume",
                    "source": "Failure",
                    "dest": "Montage",
                    "before": "reset",
                },
            ],
            initial="Montage",
        )

    def has_tries(self) -> bool:
        """Whether the montage may be imaged once more."""
        # 1: the montage that was just judged is one of the tries
        return self._left > 1

    def count_try(self) -> None:
        """Note that the montage is imaged once more."""
        self._left -= 1
        self._logger.warning("%s is imaged again: %s", self._montage_id, self._reason())
        self._answer = ""

    def explain(self) -> None:
        """Publish why the lens is not known."""
        self.context.problem = (
            f"coordinator: the lens is not corrected after {self._tries} montages: "
            f"{self._reason()}; see to the lens montage and its service, then retry"
        )

    def reset(self) -> None:
        """Begin to count anew."""
        self._left, self._answer = self._tries, ""

    def _region(self) -> RoiFields:
        region = dict(self.session.lens.region(self._entry()))
        number = self._tries - self._left + 1
        if number > 1 and self.session.registry.state.begun is None:
            # frames of a rejected try must not be matched with those of the next
            region["montage_id"] += f"-{number}"
        self._montage_id = region["montage_id"]
        return region

    def _reason(self) -> str:
        return self._answer or (
            f"no lens_correction.transform of {self._montage_id} came within "
            f"{self._timeout_s:g} s"
        )

    @on_message("lens_correction.transform")
    def _on_transform(self, message: Any) -> None:
        is_awaited = self.get_machine_state() == "AwaitTransform"
        # a transform of an earlier try may come late
        if not is_awaited or message.montage_id != self._montage_id:
            return
        if message.ok:
            self.solved()
            return
        self._answer = (
            f"the transform of {self._montage_id} leaves "
            f"{message.residual_mean_px:.2f} ± {message.residual_std_px:.2f} px "
            f"from {message.n_matches} matches"
        )
        self.again()
