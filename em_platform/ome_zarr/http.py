"""One image over HTTP on this machine, for viewers that run in a browser.

Serves byte ranges (RFC 9110, section 14) because a viewer reads single chunks out of a
shard, and answers to pages of this machine alone (CORS), from a disk or a bucket alike.
Any other page in the same browser could ask for the image, too.
"""

import os
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

from em_platform.storage.layout import StorageOptions

_RANGE = re.compile(r"^bytes=(?:(?P<first>\d+)-(?P<last>\d*)|-(?P<suffix>\d+))$")
# As names of this machine, in an origin or the header Host; a port may follow.
_LOOPBACK = re.compile(r"^(?:http://)?(?:127\.0\.0\.1|localhost|\[::1\])(?::\d+)?$")
_HEADERS = {
    "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": "Range",
    # A page's script sees no header of another origin that is not named here.
    "Access-Control-Expose-Headers": "Content-Range, Content-Length, Accept-Ranges",
    "Accept-Ranges": "bytes",
    # The image may be made anew under the same address.
    "Cache-Control": "no-cache",
    # A cache must not give one page what another was allowed.
    "Vary": "Origin",
}


@contextmanager
def served(url: str, *, storage_options: StorageOptions | None = None) -> Iterator[str]:
    """The address `http://127.0.0.1:<port>/<name>` of the folder at `url`.

    `url` is a path or any fsspec URL; nothing outside of the folder is served, not by a
    symbolic link either, and nothing to pages of other machines.
    """
    filesystem, path = url_to_fs(url.rstrip("/"), **(storage_options or {}))
    name = path.rpartition("/")[2]
    parent = path.removesuffix(f"/{name}")
    # The server makes the handlers itself: what they serve is in the class.
    handler = type("_Image", (_Handler,), {
        "filesystem": filesystem, "parent": parent, "name": name,
        # A disk alone has links that lead out.
        "folder": os.path.realpath(path) if _is_local(filesystem) else None,
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


def _is_local(filesystem: AbstractFileSystem) -> bool:
    """Whether its paths are those of this machine's disks."""
    protocol = filesystem.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for the objects of one folder."""

    protocol_version = "HTTP/1.1"  # connections stay open for a viewer's many chunks
    filesystem: ClassVar[AbstractFileSystem]
    parent: ClassVar[str]
    name: ClassVar[str]
    folder: ClassVar[str | None]

    def do_OPTIONS(self) -> None:
        # Browsers may ask first whether a page may send a Range header.
        allowed = self._is_from_here()
        status = HTTPStatus.NO_CONTENT if allowed else HTTPStatus.FORBIDDEN
        self._answer(status, b"", {})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if not self._is_from_here():
            self._answer(HTTPStatus.FORBIDDEN, b"", {})
            return
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

    def _is_from_here(self) -> bool:
        """Whether a program or page of this machine asks, under a name of it.

        A foreign page can give its own host name the address 127.0.0.1 (DNS rebinding):
        then the header Host has that name.
        """
        origin = self.headers.get("Origin")
        names = [self.headers.get("Host", ""), *([] if origin is None else [origin])]
        return all(_LOOPBACK.match(name) for name in names)

    def _path(self) -> str | None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] != self.name or ".." in parts:
            return None
        path = "/".join((self.parent, *parts))
        if self.folder is not None:
            real = os.path.realpath(path)
            if os.path.commonpath((real, self.folder)) != self.folder:
                return None
        return path

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
        origin = self.headers.get("Origin")
        if origin is not None and self._is_from_here():
            self.send_header("Access-Control-Allow-Origin", origin)
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
