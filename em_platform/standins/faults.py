"""Faults that a stand-in shows on purpose, by path; and the log of what it was asked.

The log has one line a request. Both can be set and read over HTTP.
"""

import gzip
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from itertools import repeat
from typing import Any, Literal, get_args

from em_platform.errors import ConfigError
from em_platform.model import JsonObject
from em_platform.standins.messages import (
    Content,
    InMemory,
    Request,
    Response,
    Router,
    as_json,
)

Kind = Literal[
    "status",
    "missing",
    "cut",
    "hang",
    "slow",
    "wrong_length",
    "no_range",
    "corrupt",
    "truncate",
    "changed_etag",
    "packed",
    "endless",
]
# The command line offers and checks the same words as the type.
KINDS: tuple[str, ...] = get_args(Kind)

_ONLY_BODIES = {"cut", "slow", "corrupt", "endless"}
"""Faults that a HEAD cannot show, and does not use up."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong at paths that fit the pattern `path` (`*` any text).

    - `status`: answer `status` (503), with Retry-After where `retry_after_s` is set
    - `missing`: 404, and absent from listings
    - `cut`: reset the connection after `after_bytes` of the body (half of it)
    - `hang`: say nothing for `seconds`, then reset the connection
    - `slow`: send `bytes_per_s`
    - `wrong_length`: promise `extra_bytes` more than there are
    - `no_range`: answer a range with the whole
    - `corrupt`: other bytes, same length, same ETag
    - `truncate`: the file is only `after_bytes` long (three quarters)
    - `changed_etag`: another file of the same length, with another ETag
    - `packed`: gzip on the way, without ranges, whatever the client accepts
    - `endless`: a body without length and end

    The first `skip` fitting requests are served well, the next `times` show the fault
    (None: all). `site` and `methods` narrow it to one server, to some methods.
    """

    kind: Kind
    path: str = "*"
    times: int | None = None
    skip: int = 0
    status: int = 503
    after_bytes: int | None = None
    retry_after_s: float | None = None
    # Longer than any client waits.
    seconds: float = 3600.0
    bytes_per_s: float = 100_000.0
    extra_bytes: int = 1000
    site: str = ""
    methods: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(
                f"standins: no fault {self.kind!r}, expected one of "
                f"{', '.join(KINDS)}; correct its name"
            )

    def fits(self, *, site: str, method: str, path: str) -> bool:
        """Whether a request is one that this fault is about."""
        if method == "HEAD" and self.kind in _ONLY_BODIES:
            return False
        return (
            fnmatchcase(path, self.path)
            and self.site in ("", site)
            and (not self.methods or method in self.methods)
        )


def fault_of(values: Any) -> Fault:
    """A fault from JSON.

    Raises
    ------
    ConfigError
        A field that there is not, or no kind.
    """
    try:
        methods = tuple(values.get("methods", ()))
        return Fault(**{**values, "methods": methods})
    except TypeError as error:
        raise ConfigError(
            f"standins: fault {values}: {error}; expected kind, path, times, skip, ..."
        ) from error


class Faults:
    """The faults that are switched on; may be changed while servers run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._seen: list[int] = []

    def add(self, *faults: Fault) -> None:
        """Switch faults on."""
        with self._lock:
            self._faults += faults
            self._seen += [0] * len(faults)

    def clear(self) -> None:
        """Switch all faults off."""
        with self._lock:
            self._faults.clear()
            self._seen.clear()

    def all(self) -> list[JsonObject]:
        """Each fault with how many fitting requests it has `seen`."""
        with self._lock:
            pairs = list(zip(self._faults, self._seen, strict=True))
        return [{**asdict(fault), "seen": seen} for fault, seen in pairs]

    def due(self, *, site: str, method: str, path: str) -> dict[Kind, Fault]:
        """The faults that this request is to show; it counts as seen by each."""
        shown: dict[Kind, Fault] = {}
        with self._lock:
            for place, fault in enumerate(self._faults):
                if not fault.fits(site=site, method=method, path=path):
                    continue
                # Under the lock: of two at once, one shows a fault of `times=1`.
                seen = self._seen[place]
                self._seen[place] += 1
                if _shows(fault, seen):
                    # Of two of a kind the one that was added first.
                    shown.setdefault(fault.kind, fault)
        return shown

    def hidden(self, path: str, *, site: str) -> bool:
        """Whether a listing leaves this path out; it does not count as a request."""
        with self._lock:
            return any(
                fault.kind == "missing"
                and fault.fits(site=site, method="GET", path=path)
                and _shows(fault, seen)
                for fault, seen in zip(self._faults, self._seen, strict=True)
            )


def _shows(fault: Fault, seen: int) -> bool:
    after = seen - fault.skip
    return after >= 0 and (fault.times is None or after < fault.times)


@dataclass(frozen=True, slots=True)
class _Shorter:
    """The first `size` bytes of a content."""

    content: Content
    size: int

    def read(self, start: int, stop: int) -> bytes:
        return self.content.read(start, min(stop, self.size))


@dataclass(frozen=True, slots=True)
class _Overstated:
    """A content that claims `extra` bytes which never come."""

    content: Content
    extra: int

    @property
    def size(self) -> int:
        return self.content.size + self.extra

    def read(self, start: int, stop: int) -> bytes:
        return self.content.read(start, stop)


@dataclass(frozen=True, slots=True)
class _Flipped:
    """A content with bits of every `step`th byte turned, the middle one among them."""

    content: Content
    step: int
    bits: int

    @property
    def size(self) -> int:
        return self.content.size

    def read(self, start: int, stop: int) -> bytes:
        found = bytearray(self.content.read(start, stop))
        first = (self.size // 2 - start) % self.step
        for place in range(first, len(found), self.step):
            found[place] ^= self.bits
        return bytes(found)


def disturbed(response: Response, due: dict[Kind, Fault]) -> Response:
    """The response with those faults that lie in the content itself."""
    # Only what would have been served well can be spoiled.
    if response.status != 200 or response.stream is not None:
        return response
    content = response.content
    etag = response.etag
    if "truncate" in due:
        size = due["truncate"].after_bytes
        content = _Shorter(content, content.size * 3 // 4 if size is None else size)
        etag = _other(etag, "short")
    if "changed_etag" in due:
        # Gently: the lowest bit of few bytes is still an image, only another one.
        content = _Flipped(content, 4099, 0x01)
        etag = _other(etag, "new")
    if "corrupt" in due:
        content = _Flipped(content, 4096, 0xFF)
    # After `truncate`: more is promised than is left.
    if "wrong_length" in due:
        content = _Overstated(content, due["wrong_length"].extra_bytes)
    changed = replace(response, content=content, etag=etag)
    if "endless" in due:
        return replace(changed, stream=repeat(bytes(1 << 16)), ranged=False)
    return _packed(changed) if "packed" in due else changed


def _packed(response: Response) -> Response:
    whole = response.content.read(0, response.content.size)
    return replace(
        response,
        content=InMemory(gzip.compress(whole, compresslevel=1, mtime=0)),
        headers={**response.headers, "Content-Encoding": "gzip"},
        # A range would count packed bytes.
        ranged=False,
    )


def _other(etag: str, word: str) -> str:
    return f'"{etag.strip(chr(34))}-{word}"' if etag else ""


def status_shown(due: dict[Kind, Fault]) -> tuple[int, str] | None:
    """Status and words, where a fault keeps the site from answering at all."""
    if "status" in due:
        return due["status"].status, "Stand-in fault"
    return (404, "Not Found") if "missing" in due else None


NOTHING = InMemory(b"")


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

    def as_json(self, part: str = "") -> list[JsonObject]:
        """Requests whose path contains `part`, to be sent."""
        return [asdict(entry) for entry in self.all() if part in entry.path]


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
        return as_json(requests.as_json(request.asked("path")))

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
