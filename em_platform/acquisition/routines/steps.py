"""What a calibration asks of the microscope, one step after the other.

A calibration is a generator: it yields steps and is sent what each gave. So it knows
no bus and no machine, and is tested with any microscope.
"""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.messaging.topics import Body

Image = NDArray[Any]

Fields = dict[str, int | float | str | tuple[int, int]]
"""What a `scope.command` or `camera.settings` sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """`scope.command` with these fields; gives the `scope.status` after it."""

    fields: Fields = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """`camera.settings` with these fields; gives the `camera.status` after it."""

    fields: Fields = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """The stage goes to x, y (nm), nowhere if None; gives `stage.motion.status`."""

    x_nm: int | None = None
    y_nm: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Expose one frame; gives its pixels, `(h, w)`."""

    flags: dict[str, bool] = field(default_factory=dict)


Step = Column | Camera | Move | Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a calibration has found."""

    sentence: str
    messages: dict[str, Body] = field(default_factory=dict)
    """Topic -> fields, to be published."""
    references: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """`bright` or `dark` -> the mean frame, to be kept."""


Calibration = Generator[Step, Any, Outcome]


def grey(frame: Image) -> NDArray[np.float32]:
    """The frame in grey levels 0..255 of the sensor's range."""
    if frame.dtype == np.uint8:
        return frame.astype(np.float32)
    return frame.astype(np.float32) * np.float32(255.0 / np.iinfo(frame.dtype).max)


def eight_bit(frame: Image) -> NDArray[np.uint8]:
    """The frame stretched to 8 bit, for kernels that compare structure."""
    if frame.dtype == np.uint8:
        return np.asarray(frame, np.uint8)
    # not the extremes: one hot pixel would press all others together
    low, high = np.percentile(frame, [0.1, 99.9])
    scaled = (frame.astype(np.float32) - low) * (255.0 / max(high - low, 1.0))
    return np.asarray(np.clip(scaled, 0, 255), np.uint8)
