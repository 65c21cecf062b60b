"""One connection of a stand-in: requests one after the other, and their answers."""

import logging
import socket
import socketserver
import ssl
import threading
import time
from typing import Protocol
from urllib.parse import unquote

from em_platform.standins.answering import Answer, answer, head_bytes
from em_platform.standins.faults import Faults
from em_platform.standins.messages import (
    Handler,
    Headers,
    Refusal,
    Request,
    Response,
)
from em_platform.standins.requests_log import Logged, RequestsLog

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
