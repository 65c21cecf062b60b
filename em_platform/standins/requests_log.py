"""What the stand-ins were asked, one line a request; and faults and log over HTTP."""

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from em_platform.errors import ConfigError
from em_platform.standins.faults import Faults, fault_of
from em_platform.standins.messages import Request, Response, Router, as_json


@dataclass(slots=True, kw_only=True)
class Logged:
    """One request and what became of it."""

    site: str
    method: str
    path: str
    """Decoded."""
    query: str = ""
    range: str = ""
    """As asked, such as `bytes=0-99`."""
    status: int = 0
    """0 while it is not answered."""
    promised_bytes: int = 0
    bytes_sent: int = 0
    """Of the body, as far as they were handed to the network."""
    at: float = 0.0
    """Seconds since 1970."""
    seconds: float = 0.0
    faults: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether all was sent that was promised."""
        return self.status > 0 and self.bytes_sent == self.promised_bytes


class RequestsLog:
    """All requests to all servers of a world."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[Logged] = []

    def open(self, entry: Logged) -> Logged:
        """Add a request when it arrives; the server fills it in as it answers."""
        # On arrival, so that one that hangs is seen, too.
        entry.at = time.time()
        with self._lock:
            self._entries.append(entry)
        return entry

    def all(self) -> list[Logged]:
        """A copy of all requests so far."""
        with self._lock:
            # Copies: the servers still write into those that are open.
            return [replace(entry) for entry in self._entries]

    def count(self, predicate: Callable[[Logged], bool] = lambda _: True) -> int:
        """How many requests there were for which the predicate is true."""
        return sum(predicate(entry) for entry in self.all())

    def clear(self) -> None:
        """Forget all requests so far."""
        with self._lock:
            self._entries.clear()

    def as_json(self) -> list[dict[str, Any]]:
        """All requests, to be sent."""
        return [asdict(entry) for entry in self.all()]


def control(faults: Faults, requests: RequestsLog) -> Router:
    """Answers GET, POST and DELETE of `/faults`, GET and DELETE of `/requests`.

    POST takes one fault or a list of them. `/requests?path=` gives only those whose
    path contains the text.
    """

    def show(_: Request) -> Response:
        return as_json(faults.all())

    def add(request: Request) -> Response:
        try:
            given = request.json
            listed = given if isinstance(given, list) else [given]
            # All are read before one is added: a wrong one changes nothing.
            faults.add(*(fault_of(each) for each in listed))
        except (ValueError, TypeError, AttributeError, ConfigError) as error:
            return as_json({"message": str(error)}, status=400)
        return as_json(faults.all())

    def clear(_: Request) -> Response:
        faults.clear()
        return as_json([])

    def asked(request: Request) -> Response:
        part = request.asked("path")
        return as_json([e for e in requests.as_json() if part in e["path"]])

    def forget(_: Request) -> Response:
        requests.clear()
        return as_json([])

    router = Router()
    router.add("/faults/?", show)
    router.add("/faults/?", add, methods=("POST",))
    router.add("/faults/?", clear, methods=("DELETE",))
    router.add("/requests/?", asked)
    router.add("/requests/?", forget, methods=("DELETE",))
    return router
