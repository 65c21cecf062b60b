"""Zarr v2 and v3, OME-Zarr, N5 and precomputed volumes, on a disk or behind a URL.

Axes and lengths are turned to z, y, x and nm here; N5 and precomputed count x first.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from em_platform.errors import FormatError, SourceRefused
from em_platform.formats.chunked import n5, precomputed, zarr
from em_platform.formats.chunked.arrays import (
    ChunkedVolume,
    Crop,
    Level,
    Selection,
    StoredArray,
    StoredImage,
    check_chunks,
    select,
)
from em_platform.formats.chunked.store import ChunkStore, chunk_store
from em_platform.formats.source import local_path
from em_platform.model.volume import LevelInfo, VolumeInfo
from em_platform.storage.layout import StorageOptions

_MARKS = {
    "zarr": ("zarr.json", ".zarray", ".zattrs", ".zgroup"),
    "n5": ("attributes.json", "s0/attributes.json"),
    "precomputed": ("info",),
}
_READERS: Mapping[str, Any] = {
    "zarr": zarr,
    "n5": n5,
    "precomputed": precomputed,
}


def chunked_format(uri: str, options: StorageOptions | None = None) -> str | None:
    """`zarr`, `n5` or `precomputed`, by the metadata that lie there; else None.

    Raises
    ------
    SourceUnavailable, SourceRefused
        The server does not answer, or not to us.
    """
    if "://" in uri and not uri.startswith(("file:", "http", "s3:", "gs:")):
        # zarr2:// and zarr3:// mean Zarr; its metadata say which version.
        scheme = uri.partition("://")[0].rstrip("23")
        return scheme if scheme in _MARKS else None
    store = chunk_store(uri, options)
    refused = None
    # First what the address itself names: each mark costs a request.
    for kind in sorted(_MARKS, key=lambda kind: kind not in uri.lower()):
        for mark in _MARKS[kind]:
            try:
                if _has(store, mark):
                    return kind
            except SourceRefused as error:  # maybe of what a bucket lacks
                refused = error
    if refused is not None:
        raise refused
    return None


def open_chunked(
    url: str,
    *,
    format: str | None = None,
    level: int | str = 0,
    crop: Crop | None = None,
    options: StorageOptions | None = None,
) -> ChunkedVolume:
    """One array of a chunked format, to be read lazily in the order z, y, x.

    Parameters
    ----------
    url
        Of a group or an array: a path, `http(s)://`, `s3://` or `gs://`.
    format
        `zarr`, `n5` or `precomputed`; without it the metadata decide.
    level
        Number, finest first, or path in the group, such as `s2`.
    crop
        Corner and shape in voxels of that level; the place of the corner goes into
        `origin_nm`.
    options
        `endpoint_url`, `region`, `anon`, `requests_at_once`, `retries`; `channel` and
        `time` where an image has several; `memory_limit_mb`, a quarter of which a chunk
        may have.

    Raises
    ------
    FormatError
        No such format, no such level, or metadata that cannot be right.
    SourceUnavailable, SourceRefused
        The server does not answer, or not to us.
    """
    found = locate(url, format=format, level=level, options=options)
    stored = found.array
    selection = select(
        found.axes, stored.shape, url=found.store.url, options=options or {}
    )
    whole = selection.zyx(stored.shape)
    corner, shape = checked_crop(crop, whole, url=found.store.url)
    place = found.level
    voxel = place.voxel_size_nm
    origin = tuple(
        round(at + first * edge, 6)  # without the noise of binary fractions
        for at, first, edge in zip(
            place.origin_nm, corner, voxel or (0.0, 0.0, 0.0), strict=True
        )
    )
    if np.dtype(stored.dtype).kind not in "uifb":
        raise FormatError(
            f"chunks: {found.store.url} has voxels of type {stored.dtype}, expected "
            "numbers; name an array that is an image",
            url=found.store.url,
        )
    info = VolumeInfo(
        uri=found.store.url,
        format=found.format,
        shape=shape,
        dtype=np.dtype(stored.dtype).name,
        voxel_size_nm=voxel,
        origin_nm=origin,
        chunk_shape=selection.zyx(stored.chunks),
        levels=found.levels,
        tags=_tags(found, selection),
    )
    return ChunkedVolume(
        info=info,
        spec=found.spec_json(),
        limits=found.store.context_json(),
        selection=selection,
        corner=corner,
        most_bytes=stored.most_bytes,
        blosc=stored.blosc,
        server=urlsplit(found.store.url).netloc,
        requests_per_second=found.store.options.get("requests_per_second"),
    )


def list_levels(
    url: str,
    *,
    format: str | None = None,
    options: StorageOptions | None = None,
) -> tuple[LevelInfo, ...]:
    """The levels of a group, finest first; of an array the one that it is."""
    count = locate(url, format=format, level=0, options=options).levels
    levels = []
    for number in range(count):
        volume = open_chunked(url, format=format, level=number, options=options)
        info = volume.info
        levels.append(
            LevelInfo(
                path=str(info.tags.get("level", "")),
                shape=info.shape,
                voxel_size_nm=info.voxel_size_nm,
            )
        )
    return tuple(levels)


def level_paths(
    url: str, *, format: str, options: StorageOptions | None = None
) -> tuple[str, ...]:
    """Where the levels of a group lie, by its own metadata alone."""
    image: StoredImage | None = _READERS[format].read_image(chunk_store(url, options))
    return tuple(level.path for level in image.levels) if image else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """An array that was found: its objects, its metadata and its place in space."""

    store: ChunkStore
    array: StoredArray
    level: Level
    format: str
    levels: int = 1
    tags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the stored axes."""
        count = len(self.array.shape)
        for names in (self.level.axes, self.array.axes):
            if len(names) == count:
                return names
        # Without names: Zarr has the slowest axis first, the others x.
        last = ("t", "c", "z", "y", "x")[-count:]
        return last if self.array.spec["driver"].startswith("zarr") else last[::-1]

    def spec_json(self) -> str:
        """What tensorstore opens."""
        kvstore = json.loads(self.store.kvstore_json())
        return json.dumps({**self.array.spec, "kvstore": kvstore}, sort_keys=True)


def locate(
    url: str,
    *,
    format: str | None = None,
    level: int | str = 0,
    options: StorageOptions | None = None,
) -> Located:
    """The array that a URL and a level mean; errors as of `open_chunked`."""
    kind = format or chunked_format(url, options)
    if kind is None or kind not in _READERS:
        missing = FormatError if local_path(url) is not None else SourceRefused
        raise missing(
            f"chunks: {url} holds no zarr.json, .zarray, .zgroup, attributes.json or "
            f"info{f' and is no {kind}' if kind else ''}, expected a Zarr, N5 or "
            "precomputed volume; correct the address",
            url=url,
        )
    store = chunk_store(url, options)
    if kind == "precomputed":
        found = _locate_scale(store, level)
    else:
        found = _locate(store, level, kind=kind)
    limit_mb = (options or {}).get("memory_limit_mb")
    check_chunks(found.array, url=found.store.url, memory_limit_mb=limit_mb)
    return found


def _locate(store: ChunkStore, level: int | str, *, kind: str) -> Located:
    reader = _READERS[kind]
    image: StoredImage | None = reader.read_image(store)
    if image is not None:
        chosen = _chosen(image, level)
        if chosen is not None:
            return _at(store.child(chosen.path), chosen, image, kind=kind)
    array: StoredArray | None = reader.read_array(store)
    if array is not None and level in (0, "", "0"):
        return _alone(store, array, kind=kind)
    # A path further down, such as of labels, may be named too.
    named = isinstance(level, str) and level and (image is None or "/" in level)
    if named and array is None:
        return _locate(store.child(str(level)), 0, kind=kind)
    series = reader.first_series(store)
    if image is None and series is not None:
        return _locate(store.child(series), level, kind=kind)
    raise _no_level(store, level, image=image, paths=reader.group_paths(store))


def _at(store: ChunkStore, level: Level, image: StoredImage, *, kind: str) -> Located:
    array: StoredArray | None = _READERS[kind].read_array(store)
    if array is None:
        raise FormatError(
            f"chunks: {store.url} is named as a level but holds no array, expected its "
            "metadata; fetch it again or choose another level",
            url=store.url,
        )
    own = array.level
    if level.voxel_size_nm is None and own is not None:
        level = replace(own, path=level.path, axes=level.axes or own.axes)
    return Located(
        store=store,
        array=array,
        level=level,
        format=image.format,
        levels=len(image.levels),
        tags=image.tags,
    )


def _alone(store: ChunkStore, array: StoredArray, *, kind: str) -> Located:
    """An array that was named itself; its group may know its place in space."""
    above, name = store.parent()
    try:
        image: StoredImage | None = _READERS[kind].read_image(above)
    except (FormatError, SourceRefused):
        # What is above may be no group, or closed to us: the array is enough.
        image = None
    levels = image.levels if image else ()
    known = next((each for each in levels if each.path == name), None)
    if image is not None and known is not None:
        found = _at(store, known, image, kind=kind)
        return Located(
            store=store, array=array, level=found.level, format=image.format, levels=1
        )
    level = array.level or Level(path="")
    return Located(store=store, array=array, level=level, format=array.format)


def _locate_scale(store: ChunkStore, level: int | str) -> Located:
    image, arrays = precomputed.read_volume(store)
    chosen = _chosen(image, level)
    if chosen is None:
        paths = tuple(each.path for each in image.levels)
        raise _no_level(store, level, image=image, paths=paths)
    return Located(
        store=store,
        array=arrays[image.levels.index(chosen)],
        level=chosen,
        format=image.format,
        levels=len(image.levels),
    )


def _chosen(image: StoredImage, level: int | str) -> Level | None:
    for each in image.levels:
        # Paths first: a level at path 1 need not be the second.
        if each.path == level:
            return each
    number = int(level) if str(level).isdecimal() else -1
    return image.levels[number] if 0 <= number < len(image.levels) else None


def _no_level(
    store: ChunkStore,
    level: int | str,
    *,
    image: StoredImage | None,
    paths: tuple[str, ...],
) -> FormatError:
    names = tuple(each.path for each in image.levels) if image else paths
    shown = ", ".join(names[:20]) or "no list of arrays"
    return FormatError(
        f"chunks: {store.url} has no level {level!r} (found: {shown}), expected one of "
        "its arrays; name one by level",
        url=store.url,
    )


def checked_crop(
    crop: Crop | None, whole: tuple[int, int, int], *, url: str
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Corner and shape of a crop, or of the whole; FormatError where it reaches out."""
    if crop is None:
        return (0, 0, 0), whole
    corner, shape = crop
    inside = all(
        first >= 0 and count > 0 and first + count <= length
        for first, count, length in zip(corner, shape, whole, strict=True)
    )
    if not inside:
        raise FormatError(
            f"chunks: {url} is {whole} voxels (z, y, x), expected the crop of {shape} "
            f"at {corner} to be inside; choose a smaller one",
            url=url,
        )
    return corner, shape


def _tags(found: Located, selection: Selection) -> dict[str, Any]:
    stored = found.array
    tags: dict[str, Any] = {"axes": ", ".join(found.axes), **stored.tags, **found.tags}
    if found.level.path:
        tags["level"] = found.level.path
    if stored.objects != stored.chunks:
        tags["shard_shape"] = selection.zyx(stored.objects)
    return tags


def _has(store: ChunkStore, name: str) -> bool:
    local = local_path(store.url)
    if local is not None:
        # Without tensorstore, which takes a quarter of a second to import.
        return Path(local, name).is_file()
    return store.read(name) is not None
