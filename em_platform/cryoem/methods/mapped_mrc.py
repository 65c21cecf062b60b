"""Images of an MRC file that are read only where they are touched."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.formats.mrc import read_mrc_header
from em_platform.formats.source import open_source


def mapped(path: Path) -> tuple[NDArray[Any], float | None]:
    """The images `(h, w)` or `(z, h, w)` of an MRC file, and its pixel in Å if known.

    The array is a memory map: a slice costs the reading of that slice.

    Raises
    ------
    FormatError
        There is no such file, it is no MRC file, has no grey images or is truncated.
    """
    header = read_mrc_header(open_source(str(path)))
    shape = header.images, header.height_px, header.width_px
    array = np.memmap(path, header.dtype, "r", header.offset, shape)
    pixel_a = None if header.pixel_nm is None else 10 * header.pixel_nm
    return (array[0] if header.images == 1 else array), pixel_a


def mapped_volume(path: Path) -> tuple[NDArray[Any], float | None]:
    """As `mapped`, always `(z, h, w)`: an image is a volume of one slice."""
    array, pixel_a = mapped(path)
    return (array[None] if array.ndim == 2 else array), pixel_a
