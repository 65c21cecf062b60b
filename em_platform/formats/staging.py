"""Where the files of one image grow, and what of it is done; goes to the workers."""

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from em_platform.errors import StorageError
from em_platform.storage.layout import errors_of, local_path
from em_platform.storage.manifest import BEGUN, FileMark

Files = Mapping[str, FileMark]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedUnit:
    """The files that one unit of work wrote, and what was measured on the way."""

    files: Files = field(default_factory=dict)
    measured: str = ""

    def to_json(self) -> bytes:
        """As `finished_of` reads it."""
        files = {n: (mark.size_bytes, mark.crc32) for n, mark in self.files.items()}
        return json.dumps({"files": files, "measured": self.measured}).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Staging:
    """Where the files of one image grow; goes to the workers.

    `image` is a path or URL, `partial` where it is remembered what is done, `levels`
    the folder of the levels inside the image, "" for the image itself.
    """

    target: str
    image: str
    partial: str
    levels: str = ""
    options: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def levels_url(self) -> str:
        """Where the levels grow."""
        return f"{self.image}/{self.levels}".rstrip("/")

    def mark_done(self, unit: str, finished: FinishedUnit) -> None:
        """Remember that a unit of work is finished."""
        with plain_errors(self.target):
            self.write(f"{self.partial}/done/{unit}", finished.to_json())

    def write(self, url: str, content: bytes) -> None:
        """Put a small file beside or into the image, whole or not at all."""
        filesystem, path = self.opened(url)
        if local_path(url) is None:
            filesystem.pipe_file(path, content)
            return
        # Renamed and not synced: after a power cut the unit is done again.
        own = Path(f"{path}.{uuid.uuid4().hex[:8]}")
        own.write_bytes(content)
        own.replace(path)

    def opened(self, url: str) -> tuple[AbstractFileSystem, str]:
        """The file system of a URL of ours, and the path in it."""
        local = local_path(url)
        # Another process may have written since this one last looked.
        more = {} if local else {"use_listings_cache": False, **self.options}
        filesystem, path = url_to_fs(str(local) if local else url, **more)
        return filesystem, str(path)


def finished_of(content: bytes) -> FinishedUnit | None:
    """What a unit has written; None where that was cut short."""
    try:
        found = json.loads(content)
        files = {
            name: FileMark(size_bytes=size, crc32=crc32)
            for name, (size, crc32) in found["files"].items()
        }
        return FinishedUnit(files=files, measured=found["measured"])
    except (ValueError, KeyError, TypeError):
        return None


def staging_of(
    target: str, options: dict[str, Any], fingerprint: str | None
) -> Staging:
    """Where the image at `target` grows, with what a killed process left of it."""
    local = local_path(target)
    if local is None:
        url = target.rstrip("/")
        return Staging(
            target=target, image=url, partial=f"{url}.partial", options=options
        )
    partial = str(_own_partial(local, fingerprint))
    return Staging(
        target=target, image=f"{partial}/image", partial=partial, options=options
    )


def _own_partial(local: Path, fingerprint: str | None) -> Path:
    """A folder of this process alone; that of a killed one gets a new name.

    One whose lease was taken over may still live: it finds its folder gone. Without a
    fingerprint nothing is kept.
    """
    folder = local.with_name(f"{local.name}.partial")
    own = folder / uuid.uuid4().hex[:8]
    found = folder.iterdir() if folder.is_dir() else ()
    for other in [path for path in found if (path / "done").is_dir()]:
        mark = other / BEGUN
        begun = mark.read_text() if mark.is_file() else ""
        if fingerprint and fingerprint in begun and not own.exists():
            other.rename(own)
        else:
            shutil.rmtree(other, ignore_errors=True)
    with suppress(OSError):  # others are in it, or it is not there
        folder.rmdir()
    return own


@contextmanager
def plain_errors(url: str) -> Iterator[None]:
    """Make a StorageError of what a store raises when it does not take the bytes."""
    # zarrs raises RuntimeError for an error of the disk.
    refusals: tuple[type[Exception], ...] = (*errors_of(url), RuntimeError)
    try:
        yield
    except refusals as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(
            f"image: {url} could not be written ({reason}); free space or check "
            "access, then run again: what is done is kept",
            url=url,
        ) from error
