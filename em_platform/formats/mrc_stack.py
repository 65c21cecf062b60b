"""A stack of images as an MRC file that is written section by section, in any order.

Source: https://www.ccpem.ac.uk/mrc_format/mrc2014.php; sections are images (ISPG 0,
MZ 1), mode 2. No label carries a time, so that equal sections give equal bytes.
"""

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray

from em_platform.errors import StorageError

HEADER_BYTES = 1024
VOLUME = 1  # ISPG of one volume; that of a stack is 0
_FLOAT_MODE = 2
_LITTLE_ENDIAN = (0x44, 0x44, 0, 0)
_VERSION = 20141  # MRC2014, second edition
_LABEL = b"em_platform tilt series"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartMark:
    """The part of some voxels in the statistics of the file."""

    least: float
    largest: float
    total: float
    squares: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionMark(PartMark):
    """What one section is known by, and its part of the statistics of the stack."""

    crc32: int


class MrcStack:
    """A stack with room for all its sections; `close` writes its header.

    Parameters
    ----------
    shape
        `(sections, height, width)`.
    pixel_nm
        Size of a pixel.

    Raises
    ------
    StorageError
        The disk has no room; it is taken before the first section is written.
    """

    def __init__(
        self, path: Path, shape: tuple[int, int, int], *, pixel_nm: float
    ) -> None:
        self._path = path
        self._shape = shape
        self._pixel_nm = pixel_nm
        self._section_bytes = 4 * shape[1] * shape[2]
        length = HEADER_BYTES + shape[0] * self._section_bytes
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            # A full disk is noticed now, not after an hour.
            os.posix_fallocate(self._file, 0, length)
        except OSError as error:
            raise self._refused(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def write(self, index: int, section: NDArray[np.float32]) -> SectionMark:
        """Put one section, `(height, width)`, in its place."""
        plain = np.ascontiguousarray(section, "<f4")
        content = plain.data.cast("B")
        at = HEADER_BYTES + index * self._section_bytes
        done = 0
        while done < len(content):
            try:
                done += os.pwrite(self._file, content[done:], at + done)
            except OSError as error:
                raise self._refused(error) from error
        return SectionMark(
            crc32=zlib.crc32(content),
            least=float(plain.min()),
            largest=float(plain.max()),
            total=float(plain.sum(dtype=np.float64)),
            # Not `vdot`: BLAS starts threads for it, which wait busily for each other.
            squares=float(np.square(plain, dtype=np.float64).sum()),
        )

    def is_whole(self, index: int, mark: SectionMark) -> bool:
        """Whether a section has the bytes that it was written with."""
        at = HEADER_BYTES + index * self._section_bytes
        content = os.pread(self._file, self._section_bytes, at)
        return zlib.crc32(content) == mark.crc32

    def finish(self, marks: list[SectionMark]) -> None:
        """Write the header, with the statistics of all sections."""
        pixel_a = 10 * self._pixel_nm
        header = float_header(self._shape, marks, pixel_a=pixel_a, label=_LABEL)
        try:
            os.pwrite(self._file, header.tobytes(), 0)
            os.fsync(self._file)
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> StorageError:
        return StorageError(
            f"storage: {self._path} could not be written ({error.strerror or error}); "
            "free space or check access, then run again",
            url=str(self._path),
        )


def float_header(
    shape: tuple[int, int, int],
    marks: Sequence[PartMark],
    *,
    pixel_a: float,
    label: bytes,
    ispg: int = 0,
) -> NDArray[Any]:
    """The header of float32 voxels `(z, y, x)`, with the statistics of all parts."""
    deep, height, width = shape
    count = deep * height * width
    mean = sum(mark.total for mark in marks) / count
    square = sum(mark.squares for mark in marks) / count
    # The sections of a stack have a cell each.
    cell = (width, height, deep if ispg == VOLUME else 1)
    header = np.zeros((), HEADER_DTYPE)
    header["nx"], header["ny"], header["nz"] = width, height, deep
    header["mx"], header["my"], header["mz"] = cell
    header["mode"] = _FLOAT_MODE
    header["cella"] = tuple(side * pixel_a for side in cell)
    header["cellb"] = (90, 90, 90)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["dmin"] = min(mark.least for mark in marks)
    header["dmax"] = max(mark.largest for mark in marks)
    header["dmean"] = mean
    header["rms"] = np.sqrt(max(square - mean**2, 0))
    header["ispg"] = ispg
    header["nversion"] = _VERSION
    header["map"] = b"MAP "
    header["machst"] = _LITTLE_ENDIAN
    header["nlabl"] = 1
    header["label"][0] = label
    return header
