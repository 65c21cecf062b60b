"""The beam on the camera, a disc with a soft edge and dirt, and its misalignment."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from TEM_comms.scope import Status as ScopeStatus

from em_platform.config import AcquisitionSettings, SimulationSettings
from em_platform.simulation.devices.commanded import Faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Misalignment:
    """What calibration routines are to find out.

    `focus` is the sharp focus, `beam_offset` (x, y) centres the beam, `spread` is added
    to the brightness, `current` scales the light, `pixel` the pixel's size.
    """

    focus: int
    beam_offset: tuple[int, int]
    spread: int
    current: float
    pixel: float
    aperture_nm: tuple[int, int]
    """Stage (x, y) of the middle of each aperture."""


def misalignment_of(settings: SimulationSettings) -> Misalignment:
    """Drawn from the seed, as large as `misalignment` sets it; 0 is well adjusted."""
    share = settings.misalignment
    rng = np.random.default_rng([settings.seed, 0xA11])
    focus, x, y, spread, current, pixel, aperture_x, aperture_y = (
        float(each) * share for each in rng.uniform(-1.0, 1.0, 8)
    )
    return Misalignment(
        focus=round(400 * focus),
        beam_offset=(round(120 * x), round(120 * y)),
        spread=round(80 * spread),
        # a factor, so that half and double are equally likely
        current=math.exp(0.5 * current),
        # as far as a magnification is off before it is calibrated
        pixel=1.0 + 0.03 * pixel,
        aperture_nm=(round(100_000 * aperture_x), round(100_000 * aperture_y)),
    )


STANDARD_BRIGHTNESS = 1300  # the default of routines.spread_brightness
STANDARD_RADIUS = 1.6
"""Half diagonals of the frame that the standard beam reaches at the imaging mag."""

OFFSET_STEPS = 500.0
"""Steps of the beam offset that move the beam by the width of a frame."""

_RADIUS_PER_STEP = 0.0055  # 200 steps between a narrow beam and the standard one
_LEAST_RADIUS = 0.05  # at crossover: the light per pixel stays finite
_SOFTNESS = 0.08  # half diagonals over which the beam's edge falls
_PITCH_PX = 8  # the light is computed so coarse, and bilinear in between
_BLOTCHES = 7  # some in every montage, none of them everywhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Beam:
    """Where the beam lies on the camera; `level` is 1 in the standard beam."""

    radius: float
    """Half diagonals of the frame."""
    y: float
    x: float
    """Of its middle from the frame's, in frame widths."""
    level: float

    @property
    def is_standard(self) -> bool:
        """Whether its shape is that which the camera's gain contains."""
        return (self.radius, self.y, self.x) == (STANDARD_RADIUS, 0.0, 0.0)


def beam_of(
    status: ScopeStatus | None, misalignment: Misalignment, *, imaging_mag: int
) -> Beam:
    """The beam of the column's state; at LOWMAG it is wide, even and always the same.

    Every step of the spot size halves the light.
    """
    if status is None or status.mag_mode == "LOWMAG":
        return Beam(radius=STANDARD_RADIUS, y=0.0, x=0.0, level=misalignment.current)
    enlarged = int(status.mag) / imaging_mag
    steps = status.brightness + misalignment.spread - STANDARD_BRIGHTNESS
    spread = max(abs(STANDARD_RADIUS + _RADIUS_PER_STEP * steps), _LEAST_RADIUS)
    x, y = (
        (offset - centre) / OFFSET_STEPS * enlarged
        for offset, centre in zip(
            status.beam_offset, misalignment.beam_offset, strict=True
        )
    )
    # the same electrons on a larger disc
    level = (STANDARD_RADIUS / spread) ** 2 * 2.0 ** (1 - status.spot_size)
    # the imaging magnification is that at which the gain was measured: a wider beam
    # of a higher one is as even
    radius = max(spread * enlarged, _LEAST_RADIUS)
    if spread == STANDARD_RADIUS and enlarged >= 1.0 and x == y == 0.0:
        radius = STANDARD_RADIUS
    return Beam(radius=radius, y=y, x=x, level=level * misalignment.current)


class Lighting:
    """The beam on the specimen as the column has it; keeps the last beam's shape."""

    def __init__(
        self, settings: AcquisitionSettings, misalignment: Misalignment
    ) -> None:
        self._misalignment = misalignment
        self._imaging_mag = settings.magnification
        self._seed = settings.simulation.seed
        self._shape: tuple[Beam, NDArray[np.float32]] | None = None

    def lit(
        self, light: NDArray[np.float32], scope: ScopeStatus | None, faults: Faults
    ) -> tuple[NDArray[np.float32], float]:
        """The specimen's `light` under the beam as it is, and how strong that is."""
        height, width = light.shape
        beam = beam_of(scope, self._misalignment, imaging_mag=self._imaging_mag)
        if not beam.is_standard:
            kept = self._shape
            if kept is None or kept[0] != beam or kept[1].shape != light.shape:
                kept = self._shape = (beam, illumination(height, width, beam))
            light = light * kept[1]
        if grown := faults.grown("contamination"):
            light = light * blotches(height, width, seed=self._seed, grown=grown)
        return light, beam.level * (1.0 - min(faults.value("beam_loss"), 1.0))


def illumination(height: int, width: int, beam: Beam) -> NDArray[np.float32]:
    """`(height, width)`: the beam's shape over that of the standard beam."""
    rows, columns = -(-height // _PITCH_PX) + 1, -(-width // _PITCH_PX) + 1
    half_diagonal = 0.5 * float(np.hypot(height, width))
    y = np.arange(rows)[:, None] * _PITCH_PX - 0.5 * (height - 1)
    x = np.arange(columns)[None, :] * _PITCH_PX - 0.5 * (width - 1)
    shape = _disc(y - beam.y * width, x - beam.x * width, half_diagonal, beam.radius)
    shape /= _disc(y, x, half_diagonal, STANDARD_RADIUS)
    return _enlarged(shape, height, width)


def blotches(
    height: int, width: int, *, seed: int, grown: float
) -> NDArray[np.float32]:
    """`(height, width)`: the light that contamination lets through.

    `grown` is the blotches' radius in widths of the frame; they stay in their places.
    """
    rng = np.random.default_rng([seed, 0xD127])
    rows, columns = -(-height // _PITCH_PX) + 1, -(-width // _PITCH_PX) + 1
    places = rng.uniform(0.0, 1.0, (_BLOTCHES, 2)) * (rows, columns)
    sizes = rng.uniform(0.5, 1.0, _BLOTCHES) * min(grown, 0.5) * columns
    y, x = np.arange(rows)[:, None], np.arange(columns)[None, :]
    through = np.ones((rows, columns))
    for (row, column), radius in zip(places, sizes, strict=True):
        far = np.hypot(y - row, x - column) - radius
        # even thick dirt lets some light through
        through *= 1.0 - 0.85 / (1.0 + np.exp(np.clip(far / 0.7, -50.0, 50.0)))
    return _enlarged(through, height, width)


def _disc(
    y: NDArray[np.floating],
    x: NDArray[np.floating],
    half_diagonal: float,
    radius: float,
) -> NDArray[np.float64]:
    far = (np.hypot(y, x) / half_diagonal - radius) / _SOFTNESS
    # Clipped: exp would overflow far from the edge.
    disc: NDArray[np.float64] = 1.0 / (1.0 + np.exp(np.clip(far, -50.0, 50.0)))
    return disc


def _enlarged(
    coarse: NDArray[np.float64], height: int, width: int
) -> NDArray[np.float32]:
    """The coarse field, whose nodes lie at each 8th pixel, at every pixel."""
    x, y = np.meshgrid(
        np.arange(width, dtype=np.float32) / _PITCH_PX,
        np.arange(height, dtype=np.float32) / _PITCH_PX,
    )
    fine = cv2.remap(coarse.astype(np.float32), x, y, cv2.INTER_LINEAR)
    return np.asarray(fine, np.float32)
