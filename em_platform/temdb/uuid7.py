"""Keys that sort by the time at which they were made."""

import secrets
import threading
import time
import uuid

_lock = threading.Lock()
_last = 0


def uuid7() -> uuid.UUID:
    """A new UUID of version 7 (RFC 9562), larger than every one made here before.

    Milliseconds, then 12 bits of their fraction, then 62 random bits.
    """
    global _last
    with _lock:
        ticks = max(time.time_ns() * 4096 // 1_000_000, _last + 1)
        _last = ticks
    number = (ticks >> 12) << 80
    number |= 0x7 << 76 | (ticks & 0xFFF) << 64
    number |= 0b10 << 62 | secrets.randbits(62)
    return uuid.UUID(int=number)
