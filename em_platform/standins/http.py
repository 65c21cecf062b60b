"""A small HTTP/1.1 server on 127.0.0.1 that can misbehave on purpose."""

import logging
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

from em_platform.errors import ConfigError
from em_platform.standins.answering import Answer, answer, head_bytes
from em_platform.standins.faults import Faults
from em_platform.standins.messages import (
    Handler,
    Refusal,
    Request,
    Response,
    refuse_in_html,
)
from em_platform.standins.requests_log import Logged, RequestsLog

log = logging.getLogger(__name__)

_PIECE_BYTES = 1 << 20
_BODILESS = (204, 304)


class Server:
    """One site, answering in threads from the moment it is made until `close`.

    ConfigError where the port is taken.
    """

    def __init__(
        self,
        site: str,
        handler: Handler,
        *,
        faults: Faults | None = None,
        requests: RequestsLog | None = None,
        refuse: Refusal = refuse_in_html,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.site = site
        self.handler = handler
        self.refuse = refuse
        self.faults = faults or Faults()
        self.requests = requests or RequestsLog()
        self.ended = threading.Event()
        try:
            self._listener = _Listener(self, port, tls)
        except OSError as error:
            raise ConfigError(
                f"standins: {site}: port {port} of 127.0.0.1 is not to be had: "
                f"{error.strerror}; choose another --port"
            ) from error
        self.port: int = self._listener.server_address[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(
            target=self._listener.accept_all,
            name=f"standin-{site}",
            daemon=True,
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening, break what is open, wait for the threads."""
        if self.ended.is_set():
            return
        self.ended.set()
        self._listener.stop_accepting()
        self._thread.join(5)
        self._listener.server_close()
        self._listener.break_connections()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Listener(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, server: Server, port: int, tls: ssl.SSLContext | None) -> None:
        self.owner = server
        self._tls = tls
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self.to_reset: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Conversation)

    def accept_all(self) -> None:
        """Wait for connections without looking at the clock, until told to end."""
        while not self.owner.ended.is_set():
            try:
                connection, address = self.get_request()
            except OSError:
                self.owner.ended.wait(0.01)
            else:
                self.process_request(connection, address)

    def stop_accepting(self) -> None:
        # On Linux this ends an `accept` that waits.
        self.socket.shutdown(socket.SHUT_RDWR)

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        if self._tls is not None:
            # The handshake is done in the connection's own thread.
            connection = self._tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            daemon=True,
        )
        with self._lock:
            self._open[request] = thread
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
            reset = request in self.to_reset
            self.to_reset.discard(request)
        if reset:
            # Closing with a linger of 0 s sends RST instead of FIN.
            linger = struct.pack("ii", 1, 0)
            request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def break_connections(self) -> None:
        with self._lock:
            left = dict(self._open)
        for connection in left:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                log.debug("a connection was closed already")
        for thread in left.values():
            thread.join(5)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a connection with %s ended early", client_address)


class _Conversation(BaseHTTPRequestHandler):
    """One connection: requests one after the other, until a side has enough."""

    server: _Listener
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        super().setup()

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)

    def _serve(self) -> None:
        owner = self.server.owner
        length = int(self.headers.get("Content-Length") or 0)
        path, _, query = self.path.partition("?")
        request = Request(
            site=owner.site,
            method=self.command,
            path=unquote(path),
            target=self.path,
            headers=self.headers,
            body=self.rfile.read(length) if length else b"",
        )
        entry = owner.requests.open(
            Logged(
                site=owner.site,
                method=self.command,
                path=request.path,
                query=query,
                range=self.headers.get("Range") or "",
            )
        )
        started = time.monotonic()
        try:
            self._send(self._answer(request), entry)
        except OSError:
            self.close_connection = True
        finally:
            entry.seconds = time.monotonic() - started

    def __getattr__(self, name: str) -> Callable[[], None]:
        # The base class looks for `do_GET` and the like.
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def _answer(self, request: Request) -> Answer:
        owner = self.server.owner
        try:
            return answer(
                request, owner.handler, refuse=owner.refuse, faults=owner.faults
            )
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
        bodiless = self.command == "HEAD" or response.status in _BODILESS
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
        """Break the connection so that the other side notices, and loses nothing."""
        self.close_connection = True
        # What it has not read yet would be thrown away with the reset.
        self.server.owner.ended.wait(0.05)
        self.server.to_reset.add(self.request)
