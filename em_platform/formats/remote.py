"""Bytes behind fsspec URLs: bounded in memory and in time, errors in one sentence.

An answer can send its reader anywhere: to a service of this computer or of its network,
or from https to http. A redirect is followed only to where it may lead, which are hosts
that were named.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from em_platform.errors import FormatError, PlatformError, SourceRefused, StorageError
from em_platform.formats.header_values import MOST_BYTES
from em_platform.storage.layout import StorageOptions

# A tenth of a second to import; who reads files of this machine needs none of it.
if TYPE_CHECKING:
    import requests
    from urllib3.util import Url

_MOST_HOPS = 5
_PORTS = {"http": 80, "https": 443}

Resolve = Callable[[str], Collection[str]]
"""The IP addresses of a host name; none where it is not known."""


def addresses_of(host: str) -> Collection[str]:
    """The IP addresses of a host name, by the system's resolver."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:  # behind a proxy no name is known here
        return ()
    return {str(address[0]) for *_, address in found}


def check_redirect(
    at: str,
    to: str,
    *,
    who: str,
    hosts: Collection[str] | None = (),
    cure: str = "correct the address",
    resolve: Resolve = addresses_of,
) -> None:
    """Refuse a redirect from the URL `at` to the URL `to`.

    `hosts` are names that it may lead to, each with all names below it, None is any:
    where a person named the address; `cure` is what the user can do.

    Raises
    ------
    SourceRefused
        Another host that is not among them, http after https, or an address of this
        network from one outside.
    """
    from urllib3.util import parse_url

    here, there = parse_url(at), _parsed(to)
    name, why = there.host or "", ""
    if there.scheme not in _PORTS or not name:
        why = "expected an address of http or https"
    elif here.scheme == "https" and there.scheme == "http":
        why = "expected https as before"
    elif not _same_host(here, there):
        if hosts is not None and not any(_belongs(name, host) for host in hosts):
            why = "expected the same host or one that is listed"
        elif _leads_inside(here.host or "", name, resolve):
            why = "expected no address inside of this network"
    if why:
        # No more of either: queries may hold keys.
        place = f"{there.scheme}://{there.netloc}"
        raise SourceRefused(
            f"{who}: {here.host} sent us on to {place}, {why}; {cure}", url=place
        )


def _parsed(url: str) -> "Url":
    """The parts of a URL, by the parser that connects; none where it has odd letters.

    With a backslash, other parsers see another host than this one.
    """
    from urllib3.exceptions import LocationParseError
    from urllib3.util import Url, parse_url

    if "\\" in url or not url.isprintable():
        return Url()
    try:
        return parse_url(url)
    except LocationParseError:
        return Url()


def _same_host(here: "Url", there: "Url") -> bool:
    if here.host != there.host:
        return False
    ports = [each.port or _PORTS.get(each.scheme or "") for each in (here, there)]
    # 80 and 443 are one server: this is how http leads to https.
    return ports[0] == ports[1] or ports == [80, 443]


def _belongs(name: str, host: str) -> bool:
    return name == host.lower() or name.endswith(f".{host.lower()}")


def _leads_inside(here: str, there: str, resolve: Resolve) -> bool:
    if any(not _is_global(each) for each in resolve(here.strip("[]"))):
        return False
    return any(not _is_global(each) for each in resolve(there.strip("[]")))


def _is_global(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_global


def careful_session(
    who: str, *, hosts: Collection[str], cure: str = "correct the address"
) -> "requests.Session":
    """A session whose redirects are checked; parameters as of `check_redirect`."""
    import requests

    class Careful(requests.Session):
        # requests asks here before it follows, also where `_next` is made.
        def get_redirect_target(self, resp: requests.Response) -> str | None:
            target = super().get_redirect_target(resp)
            if target is None:
                return None
            # Before requests reads all of its body, which may have any length.
            resp.close()
            try:
                to = urljoin(resp.url, target)
            except ValueError:
                to = ""
            check_redirect(resp.url, to, who=who, hosts=hosts, cure=cure)
            return target

    session = Careful()
    session.max_redirects = _MOST_HOPS
    # urllib3 takes a body of deflate that is cut for whole; see `pieces_of`.
    session.headers["Accept-Encoding"] = "gzip"
    return session


FIRST_BYTES = 65536
"""Of a remote file: a request costs more than these bytes."""
# A server that says nothing, or hardly anything, is not waited for.
_CONNECT_S, _SILENT_S, _REQUEST_S = 10.0, 15.0, 300.0
# Descriptions are small: 64 KiB in half a minute are 2 kB/s.
_LOOK_S = 30.0


def filesystem_of(
    uri: str, options: StorageOptions, *, seconds: float = _REQUEST_S
) -> tuple[Any, str]:
    """Fsspec's file system of a URL, and the path in it.

    Raises
    ------
    FormatError
        Nothing reads this protocol.
    """
    from fsspec.core import url_to_fs

    more = dict(options)
    if uri.startswith(("http://", "https://")):
        more["client_kwargs"] = {
            **_http_client(seconds),
            **(more.get("client_kwargs") or {}),
        }
    try:
        filesystem, path = url_to_fs(uri, **more)
    except Exception as error:
        # Of an unknown protocol, a missing package, a part of a URL, an inner file.
        raise FormatError(
            f"{uri}: cannot be read ({error}), expected a path, http, https, s3 or "
            "ftp; copy it to one of these",
            uri=uri,
        ) from error
    return filesystem, str(path)


def look(uri: str, options: StorageOptions, *, whole: bool) -> tuple[int, bytes]:
    """Length of a remote file and its first bytes, or all of one that is small.

    Raises
    ------
    FormatError
        There is none.
    StorageError
        It is not served.
    """
    filesystem, path = filesystem_of(uri, options, seconds=_LOOK_S)
    try:
        size = filesystem.size(path)
        if size is None:
            # A server that tells no length is asked for all.
            content = bytes(filesystem.cat_file(path))
            return len(content), content
        count = size if whole and size <= MOST_BYTES else min(size, FIRST_BYTES)
        if count > FIRST_BYTES:
            filesystem, path = filesystem_of(uri, options)
        first = filesystem.cat_file(path, start=0, end=count) if size > 0 else b""
        return int(size), bytes(first[:count])
    except PlatformError:
        raise
    except FileNotFoundError as error:
        if isinstance(error.__cause__, PlatformError):
            raise error.__cause__ from None
        # fsspec calls every failure of a first request so.
        if isinstance(error.__cause__, TimeoutError | ConnectionError):
            raise not_served(uri, error.__cause__) from error
        raise missing(uri, "found no such object") from error
    except Exception as error:
        raise not_served(uri, error) from error


def read(uri: str, offset: int, count: int, options: StorageOptions) -> bytes:
    """`count` bytes from `offset`; fewer where the file ends."""
    with _served(uri):
        filesystem, path = filesystem_of(uri, options)
        content = filesystem.cat_file(path, start=offset, end=offset + count)
    if len(content) > count:
        # The server knows no ranges and sent all up to there.
        content = content[offset : offset + count]
    return bytes(content)


def read_each(
    uri: str, places: list[int], count: int, options: StorageOptions
) -> list[bytes]:
    """`count` bytes from each place, many requests at once."""
    with _served(uri):
        filesystem, path = filesystem_of(uri, options)
        found = filesystem.cat_ranges(
            [path] * len(places),
            places,
            [place + count for place in places],
            on_error="raise",
        )
    return [
        bytes(content if len(content) <= count else content[place : place + count])
        for place, content in zip(places, found, strict=True)
    ]


def is_folder(uri: str, options: StorageOptions) -> bool:
    """Whether something can be listed at a URL."""
    with _served(uri):
        filesystem, path = filesystem_of(uri, options, seconds=_LOOK_S)
        return bool(filesystem.isdir(path))


def list_files(uri: str, options: StorageOptions) -> list[str]:
    """Names of the files in a folder."""
    with _served(uri):
        filesystem, path = filesystem_of(uri, options)
        found = filesystem.ls(path, detail=True)
    names = [str(f["name"]) for f in found if f["type"] == "file"]
    return [name.rstrip("/").rpartition("/")[2] for name in names]


def missing(uri: str, reason: str) -> FormatError:
    """The error for a file that cannot be opened."""
    return FormatError(
        f"{uri}: {reason}, expected a file; correct the path, or copy the file there",
        uri=uri,
    )


def not_served(uri: str, error: BaseException) -> StorageError:
    """The error for a store that does not give the bytes."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return StorageError(
        f"storage: {uri} could not be read ({' '.join(str(reason).split())[:300]}); "
        "check access and address, then run again"
    )


@contextmanager
def _served(uri: str) -> Iterator[None]:
    try:
        yield
    except PlatformError:
        raise
    except Exception as error:
        if isinstance(error.__cause__, PlatformError):
            raise error.__cause__ from None
        # Each file system of fsspec raises errors of its own kinds.
        raise not_served(uri, error) from error


def _http_client(seconds: float) -> Mapping[str, Any]:
    """What aiohttp's sessions are made with."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(
        total=seconds, sock_connect=_CONNECT_S, sock_read=_SILENT_S
    )
    return {
        "timeout": timeout,
        "response_class": _bounded_response(),
        "trace_configs": [_checked_redirects()],
    }


# One object: fsspec keeps a file system for each set of options.
@lru_cache
def _checked_redirects() -> Any:
    """What aiohttp calls before it follows a redirect."""
    import aiohttp

    async def check(_: Any, __: Any, followed: Any) -> None:
        at = str(followed.response.url)
        to = urljoin(at, followed.response.headers.get("Location", ""))
        # In a thread, as it may ask for the addresses of names.
        await asyncio.to_thread(check_redirect, at, to, who="storage", hosts=None)

    tracing = aiohttp.TraceConfig()
    tracing.on_request_redirect.append(check)
    return tracing


@lru_cache
def _bounded_response() -> Callable[..., Any]:
    """A class of answers whose body ends where what was asked for does."""
    # Half a second to import; who reads local files needs none of it.
    import aiohttp

    class Bounded(aiohttp.ClientResponse):
        async def read(self) -> bytes:
            if self._body is None:
                self._body = await self._up_to(self._most_bytes())
            return self._body

        def _most_bytes(self) -> int | None:
            """Of the body, None where no range was asked for."""
            asked = self.request_info.headers.get("Range", "")
            first, _, last = asked.removeprefix("bytes=").partition("-")
            if not (first.isdecimal() and last.isdecimal()):
                return None
            # A server that knows no ranges begins at 0.
            return int(last) + 1 - (int(first) if self.status == 206 else 0)

        async def _up_to(self, wanted: int | None) -> bytes:
            pieces, length = [], 0
            async for piece in self.content.iter_chunked(1 << 16):
                pieces.append(piece)
                length += len(piece)
                if wanted is not None and length >= wanted:
                    self.close()
                    return b"".join(pieces)[:wanted]
                if wanted is None and length > MOST_BYTES:
                    self.close()
                    raise ValueError(f"it sends more than {MOST_BYTES} bytes")
            return b"".join(pieces)

    return Bounded
