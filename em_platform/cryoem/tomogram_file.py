"""A tomogram as an MRC file that is written by slabs of rows, in any order.

A tomogram is made slab by slab across z, y being the axis along which its slabs know
nothing of each other; so memory holds a slab and not the volume.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray

_HEADER_BYTES = 1024
_FLOAT_MODE = 2
_LITTLE_ENDIAN = (0x44, 0x44, 0, 0)
_VERSION = 20141  # MRC2014, second edition
_VOLUME = 1  # ISPG of one volume


@dataclass(frozen=True, slots=True, kw_only=True)
class SlabMark:
    """The part of a slab in the statistics of the volume."""

    least: float
    largest: float
    total: float
    squares: float


def make_room(path: Path, shape: tuple[int, int, int]) -> None:
    """An empty file for a volume `(z, y, x)`; a full disk is noticed now."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        os.posix_fallocate(file, 0, _HEADER_BYTES + 4 * int(np.prod(shape)))
    finally:
        os.close(file)


def write_slab(
    path: Path, shape: tuple[int, int, int], first_row: int, slab: NDArray[np.float32]
) -> SlabMark:
    """Put the rows `(z, rows, x)` that begin at `first_row` in their places."""
    plain = np.ascontiguousarray(slab, "<f4")
    file = os.open(path, os.O_RDWR)
    try:
        for z, rows in enumerate(plain):
            content = rows.reshape(-1).view(np.uint8).data
            at = _HEADER_BYTES + 4 * shape[2] * (z * shape[1] + first_row)
            done = 0
            while done < len(content):
                done += os.pwrite(file, content[done:], at + done)
    finally:
        os.close(file)
    return SlabMark(
        least=float(plain.min()),
        largest=float(plain.max()),
        total=float(plain.sum(dtype=np.float64)),
        squares=float(np.einsum("i,i->", plain.ravel(), plain.ravel(), dtype=float)),
    )


def write_header(
    path: Path,
    shape: tuple[int, int, int],
    marks: Iterable[SlabMark],
    *,
    pixel_size_a: float,
) -> None:
    """Write the header, with the statistics of all slabs; the same slabs, the same."""
    marks = list(marks)
    count = int(np.prod(shape))
    mean = sum(mark.total for mark in marks) / count
    square = sum(mark.squares for mark in marks) / count
    header = np.zeros((), HEADER_DTYPE)
    deep, height, width = shape
    header["nx"], header["ny"], header["nz"] = width, height, deep
    header["mx"], header["my"], header["mz"] = width, height, deep
    header["mode"] = _FLOAT_MODE
    header["cella"] = tuple(side * pixel_size_a for side in (width, height, deep))
    header["cellb"] = (90, 90, 90)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["dmin"] = min(mark.least for mark in marks)
    header["dmax"] = max(mark.largest for mark in marks)
    header["dmean"] = mean
    header["rms"] = np.sqrt(max(square - mean**2, 0))
    header["ispg"] = _VOLUME
    header["nversion"] = _VERSION
    header["map"] = b"MAP "
    header["machst"] = _LITTLE_ENDIAN
    header["nlabl"] = 1
    header["label"][0] = b"em_platform tomogram"
    file = os.open(path, os.O_RDWR)
    try:
        os.pwrite(file, header.tobytes(), 0)
        os.fsync(file)
    finally:
        os.close(file)
