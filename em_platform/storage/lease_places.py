"""Where a lease is kept: what a file system and a bucket can do in one step."""

import errno
import logging
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fsspec.core import url_to_fs

from em_platform.errors import StorageError
from em_platform.storage.atomic import beside
from em_platform.storage.layout import StorageOptions, errors_of, local_path

log = logging.getLogger(__name__)

# Buckets of which we know whether their server keeps conditions.
_known_servers: set[str] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseContent:
    """A lease as it was read; `version` is another one after each change."""

    version: str
    note: bytes


class LeasePlace(Protocol):
    """Keeps one lease; of several processes that change it, one succeeds."""

    shown: str

    def create(self, note: bytes) -> str | None:
        """Its version, where there was none; None where there is one."""

    def read(self) -> LeaseContent | None:
        """What is there."""

    def replace(self, version: str, note: bytes) -> str | None:
        """The new version, where it still was of that version; else None."""

    def remove(self, version: str) -> None:
        """Release it, where it still is of that version."""


def place_at(url: str, options: StorageOptions) -> LeasePlace:
    """The place of the lease of an output."""
    local = local_path(url)
    if local is not None:
        return FolderPlace(local.with_name(f".{local.name}.lease"))
    return BucketPlace(url, options)


class FolderPlace:
    """A folder with one file, whose name is the version.

    All steps are renames, which one process alone can make, also over NFS, where
    locks and O_APPEND cannot be relied on: a folder is renamed to a name only where no
    folder or an empty one is (rename(2)), and a file only while it has its old name.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.shown = str(folder)

    def create(self, note: bytes) -> str | None:
        version, own = _new_version(), beside(self._folder)
        with _reported(self.shown):
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            own.mkdir()
            try:
                (own / version).write_bytes(note)
                _rename_if_free(own, self._folder)
            finally:
                shutil.rmtree(own, ignore_errors=True)
            # An NFS server may have done it and its answer been lost.
            return version if (self._folder / version).exists() else None

    def read(self) -> LeaseContent | None:
        with _reported(self.shown):
            try:
                version = next(self._folder.iterdir(), None)
                if version is None:
                    return None
                return LeaseContent(version=version.name, note=version.read_bytes())
            except FileNotFoundError:
                return None

    def replace(self, version: str, note: bytes) -> str | None:
        new = self._folder / _new_version()
        with _reported(self.shown):
            # As in `create`: what is there counts, not what a server answered.
            with suppress(FileNotFoundError):
                (self._folder / version).rename(new)
            if not new.exists():
                return None
            # A renewal has the same note: it is a rename alone, on a full disk too.
            if new.read_bytes() != note:
                new.write_bytes(note)
            return new.name

    def remove(self, version: str) -> None:
        # Who has taken it over has renamed the file: then it is not ours.
        with suppress(OSError):
            (self._folder / version).unlink()
            self._folder.rmdir()


class BucketPlace:
    """An object that is put only where none is, or one of that ETag.

    Conditional writes of S3:
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html.
    A released lease stays as an empty object, since not every server deletes on
    conditions.
    """

    def __init__(self, url: str, options: StorageOptions) -> None:
        folder, _, name = url.rstrip("/").rpartition("/")
        self.shown = f"{folder}/.{name}.lease"
        # Another process may have written since this one last looked.
        self._options = {"use_listings_cache": False, **options}
        self._server = repr((url.split("/")[2], sorted(map(str, options.items()))))

    def create(self, note: bytes) -> str | None:
        version = self._put(note, IfNoneMatch="*")
        if version is None or self._server in _known_servers:
            return version
        _known_servers.add(self._server)
        # A server that keeps conditions refuses the second one.
        if (second := self._put(note, IfNoneMatch="*")) is None:
            return version
        log.warning(
            "storage: the server of %s ignores conditions of writes, so that two "
            "computers could write one output at once; let one write at a time",
            self.shown,
        )
        return second

    def read(self) -> LeaseContent | None:
        filesystem, bucket, key = self._at()
        with _reported(self.shown):
            try:
                # One request: the ETag must be that of just these bytes.
                found = filesystem.call_s3("get_object", Bucket=bucket, Key=key)
                content = _body(filesystem, found)
            except FileNotFoundError:
                return None
        return LeaseContent(version=found["ETag"], note=content.partition(b"\n")[2])

    def replace(self, version: str, note: bytes) -> str | None:
        return self._put(note, IfMatch=version)

    def remove(self, version: str) -> None:
        with suppress(StorageError):
            self._put(b"", IfMatch=version)

    def _put(self, note: bytes, **condition: str) -> str | None:
        filesystem, bucket, key = self._at()
        # The ETag follows from the content: equal notes must differ.
        content = f"{_new_version()}\n".encode() + note
        with _reported(self.shown):
            try:
                done = filesystem.call_s3(
                    "put_object", Bucket=bucket, Key=key, Body=content, **condition
                )
            except OSError as error:
                if _is_refused_condition(error):
                    return None
                raise
        return str(done["ETag"])

    def _at(self) -> tuple[Any, str, str]:
        filesystem, path = url_to_fs(self.shown, **self._options)
        bucket, _, key = str(path).partition("/")
        return filesystem, bucket, key


def _rename_if_free(own: Path, folder: Path) -> None:
    try:
        own.rename(folder)
    except OSError as error:
        # ENOENT: the first try of an NFS client had done it, its answer was lost.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise


def _body(filesystem: Any, found: Any) -> bytes:
    from fsspec.asyn import sync

    async def read() -> bytes:
        return bytes(await found["Body"].read())

    # The body is a stream of fsspec's own event loop.
    return bytes(sync(filesystem.loop, read))


def _is_refused_condition(error: OSError) -> bool:
    """Whether the server says that the object is there, or another one (412, 409)."""
    # s3fs keeps botocore's error, with the status, as the cause of its own.
    cause = error.__cause__
    response = getattr(cause, "response", {}) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    # With If-Match an object that is gone is a 404.
    return status in (409, 412) or isinstance(
        error, FileExistsError | FileNotFoundError
    )


def _new_version() -> str:
    return uuid.uuid4().hex


@contextmanager
def _reported(shown: str) -> Iterator[None]:
    try:
        yield
    except errors_of(shown) as error:
        reason = getattr(error, "strerror", None) or str(error) or repr(error)
        raise StorageError(
            f"storage: the lease {shown} could not be written ({reason}); free space "
            "or check access, then run again",
            url=shown,
        ) from error
