"""Frames of movies, images of stacks: MRC (also gzipped), TIFF, EER; one at a time.

The first row is that of an MRC, at the bottom of a picture. A TIFF begins at the top:
its rows are turned round, as RELION does, so that gain, micrograph and handedness fit
those of the field. Of an EER file (Thermo Fisher's events of electrons; tifffile and
imagecodecs decode it) some frames are summed to one.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats import (
    Volume,
    check_image,
    left_out,
    open_mrc,
    open_source,
    open_volume,
    unzip_to_limit,
)
from em_platform.model.sentences import counted, size_of

_EER = {65000, 65001, 65002}
"""TIFF compressions of electron events."""
_MOST_UNPACKED = 1 << 33


class Movie(Protocol):
    """Frames of one size, read one by one: memory holds only those asked for."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height and width."""
        ...

    def frame(self, index: int) -> NDArray[Any]:
        """`(h, w)` in the file's own type.

        Raises
        ------
        FormatError
            The file ends before it, or is damaged.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Stack:
    volume: Volume
    begins_at_top: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.volume.info.shape

    def frame(self, index: int) -> NDArray[Any]:
        region = (slice(index, index + 1), slice(None), slice(None))
        image = np.asarray(self.volume.read(region)[0])
        return image[::-1] if self.begins_at_top else image


@dataclass(frozen=True, slots=True, kw_only=True)
class _Events:
    path: Path
    shape: tuple[int, int, int]
    grouping: int
    superres: int
    first_page: int

    def frame(self, index: int) -> NDArray[np.uint16]:
        total = np.zeros(self.shape[1:], np.uint16)
        start = self.first_page + index * self.grouping
        with open_eer(self.path, superres=self.superres) as tiff:
            for page in range(start, start + self.grouping):
                try:
                    if tiff.pages[page].shape != total.shape:
                        raise ValueError(f"it has {tiff.pages[page].shape} pixels")
                    total += tiff.pages[page].asarray()
                except (
                    *(RuntimeError, ValueError),
                    *(ArithmeticError, IndexError, TypeError),
                ) as error:
                    raise _damaged(self.path, page - self.first_page, error) from error
        return total


def open_movie(path: Path, *, eer_grouping: int = 20, eer_upsampling: int = 1) -> Movie:
    """The frames of a movie, or images of a stack; only its header is read now.

    Parameters
    ----------
    eer_grouping
        Frames of an EER file that become one; those left over at its end are dropped.
    eer_upsampling
        1 gives an EER file's own pixels, 2 and 4 divide them.

    Raises
    ------
    FormatError
        There is no such file, it is no image, or it is cut short.
    """
    if not is_eer(path):
        packed = is_packed(path)
        volume = open_packed(path) if packed else open_volume(str(path))
        if others := left_out(volume.info):
            count, *shape = volume.info.shape
            raise FormatError(
                f"{path}: found {others} beside {counted(count, 'image')} of "
                f"{size_of(shape)}, {volume.info.dtype}, expected images of one "
                "size and type, and all of them counted; copy it again, or split it"
            )
        return _Stack(volume, begins_at_top=not packed and _is_tiff(path))
    superres = {1: 0, 2: 1, 4: 2}.get(eer_upsampling)
    if superres is None:
        raise FormatError(
            f"{path}: upsampling {eer_upsampling} of EER was asked for, 1, 2 or 4 was "
            "expected; give one of these"
        )
    with open_eer(path, superres=superres) as tiff:
        # An integrated image may stand before the events.
        first = int(tiff.pages.first.compression not in _EER)
        frames = (len(tiff.pages) - first) // eer_grouping
        if frames < 1:
            raise FormatError(
                f"{path}: found {len(tiff.pages) - first} frames of electron events, "
                f"at least {eer_grouping} were expected; copy it again, or group fewer"
            )
        height, width = tiff.pages[first].shape
        file_bytes = path.stat().st_size
        # Sums of a group have 16 bits.
        check_image(str(path), (height, width), pixel_bytes=2, file_bytes=file_bytes)
        last = tiff.pages[first + frames * eer_grouping - 1]
        # The decoder takes what there is of a frame that is cut short.
        end = last.dataoffsets[-1] + last.databytecounts[-1]
        if end > file_bytes:
            raise _damaged(path, len(tiff.pages) - 1, EOFError(f"it ends at {end}"))
    return _Events(
        path=path,
        shape=(frames, height, width),
        grouping=eer_grouping,
        superres=superres,
        first_page=first,
    )


def read_grouping(path: Path) -> int:
    """How many EER frames become one, by MotionCor2's file of frames, group and dose.

    Raises
    ------
    FormatError
        It does not say so.
    """
    try:
        return int(path.read_text().split("\n")[0].split()[1])
    except (OSError, ValueError, IndexError) as error:
        raise FormatError(
            f"{path}: cannot be read as frames, group and dose ({error}); correct it"
        ) from error


def _is_tiff(path: Path) -> bool:
    return open_source(str(path)).read(0, 2) in (b"II", b"MM")


def is_packed(path: Path) -> bool:
    """Whether it is a gzipped file."""
    return path.is_file() and open_source(str(path)).read(0, 2) == b"\x1f\x8b"


def is_eer(path: Path) -> bool:
    """Whether it is a file of electron events, by its content or its name."""
    if not path.is_file():
        return False
    if path.suffix.lower() == ".eer":
        return True
    if open_source(str(path)).read(0, 4)[:2] not in (b"II", b"MM"):
        return False
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            pages = [tiff.pages[place] for place in range(min(2, len(tiff.pages)))]
            return any(getattr(page, "compression", 1) in _EER for page in pages)
    except (tifffile.TiffFileError, ValueError, IndexError, struct.error):
        return False  # open_volume says what is wrong with it


@contextmanager
def open_eer(path: Path, *, superres: int = 0) -> Iterator[Any]:
    """Open a file of electron events.

    Raises
    ------
    FormatError
        It is cut short, or no such file; also where that shows as it is read.
    """
    import tifffile

    broken = (
        *(tifffile.TiffFileError, OSError, ValueError),
        *(ArithmeticError, IndexError, TypeError, struct.error),
    )

    try:
        tiff = tifffile.TiffFile(path, superres=superres)
        is_whole = tiff.pages.first.compression in _EER or len(tiff.pages) > 1
    except broken as error:
        raise _damaged(path, 0, error) from error
    with tiff:
        if not is_whole:
            raise FormatError(
                f"{path}: found no frames of electron events, expected an EER file; "
                "copy it again from the microscope"
            )
        try:
            yield tiff
        except broken as error:  # tags of a page that nobody looked at before
            raise _damaged(path, 0, error) from error


def read_image(path: Path) -> NDArray[np.float32]:
    """The one image of a file, `(h, w)`.

    Raises
    ------
    FormatError
        It holds several, cannot be read, or has values that are not finite.
    """
    movie = open_movie(path)
    if movie.shape[0] != 1:
        raise FormatError(
            f"{path}: found {movie.shape[0]} images, expected one; give an image, or "
            "the one of them that is meant as a file"
        )
    image = np.asarray(movie.frame(0), np.float32)
    # A sum is finite when all values are: one pass, and no array of booleans.
    if not np.isfinite(image.sum(dtype=np.float64)):
        raise FormatError(
            f"{path}: found values that are not finite (NaN or infinite), expected "
            "grey levels; make the image again"
        )
    return image


def open_packed(path: Path) -> Volume:
    """A gzipped MRC, unpacked in memory.

    Raises
    ------
    FormatError
        It is damaged, no MRC, or unpacks to more than 8 GiB.
    """
    source = open_source(str(path))
    try:
        content = unzip_to_limit(source.all(), most_bytes=_MOST_UNPACKED)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, 0, error) from error
    if content is None:
        raise FormatError(
            f"{path}: unpacks to more than 8 GiB, expected less; unpack it by gunzip"
        )
    # A source that holds all of a file is read without it.
    return open_mrc(replace(source, length=len(content), first=content, path=None))


def _damaged(path: Path, frame: int, error: Exception) -> FormatError:
    return FormatError(
        f"{path}: truncated or damaged at frame {frame} ({error}), expected a whole "
        "file; copy it again from the microscope"
    )
