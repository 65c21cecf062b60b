"""So many requests a second to one server, counted over all reads of a process.

tensorstore 0.1.86 takes a rate for S3 but does not keep it (measured), and knows none
for HTTP; so a read waits until those before it have had their time.
"""

import threading
import time
from collections.abc import Callable

_lock = threading.Lock()
_free_at: dict[str, float] = {}


def wait_for_turn(
    server: str,
    requests: int,
    *,
    per_second: float,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when `requests` more may be sent to `server`; the first may at once."""
    with _lock:
        now = time.monotonic()
        begins = max(now, _free_at.get(server, now))
        _free_at[server] = begins + requests / per_second
    if begins > now:
        sleep(begins - now)
