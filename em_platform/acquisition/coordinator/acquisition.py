"""Acquisition: from the queue's next region through its calibrations to its montage.

Next -> CheckConditions -> ChangeAperture -> Prepare -> Plan, and from Plan, one after
the other, to what the region asks for: FindAperture, AutoExposure, BeamCenter,
BeamSpread, CalibrateResolution, Brightfield, Darkfield, AutoFocus, LensCorrection,
TiltStage, and the Montage; then Next. What is not needed is passed over at once.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from em_platform.acquisition.coordinator.lens import LENS, LensCorrection
from em_platform.acquisition.coordinator.montage import (
    CheckConditions,
    Montage,
    Prepare,
)
from em_platform.acquisition.coordinator.requirements import STATES
from em_platform.acquisition.machines.machine import Definition, Machine
from em_platform.acquisition.machines.requests import (
    ChangeAperture,
    TiltStage,
)
from em_platform.config import AcquisitionSettings

Routines = Mapping[str, Callable[[AcquisitionSettings], Machine]]
"""Calibration (as in `roi.create.calibrations`) -> what does it."""

# These rest already: a failure there would hide why the session rests.
_SPARED = ("Paused", "Stopped", "Failure")

# A lens montage is the whole of its region, or comes before another one's tiles.
_AFTER_LENS = [
    {
        "orig": "Success",
        "dest": "Next",
        "conditions": "is_lens_region",
        "before": "finish_region",
    },
    {"orig": "Success", "dest": "Plan", "before": "note_lens"},
]


class Stopped(Machine):
    """All was stopped at once; it stays in its `Failure` until `resume`."""

    def __init__(self) -> None:
        super().__init__(states=["Failure"], initial="Failure")


class Acquisition(Machine):
    """Images the queue; see the top of this file."""

    def __init__(self, settings: AcquisitionSettings, routines: Routines) -> None:
        states = [
            {"name": "Next", "on_enter": self._next},
            {
                "name": "CheckConditions",
                "children": CheckConditions(),
                "remap": [
                    _when("wants_aperture", "ChangeAperture"),
                    _when("wants_prepare", "Prepare"),
                    {"orig": "Success", "dest": "Plan"},
                ],
            },
            {
                "name": "ChangeAperture",
                # lambdas: session and triggers are there only when the root is made
                "children": ChangeAperture(
                    settings, lambda: self.session.requirements.aperture()
                ),
                "remap": [
                    _when("wants_prepare", "Prepare"),
                    {"orig": "Success", "dest": "Plan"},
                ],
            },
            {
                "name": "Prepare",
                "children": Prepare(settings),
                "remap": {"Success": "Plan"},
            },
            {"name": "Plan", "on_enter": lambda: self.proceed()},
            *self._calibrations(settings, routines),
            {
                "name": "LensCorrection",
                "children": LensCorrection(settings, lambda: self.session.entry),
                "remap": _AFTER_LENS,
            },
            {
                "name": "TiltStage",
                "children": TiltStage(
                    settings, lambda: self.session.requirements.tilt()
                ),
                "remap": {"Success": "Plan"},
            },
            {
                "name": "Montage",
                "children": Montage(settings, lambda: dict(self.session.entry.roi)),
                "remap": {"Success": "Next"},
            },
            {"name": "Paused", "on_enter": lambda: self.session.paused()},
            {
                "name": "Stopped",
                "on_enter": lambda: self.session.spare_specimen(),
                "children": Stopped(),
            },
            "Failure",
        ]
        super().__init__(
            states=states,
            transitions=self._transitions([state_name(s) for s in states], routines),
            initial="Next",
        )

    def _calibrations(
        self, settings: AcquisitionSettings, routines: Routines
    ) -> list[Definition]:
        return [
            {
                "name": STATES[name],
                "children": routines[name](settings),
                "remap": [
                    {
                        "orig": "Success",
                        "dest": "Plan",
                        # not a lambda, which would take the loop's last name
                        "before": partial(self._calibrated, name),
                    }
                ],
            }
            for name in STATES
            if name in routines
        ]

    def _transitions(self, names: list[str], routines: Routines) -> list[Definition]:
        # In this order: the first whose condition holds is where Plan goes.
        chosen = [
            ("Paused", "wants_pause"),
            *(
                (state, partial(self._wants, name))
                for name, state in STATES.items()
                if name in routines
            ),
            ("Prepare", "wants_prepare"),  # a calibration may have changed the column
            ("LensCorrection", "wants_lens"),
            ("TiltStage", "wants_tilt"),
        ]
        return [
            {"trigger": "rest", "source": "Next", "dest": "Paused"},
            {"trigger": "take", "source": "Next", "dest": "CheckConditions"},
            *(
                {
                    "trigger": "proceed",
                    "source": "Plan",
                    "dest": dest,
                    "conditions": condition,
                }
                for dest, condition in chosen
            ),
            # last, with no condition: all that was asked for is done
            {"trigger": "proceed", "source": "Plan", "dest": "Montage"},
            {
                "trigger": "lost",
                "source": ["Montage", "LensCorrection"],
                # a stage that was started again holds no aperture
                "dest": "ChangeAperture",
            },
            {
                "trigger": "fail",
                "source": [name for name in names if name not in _SPARED],
                "dest": "Failure",
            },
            # Next takes the interrupted region before those that wait
            {"trigger": "resume", "source": list(_SPARED), "dest": "Next"},
        ]

    # --- what the states do ---

    def _next(self) -> None:
        # before `take`, which would make the next region the active one
        if self.session.pause_wanted:
            self.rest()
        elif self.session.take():
            self.take()
        else:
            self.leave()

    def note_lens(self) -> None:
        """Note that the lens is corrected for the region."""
        self.session.lens.steps = 0
        self.session.calibrated(LENS)

    def finish_region(self) -> None:
        """Note that the region, a lens montage, is imaged."""
        self.session.lens.steps = 0
        self.session.finish_entry()

    def _calibrated(self, name: str) -> None:
        self.session.calibrated(name)

    # --- where to go ---

    def wants_aperture(self) -> bool:
        """Whether the region is in another aperture."""
        return bool(self.session.requirements.wants_aperture())

    def wants_prepare(self) -> bool:
        """Whether the column is not as the region needs it."""
        return not self.session.requirements.is_prepared()

    def wants_pause(self) -> bool:
        """Whether the operator wants a pause."""
        return bool(self.session.pause_wanted)

    def wants_lens(self) -> bool:
        """Whether the lens is imaged first, or is all that is imaged."""
        return bool(self.session.lens.wanted(self.session.entry))

    def wants_tilt(self) -> bool:
        """Whether the stage must be tilted, or tilted back."""
        return bool(self.session.requirements.must_tilt())

    def is_lens_region(self) -> bool:
        """Whether the lens montage was the region."""
        return bool(self.session.entry.roi.get("acquisition_type") == LENS)

    def _wants(self, name: str) -> bool:
        return name in self.session.requirements.wanted()


def state_name(state: Any) -> str:
    """The name of a state as it is given to a machine."""
    return state if isinstance(state, str) else str(state["name"])


def _when(condition: str, dest: str) -> dict[str, str]:
    return {"orig": "Success", "dest": dest, "conditions": condition}
