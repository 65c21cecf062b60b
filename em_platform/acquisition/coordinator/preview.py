"""Preview: shows frames while nothing is imaged, and does what the operator asks for.

UpdateImage, and from there one routine at a time, the change of an aperture, or a lens
montage; then UpdateImage again.
"""

import logging
import time
from pathlib import Path

from em_platform.acquisition.coordinator.acquisition import Routines, state_name
from em_platform.acquisition.coordinator.lens import LensCorrection
from em_platform.acquisition.coordinator.requirements import STATES
from em_platform.acquisition.frame_paths import PREVIEW
from em_platform.acquisition.machines.machine import Definition, Machine
from em_platform.acquisition.machines.requests import Capture, ChangeAperture
from em_platform.config import AcquisitionSettings
from em_platform.messaging.topics import Body

log = logging.getLogger(__name__)

_FRESH_S = 3.0  # a camera and a stage publish a status each second
_KEPT_S = 120.0  # a preview's file is needed until the pipeline has shown it


class UpdateImage(Machine):
    """UpdateImage { Wait <-> Show }: a frame for the operator's screen now and then.

    Nothing is asked of a microscope that does not answer.
    """

    def __init__(self, settings: AcquisitionSettings) -> None:
        period_s = settings.coordinator.preview_s
        self._fields: Body = {}
        # a state without a time-out waits for ever: preview_s 0 shows nothing
        waiting = {"timeout": period_s, "on_timeout": "look"} if period_s else {}
        super().__init__(
            states=[
                {"name": "Wait", "on_enter": self._wait, **waiting},
                {
                    "name": "Show",
                    "children": Capture(
                        settings, self._frame, answered=self._show, tries=1
                    ),
                    # a frame that did not come is no failure: the next one may
                    "remap": {"Success": "Wait", "Failure": "Wait"},
                },
            ],
            transitions=[
                {
                    "trigger": "look",
                    "source": "Wait",
                    "dest": "Show",
                    "conditions": "microscope_answers",
                },
                # entered anew, so that its time-out begins again
                {"trigger": "look", "source": "Wait", "dest": "Wait"},
            ],
            initial="Wait",
        )

    def microscope_answers(self) -> bool:
        """Whether a camera and a stage have published a status recently."""
        return all(
            self.context.age_s(topic) < _FRESH_S
            for topic in ("camera.status", "stage.motion.status")
        )

    def _wait(self) -> None:
        self.session.left()
        self.next_setup()

    def _frame(self) -> Body:
        self._fields = self.context.frame("preview")
        return self._fields

    def _show(self, path: Path) -> None:
        self.client.send("tile.raw", **self._fields, path=str(path))
        # here, so that the folder does not grow while nothing else runs
        remove_old(self.context.frames / PREVIEW)


class Preview(Machine):
    """What the microscope does while nothing is imaged; see the top of this file."""

    def __init__(self, settings: AcquisitionSettings, routines: Routines) -> None:
        jobs: list[Definition] = [
            {
                "name": STATES[name],
                "children": routines[name](settings),
                "remap": {"Success": "UpdateImage"},
            }
            for name in STATES
            if name in routines
        ]
        jobs += [
            {
                "name": "ChangeAperture",
                "children": ChangeAperture(
                    settings, lambda: {"aperture_id": self.session.preview_aperture}
                ),
                "remap": {"Success": "UpdateImage"},
            },
            {
                "name": "LensCorrection",
                "children": LensCorrection(settings, lambda: None),
                "remap": {"Success": "UpdateImage"},
            },
        ]
        names = [state_name(job) for job in jobs]
        super().__init__(
            states=[{"name": "UpdateImage", "children": UpdateImage(settings)}, *jobs],
            transitions=[
                *(
                    {"trigger": f"do{name}", "source": "UpdateImage", "dest": name}
                    for name in names
                ),
                {"trigger": "cancel", "source": names, "dest": "UpdateImage"},
            ],
            initial="UpdateImage",
        )


def remove_old(folder: Path) -> None:
    """Delete the files of previews that have been shown."""
    for path in folder.glob("preview-*"):
        try:
            if time.time() - path.stat().st_mtime > _KEPT_S:
                path.unlink()
        except OSError as error:  # perhaps gone meanwhile; the next preview tries again
            log.debug("preview: %s stays (%s)", path, error)
