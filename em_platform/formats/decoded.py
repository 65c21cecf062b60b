"""Pieces of images that were decoded last, remembered for whoever reads on beside them.

Who reads a compressed volume block by block touches the same strips or planes again;
decoding costs a hundred times what a copy does. Bounded to 64 MiB a process.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from em_platform.formats.source import Source

_CACHE_BYTES = 1 << 26
_ALWAYS_BYTES = 1 << 28
_LARGEST_RATIO = 5000


@dataclass
class Decoded:
    """Arrays by key, the longest unused forgotten first; for many threads."""

    limit: int
    """Bytes of all together."""
    _held: OrderedDict[Hashable, NDArray[Any]] = field(default_factory=OrderedDict)
    _size: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, key: Hashable) -> NDArray[Any] | None:
        """The array, None where it is forgotten; not to be written to."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: Hashable, pixels: NDArray[Any]) -> None:
        """Remember an array, unless it alone is above the limit."""
        with self._lock:
            if key not in self._held and pixels.nbytes <= self.limit:
                self._held[key] = pixels
                self._size += pixels.nbytes
            while self._size > self.limit:
                self._size -= self._held.popitem(last=False)[1].nbytes


FileKey = tuple[str, int, int]


def key_of(source: Source) -> FileKey:
    """What tells a file from others, and from itself after it was written anew."""
    changed_ns = 0
    if source.path is not None:
        with suppress(OSError):
            changed_ns = os.stat(source.path).st_mtime_ns
    return source.uri, source.length, changed_ns or hash(source.first)


DECODED = Decoded(_CACHE_BYTES)
"""What this process decoded."""


def is_plausible(coded_bytes: int, pixel_bytes: int) -> bool:
    """Whether so few bytes may hold so many pixels; a damaged size asks for terabytes.

    Deflate packs at most 1:1032, other codecs of blank planes a little better.
    """
    return pixel_bytes <= max(_ALWAYS_BYTES, _LARGEST_RATIO * coded_bytes)
