"""Bytes up to a limit: a small answer may unpack to more than the memory holds."""

import gzip
import io
from collections.abc import Iterable

MOST_BYTES = 1 << 27
"""Of metadata: those of thousands of arrays, consolidated, have tens of MB."""


def read_to_limit(
    pieces: Iterable[bytes], *, most_bytes: int = MOST_BYTES
) -> bytes | None:
    """The pieces as one, None where they are longer; no more of them is asked for."""
    found, length = [], 0
    for piece in pieces:
        length += len(piece)
        if length > most_bytes:
            return None
        found.append(piece)
    return b"".join(found)


def unzip_to_limit(content: bytes, *, most_bytes: int = MOST_BYTES) -> bytes | None:
    """What gzip packed, None where it is longer.

    Raises
    ------
    OSError, EOFError, zlib.error
        It is damaged, or ends too early.
    """
    with gzip.open(io.BytesIO(content)) as unpacking:
        found = bytes(unpacking.read(most_bytes + 1))
    return found if len(found) <= most_bytes else None
