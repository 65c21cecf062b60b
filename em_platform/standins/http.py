"""A small HTTP/1.1 server on 127.0.0.1 that can misbehave on purpose."""

import logging
import socket
import socketserver
import ssl
import struct
import threading
from typing import Any, Self

from em_platform.errors import ConfigError
from em_platform.standins.conversation import Conversation
from em_platform.standins.faults import Faults, RequestsLog
from em_platform.standins.messages import Handler, Refusal, refuse_in_html

log = logging.getLogger(__name__)


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
        # First: whoever hangs or is slow on purpose waits for it.
        self.ended.set()
        self._listener.stop_accepting()
        # After 5 s it is left: a thread that hangs must not keep the program.
        self._thread.join(5)
        self._listener.server_close()
        self._listener.break_connections()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Listener(socketserver.ThreadingMixIn, socketserver.TCPServer):
    # A world that starts again takes its old ports, though they are in TIME_WAIT.
    allow_reuse_address = True
    daemon_threads = True
    # The base class has 5; clients of chunked arrays open many at once.
    request_queue_size = 256

    def __init__(self, server: Server, port: int, tls: ssl.SSLContext | None) -> None:
        self.owner = server
        self._tls = tls
        # The threads of all connections write here.
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self.to_reset: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Conversation)

    def accept_all(self) -> None:
        """Wait for connections without looking at the clock, until the end."""
        while not self.owner.ended.is_set():
            try:
                connection, address = self.get_request()
            except OSError:
                # At the end, or without file handles: no loop at full speed.
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
        # Not the mixin's own: at the end each of them is waited for.
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
            # A copy: each thread takes out its own entry, under the same lock.
            left = dict(self._open)
        for connection in left:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                log.debug("a connection was closed already")
        for thread in left.values():
            thread.join(5)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients that break off are usual here; the base class prints a traceback.
        log.debug("a connection with %s ended early", client_address)
