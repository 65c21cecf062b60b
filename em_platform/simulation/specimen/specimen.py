"""What lies under the beam: procedural tissue, or any volume given by its path."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.simulation.specimen.sections import Tissue

EMPTY_GREY = 215.0
"""Grey level of the support film where there is no tissue."""

_IMAGES = {".tif", ".tiff", ".png", ".jpg", ".jpeg"}


class Specimen(Protocol):
    """A stack of sections; a window of one of them at a time, in world pixels."""

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
            middle = np.asarray(sections[depth // 2], dtype=np.float32)
            low, high = np.percentile(middle, [0.1, 99.9])
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
            part = np.asarray(self._sections[section % depth, top:bottom, left:right])
            low, high = self._range
            grey = (part.astype(np.float32) - low) * np.float32(255.0 / (high - low))
            out[top - y : bottom - y, left - x : right - x] = np.clip(grey, 0, 255)
        return out


def open_specimen(
    path: str, *, seed: int, pixel_nm: float, repeat_px: int = 0
) -> Specimen:
    """The volume at `path`, or procedural tissue where `path` is empty.

    Parameters
    ----------
    path
        An image, a folder of images (one a section, in the order of their names), a
        zarr array of two or three axes, or an OME-Zarr image (its finest level).
    repeat_px
        The procedural tissue begins anew every so many pixels; 0: never.

    Raises
    ------
    FormatError
        There is nothing there that can be read as one of these.
    """
    if not path:
        return Tissue(seed, pixel_nm=pixel_nm, repeat_px=repeat_px)
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
    import zarr

    node = _zarr_node(path)
    if isinstance(node, zarr.Group):
        attributes: Any = node.attrs.asdict()
        scales = attributes.get("ome", attributes).get("multiscales")
        if not scales:
            raise FormatError(
                f"specimen {path}: found a zarr group without multiscales, expected "
                "an OME-Zarr image; give the path of an image or an array"
            )
        node = node[scales[0]["datasets"][0]["path"]]
    if not isinstance(node, zarr.Array) or node.ndim < 2:
        raise FormatError(f"specimen {path}: found no image; give the path of one")
    return _Sections(node)


def _zarr_node(path: str) -> Any:
    import zarr
    from zarr.errors import NodeNotFoundError

    try:
        return zarr.open(path, mode="r")
    except (FileNotFoundError, NodeNotFoundError, ValueError) as error:
        raise FormatError(
            f"specimen {path}: found no image, folder of images or zarr there; give "
            "the path of one, or leave it empty for procedural tissue"
        ) from error


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
