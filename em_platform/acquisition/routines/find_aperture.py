"""FindAperture: the four edges of the slot in the tape, its middle, and its machine."""

import math
from collections.abc import Generator, Mapping
from typing import Any, ClassVar

from em_platform.acquisition.machines.machine import Machine, on_message
from em_platform.acquisition.routines.routine import Routine, is_stopped
from em_platform.acquisition.routines.steps import (
    Calibration,
    Column,
    Frame,
    Image,
    Move,
    Outcome,
    Step,
    grey,
)
from em_platform.config import AcquisitionSettings
from em_platform.errors import DeviceError

DIRECTIONS = {
    "PositiveX": (1, 0),
    "NegativeX": (-1, 0),
    "PositiveY": (0, 1),
    "NegativeY": (0, -1),
}
"""State of the machine -> the way along the stage's axes."""

_COARSE = 0.1  # of the slot's length: the steps outward; the stage ends not far beyond
_MOST_STEPS = 15  # 1.5 slots: from anywhere within, the edge is nearer
_PART = 8  # the middle 1/8 of a frame's height and width decides between light and tape


def find_aperture(settings: AcquisitionSettings) -> Calibration:
    """Seek all four edges at LOWMAG, go to the middle, return to the magnification.

    Raises
    ------
    DeviceError
        The stage does not stand in an aperture, or one has no edge where expected.
    """
    before = yield from to_lowmag(settings)
    edges: dict[str, int] = {}
    for name in DIRECTIONS:
        edges[name] = yield from edge(settings, name, edges)
    return (yield from middle(edges, before))


def to_lowmag(settings: AcquisitionSettings) -> Generator[Step, Any, Any]:
    """Go to the low magnification; the column's status before."""
    before = yield Column()
    mag = settings.coordinator.routines.aperture_mag
    yield Column(fields={"mag_mode": "LOWMAG", "mag": mag})
    return before


def edge(
    settings: AcquisitionSettings, name: str, found: Mapping[str, int]
) -> Generator[Step, Any, int]:
    """Stage x or y (nm) of one edge: outward until there is tape, then by halves."""
    wanted = settings.coordinator.routines
    way_x, way_y = DIRECTIONS[name]
    if way_y and name == "PositiveY":
        # from the middle between the edges along x, where the slot is longest
        middle_x = (found["PositiveX"] + found["NegativeX"]) // 2
        yield Move(x_nm=middle_x)
    here = yield Move()
    start, sign = (here.x, way_x) if way_x else (here.y, way_y)
    length_mm = wanted.aperture_width_mm if way_x else wanted.aperture_height_mm
    coarse_nm = round(length_mm * 1e6 * _COARSE)

    def light_at(place: int) -> Generator[Step, Any, bool]:
        yield Move(x_nm=place) if way_x else Move(y_nm=place)
        return is_light((yield Frame()), threshold=wanted.tape_threshold)

    if not (yield from light_at(start)):
        raise DeviceError(
            f"find aperture: at {here.x}, {here.y} nm there is tape and no aperture; "
            "bring an aperture under the beam"
        )
    inside = outside = start
    for _ in range(_MOST_STEPS):
        outside = inside + sign * coarse_nm
        if not (yield from light_at(outside)):
            break
        inside = outside
    else:
        raise DeviceError(
            f"find aperture: {name} has no edge within "
            f"{_MOST_STEPS * coarse_nm / 1e6:.2f} mm, a slot of {length_mm:g} mm was "
            "expected; see that the tape is in, and routines.tape_threshold"
        )
    while abs(outside - inside) > wanted.aperture_step_nm:
        between = (inside + outside) // 2
        if (yield from light_at(between)):
            inside = between
        else:
            outside = between
    # back to where it began: the next edge is sought from within
    yield Move(x_nm=start) if way_x else Move(y_nm=start)
    return int(inside + outside) // 2


def middle(edges: Mapping[str, int], before: Any) -> Calibration:
    """Go to the middle of the four edges and return to the magnification before."""
    x = (edges["PositiveX"] + edges["NegativeX"]) // 2
    y = (edges["PositiveY"] + edges["NegativeY"]) // 2
    half_x = (edges["PositiveX"] - edges["NegativeX"]) // 2
    half_y = (edges["PositiveY"] - edges["NegativeY"]) // 2
    yield Move(x_nm=x, y_nm=y)
    yield Column(fields={"mag_mode": before.mag_mode, "mag": before.mag})
    centroid = {
        "x": x,
        "y": y,
        "semi_major_nm": max(half_x, half_y),
        "semi_minor_nm": min(half_x, half_y),
        "orientation_angle": 0.0 if half_x >= half_y else math.pi / 2,
    }
    return Outcome(
        sentence=f"find aperture: middle at {x}, {y} nm, {2 * half_x / 1e6:.3f} by "
        f"{2 * half_y / 1e6:.3f} mm",
        messages={"calibration.centroid": centroid},
    )


def is_light(frame: Image, *, threshold: float) -> bool:
    """Whether the middle of a frame shows the aperture, and not tape."""
    height, width = frame.shape
    tall, wide = max(height // _PART, 1), max(width // _PART, 1)
    y, x = (height - tall) // 2, (width - wide) // 2
    return float(grey(frame[y : y + tall, x : x + wide]).mean()) > threshold


class _Part(Routine):
    """A part that hands what it has found to the whole."""

    kind = "find-aperture"
    frame_state: ClassVar[str] = "CheckEdge"
    # the whole goes back at its end, not each part
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
        # what came before this state was entered is not delivered to it
        status = self.context.latest("stage.aperture.status")
        if status is not None:
            self._on_aperture(status)

    def _leave(self) -> None:
        if self.before is not None:
            # when the transition is over: only then the state names what comes next
            self.after(0.0, self._return_unless_stopped)

    def _return_unless_stopped(self) -> None:
        if not is_stopped(self.state):
            self._return()

    def _return(self) -> None:
        before, self.before = self.before, None
        if before is not None:
            fields = {"mag_mode": before.mag_mode, "mag": before.mag}
            # the root's: `self.client` refuses a machine that was left
            self._root.client.send("scope.command", **fields)
