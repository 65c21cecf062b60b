"""Montages of any microscope, dropped as folders: a list of tiles beside its images.

A folder counts as whole when its list is there and nothing in it has changed for a
while: longer when images of the list are still missing, as in a copy that has paused.
Without a list, names with row and column must fill a grid, and the longer time is over.

What was asked for is remembered by a mark of its content, so that a folder that was
corrected under its old name is taken again.
"""

import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from em_platform.config import Settings
from em_platform.errors import PlatformError
from em_platform.model import Montage
from em_platform.stitching.inputs import open_montage

_LISTS = (".csv", ".tsv", ".json", ".json.gz", ".mdoc")
# A minute, where `inbox_quiet_s` is 5 s as by default.
_PATIENCE = 12
"""So many times longer a folder is waited for whose list names absent images."""
# A file that is written over leaves no trace in its folder: each folder is looked
# through again once in so many looks, five minutes with one each five seconds.
_ROUND = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderState:
    """What was found when a folder was last looked through."""

    changed_ns: int  # of the folder: a file came, went or was renamed; 0: look again
    looked_at: float  # seconds since 1970
    mark: str = ""  # of the content that was asked for; "": never
    asked: int = 0  # how often

    @property
    def left_alone(self) -> bool:
        """Whether nothing in it was ever found to be a montage."""
        return self.changed_ns != 0 and not self.mark

    @property
    def run_key(self) -> str:
        """Another one whenever the folder is to be stitched once more."""
        return f"{self.mark} {self.asked}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbox:
    """A folder of folders; each holds the tiles of one montage."""

    folder: Path
    quiet_s: float

    def look(
        self, seen: Mapping[str, FolderState], now: float, *, most: int, within_s: float
    ) -> tuple[dict[str, FolderState], list[str]]:
        """What is known now, and the keys of folders that are whole and to be stitched.

        Of a folder that was looked through only its own time of change is asked, but
        for some in turn.

        Parameters
        ----------
        seen
            What `look` gave before; of folders that are gone it is forgotten.
        now
            Seconds since 1970.
        most, within_s
            After so many keys or seconds the rest waits for the next look.
        """
        folders = self.folders()
        known = {key: seen[key] for key in folders if key in seen}
        oldest = sorted(known, key=lambda key: known[key].looked_at)
        in_turn = set(oldest[: 1 + len(known) // _ROUND])
        arrived: list[str] = []
        until = time.monotonic() + within_s
        for key, folder in sorted(folders.items()):
            if len(arrived) == most or time.monotonic() > until:
                break
            before = known.get(key, FolderState(changed_ns=0, looked_at=now))
            try:
                is_same = before.changed_ns == folder.stat().st_mtime_ns
                if is_same and key not in in_turn:
                    continue
                after = self._look_through(folder, before, now)
            except FileNotFoundError:  # taken away or renamed at this moment
                continue
            known[key] = after
            if after.asked > before.asked:
                arrived.append(key)
        return known, arrived

    def _look_through(
        self, folder: Path, before: FolderState, now: float
    ) -> FolderState:
        # Before its files: what changes meanwhile is seen next time.
        changed_ns = folder.stat().st_mtime_ns
        found = replace(before, changed_ns=changed_ns, looked_at=now)
        content = content_of(folder)
        if content.mark == found.mark:
            return found
        if content.is_whole(folder, now, quiet_s=self.quiet_s):
            return replace(found, mark=content.mark, asked=found.asked + 1)
        if now - content.changed < self.quiet_s * _PATIENCE:
            return replace(found, changed_ns=0)  # still being copied
        return found  # no montage that anyone can read

    def montage(self, key: str) -> Montage | None:
        """The montage in the folder of `key`; None where there is no such folder."""
        folder = self.folders().get(key)
        return None if folder is None else open_montage(folder, name=key)

    def folders(self) -> dict[str, Path]:
        """Key -> folder; what starts with a dot is still being written."""
        if not self.folder.is_dir():
            return {}
        # Files beside the folders belong to no montage.
        found = (path for path in self.folder.iterdir() if path.is_dir())
        return {key_of(path.name): path for path in found if path.name[0] != "."}


def inbox_of(settings: Settings) -> Inbox:
    """The inbox that the settings name, else `inbox` under `home`."""
    acquisition = settings.acquisition
    folder = acquisition.inbox or settings.home / "inbox"
    return Inbox(folder=Path(folder).absolute(), quiet_s=acquisition.inbox_quiet_s)


def key_of(name: str) -> str:
    """A path-safe key for a folder's name; different names have different keys."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")
    if safe == name:
        return name
    # without it `a b` and `a-b` would be one montage
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{safe or 'montage'}-{digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What the entries of a folder's files say, without reading these."""

    mark: str  # another one when a file is added, gone, or has another size or date
    changed: float  # when the last entry did, seconds since 1970
    has_list: bool

    def is_whole(self, folder: Path, now: float, *, quiet_s: float) -> bool:
        """Whether nothing is missing, or nothing more is to be expected."""
        age_s = now - self.changed
        if age_s < quiet_s:
            return False
        is_old = age_s >= quiet_s * _PATIENCE
        if not self.has_list:
            return is_old and _fills_a_grid(folder)
        return is_old or _has_all_images(folder)


def content_of(folder: Path) -> Content:
    """The files below a folder, by name, size and time."""
    digest, changed, has_list = hashlib.sha256(), 0.0, False
    for name, status in sorted(_files(str(folder), "")):
        # A copy may keep the time of the content (mtime), never that of the entry.
        changed = max(changed, status.st_ctime)
        has_list = has_list or name.lower().endswith(_LISTS)
        # File browsers leave files of their own, which are no correction.
        if name.rpartition("/")[2][0] != "." and not name.endswith("Thumbs.db"):
            digest.update(os.fsencode(name))
            digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return Content(mark=digest.hexdigest()[:16], changed=changed, has_list=has_list)


def _files(folder: str, within: str) -> Iterator[tuple[str, os.stat_result]]:
    # An entry knows without another question whether it is a file: a third of the time
    # of `rglob`.
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path, f"{within}{entry.name}/")
            elif entry.is_file():
                yield f"{within}{entry.name}", entry.stat()


def _fills_a_grid(folder: Path) -> bool:
    """Whether the names of the images have a row and a column, and none is missing."""
    try:
        # Any overlap: to find the right one, pixels would be read.
        montage = open_montage(folder, overlap=0.1)
    except PlatformError:
        return False
    places = {(tile.row, tile.column) for tile in montage.tiles}
    rows, columns = (len(set(numbers)) for numbers in zip(*places, strict=True))
    return len(places) == rows * columns > 1 and not montage.failures


def _has_all_images(folder: Path) -> bool:
    try:
        return not open_montage(folder).failures
    except PlatformError:  # a list that is still being copied cannot be read
        return False
