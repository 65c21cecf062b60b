"""One image over HTTP on this machine, for viewers that run in a browser.

Serves byte ranges (RFC 9110, section 14) because a viewer reads single chunks out of a
shard, and answers to pages of any origin (CORS), from a disk or a bucket alike.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

_RANGE = re.compile(r"^bytes=(?:(?P<first>\d+)-(?P<last>\d*)|-(?P<suffix>\d+))$")
_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": "Range",
    # A page's script sees no header of another origin that is not named here.
    "Access-Control-Expose-Headers": "Content-Range, Content-Length, Accept-Ranges",
    "Accept-Ranges": "bytes",
    # The image may be made anew under the same address.
    "Cache-Control": "no-cache",
}


@contextmanager
def served(url: str, *, storage_options: dict[str, Any] | None = None) -> Iterator[str]:
    """The address `http://127.0.0.1:<port>/<name>` of the folder at `url`.

    `url` is a path or any fsspec URL; nothing outside of the folder is served.
    """
    filesystem, path = url_to_fs(url.rstrip("/"), **(storage_options or {}))
    name = path.rpartition("/")[2]
    parent = path.removesuffix(f"/{name}")
    # The server makes the handlers itself: what they serve is in the class.
    handler = type("_Image", (_Handler,), {
        "filesystem": filesystem, "parent": parent, "name": name,
    })  # fmt: skip
    # A port that is free, on an address that no other machine reaches.
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/{name}"
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for the objects of one folder."""

    protocol_version = "HTTP/1.1"  # connections stay open for a viewer's many chunks
    filesystem: ClassVar[AbstractFileSystem]
    parent: ClassVar[str]
    name: ClassVar[str]

    def do_OPTIONS(self) -> None:
        # Browsers may ask first whether a page may send a Range header.
        self._answer(HTTPStatus.NO_CONTENT, b"", {})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self._path()
        size = None if path is None else self._size(path)
        if path is None or size is None:
            self._answer(HTTPStatus.NOT_FOUND, b"", {})
            return
        wanted = _RANGE.match(self.headers.get("Range", "").strip())
        # Several ranges, or other units, may be ignored (RFC 9110, 14.2).
        if wanted is None:
            self._answer(HTTPStatus.OK, self._content(path, 0, size), {})
            return
        first, last = _bounds(wanted, size)
        if first > last:
            nothing = {"Content-Range": f"bytes */{size}"}
            self._answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", nothing)
            return
        self._answer(
            HTTPStatus.PARTIAL_CONTENT,
            self._content(path, first, last + 1),
            {"Content-Range": f"bytes {first}-{last}/{size}"},
        )

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the terminal quiet."""

    def _path(self) -> str | None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] != self.name or ".." in parts:
            return None
        return "/".join((self.parent, *parts))

    def _size(self, path: str) -> int | None:
        try:
            found = self.filesystem.info(path)
        except OSError:
            return None
        return None if found["type"] == "directory" else int(found["size"])

    def _content(self, path: str, start: int, end: int) -> bytes:
        if end <= start:
            return b""
        return bytes(self.filesystem.cat_file(path, start=start, end=end))

    def _answer(
        self, status: HTTPStatus, content: bytes, headers: dict[str, str]
    ) -> None:
        self.send_response(status)
        for name, value in (_HEADERS | headers).items():
            self.send_header(name, value)
        # 204 must not state a length (RFC 9110, 8.6).
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _bounds(wanted: re.Match[str], size: int) -> tuple[int, int]:
    """First and last byte that a Range header asks for."""
    if wanted["suffix"]:
        return max(0, size - int(wanted["suffix"])), size - 1
    last = int(wanted["last"]) if wanted["last"] else size - 1
    return int(wanted["first"]), min(last, size - 1)
