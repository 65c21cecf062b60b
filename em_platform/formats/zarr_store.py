"""Zarr arrays, encoded by zarrs where they lie on a local disk.

The zarrs pipeline (https://github.com/zarrs/zarrs-python) encodes shards three times as
fast as zarr's own. It knows local files only; a bucket is written through zarr's.
"""

import threading
from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore

from em_platform.formats.staging import local_path

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


def open_array(
    image: str, level: int, *, mode: Any, options: dict[str, Any]
) -> zarr.Array[Any]:
    """Level `level` of the image at `image`; on a local disk read and written by zarrs.

    Its chunks are encoded and decoded in one thread, by whichever thread asks.
    """
    url = f"{image.rstrip('/')}/{level}"
    if local_path(image) is None:
        return zarr.open_array(store_at(url, options), mode=mode, zarr_format=3)
    # The pipeline is chosen once, when the array is opened; the setting is global.
    with _opening, zarr.config.set(_ZARRS):
        return zarr.open_array(store_at(url, options), mode=mode, zarr_format=3)
