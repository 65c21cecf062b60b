"""Zarr arrays, encoded by zarrs where they lie on a local disk.

The zarrs pipeline (https://github.com/zarrs/zarrs-python) encodes shards three times as
fast as zarr's own. It knows local files only; a bucket is written through zarr's.
"""

import threading
import zlib
from collections.abc import Callable
from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from em_platform.storage.manifest import FileMark
from em_platform.storage.urls import local_path

_ZARRS = {
    "codec_pipeline.path": "zarrs.ZarrsCodecPipeline",
    # More than one thread would put the chunks of a shard in another order each time.
    "codec_pipeline.chunk_concurrent_maximum": 1,
    "threading.max_workers": 1,
}
_opening = threading.Lock()


def store_at(url: str, options: dict[str, Any]) -> Store:
    """The zarr store at a path or fsspec URL; `options` are the file system's."""
    local = local_path(url)
    if local is not None:
        return LocalStore(local)
    return FsspecStore.from_url(url, storage_options=options)


class MarkedStore(WrapperStore[Store]):
    """A store that gives size and CRC-32 of each object that is put to `mark`."""

    def __init__(self, store: Store, mark: Callable[[str, FileMark], None]) -> None:
        super().__init__(store)
        self._mark = mark

    async def set(self, key: str, value: Buffer) -> None:
        """Put an object, and give its mark."""
        await super().set(key, value)
        content = value.to_bytes()
        self._mark(key, FileMark(size_bytes=len(content), crc32=zlib.crc32(content)))


def open_array(
    levels: str,
    level: int,
    *,
    mode: Any,
    options: dict[str, Any],
    mark: Callable[[str, FileMark], None] | None = None,
) -> zarr.Array[Any]:
    """Level `level` of those at `levels`; on a local disk read and written by zarrs.

    Its chunks are encoded and decoded in one thread, by whichever thread asks. `mark`
    is given what is put into a bucket.
    """
    url = f"{levels.rstrip('/')}/{level}"
    if local_path(levels) is None:
        store = store_at(url, options)
        if mark is not None:
            store = MarkedStore(store, mark)
        return zarr.open_array(store, mode=mode, zarr_format=3)
    # The pipeline is chosen once, when the array is opened; the setting is global.
    with _opening, zarr.config.set(_ZARRS):
        return zarr.open_array(store_at(url, options), mode=mode, zarr_format=3)
