"""A chunk that Blosc packed says itself how long it is, which the libraries believe.

They make room for it, up to 2 GiB, before they compare it with the metadata. So it is
looked at before: by the guard on its way from a server, here in a file. Source:
https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product

from em_platform.errors import FormatError


@dataclass(frozen=True, slots=True, kw_only=True)
class BloscObjects:
    """Where the objects of an array lie, and where Blosc's header is in each."""

    edges: tuple[int, ...]
    """Of an object, in the order of storage."""
    front: int = 0
    """Bytes before it."""
    head: str = ""
    """What all names begin with."""
    separator: str = "/"

    @property
    def start_bytes(self) -> int:
        """How much of an object says how long it is."""
        return self.front + 8

    def unpacked_bytes(self, start: bytes) -> int:
        """How long an object becomes by what it begins with; 0 of too few bytes."""
        if len(start) < self.start_bytes:
            return 0
        return int.from_bytes(start[self.front + 4 : self.start_bytes], "little")

    def check_files(
        self, folder: str, places: Sequence[slice | int], *, most_bytes: int
    ) -> None:
        """Refuse a region, given along the stored axes, with a chunk of more bytes.

        Raises
        ------
        FormatError
            An object of it says that it becomes more than `most_bytes`.
        """
        cells = (
            range(at.start // edge, -(-at.stop // edge))
            if isinstance(at, slice)
            else (at // edge,)
            for at, edge in zip(places, self.edges, strict=True)
        )
        for place in product(*cells):
            name = self.head + self.separator.join(map(str, place))
            path = f"{folder}/{name}"
            found = self.unpacked_bytes(_start(path, self.start_bytes))
            if found > most_bytes:
                raise FormatError(
                    f"chunks: {path} unpacks to {found} bytes, expected at most "
                    f"{most_bytes}; fetch it again or report it to who made it",
                    url=path,
                )


def _start(path: str, length: int) -> bytes:
    """What a file begins with; nothing where there is none, as of a missing chunk."""
    with suppress(OSError):
        # A pipe is not waited for.
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return os.read(opened, length)
        finally:
            os.close(opened)
    return b""
