"""OME-Zarr 0.5 images, read level by level; they are written in the room `ome_zarr`.

On a local disk chunks are decoded by zarrs (https://github.com/zarrs/zarrs-python),
three times as fast as by zarr's own pipeline. It knows local files only; a bucket is
read through the latter.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore

from em_platform.errors import FormatError, PlatformError
from em_platform.formats.chunked.arrays import MOST_CHUNK_BYTES, parsed
from em_platform.formats.chunked.zarr import Axis, Multiscale, review_in
from em_platform.model import Review
from em_platform.storage.layout import StorageOptions, local_path

_MOST_PARTS = 1 << 20  # of what others may have written; ours are at most 4096 a shard

_ZARRS = {
    "codec_pipeline.path": "zarrs.ZarrsCodecPipeline",
    # More than one thread would put the chunks of a shard in another order each time.
    "codec_pipeline.chunk_concurrent_maximum": 1,
    "threading.max_workers": 1,
}
_NO_LEVEL = (
    "is not an OME-Zarr 0.5 image with that level ({}); name one that 'em-platform "
    "stitch' or a run has finished"
)
_UNREADABLE = (
    "could not be read ({}), expected whole chunks; if it is damaged, make it again"
)
_opening = threading.Lock()


def store_at(url: str, options: StorageOptions) -> Store:
    """The zarr store at a path or fsspec URL; `options` are the file system's."""
    local = local_path(url)
    if local is not None:
        return LocalStore(local)
    return FsspecStore.from_url(url, storage_options=dict(options))


def open_array(url: str, *, mode: Any, options: StorageOptions) -> zarr.Array[Any]:
    """The array at `url`; on a local disk read and written by zarrs.

    Its chunks are encoded and decoded in one thread, by whichever thread asks.
    """
    store = store_at(url, options)
    if local_path(url) is None:
        return zarr.open_array(store, mode=mode, zarr_format=3)
    # The pipeline is chosen once, when the array is opened; the setting is global.
    with _opening, zarr.config.set(_ZARRS):
        return zarr.open_array(store, mode=mode, zarr_format=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What the metadata of an image say of its axes and levels, `paths` from the image.

    `scales[k]` is the edge of a pixel of level k along each axis and `origins[k]` the
    centre of its first one, in `units` ("" where none is stated). `kind` says how a
    level is made of the one below.
    """

    axes: tuple[str, ...]
    units: tuple[str, ...]
    paths: tuple[str, ...]
    scales: tuple[tuple[float, ...], ...]
    origins: tuple[tuple[float, ...], ...]
    kind: str


def describe(url: str, *, storage_options: StorageOptions | None = None) -> Described:
    """What is known of the image at `url`; FormatError where there is none."""
    with _plain_errors(url):
        group = zarr.open_group(
            store_at(url, storage_options or {}), mode="r", zarr_format=3
        )
        attributes: Any = group.attrs["ome"]
        image = parsed(Multiscale, attributes["multiscales"][0], url)
        axes = [axis for axis in image.axes or () if isinstance(axis, Axis)]
        stated = [
            {each.type: each for each in level.steps or ()} for level in image.datasets
        ]
        scales = tuple(each["scale"].scale or () for each in stated)
        moved = (each.get("translation") for each in stated)
        origins = tuple(
            (each and each.translation) or (0.0,) * len(axes) for each in moved
        )
        if any(len(each) != len(axes) for each in (*scales, *origins)):
            raise ValueError(
                f"scales {scales} and places {origins} of {len(axes)} axes"
            )
        return Described(
            axes=tuple(axis.name for axis in axes),
            units=tuple(axis.unit or "" for axis in axes),
            paths=tuple(level.path for level in image.datasets),
            scales=scales,
            origins=origins,
            kind=image.kind or "",
        )


def review_at(url: str, *, options: StorageOptions) -> Review | None:
    """The review of the OME-Zarr image at `url`; None for one that was not stitched."""
    group = zarr.open_group(store_at(url, dict(options)), mode="r", zarr_format=3)
    return review_in(group.attrs.asdict())


def level_count(url: str, *, storage_options: StorageOptions | None = None) -> int:
    """How many levels the image at `url` has; FormatError where there is none."""
    return len(describe(url, storage_options=storage_options).scales)


def open_level(
    url: str, level: int, *, storage_options: StorageOptions | None = None
) -> zarr.Array[Any]:
    """One level of the image at `url`, to be sliced; FormatError where it is not."""
    with _plain_errors(url):
        path = describe(url, storage_options=storage_options).paths[level]
        place = f"{url.rstrip('/')}/{path}"
        array = open_array(place, mode="r", options=storage_options or {})
        _check_cut(array)
        return array


def _check_cut(array: zarr.Array[Any]) -> None:
    """Refuse chunks that no memory holds: zarrs ends by them without an error."""
    objects, item = array.shards or array.chunks, np.dtype(array.dtype).itemsize
    parts = math.prod(objects) // max(1, math.prod(array.chunks))
    if (
        min(*array.chunks, *array.shape) < 1
        or math.prod(array.chunks) * item > MOST_CHUNK_BYTES
        or parts > _MOST_PARTS
        or math.prod(array.shape) > 2**60
    ):
        raise ValueError(
            f"shape {array.shape} in chunks of {array.chunks}, shards of {objects}"
        )


def read_pixels(url: str, level: zarr.Array[Any], where: Any = ...) -> NDArray[Any]:
    """A part of a level of the image at `url`; FormatError where it is damaged."""
    with _plain_errors(url, _UNREADABLE):
        return np.asarray(level[where])


@contextmanager
def _plain_errors(url: str, sentence: str = _NO_LEVEL) -> Iterator[None]:
    """Turn what zarr and its codecs raise of an image into FormatError."""
    try:
        yield
    except (PlatformError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        # Errors of nearly any kind; zarrs' own are not even an Exception.
        if not isinstance(error, Exception) and not _is_of_rust(error):
            raise
        raise FormatError(f"image: {url} {sentence.format(error)}", url=url) from error


def _is_of_rust(error: BaseException) -> bool:
    return type(error).__module__.startswith("pyo3")
