"""Where the files of one image grow: its staging, and the Zarr arrays of its pyramid.

The arrays are filled unit by unit; what is done goes to the workers. On a local disk
they are encoded by zarrs, see `formats.ome_zarr`.
"""

import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import zarr
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from zarr.abc.store import Store
from zarr.codecs import ZstdCodec
from zarr.core.buffer import Buffer
from zarr.errors import ContainsArrayError
from zarr.storage import WrapperStore

from em_platform.errors import StorageError
from em_platform.formats.ome_zarr import open_array, store_at
from em_platform.ome_zarr.layout import AXES
from em_platform.ome_zarr.pyramid import (
    Array,
    Pool,
    Pyramid,
    Region,
    Shape,
    Unit,
    build,
)
from em_platform.storage.crc32 import crc32
from em_platform.storage.layout import StorageOptions, errors_of, local_path
from em_platform.storage.manifest import BEGUN, FileMark, crc32_of

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
    options: StorageOptions = field(default_factory=dict, repr=False)

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
    target: str, options: StorageOptions, fingerprint: str | None
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


class MarkedStore(WrapperStore[Store]):
    """A store that gives size and CRC-32 of each object that is put to `mark`."""

    def __init__(self, store: Store, mark: Callable[[str, FileMark], None]) -> None:
        super().__init__(store)
        self._mark = mark

    async def set(self, key: str, value: Buffer) -> None:
        """Put an object, and give its mark."""
        await super().set(key, value)
        content = value.to_bytes()
        self._mark(key, FileMark(size_bytes=len(content), crc32=crc32(content)))


def _open_marked(
    url: str, options: StorageOptions, mark: Callable[[str, FileMark], None]
) -> zarr.Array[Any]:
    """An array to write; `mark` is given what is put into a bucket."""
    if local_path(url) is not None:
        return open_array(url, mode="r+", options=options)
    store = MarkedStore(store_at(url, options), mark)
    return zarr.open_array(store, mode="r+", zarr_format=3)


A = TypeVar("A")
B = TypeVar("B")


class Run(Protocol):
    """Like the built-in `map`, here or on workers."""

    def __call__(self, act: Callable[[A], B], items: Iterable[A], /) -> Iterator[B]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """CPU-seconds that one process spent on one unit."""

    process: tuple[str, int]
    cpu_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DoneUnit:
    """What came of one unit, and what it cost."""

    unit: Unit
    finished: FinishedUnit
    cost: Cost


def done_unit(unit: Unit, finished: FinishedUnit, *, since: float) -> DoneUnit:
    """A unit that this process began at `since`, a `time.process_time`."""
    cost = Cost(process=this_process(), cpu_seconds=time.process_time() - since)
    return DoneUnit(unit=unit, finished=finished, cost=cost)


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """The arrays of a pyramid in the place where the image grows."""

    staging: Staging
    pyramid: Pyramid

    def create(
        self,
        *,
        dtype: np.dtype[Any],
        chunk_shape: Shape,
        compression_level: int,
        fill_value: int,
    ) -> None:
        """Make all arrays, without chunks; those of an earlier call stay."""
        with plain_errors(self.staging.target):
            for level, shape in enumerate(self.pyramid.shapes):
                with suppress(ContainsArrayError):
                    zarr.create_array(
                        store_at(
                            f"{self.staging.levels_url}/{level}", self.staging.options
                        ),
                        shape=shape,
                        dtype=dtype,
                        chunks=chunk_shape,
                        shards=self.pyramid.shard_shape,
                        compressors=ZstdCodec(level=compression_level, checksum=True),
                        fill_value=fill_value,
                        dimension_names=list(AXES[-len(shape) :]),
                    )

    def fill(
        self,
        unit: Unit,
        *,
        render: Callable[[Region], Array],
        seen: Callable[[Shape, Array], None] | None = None,
        pool: Pool | None = None,
        spans: tuple[bool, ...] = (),
    ) -> dict[str, FileMark]:
        """Write all shards of one unit; the files that this made.

        Parameters
        ----------
        render
            Gives the pixels of a region of level 0.
        seen
            Hears of each shard of level 0: its index and pixels.
        """
        staging, files = self.staging, dict[str, FileMark]()
        image = staging.levels_url

        def mark(level: int, key: str, found: FileMark) -> None:
            files[f"{staging.levels}{level}/{key}"] = found

        arrays = {
            level: _open_marked(
                f"{image}/{level}", staging.options, partial(mark, level)
            )
            for level in range(unit.floor, unit.root + 1)
        }

        def read(level: int, region: Region) -> Array:
            # Above level 0 the floor is what an earlier round has written.
            if unit.new == level:
                return render(region)
            return np.asarray(arrays[level][region])

        def write(level: int, index: Shape, pixels: Array) -> None:
            if seen is not None and level == 0:
                seen(index, pixels)
            with plain_errors(staging.target):
                _forget_shard(image, level, index)
                try:
                    arrays[level][self.pyramid.region(level, index)] = pixels
                except RuntimeError:
                    # On a full disk its room may be all that a record still needs.
                    _forget_shard(image, level, index)
                    raise
                for key, found in _marked(image, level, index):
                    mark(level, key, found)

        more = {} if pool is None else {"pool": pool}
        build(self.pyramid, unit, read=read, write=write, spans=spans, **more)
        return files


def this_process() -> tuple[str, int]:
    """Names this process among those of all machines."""
    return socket.gethostname(), os.getpid()


def _marked(image: str, level: int, index: Shape) -> Iterator[tuple[str, FileMark]]:
    """The shard that was just written, where the store does not tell of it itself."""
    local = local_path(image)
    if local is None:
        return
    key = "/".join(("c", *map(str, index)))
    path = local / str(level) / key
    if path.exists():  # what is all background has no file
        # zarrs writes by itself: what it wrote is known from the file alone.
        size_bytes = path.stat().st_size
        filesystem = LocalFileSystem()
        yield (
            key,
            FileMark(size_bytes=size_bytes, crc32=crc32_of(filesystem, str(path))),
        )


def _forget_shard(image: str, level: int, index: Shape) -> None:
    """Remove what a killed call may have half-written; a bucket has whole objects."""
    local = local_path(image)
    if local is not None:
        local.joinpath(str(level), "c", *map(str, index)).unlink(missing_ok=True)
