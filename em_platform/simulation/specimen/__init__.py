"""What lies under the simulated beam: procedural tissue, or any volume.

`tissue` draws one window from a seed, `Tissue` keeps what was drawn, and
`open_specimen` takes either these or a volume given by its path.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.simulation.specimen.overview import COARSE_NM, overview
from em_platform.simulation.specimen.tissue import tissue, tissue_labels

_SQUARE_PX = 64  # divides tissue_repeat_px; a frame's rim wastes half a square
_KEPT_BYTES = 128_000_000  # 32 MP; windows beyond half of it are not kept at all
_FULL = 0.6  # a box of squares is drawn whole when so many of it are missing

Labels = tuple[NDArray[np.uint32], NDArray[np.uint8]]
"""Cell and class of each pixel of a window, see `tissue.tissue_labels`."""

Square = tuple[int, int, int]
"""Section, row and column."""


class Tissue:
    """Tissue without end, or one square of it again and again.

    Neighbouring frames share a border and a focus series all, and a repeated tissue
    needs little new; drawing takes 0.2 us a pixel, copying a hundredth of it. Values
    do not depend on what is kept: they are those of `tissue`.
    """

    def __init__(
        self,
        seed: int,
        *,
        pixel_nm: float = 4.0,
        repeat_px: int = 0,
        knife_marks: float = 0.0,
        folds: float = 0.0,
    ) -> None:
        self._seed, self._pixel_nm, self._folds = seed, pixel_nm, folds
        self._repeat = repeat_px // _SQUARE_PX
        # What low magnifications show has neither membranes nor marks.
        self._kind: Callable[..., NDArray[np.float32]] = overview
        if pixel_nm < COARSE_NM:
            self._kind = partial(tissue, knife_marks=knife_marks, folds=folds)
        self._kept: OrderedDict[Square, NDArray[np.float32]] = OrderedDict()
        self._most = _KEPT_BYTES // (4 * _SQUARE_PX**2)

    def window(
        self, y0: int, x0: int, *, height: int, width: int, section: int
    ) -> NDArray[np.float32]:
        """Grey levels 0..255 of one window, `(height, width)`."""
        # it would push all else out of what is kept
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
        # Only now: until here the window needed all of its squares.
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        y, x = y0 - rows[0] * _SQUARE_PX, x0 - columns[0] * _SQUARE_PX
        return canvas[y : y + height, x : x + width]

    def labels(
        self, y0: int, x0: int, *, height: int, width: int, section: int
    ) -> Labels | None:
        """What the pixels of a window belong to; None where no cell can be seen.

        See `tissue_labels`. Repeated tissue has none either: its cells are cut.
        """
        if self._repeat or self._pixel_nm >= COARSE_NM:
            return None
        return tissue_labels(
            y0, x0, height=height, width=width, section=section,
            seed=self._seed, pixel_nm=self._pixel_nm, folds=self._folds,
        )  # fmt: skip

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
        # one large window shares the work that rows of squares repeat
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
                # A copy: a view would keep all that was drawn with it.
                self._kept[section, row + i, column + j] = np.ascontiguousarray(part)


def _runs(missing: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and end of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], missing.astype(int), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


EMPTY_GREY = 215.0
"""Grey level of the support film where there is no tissue."""

_IMAGES = {".tif", ".tiff", ".png", ".jpg", ".jpeg"}


class Specimen(Protocol):
    """A stack of sections; a window of one of them at a time, in world pixels."""

    def labels(
        self, y0: int, x0: int, *, height: int, width: int, section: int
    ) -> Labels | None:
        """What each pixel of a window belongs to; None where that is not known."""
        ...

    def window(
        self, y0: int, x0: int, *, height: int, width: int, section: int
    ) -> NDArray[np.float32]:
        """Grey levels 0..255 of one window, `(height, width)`."""
        ...


class Volume:
    """Sections of any array-like of `(z, y, x)`, its middle at the world's origin.

    Beyond its edges lies empty film. Other types than uint8 are stretched so that the
    0.1 and 99.9 percentiles of the middle section become grey levels 10 and 245.
    """

    def __init__(self, sections: Any) -> None:
        self._sections = sections
        depth, height, width = sections.shape
        self._origin = (-(height // 2), -(width // 2))
        self._range = (0.0, 255.0)
        if sections.dtype != np.uint8:
            # One section: a volume may be larger than the memory.
            middle = np.asarray(sections[depth // 2], dtype=np.float32)
            low, high = np.percentile(middle, [0.1, 99.9])
            # 235 of 255 levels: what lies beyond the percentiles has room at both ends.
            step = max(float(high - low), 1e-9) / 235.0
            self._range = (float(low) - 10 * step, float(low) + 245 * step)

    def window(
        self, y0: int, x0: int, *, height: int, width: int, section: int
    ) -> NDArray[np.float32]:
        depth, rows, columns = self._sections.shape
        out = np.full((height, width), EMPTY_GREY, np.float32)
        y, x = y0 - self._origin[0], x0 - self._origin[1]
        top, bottom = max(y, 0), min(y + height, rows)
        left, right = max(x, 0), min(x + width, columns)
        if top < bottom and left < right:
            # a volume with few sections begins anew
            part = np.asarray(self._sections[section % depth, top:bottom, left:right])
            low, high = self._range
            grey = (part.astype(np.float32) - low) * np.float32(255.0 / (high - low))
            out[top - y : bottom - y, left - x : right - x] = np.clip(grey, 0, 255)
        return out

    def labels(
        self, y0: int, x0: int, *, height: int, width: int, section: int
    ) -> Labels | None:
        return None  # nobody knows what an image shows


def open_specimen(
    path: str,
    *,
    seed: int,
    pixel_nm: float,
    repeat_px: int = 0,
    knife_marks: float = 0.0,
    folds: float = 0.0,
) -> Specimen:
    """The volume at `path`, or procedural tissue where `path` is empty.

    Parameters
    ----------
    path
        An image, a folder of images (one a section, in the order of their names), a
        zarr array of two or three axes, or an OME-Zarr image (its finest level).
    repeat_px
        The procedural tissue begins anew every so many pixels; 0: never.
    knife_marks, folds
        Of the procedural tissue, see `tissue.tissue`.

    Raises
    ------
    FormatError
        There is nothing there that can be read as one of these.
    """
    if not path:
        return Tissue(
            seed,
            pixel_nm=pixel_nm,
            repeat_px=repeat_px,
            knife_marks=knife_marks,
            folds=folds,
        )
    place = Path(path)
    if place.suffix.lower() in _IMAGES:
        return Volume(_read_images([place]))
    images = sorted(p for p in place.glob("*") if p.suffix.lower() in _IMAGES)
    if images:
        return Volume(_read_images(images))
    return Volume(_open_zarr(path))


def _read_images(paths: list[Path]) -> NDArray[Any]:
    from em_platform.formats import read_image

    return np.stack([read_image(str(path)) for path in paths])


def _open_zarr(path: str) -> Any:
    # Only a volume needs it; tissue starts without.
    import zarr
    from zarr.errors import NodeNotFoundError

    try:
        node = zarr.open(path, mode="r")
    except (FileNotFoundError, NodeNotFoundError, ValueError) as error:
        raise FormatError(
            f"specimen {path}: found no image, folder of images or zarr there; give "
            "the path of one, or leave it empty for procedural tissue"
        ) from error
    if isinstance(node, zarr.Group):
        attributes: Any = node.attrs.asdict()
        # OME-Zarr 0.5 has them below `ome`, 0.4 at the top.
        scales = attributes.get("ome", attributes).get("multiscales")
        if not scales:
            raise FormatError(
                f"specimen {path}: found a zarr group without multiscales, expected "
                "an OME-Zarr image; give the path of an image or an array"
            )
        # The specification lists the finest level first.
        node = node[scales[0]["datasets"][0]["path"]]
    if not isinstance(node, zarr.Array) or node.ndim < 2:
        raise FormatError(f"specimen {path}: found no image; give the path of one")
    return _Sections(node)


class _Sections:
    """The last three axes of a zarr array; earlier ones are taken at 0."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.dtype = array.dtype
        shape = tuple(array.shape[-3:])
        self.shape = (1, *shape) if len(shape) == 2 else shape

    def __getitem__(self, index: Any) -> Any:
        index = index if isinstance(index, tuple) else (index,)
        if self._array.ndim == 2:
            return self._array[index[1:] or ...]
        return self._array[(*(0,) * (self._array.ndim - 3), *index)]
