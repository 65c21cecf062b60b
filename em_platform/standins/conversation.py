"""One connection of a stand-in: requests one after the other, and their answers.

From a request to what goes over the wire: conditions, ranges, faults.
"""

import logging
import re
import socket
import socketserver
import ssl
import threading
import time
from dataclasses import dataclass, replace
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol
from urllib.parse import unquote

from em_platform.standins.faults import (
    NOTHING,
    Fault,
    Faults,
    Kind,
    Logged,
    RequestsLog,
    disturbed,
    status_shown,
)
from em_platform.standins.messages import (
    Handler,
    Headers,
    InMemory,
    Refusal,
    Request,
    Response,
)

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response of which the bytes from `start` to `stop` are to be sent.

    `cut_at` is after how many bytes of the body the connection breaks.
    """

    response: Response
    start: int = 0
    stop: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    hang_s: float | None = None
    cut_at: int | None = None
    bytes_per_s: float | None = None
    faults: tuple[str, ...] = ()


def answer(
    request: Request, handler: Handler, *, refuse: Refusal, faults: Faults
) -> Answer:
    """What is to be sent for a request."""
    due = faults.due(site=request.site, method=request.method, path=request.path)
    refused = status_shown(due)
    if refused is None:
        response = disturbed(handler(request), due)
    else:
        response = refuse(*refused)
        if "status" in due and due["status"].retry_after_s is not None:
            wait = {"Retry-After": f"{due['status'].retry_after_s:g}"}
            response = replace(response, headers={**response.headers, **wait})
    made = _conditional(request, response, ranged="no_range" not in due)
    return _with_wire_faults(made, due)


def _with_wire_faults(made: Answer, due: dict[Kind, Fault]) -> Answer:
    cut_at = None
    if "cut" in due:
        half = (made.stop - made.start) // 2
        cut_at = due["cut"].after_bytes
        # Half: something has come then, and something is missing.
        cut_at = half if cut_at is None else cut_at
    return replace(
        made,
        hang_s=due["hang"].seconds if "hang" in due else None,
        cut_at=cut_at,
        bytes_per_s=due["slow"].bytes_per_s if "slow" in due else None,
        faults=tuple(due),
    )


def _conditional(request: Request, response: Response, *, ranged: bool) -> Answer:
    """The response under the conditions and for the range of the request."""
    asked = request.headers
    if response.status == 200 and response.etag:
        if _names(asked["If-None-Match"], response.etag):
            return _plain(replace(response, status=304, content=NOTHING, ranged=False))
        if asked["If-Match"] and not _names(asked["If-Match"], response.etag):
            return _plain(_failed(response))
    if not (ranged and response.ranged and response.status == 200):
        return _plain(replace(response, ranged=response.ranged and ranged))
    wanted = asked["Range"]
    if wanted and _still_the_same(asked["If-Range"], response):
        return _part(wanted, response)
    return _plain(response)


def _names(condition: str | None, etag: str) -> bool:
    if not condition:
        return False
    # Weakly compared, as If-None-Match asks (RFC 9110, 13.1.2).
    listed = [each.strip().removeprefix("W/") for each in condition.split(",")]
    return "*" in listed or etag in listed


def _still_the_same(condition: str | None, response: Response) -> bool:
    if not condition:
        return True
    if condition.startswith(('"', "W/")):
        # Strongly compared: a weak one never fits (RFC 9110, 13.1.5).
        return condition == response.etag
    return response.modified is not None and condition == _date(response.modified)


def _failed(response: Response) -> Response:
    return replace(
        response, status=412, content=InMemory(b"Precondition Failed"), ranged=False
    )


def _plain(response: Response) -> Answer:
    return Answer(
        response=response, stop=response.content.size, headers=_described(response)
    )


def _part(wanted: str, response: Response) -> Answer:
    """One range; several at once, or nonsense, are answered with the whole."""
    found = _RANGE.fullmatch(wanted.replace(" ", ""))
    # A server may ignore any range (RFC 9110, 14.2).
    if found is None or found.groups() == ("", ""):
        return _plain(response)
    size = response.content.size
    first, last = found.groups()
    # `bytes=-7` are the last seven.
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    described = _described(response)
    if start >= size or start >= stop:
        nothing = replace(response, status=416, content=NOTHING)
        # With the size, as RFC 9110, 14.4 wants it of a 416.
        outside = ("Content-Range", f"bytes */{size}")
        return Answer(response=nothing, headers=(*described, outside))
    place = ("Content-Range", f"bytes {start}-{stop - 1}/{size}")
    part = replace(response, status=206)
    return Answer(response=part, start=start, stop=stop, headers=(*described, place))


def _described(response: Response) -> tuple[tuple[str, str], ...]:
    headers = [("Content-Type", response.media_type), *response.headers.items()]
    if response.ranged:
        headers.append(("Accept-Ranges", "bytes"))
    if response.etag:
        headers.append(("ETag", response.etag))
    if response.modified is not None:
        modified = _date(response.modified)
        headers.append(("Last-Modified", modified))
    return tuple(headers)


# A few moments come in every answer: now, and those of the files.
@lru_cache(maxsize=64)
def _date(second: float) -> str:
    return formatdate(second, usegmt=True)


def head_bytes(status: int, headers: tuple[tuple[str, str], ...]) -> bytes:
    """The status line and the headers, up to the empty line."""
    try:
        # A fault may show a number that HTTP does not name.
        words = HTTPStatus(status).phrase
    except ValueError:
        words = "Unknown"
    lines = [f"HTTP/1.1 {status} {words}", f"Date: {_date(int(time.time()))}"]
    lines += [f"{name}: {value}" for name, value in headers]
    # Headers are read as Latin-1; another letter must not break the answer.
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


log = logging.getLogger(__name__)

# A file of gigabytes is sent by pieces; a smaller piece is a call more.
_PIECE_BYTES = 1 << 20
# As `http.server` of the standard library.
_LONGEST_LINE = 1 << 16
# RFC 9110, 15.3.5 and 15.4.5: they have no body, whatever is asked for.
_BODILESS = (204, 304)


class Owner(Protocol):
    """What a conversation needs of its server."""

    site: str
    handler: Handler
    refuse: Refusal
    faults: Faults
    requests: RequestsLog
    ended: threading.Event


class Listener(Protocol):
    """What a conversation needs of whoever accepted its connection."""

    owner: Owner
    to_reset: set[socket.socket]


class Conversation(socketserver.StreamRequestHandler):
    """Requests one after the other, until a side has enough."""

    server: Listener  # type: ignore[assignment]
    # Nagle's algorithm would hold back the end of an answer by 40 ms.
    disable_nagle_algorithm = True

    def setup(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        super().setup()

    def handle(self) -> None:
        self.close_connection = False
        while not self.close_connection:
            request = self._next()
            if request is None:
                return
            self._serve(request)

    def _next(self) -> Request | None:
        """The next request; None where there is none, or none that makes sense.

        The parser of the standard library takes longer than all the rest.
        """
        words = self.rfile.readline(_LONGEST_LINE).decode("latin-1").split()
        if len(words) != 3 or not words[2].startswith("HTTP/"):
            return None
        method, target, version = words
        headers = Headers(self._fields())
        wish = headers.get("Connection").lower()
        self.close_connection = version == "HTTP/1.0" or wish == "close"
        if headers.get("Expect").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = int(headers.get("Content-Length", "0"))
        return Request(
            site=self.server.owner.site,
            method=method,
            path=unquote(target.partition("?")[0]),
            target=target,
            headers=headers,
            body=self.rfile.read(length) if length else b"",
        )

    def _fields(self) -> list[tuple[str, str]]:
        found = []
        while line := self.rfile.readline(_LONGEST_LINE).decode("latin-1").strip():
            name, _, value = line.partition(":")
            found.append((name, value.strip()))
        return found

    def _serve(self, request: Request) -> None:
        owner = self.server.owner
        entry = owner.requests.open(
            Logged(
                site=owner.site,
                method=request.method,
                path=request.path,
                query=request.query_text,
                range=request.headers.get("Range"),
            )
        )
        started = time.monotonic()
        try:
            self._send(self._answer(request), entry)
        except OSError:
            self.close_connection = True
        finally:
            entry.seconds = time.monotonic() - started

    def _answer(self, request: Request) -> Answer:
        owner = self.server.owner
        try:
            return answer(
                request, owner.handler, refuse=owner.refuse, faults=owner.faults
            )
        # Whatever a handler does wrong is a 500, and the others are served.
        except Exception as error:
            log.exception("%s %s", request.method, request.target)
            broken = owner.refuse(500, f"stand-in broke: {error!r}")
            return Answer(response=broken, stop=broken.content.size)

    def _send(self, made: Answer, entry: Logged) -> None:
        entry.faults = made.faults
        if made.hang_s is not None:
            self.server.owner.ended.wait(made.hang_s)
            self._reset()
            return
        response = made.response
        bodiless = entry.method == "HEAD" or response.status in _BODILESS
        length = made.stop - made.start
        entry.promised_bytes = 0 if bodiless else length
        entry.status = response.status
        headers = made.headers
        if response.stream is not None:
            self.wfile.write(
                head_bytes(
                    response.status, (*headers, ("Transfer-Encoding", "chunked"))
                )
            )
            if not bodiless:
                self._send_stream(response, made, entry)
            return
        if response.status not in _BODILESS:
            headers = (*headers, ("Content-Length", str(length)))
        head = head_bytes(response.status, headers)
        if bodiless:
            self.wfile.write(head)
        else:
            self._send_content(head, made, entry)

    def _send_content(self, head: bytes, made: Answer, entry: Logged) -> None:
        """The head with the first piece of the body, then the others."""
        end = made.stop
        if made.cut_at is not None:
            end = min(end, made.start + made.cut_at)
        size = _PIECE_BYTES
        if made.bytes_per_s is not None:
            # A piece each 50 ms: even in pace, and soon at an end.
            size = max(1, int(made.bytes_per_s / 20))
        place = made.start
        while True:
            piece = made.response.content.read(place, min(end, place + size))
            # Counted before it leaves: who has all bytes finds them in the log.
            entry.bytes_sent += len(piece)
            try:
                self.wfile.write(head + piece if head else piece)
            except OSError:
                entry.bytes_sent -= len(piece)
                raise
            head = b""
            place += len(piece)
            if place >= end or not piece:
                break
            if made.bytes_per_s is not None:
                self.server.owner.ended.wait(len(piece) / made.bytes_per_s)
        if made.cut_at is not None:
            self._reset()
        # Less came than was promised: only an end of the connection shows it.
        elif place < made.stop:
            self.close_connection = True

    def _send_stream(self, response: Response, made: Answer, entry: Logged) -> None:
        for piece in response.stream or ():
            if made.cut_at is not None and entry.bytes_sent >= made.cut_at:
                self._reset()
                return
            entry.bytes_sent += len(piece)
            entry.promised_bytes += len(piece)
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def _reset(self) -> None:
        """Break the connection so that the client notices, after all bytes arrived."""
        self.close_connection = True
        # What it has not read yet would be thrown away with the reset.
        self.server.owner.ended.wait(0.05)
        self.server.to_reset.add(self.request)
