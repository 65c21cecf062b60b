"""FindAperture as a state machine: one state an edge, then the middle."""

from typing import Any, ClassVar

from em_platform.acquisition.machines.machine import Machine, on_message
from em_platform.acquisition.routines.aperture_search import (
    DIRECTIONS,
    edge,
    middle,
    to_lowmag,
)
from em_platform.acquisition.routines.routine import Routine, is_stopped
from em_platform.acquisition.routines.steps import Calibration, Outcome
from em_platform.config import AcquisitionSettings


class _Part(Routine):
    """A part that hands what it has found to the whole."""

    kind = "find-aperture"
    frame_state: ClassVar[str] = "CheckEdge"
    puts_back = False

    def found(self, outcome: Outcome) -> None:
        """Publish it; the centroid is that of the aperture that the stage holds."""
        for topic, fields in outcome.messages.items():
            self.client.send(topic, aperture_id=self._parent.aperture_id, **fields)


class _Lowmag(_Part):
    """To the low magnification."""

    def calibration(self) -> Calibration:
        """Note the column's state before."""
        whole = self._parent
        before = yield from to_lowmag(self._settings)
        # after a stop the column may still be as this left it
        whole.before = whole.before or before
        return Outcome(sentence="find aperture: at LOWMAG")


class _Edge(_Part):
    """Outward until there is tape, then by halves."""

    def calibration(self) -> Calibration:
        """The edge after which the state is named."""
        whole, name = self._parent, self.state_name
        whole.edges[name] = yield from edge(self._settings, name, whole.edges)
        return Outcome(sentence=f"find aperture: {name} at {whole.edges[name]} nm")


class _Middle(_Part):
    """To the middle of the four edges, at the magnification before."""

    def calibration(self) -> Calibration:
        """Go there and publish it."""
        whole = self._parent
        found: Outcome = yield from middle(whole.edges, whole.before)
        whole.before = None
        return found


class FindAperture(Machine):
    """Lowmag -> PositiveX -> NegativeX -> PositiveY -> NegativeY -> Middle.

    Left before its end, or failed, it returns to the magnification before; not when it
    is left for a stop.
    """

    def __init__(self, settings: AcquisitionSettings, **options: Any) -> None:
        self.edges: dict[str, int] = {}
        self.before: Any = None
        self.aperture_id = 0
        edges = list(DIRECTIONS)
        names = ["Lowmag", *edges, "Middle"]
        parts = [_Lowmag, *(_Edge for _ in edges), _Middle]
        states = [
            {
                "name": name,
                "children": part(settings),
                "remap": {"Success": following, "Failure": "Failure"},
            }
            for name, part, following in zip(
                names, parts, [*names[1:], "Success"], strict=True
            )
        ]
        super().__init__(
            states=[*states, "Success", {"name": "Failure", "on_enter": self._return}],
            initial="Lowmag",
            transitions=[["resume", "Failure", "Lowmag"]],
            on_enter=self._begin,
            on_exit=self._leave,
            **options,
        )

    @on_message("stage.aperture.status")
    def _on_aperture(self, status: Any) -> None:
        if status.current_aperture is not None:
            self.aperture_id = status.current_aperture

    def _begin(self) -> None:
        self.edges.clear()
        status = self.context.latest("stage.aperture.status")
        if status is not None:
            self._on_aperture(status)

    def _leave(self) -> None:
        if self.before is not None:
            self.after(0.0, self._return_unless_stopped)

    def _return_unless_stopped(self) -> None:
        if not is_stopped(self.state):
            self._return()

    def _return(self) -> None:
        before, self.before = self.before, None
        if before is not None:
            fields = {"mag_mode": before.mag_mode, "mag": before.mag}
            self._root.client.send("scope.command", **fields)
