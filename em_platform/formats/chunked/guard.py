"""Between tensorstore and a server: answers are bounded, and compared with digests.

tensorstore takes an answer of any length and shows none of its headers. So it asks this
guard, at a loopback port of its own process and under a path that nobody can guess; the
guard asks the server, and passes on what comes until it is too long or too slow. Other
bytes than a digest in the answer states are cut off before they are whole, which
tensorstore takes for an outage and asks again.
"""

import gzip
import os
import re
import secrets
import socket
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass
from weakref import WeakValueDictionary

from em_platform.errors import (
    ChecksumError,
    PlatformError,
    SourceRefused,
    SourceUnavailable,
)
from em_platform.formats.chunked.blosc import BloscObjects
from em_platform.formats.chunked.digests import Digest, digest_of
from em_platform.formats.header_values import MOST_BYTES

# As the watchdogs of tensorstore's own connections, see `store`.
_CONNECT_S, _SILENT_S = 10.0, 20.0
# For one object: 64 MB at 200 kB/s. A drop every 19 seconds would never end.
WHOLE_S = 300.0
_PIECE_BYTES = 1 << 20
_HEAD_BYTES = 1 << 16
_METADATA = re.compile(r"(^|/)(info|[^/]*\.json|\.z[a-z]+)$")
_ASKED = ("range", "if-none-match", "if-match", "cache-control")
_ANSWERED = ("content-range", "etag", "last-modified", "date", "age", "cache-control")


@dataclass(kw_only=True, eq=False)
class Upstream:
    """A server's folder as one reader of this process asks for it.

    No object of it may have more than `most_bytes`, metadata `MOST_BYTES`. `refused`
    are those that had, or were too slow: they are not asked for again. `failed` did not
    come, or with other bytes than their digest has, and may come the next time.
    """

    address: str
    """`http(s)://` of the folder; a query is kept."""
    url: str
    """As its user named it, for sentences."""
    most_bytes: int = MOST_BYTES
    blosc: BloscObjects | None = None
    refused: dict[str, PlatformError] = field(default_factory=dict)
    failed: dict[str, PlatformError] = field(default_factory=dict)

    def address_of(self, name: str) -> str:
        """Where the object `name` is asked for."""
        place, mark, query = self.address.partition("?")
        return f"{place.rstrip('/')}/{name}{mark}{query}"

    def limit_of(self, name: str, asked_range: str) -> int:
        """The most bytes that an answer may have."""
        first, _, last = asked_range.removeprefix("bytes=").partition("-")
        if last.isdecimal():
            # "-9" asks for the last nine.
            asked = int(last) + 1 - int(first) if first.isdecimal() else int(last)
            # An index of the server says where a chunk ends; tensorstore asks for
            # several at once up to 128 MiB.
            return min(asked, self.most_bytes + 2 * MOST_BYTES)
        return MOST_BYTES if _METADATA.search(name) else self.most_bytes

    def fail(self, name: str, error: Exception) -> None:
        """Note why the server's answer for `name` did not come."""
        url, reason = f"{self.url}/{name}", " ".join(str(error).split())[:300]
        self.failed[name] = SourceUnavailable(
            f"chunks: {url} is not served ({reason}), expected an answer; try again "
            "later or check the address",
            url=url,
        )

    def refuse(self, name: str, *, found: str, expected: str) -> "_Cut":
        """Note why `name` was not passed on, for who asked for it."""
        url = f"{self.url}/{name}"
        self.refused[name] = SourceRefused(
            f"chunks: {url} {found}, expected {expected}; correct the address or "
            "report it to who serves it",
            url=url,
        )
        return _Cut()

    def raise_refusal(self) -> None:
        """Raise why an object was not passed on, where one was not."""
        for error in (*self.refused.values(), *self.failed.values()):
            raise error


def upstream_of(
    kvstore: Mapping[str, Any],
    url: str,
    *,
    most_bytes: int = MOST_BYTES,
    blosc: BloscObjects | None = None,
) -> Upstream | None:
    """Who serves a store of tensorstore's; None of a disk.

    None also of a bucket that is asked with credentials: a signature holds for its
    address alone, and who gave us some is trusted.
    """
    limits: dict[str, Any] = {"most_bytes": most_bytes, "blosc": blosc}
    if kvstore["driver"] == "http":
        return Upstream(address=kvstore["base_url"], url=url, **limits)
    is_anonymous = kvstore.get("aws_credentials") == {"type": "anonymous"}
    if kvstore["driver"] != "s3" or not is_anonymous:
        return None
    bucket, endpoint = kvstore["bucket"], kvstore.get("endpoint")
    host = f"s3.{kvstore['aws_region']}.amazonaws.com"
    address = f"https://{bucket}.{host}"
    # No certificate holds for a name with more dots than its own.
    if endpoint or "." in bucket:
        address = f"{endpoint or f'https://{host}'}/{bucket}"
    address = f"{address}/{quote(kvstore['path'])}"
    return Upstream(address=address, url=url, **limits)


class Guard:
    """Serves tensorstore of this process what `upstream` servers answer."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._port = self._listening.getsockname()[1]
        # Every account of the computer reaches a loopback port.
        self._secret = secrets.token_urlsafe(24)
        self._numbers = count()
        self._upstreams: WeakValueDictionary[str, Upstream] = WeakValueDictionary()
        threading.Thread(target=self._accept, name="chunks", daemon=True).start()

    def kvstore(self, upstream: Upstream) -> dict[str, Any]:
        """The upstream as tensorstore's JSON; it serves as long as `upstream` lives."""
        number = str(next(self._numbers))
        self._upstreams[number] = upstream
        base = f"http://127.0.0.1:{self._port}/{self._secret}/{number}/"
        return {"driver": "http", "base_url": base}

    def _accept(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            threading.Thread(
                target=self._serve, args=(connection,), name="chunks", daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        """Answer requests of one connection until either side ends it."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, suppress(OSError, _Cut):
            for name, headers in _requests(connection):
                place = name.lstrip("/").split("/", 2)
                upstream = None
                if len(place) == 3 and secrets.compare_digest(place[0], self._secret):
                    upstream = self._upstreams.get(place[1])
                if upstream is None:
                    # Not 404, which means that a chunk is absent.
                    connection.sendall(_head(400, {}))
                else:
                    _answer(connection, upstream, place[2], headers)


class _Cut(Exception):
    """The connection is to be closed amid an answer."""


def _requests(connection: socket.socket) -> Iterator[tuple[str, dict[str, str]]]:
    """Path and headers of each request on a connection."""
    kept = b""
    while True:
        while b"\r\n\r\n" not in kept:
            piece = connection.recv(_HEAD_BYTES)
            if not piece or len(kept) > _HEAD_BYTES:
                return
            kept += piece
        head, _, kept = kept.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        yield first.split(" ")[1], {k.lower(): v.strip() for k, _, v in pairs}


def _head(status: int, headers: Mapping[str, str], length: int | None = 0) -> bytes:
    """The start of an answer; a body without known length comes in chunks."""
    body = "transfer-encoding: chunked"
    if length is not None:
        body = f"content-length: {length}"
    lines = [f"HTTP/1.1 {status} -", *(f"{k}: {v}" for k, v in headers.items()), body]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _answer(
    connection: socket.socket,
    upstream: Upstream,
    name: str,
    headers: Mapping[str, str],
) -> None:
    """Ask the server, and pass on what it answers; _Cut where it must not be taken."""
    from urllib3.exceptions import HTTPError

    if name in upstream.refused:
        connection.sendall(_head(400, {}))
        return
    address = upstream.address_of(name)
    asked = {key: headers[key] for key in _ASKED if key in headers}
    try:
        answer = _pool(upstream.address, os.getpid()).urlopen(
            "GET", address, headers={**_login(upstream.address), **asked},
            redirect=False, retries=False, preload_content=False, decode_content=False,
        )  # fmt: skip
    except HTTPError as error:
        upstream.fail(name, error)
        # tensorstore asks again after a while.
        connection.sendall(_head(503, {}))
        return
    try:
        if answer.status in (200, 206):
            # A server that knows no ranges sends the whole object.
            is_part = answer.status == 206
            most = upstream.limit_of(name, asked.get("range", "") if is_part else "")
            _pass_on(answer, connection, upstream, name=name, most_bytes=most)
        else:
            upstream.failed.pop(name, None)
            # Read, so that the connection can be kept.
            answer.read(_HEAD_BYTES)
            connection.sendall(_head(answer.status, _passed(answer)))
    except (HTTPError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        upstream.fail(name, error)
        raise _Cut from error
    finally:
        if not answer.closed:
            answer.close()


def _passed(answer: Any) -> dict[str, str]:
    return {key: answer.headers[key] for key in _ANSWERED if key in answer.headers}


def _pass_on(
    answer: Any,
    connection: socket.socket,
    upstream: Upstream,
    *,
    name: str,
    most_bytes: int,
) -> None:
    stated = answer.headers.get("Content-Length", "")
    length = int(stated) if stated.isdecimal() and len(stated) < 19 else None
    packing = answer.headers.get("Content-Encoding", "").lower()
    most = f"at most {most_bytes}"
    if length is not None and length > most_bytes:
        raise upstream.refuse(name, found=f"has {length} bytes", expected=most)
    # tensorstore would unpack several kinds, in as much memory as they need.
    if packing not in ("", "identity", "gzip", "x-gzip"):
        found = f"has the Content-Encoding {packing[:40]}"
        raise upstream.refuse(name, found=found, expected="none, or gzip")
    digest = None
    if answer.status == 200:
        server = "/".join(upstream.address.split("/")[:4])
        digest = digest_of(answer.headers, server=server)
    body = _Body(answer, upstream, name, digest)
    read1: Any = body.read
    if "gzip" in packing:
        read1, length = gzip.GzipFile(fileobj=body).read1, None  # type: ignore[call-overload]
    kept, taken = _head(answer.status, _passed(answer), length), 0
    blosc = None if _METADATA.search(name) else upstream.blosc
    start = b""
    # What there is, and not until a piece is full: some servers drip.
    while piece := read1(_PIECE_BYTES):
        taken += len(piece)
        if taken > most_bytes:
            raise upstream.refuse(name, found="sends more bytes", expected=most)
        if blosc is not None and len(start) < blosc.start_bytes:
            start += piece[: blosc.start_bytes]
            unpacked = blosc.unpacked_bytes(start)
            if unpacked > upstream.most_bytes:
                found = f"unpacks to {unpacked} bytes"
                raise upstream.refuse(name, found=found, expected=most)
        # The last piece waits until the digest is known.
        connection.sendall(kept)
        kept = piece if length is not None else b"%x\r\n%s\r\n" % (len(piece), piece)
    if digest is not None and not digest.is_right():
        url = f"{upstream.url}/{name}"
        upstream.failed[name] = ChecksumError(
            f"chunks: {url} came with other bytes than the {digest.kind} that its "
            "server states; try again later or report it to who serves it",
            url=url,
        )
        raise _Cut
    upstream.failed.pop(name, None)
    connection.sendall(kept if length is not None else kept + b"0\r\n\r\n")


class _Body:
    """Reads what has come of an object, as it came; it goes into the digest."""

    def __init__(
        self, answer: Any, upstream: Upstream, name: str, digest: Digest | None
    ) -> None:
        self._answer, self._upstream, self._name = answer, upstream, name
        self._digest = digest
        self._ends = time.monotonic() + WHOLE_S

    def read(self, most: int) -> bytes:
        """Up to `most` bytes, none at the end."""
        piece: bytes = self._answer.read1(most, decode_content=False)
        # Here, as gzip may pack nothing in any number of bytes.
        if piece and time.monotonic() > self._ends:
            found = f"is not whole after {WHOLE_S:g} s"
            raise self._upstream.refuse(self._name, found=found, expected="it sooner")
        if self._digest is not None:
            self._digest.add(piece)
        return piece


@lru_cache(maxsize=32)
def _login(address: str) -> dict[str, str]:
    """User and password of a URL that has them."""
    from urllib3.util import make_headers, parse_url

    given = parse_url(address).auth
    return dict(make_headers(basic_auth=unquote(given))) if given else {}


@lru_cache(maxsize=32)
def _pool(address: str, process: int) -> Any:
    parts = urlsplit(address)
    # They stand among all variables of the environment, and are read for each answer.
    proxy = getproxies().get(parts.scheme, "")
    if proxy and proxy_bypass(parts.hostname or ""):
        proxy = ""
    return _pool_of(proxy, process)


@lru_cache(maxsize=4)
def _pool_of(proxy: str, process: int) -> Any:
    """Connections that are kept; the process is part of the key, as of a guard."""
    import certifi
    import urllib3

    # Where an institute has certificates of its own, other tools know it by these.
    names = ("TENSORSTORE_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
    own = next((os.environ[name] for name in names if os.environ.get(name)), "")
    how: dict[str, Any] = {
        "maxsize": 32,
        "timeout": urllib3.Timeout(connect=_CONNECT_S, read=_SILENT_S),
        "ca_certs": own or certifi.where(),
    }
    if proxy:
        return urllib3.ProxyManager(proxy, **how)
    return urllib3.PoolManager(**how)


@lru_cache(maxsize=1)
def _guard(process: int) -> Guard:
    return Guard()


def guarded(kvstore: Mapping[str, Any], upstream: Upstream | None) -> Mapping[str, Any]:
    """The store as it is to be opened in this process."""
    # Threads do not survive a fork.
    return kvstore if upstream is None else _guard(os.getpid()).kvstore(upstream)
