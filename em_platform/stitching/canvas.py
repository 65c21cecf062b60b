"""A white sheet to draw on, in pixels of the finished picture; no more than we need."""

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
"""Red, green, blue, 0..255."""

INK: Colour = (33, 37, 41)
FAINT: Colour = (134, 142, 150)
PALE: Colour = (233, 236, 239)
WHITE: Colour = (255, 255, 255)
RED: Colour = (214, 40, 40)
ORANGE: Colour = (247, 157, 57)
BLUE: Colour = (28, 94, 171)

WIDTH_PX = 900
"""As wide as the page of Dagster shows a picture without shrinking it."""

_OVERSAMPLING = 2  # drawn larger and averaged down: smooth lines and letters
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_PX_PER_FONT_SCALE = 22.0  # height of a capital letter at scale 1
_FRACTION_BITS = 4
_LARGE_BYTES = 200_000


class Canvas:
    """A picture `width_px` by `height_px`; places are `(y, x)`."""

    def __init__(self, height_px: int, width_px: int) -> None:
        shape = (height_px * _OVERSAMPLING, width_px * _OVERSAMPLING, 3)
        self._sheet: NDArray[np.uint8] = np.full(shape, 255, np.uint8)

    def head(self, title: str, subtitle: str) -> None:
        """Two lines at the top."""
        self.text(26, 24, title, height=20)
        self.text(50, 24, subtitle, colour=FAINT)

    def rectangle(
        self, y: float, x: float, *, height: float, width: float, fill: Colour
    ) -> None:
        """A filled rectangle whose upper left corner is at `(y, x)`."""
        (x0, y0), (x1, y1) = _whole(y, x), _whole(y + height, x + width)
        cv2.rectangle(
            self._sheet, (x0, y0), (max(x0, x1 - 1), max(y0, y1 - 1)), fill, -1
        )

    def outline(
        self,
        corners: NDArray[np.float64],
        colour: Colour,
        *,
        fill: Colour | None = None,
    ) -> None:
        """A closed polygon through `(n, 2)` corners."""
        points = [np.array([_fixed(y, x) for y, x in corners], np.int32)]
        if fill is not None:
            cv2.fillPoly(self._sheet, points, fill, cv2.LINE_AA, _FRACTION_BITS)
        cv2.polylines(self._sheet, points, True, colour, 2, cv2.LINE_AA, _FRACTION_BITS)

    def line(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        *,
        colour: Colour,
        width: float = 1.0,
    ) -> None:
        """A straight line."""
        thick = max(1, round(width * _OVERSAMPLING))
        cv2.line(
            self._sheet,
            _fixed(*start),
            _fixed(*end),
            colour,
            thick,
            cv2.LINE_AA,
            _FRACTION_BITS,
        )

    def arrow(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        *,
        colour: Colour,
        width: float = 1.5,
    ) -> None:
        """A line with a head of fixed size at its end; a dot where it has no length."""
        length = float(np.hypot(end[0] - start[0], end[1] - start[1]))
        if length < 1.0:
            self.dot(start, colour=colour, radius=width)
            return
        self.line(start, end, colour=colour, width=width)
        dy, dx = (end[0] - start[0]) / length, (end[1] - start[1]) / length
        head = min(6.0, 0.6 * length)
        for side in (-0.5, 0.5):
            back = (
                end[0] - head * (dy + side * dx),
                end[1] - head * (dx - side * dy),
            )
            self.line(end, back, colour=colour, width=width)

    def dot(
        self, place: tuple[float, float], *, colour: Colour, radius: float = 2.0
    ) -> None:
        """A filled circle."""
        thick = max(1, round(radius * _OVERSAMPLING))
        cv2.circle(self._sheet, _whole(*place), thick, colour, -1, cv2.LINE_AA)

    def cross(
        self, place: tuple[float, float], *, colour: Colour, size: float, width: float
    ) -> None:
        """Two crossed lines around `place`."""
        y, x = place
        self.line(
            (y - size, x - size), (y + size, x + size), colour=colour, width=width
        )
        self.line(
            (y - size, x + size), (y + size, x - size), colour=colour, width=width
        )

    def text(
        self,
        y: float,
        x: float,
        text: str,
        *,
        height: float = 13.0,
        colour: Colour = INK,
        align: Literal["left", "centre", "right"] = "left",
    ) -> None:
        """One line; `y` is its middle. What is not ASCII becomes a question mark."""
        plain = text.encode("ascii", "replace").decode("ascii")
        scale = height * _OVERSAMPLING / _PX_PER_FONT_SCALE * 0.75
        thick = max(1, round(scale * 1.6))
        (wide, high), _ = cv2.getTextSize(plain, _FONT, scale, thick)
        left = {"left": 0, "centre": wide / 2, "right": wide}[align]
        origin = (
            round(x * _OVERSAMPLING - left),
            round(y * _OVERSAMPLING + high / 2),
        )
        cv2.putText(
            self._sheet, plain, origin, _FONT, scale, colour, thick, cv2.LINE_AA
        )

    def png(self) -> bytes:
        """The finished picture."""
        height, width = self._sheet.shape[:2]
        size = (width // _OVERSAMPLING, height // _OVERSAMPLING)
        small = np.asarray(
            cv2.resize(self._sheet, size, interpolation=cv2.INTER_AREA), np.uint8
        )
        packed = _pack(small)
        return packed if len(packed) <= _LARGE_BYTES else _pack(_coarse(small))


def _pack(rgb: NDArray[np.uint8]) -> bytes:
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    _, packed = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    return packed.tobytes()


def _coarse(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Sixteen levels of each colour: smooth edges pack to half the size."""
    return np.asarray(rgb // 16 * 17, np.uint8)


def _whole(y: float, x: float) -> tuple[int, int]:
    return round(x * _OVERSAMPLING), round(y * _OVERSAMPLING)


def _fixed(y: float, x: float) -> tuple[int, int]:
    """OpenCV's `(x, y)` with four bits after the point."""
    step = _OVERSAMPLING * 2**_FRACTION_BITS
    return round(x * step), round(y * step)


def count(number: int, noun: str) -> str:
    """`1 tile`, `2 tiles`; `1 match`, `2 matches`."""
    ending = "" if number == 1 else "es" if noun.endswith(("ch", "s")) else "s"
    return f"{number} {noun}{ending}"
