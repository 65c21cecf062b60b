"""One source of a world: its servers, its keys, and the truth behind them."""

import os
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from em_platform.standins.faults import Faults
from em_platform.standins.messages import Handler, Refusal, refuse_in_html
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

    `fill` is given an empty folder. What stands there from an earlier run is kept.
    """

    path: Path
    fill: Callable[[Path], None]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _made: bool = False

    @property
    def root(self) -> Path:
        """The folder with its files."""
        if not self._made:
            with self._lock:
                self._make()
        return self.path

    def _make(self) -> None:
        if not self.path.is_dir():
            with whole_folder(self.path) as beside:
                self.fill(beside)
                _set_times(beside)
        self._made = True


def _set_times(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (_MADE_AT, _MADE_AT))
