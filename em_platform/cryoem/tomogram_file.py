"""A tomogram as an MRC file that is written by slabs of rows, in any order.

A tomogram is made slab by slab across z, y being the axis along which its slabs know
nothing of each other; so memory holds a slab and not the volume.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from em_platform.formats.mrc_stack import (
    HEADER_BYTES,
    VOLUME,
    PartMark,
    float_header,
)


def make_room(path: Path, shape: tuple[int, int, int]) -> None:
    """An empty file for a volume `(z, y, x)`; a full disk is noticed now."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        os.posix_fallocate(file, 0, HEADER_BYTES + 4 * int(np.prod(shape)))
    finally:
        os.close(file)


def write_slab(
    path: Path, shape: tuple[int, int, int], first_row: int, slab: NDArray[np.float32]
) -> PartMark:
    """Put the rows `(z, rows, x)` that begin at `first_row` in their places."""
    plain = np.ascontiguousarray(slab, "<f4")
    file = os.open(path, os.O_RDWR)
    try:
        for z, rows in enumerate(plain):
            content = rows.reshape(-1).view(np.uint8).data
            at = HEADER_BYTES + 4 * shape[2] * (z * shape[1] + first_row)
            done = 0
            while done < len(content):
                done += os.pwrite(file, content[done:], at + done)
    finally:
        os.close(file)
    return PartMark(
        least=float(plain.min()),
        largest=float(plain.max()),
        total=float(plain.sum(dtype=np.float64)),
        squares=float(np.einsum("i,i->", plain.ravel(), plain.ravel(), dtype=float)),
    )


def write_header(
    path: Path,
    shape: tuple[int, int, int],
    marks: Iterable[PartMark],
    *,
    pixel_size_a: float,
) -> None:
    """Write the header, with the statistics of all slabs; the same slabs, the same."""
    label = b"em_platform tomogram"
    header = float_header(
        shape, list(marks), pixel_a=pixel_size_a, label=label, ispg=VOLUME
    )
    file = os.open(path, os.O_RDWR)
    try:
        os.pwrite(file, header.tobytes(), 0)
        os.fsync(file)
    finally:
        os.close(file)
