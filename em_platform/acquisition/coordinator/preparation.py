"""What comes before a montage: the conditions, and the column and camera made ready."""

from typing import Any

from em_platform.acquisition.machines.machine import Machine
from em_platform.acquisition.machines.requests import SetCamera, SetScope
from em_platform.config import AcquisitionSettings


class CheckConditions(Machine):
    """Whether the region may be imaged; `Failure` stays until `resume`."""

    def __init__(self) -> None:
        super().__init__(
            states=[
                {"name": "Check", "on_enter": self._check},
                "Success",
                "Failure",
            ],
            transitions=[
                {"trigger": "success", "source": "Check", "dest": "Success"},
                {"trigger": "fail", "source": "Check", "dest": "Failure"},
                {
                    "trigger": "resume",
                    "source": "Failure",
                    "dest": "Check",
                    "before": "forgive",
                },
            ],
            initial="Check",
        )

    def forgive(self) -> None:
        """Count errors anew: the operator has seen them."""
        self.session.errors = 0

    def _check(self) -> None:
        sentence = self.session.check()
        if sentence:
            self.context.problem = sentence
            self.fail()
        else:
            self.success()


class Prepare(Machine):
    """Sets magnification and screen, and asks the camera for its state."""

    def __init__(self, settings: AcquisitionSettings) -> None:
        super().__init__(
            states=[
                {
                    "name": "SetScope",
                    "children": SetScope(settings, self._column),
                    "remap": {"Success": "AskCamera"},
                },
                {
                    "name": "AskCamera",
                    "children": SetCamera(settings, lambda: {}),
                    "remap": {"Success": "Success"},
                },
                "Success",
            ],
            initial="SetScope",
        )

    def _column(self) -> dict[str, Any]:
        fields: dict[str, Any] = self.session.requirements.column()
        return fields
