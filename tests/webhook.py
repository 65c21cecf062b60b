"""A real web server that keeps what is posted to it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Webhook:
    """Answers with `status`; `received` has each JSON body that came with 200."""

    def __init__(self) -> None:
        self.status = 200
        self.received: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(length))
                if outer.status == 200:
                    outer.received.append(body)
                self.send_response(outer.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/key"

    @contextmanager
    def serving(self) -> Iterator[Self]:
        """Take what is posted while the block lasts."""
        threading.Thread(target=self._server.serve_forever, args=(0.05,)).start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
