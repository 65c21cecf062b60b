"""LensCorrection { Montage -> AwaitTransform }: images until the lens is known."""

from collections.abc import Callable
from typing import Any

from em_platform.acquisition.coordinator.montage import Montage
from em_platform.acquisition.coordinator.roi_queue import Entry
from em_platform.acquisition.machines.machine import Machine, on_message
from em_platform.config import AcquisitionSettings


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
            on_enter=self._reset,
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

    def _reset(self) -> None:
        self.reset()

    def _region(self) -> dict[str, Any]:
        region: dict[str, Any] = dict(self.session.lens.region(self._entry()))
        number = self._tries - self._left + 1
        if number > 1 and self.session.registry.state.begun is None:
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
