"""BeamCenter and BeamSpread: a centred beam of the right width.

Both look at the beam itself: narrow enough that its edge is in the frame, over a frame
of the same place under a wide beam, it is a disc whose circle a few frames give. A
simplex search (Nelder-Mead) for the brightest frame, as the first pyTEM had it, needs
some thirty frames and stops where the noise of its score ends it; middle and radius of
the disc are measured to a hundredth of the frame with two.
"""

from collections.abc import Generator
from typing import Any

import numpy as np

from em_platform.acquisition.routines.beam_shape import (
    Disc,
    brightness_ratio,
    disc_of,
    evenness,
)
from em_platform.acquisition.routines.steps import (
    Calibration,
    Camera,
    Column,
    Frame,
    Image,
    Outcome,
    Step,
    grey,
)
from em_platform.config import AcquisitionSettings
from em_platform.errors import DeviceError

_ROUNDS = 6  # of looking and improving: each leaves a small part of the error
_EXPOSURES = 8  # tries for a good frame: 0.35**8 spans more than a factor of 4000
_CLIPPED = 0.003  # share of clipped pixels from which on a frame is exposed too long
_DIM = 40.0  # grey level that the brightest hundredth of a frame should exceed
_TRIES = (0.0, -0.3, 0.3, -0.6, 0.6, -0.9, 0.9)
"""Where a narrow beam is sought, in tolerances about the wanted brightness."""

_EVEN = 0.94  # of the middle's light in a corner: the flat field mends the rest
# Half diagonals: smaller is few pixels of edge, larger has little edge in the frame.
_LEAST_RADIUS, _MOST_RADIUS = 0.25, 0.62


class _BeamView:
    """What the last good exposure was, and the frame that others are compared with."""

    def __init__(self, exposure_us: float, reference: Image) -> None:
        self.first_us = self.exposure_us = exposure_us
        self.reference = reference

    @property
    def exposure(self) -> float:
        """Present exposure over that of the reference."""
        return self.exposure_us / self.first_us

    def look(self) -> Generator[Step, Any, Image]:
        """A frame that is neither clipped nor dim; the exposure follows the beam."""
        for _ in range(_EXPOSURES):
            frame: Image = yield Frame()
            levels = grey(frame)
            # down faster than up, so that the two never alternate
            if float(np.mean(levels >= 254.0)) > _CLIPPED:
                self.exposure_us *= 0.35
            elif float(np.percentile(levels, 99)) < _DIM and self.exposure < 8.0:
                self.exposure_us *= 2.0
            else:
                return frame
            self.exposure_us = round(self.exposure_us, 1)
            yield Camera(fields={"exposure": self.exposure_us})
        return frame

    def disc(self) -> Generator[Step, Any, Disc | None]:
        """The beam as it is now; None where its edge is not in the frame."""
        frame = yield from self.look()
        return disc_of(frame, self.reference, exposure=self.exposure)


def beam_center(settings: AcquisitionSettings) -> Calibration:
    """Shift the beam to the middle of the frame.

    Two small shifts show what a step of the beam offset does; then the offset that
    should bring the disc to the middle is set, looked at and improved.

    Raises
    ------
    DeviceError
        The beam was not found, or does not follow its offset.
    """
    wanted = settings.coordinator.routines
    before = yield Column()
    beam = yield from _reference_exposure(settings)
    disc, brightness = yield from _narrow(settings, beam)
    at = np.array(before.beam_offset, float)
    step_x, step_y = wanted.offset_step * np.eye(2)
    by_x = yield from _shifted(beam, at + step_x)
    by_y = yield from _shifted(beam, at + step_y)
    jacobian = np.array(
        [[each.x - disc.x, each.y - disc.y] for each in (by_x, by_y)]
    ).T / float(wanted.offset_step)
    # steps that move nothing, or both the same way: it could not be inverted
    if abs(np.linalg.det(jacobian)) < 1e-10:
        raise DeviceError(
            "beam centre: the beam does not follow its offset; see to the deflectors"
        )
    width = float(np.sqrt(2.0))  # of a square frame, in half diagonals
    for _ in range(_ROUNDS):
        # the deflectors take whole steps
        at = np.round(at - np.linalg.solve(jacobian, np.array([disc.x, disc.y])))
        disc = yield from _shifted(beam, at)
        off_px = float(np.hypot(disc.x, disc.y)) / width * 1000.0
        if off_px <= wanted.center_px:
            break
    yield Column(fields={"brightness": before.brightness})
    yield Camera(fields={"exposure": beam.first_us})
    if off_px > 3 * wanted.center_px:
        raise DeviceError(
            f"beam centre: the beam is still {off_px / 10:.1f} % of the frame off its "
            f"middle, {wanted.center_px / 10:.1f} % was wanted; centre it by hand"
        )
    return Outcome(
        sentence=f"beam centre: offset {int(at[0])}, {int(at[1])}, "
        f"{off_px / 10:.1f} % off the middle at brightness {brightness}"
    )


def beam_spread(settings: AcquisitionSettings) -> Calibration:
    """Spread the beam so far that the frame is evenly lit, and no farther.

    The radius grows with the brightness. Two narrow beams, whose radius is seen, show
    how fast; of the spread beam, whose edge is not in the frame, the light gives the
    radius: it falls as its square.

    Raises
    ------
    DeviceError
        The beam was not found, is not even, or the brightness would be too far off.
    """
    wanted = settings.coordinator.routines
    beam = yield from _reference_exposure(settings)
    one, at_one = yield from _narrow(settings, beam)
    # far enough apart for a slope, near enough to see its edge again
    at_two = at_one + wanted.center_tolerance // 5
    two = yield from _at_brightness(beam, at_two)
    # wider, its edge may have left the frame: then narrower
    if two is None or two.radius <= one.radius:
        at_two = at_one - wanted.center_tolerance // 5
        two = yield from _at_brightness(beam, at_two)
    if two is None:
        raise _no_beam("beam spread", at_one, at_two)
    per_step = (two.radius - one.radius) / (at_two - at_one)
    if per_step <= 0.0:
        raise DeviceError(
            "beam spread: the beam does not widen with the brightness; cross over by "
            "hand first"
        )
    # all light of the beam, the same however wide it is
    light = 0.5 * (one.level * one.radius**2 + two.level * two.radius**2)
    brightness = round(at_one + (wanted.beam_radius - one.radius) / per_step)
    low = wanted.spread_brightness - wanted.spread_tolerance
    high = wanted.spread_brightness + wanted.spread_tolerance
    for _ in range(3):  # the radius is nearly linear in the brightness
        brightness = min(max(brightness, low), high)
        yield Column(fields={"brightness": brightness})
        frame = yield from beam.look()
        level = brightness_ratio(frame, beam.reference, exposure=beam.exposure)
        # not below 1e-6: without light it would be infinite
        radius = float(np.sqrt(light / max(level, 1e-6)))
        if brightness != at_one:
            per_step = (radius - one.radius) / (brightness - at_one)
        brightness = round(brightness + (wanted.beam_radius - radius) / per_step)
    brightness = _within(settings, brightness)
    yield Column(fields={"brightness": brightness})
    even = evenness((yield from beam.look()), beam.reference)
    yield Camera(fields={"exposure": beam.first_us})
    if even < _EVEN:
        raise DeviceError(
            f"beam spread: a corner has {even:.0%} of the middle's light, at least "
            f"{_EVEN:.0%} was expected; centre the beam first"
        )
    return Outcome(
        sentence=f"beam spread: brightness {brightness}, corners at {even:.0%}"
    )


def _reference_exposure(
    settings: AcquisitionSettings,
) -> Generator[Step, Any, _BeamView]:
    """Take the reference frame, under a beam wider than any that is compared."""
    wanted = settings.coordinator.routines
    widest = wanted.spread_brightness + 2 * wanted.spread_tolerance
    exposure_us = float((yield Camera()).exposure)
    yield Column(fields={"brightness": widest})
    reference: Image = yield Frame()
    return _BeamView(exposure_us, reference)


def _narrow(
    settings: AcquisitionSettings, beam: _BeamView
) -> Generator[Step, Any, tuple[Disc, int]]:
    """The first narrow beam whose edge is well seen, and its brightness."""
    wanted = settings.coordinator.routines
    found: list[tuple[Disc, int]] = []
    for share in _TRIES:
        brightness = wanted.center_brightness + round(share * wanted.center_tolerance)
        disc = yield from _at_brightness(beam, brightness)
        if disc is None:
            continue
        found.append((disc, brightness))
        if _LEAST_RADIUS <= disc.radius <= _MOST_RADIUS:
            return disc, brightness
    if not found:
        low, high = (
            wanted.center_brightness - wanted.center_tolerance,
            wanted.center_brightness + wanted.center_tolerance,
        )
        raise _no_beam("beam", low, high)
    # 0.4: near the middle of both limits
    disc, brightness = min(found, key=lambda each: abs(each[0].radius - 0.4))
    yield from _at_brightness(beam, brightness)
    return disc, brightness


def _at_brightness(
    beam: _BeamView, brightness: int
) -> Generator[Step, Any, Disc | None]:
    yield Column(fields={"brightness": brightness})
    return (yield from beam.disc())


def _shifted(beam: _BeamView, offset: Any) -> Generator[Step, Any, Disc]:
    x, y = int(offset[0]), int(offset[1])
    yield Column(fields={"beam_offset": (x, y)})
    disc = yield from beam.disc()
    if disc is None:
        raise DeviceError(
            f"beam centre: the beam left the frame at offset {x}, {y}; use a smaller "
            "routines.offset_step, or centre it by hand"
        )
    return disc


def _within(settings: AcquisitionSettings, brightness: int) -> int:
    wanted = settings.coordinator.routines
    off = abs(brightness - wanted.spread_brightness)
    if off > wanted.spread_tolerance:
        raise DeviceError(
            f"beam spread: brightness {brightness} would be needed, "
            f"{wanted.spread_brightness} ± {wanted.spread_tolerance} is expected; see "
            "to the condenser"
        )
    return brightness


def _no_beam(who: str, low: int, high: int) -> DeviceError:
    return DeviceError(
        f"{who}: no edge of the beam was seen at brightness {low} to {high}; see that "
        "the beam is on and near the middle"
    )
