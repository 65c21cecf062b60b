"""Where an image lies while it is being made, and what of it is done.

On a local disk it grows in `<target>.partial/image` and takes the target's name at the
end, in one step. A bucket has no such step: there the image grows at the target, and is
no image until its group metadata is written last. In both, `<target>.partial` holds a
fingerprint of all that goes in and an object for each finished unit of work, which
holds what was measured on the way, so that a second call goes on where a killed one
stopped.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from em_platform.errors import StorageError
from em_platform.storage.atomic import put_folder, write_bytes
from em_platform.storage.store import errors_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Staging:
    """The making of the image at `target`, a path or any fsspec URL."""

    target: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def image(self) -> str:
        """Where the image grows: a local path, or a URL."""
        local = local_path(self.target)
        return str(_partial(local) / "image") if local else self.target.rstrip("/")

    def begin(self, fingerprint: str) -> dict[str, bytes]:
        """The units that an earlier call with the same fingerprint has finished.

        With what was remembered of each.
        """
        with told_plainly(self.target):
            filesystem, path = self._remembered()
            mark = f"{path}/fingerprint"
            if filesystem.exists(mark):
                same = filesystem.cat_file(mark).decode() == fingerprint
                if same and self._holds_ours():
                    return self._done(filesystem, path)
                filesystem.rm_file(mark)
            self._clear(filesystem, path)
            filesystem.makedirs(f"{path}/done", exist_ok=True)
            filesystem.pipe_file(mark, fingerprint.encode())
        return {}

    def mark_done(self, unit: str, payload: bytes = b"") -> None:
        """Remember that a unit of work is finished, and `payload` with it."""
        with told_plainly(self.target):
            filesystem, path = self._remembered()
            mark = f"{path}/done/{unit}"
            if payload and local_path(self.target) is not None:
                write_bytes(Path(mark), payload)
            else:
                filesystem.pipe_file(mark, payload)

    def stored_bytes(self) -> int:
        """Bytes of all files or objects of the image so far."""
        with told_plainly(self.target):
            local = local_path(self.image)
            if local is not None:
                files = (path for path in local.rglob("*") if path.is_file())
                return sum(path.stat().st_size for path in files)
            filesystem, path = self._remembered()
            found = filesystem.find(path.removesuffix(".partial"), detail=True)
            return sum(int(each["size"] or 0) for each in found.values())

    def finish(self) -> None:
        """Let the finished image stand at the target."""
        with told_plainly(self.target):
            filesystem, path = self._remembered()
            # Without it, what remains after a kill from here on is never gone on with.
            filesystem.rm_file(f"{path}/fingerprint")
            local = local_path(self.target)
            if local is not None:
                put_folder(Path(self.image), local)
            filesystem.rm(path, recursive=True)

    def put_in_place(self, result: bytes) -> None:
        """As `finish`, but all is remembered until `forget`, and `result` with it."""
        with told_plainly(self.target):
            local = local_path(self.target)
            if local is not None:
                # A folder keeps its number when it changes its name.
                number = b"%d\n" % Path(self.image).stat().st_ino
                write_bytes(_partial(local) / "result", number + result)
                put_folder(Path(self.image), local)

    def result(self, fingerprint: str) -> bytes | None:
        """What was given to `put_in_place`, where just that image is at the target."""
        local = local_path(self.target)
        with told_plainly(self.target):
            if local is None or not _is_numbered(local, _partial(local)):
                return None
            mark = _partial(local) / "fingerprint"
            if not mark.exists() or mark.read_text() != fingerprint:
                return None
            return (_partial(local) / "result").read_bytes().partition(b"\n")[2]

    def forget(self) -> None:
        """Remove all that was remembered of a finished image."""
        with told_plainly(self.target):
            filesystem, path = self._remembered()
            if not filesystem.exists(path):
                return
            if filesystem.exists(f"{path}/fingerprint"):
                filesystem.rm_file(f"{path}/fingerprint")
            filesystem.rm(path, recursive=True)

    def _holds_ours(self) -> bool:
        """Whether `image` is what the finished units have been written to.

        Once it was to change places with an older one, it may be that one.
        """
        local = local_path(self.target)
        if local is None or not (_partial(local) / "result").exists():
            return True
        return _is_numbered(_partial(local) / "image", _partial(local))

    def _remembered(self) -> tuple[AbstractFileSystem, str]:
        local = local_path(self.target)
        if local is not None:
            return LocalFileSystem(), str(_partial(local))
        # Another process may have written since this one last looked.
        options = {"use_listings_cache": False, **self.options}
        filesystem, path = url_to_fs(self.target.rstrip("/"), **options)
        return filesystem, f"{path}.partial"

    def _done(self, filesystem: AbstractFileSystem, path: str) -> dict[str, bytes]:
        found = filesystem.find(f"{path}/done", detail=True)
        told = [name for name, each in found.items() if each["size"]]
        payloads = filesystem.cat(told) if told else {}
        return {name.rpartition("/")[2]: payloads.get(name, b"") for name in found}

    def _clear(self, filesystem: AbstractFileSystem, path: str) -> None:
        local = local_path(self.target)
        if local is not None:
            shutil.rmtree(path, ignore_errors=True)
            return
        image = path.removesuffix(".partial")
        if filesystem.exists(f"{image}/zarr.json"):
            filesystem.rm_file(f"{image}/zarr.json")
        for folder in (image, path):
            if filesystem.exists(folder):
                filesystem.rm(folder, recursive=True)


def local_path(url: str) -> Path | None:
    """The path that a URL names on this machine's disk, else None."""
    if "://" not in url:
        return Path(url).absolute()
    if url.startswith(("file://", "local://")):
        return Path(LocalFileSystem._strip_protocol(url))  # noqa: SLF001
    return None


def _is_numbered(image: Path, partial: Path) -> bool:
    """Whether a folder is the image that was to be put in its place."""
    try:
        number = int((partial / "result").read_bytes().partition(b"\n")[0])
        return image.stat().st_ino == number
    except FileNotFoundError:
        return False


def _partial(local: Path) -> Path:
    return local.with_name(f"{local.name}.partial")


@contextmanager
def told_plainly(url: str) -> Iterator[None]:
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
