"""A stack of images as an MRC file that is written section by section, in any order.

Source: https://www.ccpem.ac.uk/mrc_format/mrc2014.php; sections are images (ISPG 0,
MZ 1), mode 2. No label carries a time, so that equal sections give equal bytes.
"""

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray

from em_platform.errors import StorageError

_HEADER_BYTES = 1024
_FLOAT_MODE = 2
_LITTLE_ENDIAN = (0x44, 0x44, 0, 0)
_VERSION = 20141  # MRC2014, second edition
_LABEL = b"em_platform tilt series"


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionMark:
    """What one section is known by, and its part of the statistics of the stack."""

    crc32: int
    least: float
    largest: float
    total: float
    squares: float


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
        length = _HEADER_BYTES + shape[0] * self._section_bytes
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            # A full disk is noticed now, not after an hour.
            os.posix_fallocate(self._file, 0, length)
        except OSError as error:
            raise self._refused(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def write(self, index: int, section: NDArray[np.float32]) -> SectionMark:
        """Put one section, `(height, width)`, in its place."""
        plain = np.ascontiguousarray(section, "<f4")
        content = plain.data.cast("B")
        at = _HEADER_BYTES + index * self._section_bytes
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
        at = _HEADER_BYTES + index * self._section_bytes
        content = os.pread(self._file, self._section_bytes, at)
        return zlib.crc32(content) == mark.crc32

    def finish(self, marks: list[SectionMark]) -> None:
        """Write the header, with the statistics of all sections."""
        header = _header(self._shape, marks, pixel_nm=self._pixel_nm)
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


def _header(
    shape: tuple[int, int, int], marks: list[SectionMark], *, pixel_nm: float
) -> NDArray[Any]:
    sections, height, width = shape
    count = sections * height * width
    mean = sum(mark.total for mark in marks) / count
    square = sum(mark.squares for mark in marks) / count
    header = np.zeros((), HEADER_DTYPE)
    header["nx"], header["ny"], header["nz"] = width, height, sections
    header["mx"], header["my"], header["mz"] = width, height, 1
    header["mode"] = _FLOAT_MODE
    pixel_a = 10 * pixel_nm
    header["cella"] = (width * pixel_a, height * pixel_a, pixel_a)
    header["cellb"] = (90, 90, 90)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["dmin"] = min(mark.least for mark in marks)
    header["dmax"] = max(mark.largest for mark in marks)
    header["dmean"] = mean
    header["rms"] = np.sqrt(max(square - mean**2, 0))
    header["nversion"] = _VERSION
    header["map"] = b"MAP "
    header["machst"] = _LITTLE_ENDIAN
    header["nlabl"] = 1
    header["label"][0] = _LABEL
    return header
