"""Bytes and models under one root, on disk or in an S3 bucket."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.core import url_to_fs
from pydantic import TypeAdapter, ValidationError

from em_platform.config import Settings
from em_platform.errors import RecordError, StorageError
from em_platform.storage import atomic
from em_platform.storage.guard import FOLDER_MARK, claim_folder
from em_platform.storage.layout import StorageOptions, errors_of
from em_platform.storage.lease import one_writer

T = TypeVar("T")

# Roots that this process has found or made to be ours.
_claimed: set[str] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Read and write whole objects under `root`, any fsspec URL; writes are atomic.

    `options` are what fsspec, zarr or Dask call `storage_options`; they may hold keys
    and are never shown.
    """

    root: str
    options: StorageOptions = field(default_factory=dict, repr=False)

    def url(self, name: str) -> str:
        """The full URL of `name`."""
        if name.startswith("/") or ".." in name.split("/"):
            raise StorageError(
                f"storage: {name!r} leads out of {self.root}; use a name below the root"
            )
        return f"{self.root.rstrip('/')}/{name}"

    def local_path(self, name: str) -> Path | None:
        """The path of `name` where the root is a local folder, else None."""
        filesystem, path = self._at(name)
        return Path(path) if "file" in _protocols(filesystem) else None

    def claim(self) -> None:
        """Make the root ours to write in; every write does so.

        Raises
        ------
        OutputRefused
            It holds what this program did not make.
        """
        local = self.local_path("")
        # A look costs a request in a bucket; a folder may be deleted meanwhile.
        if local is None and self.root in _claimed:
            return
        if local is None or not (local / FOLDER_MARK).exists():
            cure = "check its name and the access to it"
            with self._plain_errors("", "could not be written", cure):
                claim_folder(self.root, "storage.root", options=self.options)
        _claimed.add(self.root)

    @contextmanager
    def one_writer(
        self, name: str, *, work: str, patience_s: float = 0.0
    ) -> Iterator[None]:
        """Be the only one, of all computers, who writes at `name` within the block.

        Another one is waited for as long as `patience_s`.

        Raises
        ------
        OutputBusy
            Another process does; the sentence says which.
        """
        self.claim()
        with one_writer(
            self.url(name), work=work, options=self.options, patience_s=patience_s
        ):
            yield

    def exists(self, name: str) -> bool:
        """Whether `name` is there."""
        with self._plain_errors(name, "could not be looked up", "check access"):
            filesystem, path = self._at(name)
            return bool(filesystem.exists(path))

    def names(self, name: str) -> list[str]:
        """What lies directly in the folder `name`, sorted; nothing where it is not."""
        with self._plain_errors(name, "could not be listed", "check access"):
            filesystem, path = self._at(name)
            try:
                found = filesystem.ls(path, detail=False)
            except FileNotFoundError:
                return []
        # Hidden names are leases and what is half-written.
        last = (str(entry).rstrip("/").rpartition("/")[2] for entry in found)
        return sorted(entry for entry in last if entry and not entry.startswith("."))

    def write_bytes(self, name: str, content: bytes) -> None:
        """Put `content` at `name`, whole or not at all.

        Raises
        ------
        StorageError
            The disk is full, the bucket refuses, or the like.
        OutputRefused
            The root holds what this program did not make.
        """
        self.claim()
        local = self.local_path(name)
        if local is not None:
            atomic.write_bytes(local, content)
            return
        cure = "free space or check access, then run again"
        with self._plain_errors(name, "could not be written", cure):
            filesystem, path = self._at(name)
            filesystem.pipe_file(path, content)

    def read_bytes(self, name: str) -> bytes:
        """The bytes at `name`; StorageError where there are none."""
        cure = "run the step that makes it"
        with self._plain_errors(name, "could not be read", cure):
            filesystem, path = self._at(name)
            return bytes(filesystem.cat_file(path))

    def write(self, name: str, value: object, kind: Any) -> None:
        """Write `value`, of type `kind` (a Model or a tuple of them), as JSON."""
        self.write_document(name, TypeAdapter(kind).dump_json(value, indent=1) + b"\n")

    def write_document(self, name: str, content: bytes) -> None:
        """`write_bytes` of what is written again and again under one name.

        What a killed writer left half-written of it goes. Tiles are written by
        `write_bytes`: looking through their folder for each would cost too much.
        """
        self.write_bytes(name, content)
        local = self.local_path(name)
        if local is not None:
            atomic.remove_leftovers_of(local)

    def read(self, name: str, kind: type[T]) -> T:
        """The `kind` stored at `name`; RecordError where it is not one."""
        content = self.read_bytes(name)
        try:
            return TypeAdapter(kind).validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise RecordError(
                f"storage: {self.url(name)} is not a {_name_of(kind)} "
                f"({error.error_count()} errors, first: {place}: {first['msg']}); "
                "run the step that makes it again",
                url=self.url(name),
            ) from error

    def remove(self, name: str) -> None:
        """Delete `name` and all below it; what is not there is no error."""
        self.claim()
        with self._plain_errors(name, "could not be deleted", "check access"):
            filesystem, path = self._at(name)
            # fsspec raises where there is nothing to delete.
            if filesystem.exists(path):
                filesystem.rm(path, recursive=True)

    def _at(self, name: str) -> tuple[fsspec.AbstractFileSystem, str]:
        filesystem, path = url_to_fs(self.url(name), **self.options)
        return filesystem, str(path)

    @contextmanager
    def _plain_errors(self, name: str, found: str, cure: str) -> Iterator[None]:
        try:
            yield
        except errors_of(self.root) as error:
            reason = getattr(error, "strerror", None) or str(error) or repr(error)
            raise StorageError(
                f"storage: {self.url(name)} {found} ({reason}); {cure}",
                url=self.url(name),
            ) from error


def open_store(root: str, **options: Any) -> Store:
    """A store at `root`; a plain path is taken as a local folder."""
    if "://" not in root:
        # Absolute: other processes may work in another folder.
        root = f"file://{Path(root).absolute()}"
    return Store(root=root, options=options)


def store_of(settings: Settings) -> Store:
    """The store that the settings name: `storage.root`, else `data` under `home`."""
    storage = settings.storage
    if not storage.root:
        return open_store(str(settings.home / "data"))
    if not storage.root.startswith("s3://"):
        return open_store(storage.root)
    options: dict[str, Any] = {
        # Other processes write too: a remembered listing would hide their objects.
        "use_listings_cache": False,
        # botocore waits 60 s to connect: a server that is down is reported sooner.
        "config_kwargs": {"connect_timeout": 10, "retries": {"max_attempts": 3}},
    }
    if storage.endpoint_url:
        options["endpoint_url"] = storage.endpoint_url
    # Without keys the usual AWS environment counts.
    if storage.access_key:
        options["key"] = storage.access_key
        options["secret"] = storage.secret_key.get_secret_value()
    return open_store(storage.root, **options)


def options_of(url: str, settings: Settings) -> StorageOptions:
    """What fsspec needs for any URL: in a bucket, the keys that the settings name."""
    if not url.startswith("s3://"):
        return {}
    storage = settings.storage.model_copy(update={"root": url})
    return store_of(settings.model_copy(update={"storage": storage})).options


def _protocols(filesystem: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _name_of(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind)).replace("em_platform.model.", "")
