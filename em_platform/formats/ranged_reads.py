"""Many ranges of one file, which is opened once."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats.source import Source, missing

Fill = Callable[[int, NDArray[Any]], None]
"""Puts the bytes from an offset into a contiguous array."""

# Linux gives at most 2 GiB at once; a store is asked for less.
_LOCAL_BYTES = 1 << 30
_REMOTE_BYTES = 1 << 26


@contextmanager
def filling(source: Source) -> Iterator[Fill]:
    """A function that fills arrays with bytes of the file, straight off the disk.

    It raises FormatError where the file ends too early: it was longer when it was
    opened.
    """
    if source.path is None or len(source.first) == source.length:
        yield lambda offset, array: _fill_from(source, offset, array)
        return
    try:
        descriptor = os.open(source.path, os.O_RDONLY)
    except OSError as error:
        raise missing(source.uri, f"cannot be read ({error.strerror})") from error
    try:
        yield lambda offset, array: _pread(descriptor, source, offset, array)
    finally:
        os.close(descriptor)


def _pread(descriptor: int, source: Source, offset: int, array: NDArray[Any]) -> None:
    content = array.reshape(-1).view(np.uint8)
    done = 0
    while done < content.nbytes:
        part = content[done : done + _LOCAL_BYTES]
        try:
            count = os.preadv(descriptor, [part.data], offset + done)
        except OSError as error:
            raise missing(source.uri, f"cannot be read ({error.strerror})") from error
        if count == 0:
            raise _ended(source, offset + content.nbytes)
        done += count


def _fill_from(source: Source, offset: int, array: NDArray[Any]) -> None:
    content = array.reshape(-1).view(np.uint8)
    for done in range(0, content.nbytes, _REMOTE_BYTES):
        part = content[done : done + _REMOTE_BYTES]
        if source.fill(offset + done, part) < part.nbytes:
            raise _ended(source, offset + content.nbytes)


def _ended(source: Source, expected: int) -> FormatError:
    return FormatError(
        f"{source.uri}: truncated, found an end before byte {expected}, which its "
        "header promises; copy it again from where it was made",
        uri=source.uri,
    )
