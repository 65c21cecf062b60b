"""One source of a world: its servers, keys, truth and folders of files."""

import html
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from em_platform.standins.faults import Faults
from em_platform.standins.messages import (
    Handler,
    Refusal,
    Request,
    Response,
    as_file,
    as_text,
    refuse_in_html,
)
from em_platform.standins.pixels import Voxels
from em_platform.storage.atomic import whole_folder

Size = Literal["small", "demo", "bench", "real"]

_MADE_AT = 1705276800
"""2024-01-15, so that files made again have the same Last-Modified and ETag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """On what a source is built.

    `folder` is for its files, and is the same in every run of a world there.
    """

    folder: Path
    size: Size
    faults: Faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One server to be started: what it answers, and how it refuses."""

    handler: Handler
    refuse: Refusal = refuse_in_html
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A source of the world.

    `settings` turns the addresses of its sites into dotted settings of the platform.
    `truth` gives the voxels (z, y, x) of a key that an ingest must end with.
    """

    sites: Mapping[str, Site]
    settings: Callable[[Mapping[str, str]], dict[str, str]]
    keys: tuple[str, ...]
    truth: Callable[[str], Voxels]
    trees: tuple["Tree", ...] = ()
    """Its files, which may be made beforehand."""


@dataclass(slots=True)
class Tree:
    """A folder of files that is made when it is first looked at, whole or not at all.

    `fill` is given an empty folder. Files of an earlier run are kept.
    """

    path: Path
    fill: Callable[[Path], None]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _made: bool = False

    @property
    def root(self) -> Path:
        """The folder with its files."""
        # Without the lock: most requests come when all is made.
        if not self._made:
            with self._lock:
                self._make()
        return self.path

    def _make(self) -> None:
        # Whole or absent: one that is there is finished, by this run or an earlier.
        if not self.path.is_dir():
            with whole_folder(self.path) as beside:
                self.fill(beside)
                _set_times(beside)
        self._made = True


def _set_times(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (_MADE_AT, _MADE_AT))


_MEDIA_TYPES = {
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".gz": "application/x-gzip",
    ".xml": "text/xml",
    ".txt": "text/plain",
    ".html": "text/html",
}
_ROW = (
    '<tr><td valign="top"><img src="/icons/{icon}.gif" alt="[{alt}]"></td>'
    '<td><a href="{href}">{name}</a></td>'
    '<td align="right">{date}  </td><td align="right">{size}</td><td>&nbsp;</td></tr>'
)


class FileHost:
    """Serves a tree below `prefix`; the tree's folders are the parts of the path."""

    def __init__(self, tree: Tree, *, prefix: str, faults: Faults) -> None:
        self._tree = tree
        self._prefix = prefix.rstrip("/")
        self._faults = faults

    def __call__(self, request: Request) -> Response:
        below = request.path.removeprefix(self._prefix).strip("/")
        parts = below.split("/") if below else []
        # `..` would lead out of the tree.
        if not request.path.startswith(self._prefix) or ".." in parts:
            return refuse_in_html(404, "Not Found")
        path = self._tree.root.joinpath(*parts)
        if path.is_file():
            kind = _MEDIA_TYPES.get(path.suffix, "application/octet-stream")
            return as_file(path, media_type=kind)
        if not path.is_dir():
            return refuse_in_html(404, "Not Found")
        # As Apache does: the links of an index are relative to its folder.
        if not request.path.endswith("/"):
            there = {"Location": quote(request.path) + "/"}
            return Response(status=301, headers=there)
        return as_text(self._index(path, request), media_type="text/html;charset=UTF-8")

    def _index(self, folder: Path, request: Request) -> str:
        title = html.escape(f"Index of {request.path.rstrip('/')}")
        parent = quote(request.path.rstrip("/").rpartition("/")[0]) + "/"
        rows = [
            _ROW.format(
                icon="back",
                alt="PARENTDIR",
                href=parent,
                name="Parent Directory",
                date="&nbsp;",
                size="-",
            )
        ]
        for path in sorted(folder.iterdir()):
            place = request.path + path.name + ("/" if path.is_dir() else "")
            # What is missing on purpose is not listed either.
            if not self._faults.hidden(place, site=request.site):
                rows.append(_row(path))
        # As Apache's pages have them: links that a crawler must not take for files.
        sorts = "".join(
            f'<th><a href="?C={letter};O={order}">{word}</a></th>'
            for letter, order, word in (
                ("N", "D", "Name"),
                ("M", "A", "Last modified"),
                ("S", "A", "Size"),
            )
        )
        return (
            '<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN">\n'
            f"<html>\n <head>\n  <title>{title}</title>\n </head>\n <body>\n"
            f"<h1>{title}</h1>\n  <table>\n   <tr><th></th>{sorts}</tr>\n"
            + "\n".join(rows)
            + "\n</table>\n</body></html>\n"
        )


def _row(path: Path) -> str:
    folder = path.is_dir()
    name = path.name + ("/" if folder else "")
    found = path.stat()
    return _ROW.format(
        icon="folder" if folder else "unknown",
        alt="DIR" if folder else "   ",
        href=quote(name),
        name=html.escape(name),
        date=time.strftime("%Y-%m-%d %H:%M", time.gmtime(found.st_mtime)),
        size="  - " if folder else _short(found.st_size),
    )


def _short(size_bytes: int) -> str:
    """As Apache rounds: 512, 1.2K, 29M."""
    size = float(size_bytes)
    for unit in ("", "K", "M", "G"):
        if size < 1000 or unit == "G":
            break
        size /= 1024
    return f"{size:.1f}{unit}" if unit and size < 10 else f"{size:.0f}{unit}"
