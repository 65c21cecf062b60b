"""Bytes and models under one root, on disk or in an S3 bucket."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.core import url_to_fs
from pydantic import TypeAdapter, ValidationError

from em_platform.errors import RecordError, StorageError
from em_platform.storage import atomic

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Read and write whole objects under `root`, any fsspec URL; writes are atomic."""

    root: str
    options: dict[str, Any] = field(default_factory=dict)

    def url(self, name: str) -> str:
        """The full URL of `name`."""
        return f"{self.root.rstrip('/')}/{name}"

    def local_path(self, name: str) -> Path | None:
        """The path of `name` where the root is a local folder, else None."""
        filesystem, path = url_to_fs(self.url(name), **self.options)
        return Path(path) if "file" in _protocols(filesystem) else None

    def exists(self, name: str) -> bool:
        """Whether `name` is there."""
        filesystem, path = url_to_fs(self.url(name), **self.options)
        return bool(filesystem.exists(path))

    def write_bytes(self, name: str, content: bytes) -> None:
        """Put `content` at `name`, whole or not at all.

        Raises
        ------
        StorageError
            The disk is full, the bucket refuses, or the like.
        """
        try:
            local = self.local_path(name)
            if local is not None:
                atomic.write_bytes(local, content)
                return
            filesystem, path = url_to_fs(self.url(name), **self.options)
            filesystem.pipe_file(path, content)
        except OSError as error:
            raise StorageError(
                f"storage: {self.url(name)} could not be written "
                f"({error.strerror or error}); free space or check access, "
                "then run again",
                url=self.url(name),
            ) from error

    def read_bytes(self, name: str) -> bytes:
        """The bytes at `name`; StorageError where there are none."""
        try:
            filesystem, path = url_to_fs(self.url(name), **self.options)
            return bytes(filesystem.cat_file(path))
        except OSError as error:
            raise StorageError(
                f"storage: {self.url(name)} could not be read "
                f"({error.strerror or error}); run the step that makes it",
                url=self.url(name),
            ) from error

    def write(self, name: str, value: object, kind: Any) -> None:
        """Write `value`, of type `kind` (a Model or a tuple of them), as JSON."""
        self.write_bytes(name, TypeAdapter(kind).dump_json(value, indent=1) + b"\n")

    def read(self, name: str, kind: type[T]) -> T:
        """The `kind` that lies at `name`; RecordError where it is not one."""
        content = self.read_bytes(name)
        try:
            return TypeAdapter(kind).validate_json(content)
        except ValidationError as error:
            raise RecordError(
                f"storage: {self.url(name)} is not a {kind} "
                f"({error.error_count()} errors, first: {error.errors()[0]['msg']}); "
                "run the step that makes it again",
                url=self.url(name),
            ) from error


def open_store(root: str, **options: Any) -> Store:
    """A store at `root`; a plain path is taken as a local folder."""
    if "://" not in root:
        root = Path(root).absolute().as_uri()
    return Store(root=root, options=options)


def _protocols(filesystem: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
