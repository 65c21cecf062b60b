"""Procedural tissue as the specimen: squares of it are kept once they were drawn."""

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from em_platform.simulation.specimen.overview import COARSE_NM, overview
from em_platform.simulation.specimen.tissue import tissue

_SQUARE_PX = 64
_KEPT_BYTES = 128_000_000
_FULL = 0.6  # a box of squares is drawn whole when so many of it are missing

Square = tuple[int, int, int]
"""Section, row and column."""


class Tissue:
    """Tissue without end, or one square of it again and again.

    Neighbouring frames share a border and a focus series all, and a repeated tissue
    needs little new; drawing takes 0.2 us a pixel, copying a hundredth of it. Values
    do not depend on what is kept: they are those of imaging.synthetic.
    """

    def __init__(self, seed: int, *, pixel_nm: float = 4.0, repeat_px: int = 0) -> None:
        self._seed, self._pixel_nm = seed, pixel_nm
        self._repeat = repeat_px // _SQUARE_PX
        self._kind = tissue if pixel_nm < COARSE_NM else overview
        self._kept: OrderedDict[Square, NDArray[np.float32]] = OrderedDict()
        self._most = _KEPT_BYTES // (4 * _SQUARE_PX**2)

    def window(
        self, y0: int, x0: int, *, height: int, width: int, section: int
    ) -> NDArray[np.float32]:
        """Grey levels 0..255 of one window, `(height, width)`."""
        if not self._repeat and height * width * 8 > _KEPT_BYTES:
            return self._kind(
                y0, x0, height=height, width=width, section=section,
                seed=self._seed, pixel_nm=self._pixel_nm,
            )  # fmt: skip
        rows = range(y0 // _SQUARE_PX, (y0 + height - 1) // _SQUARE_PX + 1)
        columns = range(x0 // _SQUARE_PX, (x0 + width - 1) // _SQUARE_PX + 1)
        self._draw_missing(rows, columns, section)
        canvas = np.empty(
            (len(rows) * _SQUARE_PX, len(columns) * _SQUARE_PX), np.float32
        )
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                square = self._name(section, row, column)
                self._kept.move_to_end(square)
                y, x = i * _SQUARE_PX, j * _SQUARE_PX
                canvas[y : y + _SQUARE_PX, x : x + _SQUARE_PX] = self._kept[square]
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        y, x = y0 - rows[0] * _SQUARE_PX, x0 - columns[0] * _SQUARE_PX
        return canvas[y : y + height, x : x + width]

    def _name(self, section: int, row: int, column: int) -> Square:
        if not self._repeat:
            return section, row, column
        return section, row % self._repeat, column % self._repeat

    def _draw_missing(self, rows: range, columns: range, section: int) -> None:
        missing = np.array(
            [
                [self._name(section, r, c) not in self._kept for c in columns]
                for r in rows
            ]
        )
        if not missing.any():
            return
        ys, xs = np.flatnonzero(missing.any(1)), np.flatnonzero(missing.any(0))
        box = missing[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
        if box.mean() >= _FULL and not self._repeat:
            top, left = rows[int(ys[0])], columns[int(xs[0])]
            self._draw(top, left, box.shape, section)
            return
        for i in ys:
            for start, stop in _runs(missing[i]):
                self._draw_run(rows[int(i)], columns[start:stop], section)

    def _draw_run(self, row: int, columns: range, section: int) -> None:
        """Draw part of a row of squares, cut where the repeated tissue begins anew."""
        start = columns[0]
        while start < columns[-1] + 1:
            _, own_row, own_column = self._name(section, row, start)
            count = columns[-1] + 1 - start
            if self._repeat:
                count = min(count, self._repeat - own_column)
            self._draw(own_row, own_column, (1, count), section)
            start += count

    def _draw(
        self, row: int, column: int, shape: tuple[int, ...], section: int
    ) -> None:
        drawn = self._kind(
            row * _SQUARE_PX,
            column * _SQUARE_PX,
            height=shape[0] * _SQUARE_PX,
            width=shape[1] * _SQUARE_PX,
            section=section,
            seed=self._seed,
            pixel_nm=self._pixel_nm,
        )
        for i in range(shape[0]):
            for j in range(shape[1]):
                y, x = i * _SQUARE_PX, j * _SQUARE_PX
                part = drawn[y : y + _SQUARE_PX, x : x + _SQUARE_PX]
                self._kept[section, row + i, column + j] = np.ascontiguousarray(part)


def _runs(missing: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and end of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], missing.astype(int), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
