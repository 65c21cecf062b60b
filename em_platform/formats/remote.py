"""Bytes behind fsspec URLs: bounded in memory and in time, errors in one sentence."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import urljoin

from em_platform.errors import FormatError, PlatformError, StorageError
from em_platform.formats.plausible import MOST_BYTES

FIRST_BYTES = 65536
"""Of a remote file: a request costs more than these bytes."""
# A server that says nothing, or hardly anything, is not waited for.
_CONNECT_S, _SILENT_S, _REQUEST_S = 10.0, 15.0, 300.0
# Descriptions are small: 64 KiB in half a minute are 2 kB/s.
_LOOK_S = 30.0


def filesystem_of(
    uri: str, options: Mapping[str, Any], *, seconds: float = _REQUEST_S
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


def look(uri: str, options: Mapping[str, Any], *, whole: bool) -> tuple[int, bytes]:
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


def read(uri: str, offset: int, count: int, options: Mapping[str, Any]) -> bytes:
    """`count` bytes from `offset`; fewer where the file ends."""
    with _served(uri):
        filesystem, path = filesystem_of(uri, options)
        content = filesystem.cat_file(path, start=offset, end=offset + count)
    if len(content) > count:
        # The server knows no ranges and sent all up to there.
        content = content[offset : offset + count]
    return bytes(content)


def read_each(
    uri: str, places: list[int], count: int, options: Mapping[str, Any]
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


def is_folder(uri: str, options: Mapping[str, Any]) -> bool:
    """Whether something can be listed at a URL."""
    with _served(uri):
        filesystem, path = filesystem_of(uri, options, seconds=_LOOK_S)
        return bool(filesystem.isdir(path))


def list_files(uri: str, options: Mapping[str, Any]) -> list[str]:
    """Names of the files in a folder."""
    with _served(uri):
        filesystem, path = filesystem_of(uri, options)
        found = filesystem.ls(path, detail=True)
    names = [str(f["name"]) for f in found if f["type"] == "file"]
    return [name.rstrip("/").rpartition("/")[2] for name in names]


def missing(uri: str, reason: str) -> FormatError:
    """The error for a file that cannot be opened."""
    return FormatError(
        f"{uri}: {reason}, expected a file; copy it there or take it off the list",
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

    from em_platform.formats.redirects import check_redirect

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
