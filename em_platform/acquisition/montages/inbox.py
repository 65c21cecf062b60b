"""Montages of any microscope, dropped as folders: a list of tiles beside its images.

A folder counts as whole when its list is there and nothing in it has changed for a
while: longer when images of the list are still missing, as in a copy that has paused.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from em_platform.config import Settings
from em_platform.errors import PlatformError
from em_platform.model import Montage
from em_platform.stitching.inputs import open_montage

_LISTS = (".csv", ".tsv", ".json", ".json.gz", ".mdoc")
# A minute, where `inbox_quiet_s` is 5 s as by default.
_PATIENCE = 12
"""So many times longer a folder is waited for whose list names absent images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbox:
    """A folder of folders; each holds the tiles of one montage."""

    folder: Path
    quiet_s: float

    def ready(self, now: float) -> list[str]:
        """Keys of the folders that are whole at time `now`, in the order of names."""
        return [
            key
            for key, folder in sorted(self.folders().items())
            if _is_whole(folder, now, quiet_s=self.quiet_s)
        ]

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


def _is_whole(folder: Path, now: float, *, quiet_s: float) -> bool:
    files = [path for path in folder.rglob("*") if path.is_file()]
    if not any(path.name.lower().endswith(_LISTS) for path in files):
        return False
    # A copy may keep the time of the content (mtime), never that of the entry (ctime).
    changed = max(path.stat().st_ctime for path in files)
    if now - changed < quiet_s:
        return False
    return now - changed >= quiet_s * _PATIENCE or _has_all_images(folder)


def _has_all_images(folder: Path) -> bool:
    try:
        return not open_montage(folder).failures
    except PlatformError:  # a list that is still being copied cannot be read
        return False
