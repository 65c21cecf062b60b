"""Neuroglancer's precomputed volumes: all scales are in one `info`, x first.

Source: the section on volumes of neuroglancer's precomputed format,
https://github.com/google/neuroglancer/tree/master/src/datasource/precomputed.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from em_platform.errors import FormatError
from em_platform.formats.chunked.arrays import (
    MOST_LEVELS,
    Level,
    Number,
    StoredArray,
    StoredImage,
    Text,
    broken,
    parsed,
)
from em_platform.formats.chunked.store import ChunkStore
from em_platform.formats.header_values import rounded
from em_platform.model.base import Foreign

_AXES = ("x", "y", "z", "c")

_Whole = Annotated[int, Field(gt=-(2**62), lt=2**62)]
_Length = Annotated[int, Field(ge=1, lt=2**62)]
_Bits = Annotated[int, Field(ge=0, le=64)]


class ShardingSpec(Foreign):
    """How a precomputed volume finds a chunk's shard."""

    type: Text = Field(alias="@type")
    hash: Text
    preshift_bits: _Bits = 0
    minishard_bits: _Bits
    shard_bits: _Bits


class Scale(Foreign):
    """One scale of a precomputed volume."""

    key: Text
    size: tuple[_Length, _Length, _Length]
    resolution: tuple[Number, Number, Number]
    chunk_sizes: Annotated[
        tuple[tuple[_Length, _Length, _Length], ...], Field(min_length=1)
    ]
    encoding: Text
    voxel_offset: tuple[_Whole, _Whole, _Whole] | None = None
    sharding: ShardingSpec | None = None


class Info(Foreign):
    """An `info` of a precomputed volume."""

    scales: Annotated[tuple[Scale, ...], Field(min_length=1, max_length=MOST_LEVELS)]
    data_type: Text
    num_channels: int = Field(1, ge=1, lt=2**20)
    type: Text = "image"


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
        return volume_of(parsed(Info, described, store.url))
    except (TypeError, ValueError) as error:
        raise broken(store.url, f"info: {error!r}") from error


def volume_of(described: Info) -> tuple[StoredImage, tuple[StoredArray, ...]]:
    """The scales and arrays that an `info` describes."""
    finest = described.scales[0].resolution
    levels = tuple(_level(scale, finest) for scale in described.scales)
    arrays = tuple(
        _array(described, scale, number)
        for number, scale in enumerate(described.scales)
    )
    return StoredImage(format="precomputed", levels=levels), arrays


def _level(scale: Scale, finest: tuple[float, float, float]) -> Level:
    # Offsets are those of a voxel's corner; we count from the centre of the finest.
    x, y, z = (
        rounded(start * edge + (edge - first) / 2)
        for start, edge, first in zip(
            scale.voxel_offset or (0, 0, 0), scale.resolution, finest, strict=True
        )
    )
    dx, dy, dz = (rounded(edge) for edge in scale.resolution)
    return Level(
        path=scale.key,
        axes=_AXES,
        voxel_size_nm=(dz, dy, dx),
        origin_nm=(z, y, x),
    )


def _array(described: Info, scale: Scale, number: int) -> StoredArray:
    channels, sharding = described.num_channels, scale.sharding
    chunk = (*scale.chunk_sizes[0], channels)
    return StoredArray(
        format="precomputed",
        spec={"driver": "neuroglancer_precomputed", "scale_index": number},
        shape=(*scale.size, channels),
        chunks=chunk,
        objects=chunk,
        dtype=np.dtype(described.data_type).name,
        axes=_AXES,
        tags={
            "compression": scale.encoding,
            "sharding": sharding.type if sharding else "none",
            "type": described.type,
        },
        folder=scale.key,
        offset=scale.voxel_offset or (0, 0, 0),
        sharding=sharding.model_dump() if sharding else None,
    )
