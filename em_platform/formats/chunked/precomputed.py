"""Neuroglancer's precomputed volumes: all scales are in one `info`, x first.

Source: the section on volumes of neuroglancer's precomputed format,
https://github.com/google/neuroglancer/tree/master/src/datasource/precomputed.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from em_platform.errors import FormatError
from em_platform.formats.chunked.arrays import Level, StoredArray, StoredImage, broken
from em_platform.formats.chunked.store import ChunkStore
from em_platform.formats.length_units import rounded

_AXES = ("x", "y", "z", "c")


def read_volume(store: ChunkStore) -> tuple[StoredImage, tuple[StoredArray, ...]]:
    """The scales, finest first, and the array of each.

    Raises
    ------
    FormatError
        There is no `info`, or it is not that of a volume.
    """
    described = store.read_json("info")
    if described is None:
        raise FormatError(
            f"chunks: {store.url} holds no info, expected a precomputed volume; "
            "correct the address",
            url=store.url,
        )
    try:
        return volume_of(described)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise broken(store.url, f"info: {error!r}") from error


def volume_of(
    described: Mapping[str, Any],
) -> tuple[StoredImage, tuple[StoredArray, ...]]:
    """The scales and arrays that an `info` describes."""
    scales = described["scales"]
    finest = scales[0]["resolution"]
    levels = tuple(_level(scale, finest) for scale in scales)
    arrays = tuple(
        _array(described, scale, number) for number, scale in enumerate(scales)
    )
    return StoredImage(format="precomputed", levels=levels), arrays


def _level(scale: Mapping[str, Any], finest: Any) -> Level:
    edges = [float(edge) for edge in scale["resolution"]]
    offset = scale.get("voxel_offset") or (0, 0, 0)
    # Offsets are those of a voxel's corner; we count from the centre of the finest.
    x, y, z = (
        rounded(int(start) * edge + (edge - float(first)) / 2)
        for start, edge, first in zip(offset, edges, finest, strict=True)
    )
    dx, dy, dz = (rounded(edge) for edge in edges)
    return Level(
        path=str(scale["key"]),
        axes=_AXES,
        voxel_size_nm=(dz, dy, dx),
        origin_nm=(z, y, x),
    )


def _array(
    described: Mapping[str, Any], scale: Mapping[str, Any], number: int
) -> StoredArray:
    channels = int(described.get("num_channels", 1))
    chunk = tuple(int(length) for length in scale["chunk_sizes"][0])
    sharding = scale.get("sharding")
    shape = (*(int(length) for length in scale["size"]), channels)
    return StoredArray(
        format="precomputed",
        spec={"driver": "neuroglancer_precomputed", "scale_index": number},
        shape=shape,
        chunks=(*chunk, channels),
        objects=(*chunk, channels),
        dtype=np.dtype(str(described["data_type"])).name,
        axes=_AXES,
        tags={
            "compression": str(scale["encoding"]),
            "sharding": str(sharding["@type"]) if sharding else "none",
            "type": str(described.get("type", "image")),
        },
        folder=str(scale["key"]),
        offset=tuple(int(n) for n in scale.get("voxel_offset") or (0, 0, 0)),
        sharding=sharding,
    )
