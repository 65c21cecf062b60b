"""What a stand-in is asked and what it answers; a handler turns one into the other."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs


class Content(Protocol):
    """Bytes that can be read from anywhere."""

    @property
    def size(self) -> int:
        """How many bytes there are."""
        ...

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`; fewer where the content ends."""
        ...


@dataclass(frozen=True, slots=True)
class InMemory:
    """Content that is held as it is."""

    value: bytes

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return len(self.value)

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`."""
        return self.value[start:stop]


@dataclass(frozen=True, slots=True)
class OnDisk:
    """Content of a file, read only as far as it is asked for."""

    path: Path
    # As of the request: head and body agree, though the file may change.
    size: int

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`; fewer where the file ends."""
        # A buffer would read more than a range asks for.
        with self.path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), max(0, stop - start), start)


class Headers:
    """Header fields by their names, in which capitals do not count."""

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields = {name.lower(): value for name, value in fields}

    def __getitem__(self, name: str) -> str | None:
        return self._fields.get(name.lower())

    def get(self, name: str, default: str = "") -> str:
        """The value of a field, or `default` where it is not there."""
        return self._fields.get(name.lower(), default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request: `path` is decoded, `target` is as it was sent."""

    site: str
    method: str
    path: str
    target: str
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""
    params: Mapping[str, str] = field(default_factory=dict)
    """Named groups of the pattern by which a router found the handler."""

    @property
    def query_text(self) -> str:
        """What follows the question mark."""
        return self.target.partition("?")[2]

    @property
    def query(self) -> dict[str, list[str]]:
        """Every parameter with all its values; blank ones too."""
        # Blank ones too: S3's `?location` has a name and no value.
        return parse_qs(self.query_text, keep_blank_values=True)

    def asked(self, name: str, default: str = "") -> str:
        """The first value of a parameter of the query."""
        return self.query.get(name, [default])[0]

    @property
    def json(self) -> Any:
        """The body as JSON; ValueError where it is none."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One answer: `content` can be asked for in ranges, `stream` comes in chunks."""

    status: int = 200
    content: Content = InMemory(b"")
    stream: Iterator[bytes] | None = None
    media_type: str = "application/octet-stream"
    etag: str = ""
    """With its quotes."""
    modified: float | None = None
    ranged: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Response]
Refusal = Callable[[int, str], Response]
"""Status and a few words -> the answer in the wording of the site."""


def as_text(
    content: str, *, status: int = 200, media_type: str = "text/plain; charset=utf-8"
) -> Response:
    """An answer of plain text, or of HTML or XML by its media type."""
    body = InMemory(content.encode())
    return Response(status=status, content=body, media_type=media_type)


def as_json(
    value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer of JSON."""
    return Response(
        status=status,
        content=InMemory(json.dumps(value).encode()),
        media_type="application/json",
        headers=headers or {},
    )


def as_bytes(value: bytes, *, media_type: str = "application/octet-stream") -> Response:
    """An answer of bytes."""
    return Response(content=InMemory(value), media_type=media_type)


def as_file(path: Path, *, media_type: str = "application/octet-stream") -> Response:
    """A file, with ranges, its time, and an ETag of time and size as Apache has it."""
    found = path.stat()
    return Response(
        content=OnDisk(path, found.st_size),
        media_type=media_type,
        etag=f'"{found.st_size:x}-{found.st_mtime_ns // 1000:x}"',
        modified=found.st_mtime,
        ranged=True,
    )


def refuse_in_html(status: int, words: str) -> Response:
    """The page of an Apache that has nothing to show."""
    page = f"<html><head><title>{status} {words}</title></head><body>{words}</body>"
    return as_text(page + "</html>\n", status=status, media_type="text/html")


def refuse_in_json(status: int, words: str) -> Response:
    """A message in JSON, as neuPrint and OMERO have it."""
    return as_json({"message": words}, status=status)


class Router:
    """Handlers by patterns of the decoded path; the first that fits all of it."""

    def __init__(self, refuse: Refusal = refuse_in_html) -> None:
        self._refuse = refuse
        self._routes: list[tuple[re.Pattern[str], tuple[str, ...], Handler]] = []

    def add(
        self, pattern: str, handler: Handler, *, methods: tuple[str, ...] = ("GET",)
    ) -> None:
        """Let `handler` answer; named groups become `request.params`.

        Whoever answers GET answers HEAD, without a body.
        """
        if "GET" in methods:
            methods = (*methods, "HEAD")
        self._routes.append((re.compile(pattern), methods, handler))

    def __call__(self, request: Request) -> Response:
        known = False
        for pattern, methods, handler in self._routes:
            found = pattern.fullmatch(request.path)
            if found and request.method in methods:
                return handler(replace(request, params=found.groupdict()))
            # The path is right, so it is the method that is refused: 405, not 404.
            known = known or found is not None
        if known:
            return self._refuse(405, f"Method {request.method} not allowed")
        return self._refuse(404, "Not Found")
