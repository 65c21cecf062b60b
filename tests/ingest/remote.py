"""A file server with faults, and what was asked of it."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from em_platform.model.ingest import Entry, RemoteFile
from em_platform.standins.http import Server
from em_platform.standins.messages import Request, Response, as_file, refuse_in_html

PART = 10_000

CONTENT = np.random.default_rng(11759).bytes(10 * PART + 1234)

SHA256 = hashlib.sha256(CONTENT).hexdigest()

MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


class Remote:
    """A file server with faults, and what was asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.server = Server("files", self.answer)
        self.faults = self.server.faults
        self.change: Callable[[Response], Response] = lambda response: response

    def answer(self, request: Request) -> Response:
        path = self.folder / request.path.lstrip("/")
        if not path.is_file():
            return refuse_in_html(404, "Not Found")
        return self.change(as_file(path))

    def put(self, name: str, content: bytes = CONTENT, **facts: Any) -> RemoteFile:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return RemoteFile(name=name, url=f"{self.server.url}/{name}", **facts)

    def gets(self) -> list[str]:
        """Ranges of all GETs so far, in the order of their places."""
        found = [r.range for r in self.server.requests.all() if r.method == "GET"]
        return sorted(found, key=lambda text: int(text[6:].split("-")[0] or 0))

    def heads(self) -> int:
        return self.server.requests.count(lambda r: r.method == "HEAD")

    def forget(self) -> None:
        self.faults.clear()
        self.server.requests.clear()


def entry_of(*files: RemoteFile) -> Entry:
    return Entry(
        source="ebi",
        key="11759",
        source_id="EMPIAR-11759",
        title="Retina",
        url="http://localhost",
        files=files,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
