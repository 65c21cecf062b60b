"""A web server in the test's own process, which answers as the test says."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """What is sent back; `cut_after` closes the connection after so many bytes.

    `drip_s` passes between two bytes, so that something comes all the time.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    drip_s: float = 0.0


@dataclass
class Served:
    """A running server and what it was asked."""

    url: str
    asked: list[Asked]


@contextmanager
def serving(answer: Callable[[Asked], Answer]) -> Iterator[Served]:
    """Serve on a free port of 127.0.0.1 what `answer` makes of each request."""
    asked: list[Asked] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): text for name, text in self.headers.items()}
            request = Asked(self.command, self.path, headers, body)
            asked.append(request)
            self.send(answer(request))

        do_GET = do_HEAD = do_POST = handle_any  # noqa: N815

        def send(self, given: Answer) -> None:
            self.send_response(given.status)
            for name, text in given.headers.items():
                self.send_header(name, text)
            if "Content-Length" not in given.headers:
                self.send_header("Content-Length", str(len(given.body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            step = 1 if given.drip_s else len(given.body) or 1
            for at in range(0, len(given.body), step):
                time.sleep(given.drip_s)
                self.wfile.write(given.body[: given.cut_after][at : at + step])
            if given.cut_after is not None:
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that was killed

    with Server(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield Served(f"http://127.0.0.1:{server.server_port}", asked)
        finally:
            server.shutdown()
            thread.join()
