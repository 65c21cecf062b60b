"""Folders as an Apache shows them: an index of links, and files with ranges."""

import html
import time
from pathlib import Path
from urllib.parse import quote

from em_platform.standins.faults import Faults
from em_platform.standins.messages import (
    Request,
    Response,
    as_file,
    as_text,
    refuse_in_html,
)
from em_platform.standins.part import Tree

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
        if not request.path.startswith(self._prefix) or ".." in parts:
            return refuse_in_html(404, "Not Found")
        path = self._tree.root.joinpath(*parts)
        if path.is_file():
            kind = _MEDIA_TYPES.get(path.suffix, "application/octet-stream")
            return as_file(path, media_type=kind)
        if not path.is_dir():
            return refuse_in_html(404, "Not Found")
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
            if not self._faults.hidden(place, site=request.site):
                rows.append(_row(path))
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
