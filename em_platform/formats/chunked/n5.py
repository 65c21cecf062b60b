"""N5 arrays and the several ways in which groups of them say their place in space.

N5 counts x first. Sources: https://github.com/saalfeldlab/n5 (array metadata and block
paths); the dialects are those of COSEM and OpenOrganelle (`multiscales` with a
`transform`, `pixelResolution`), of n5-viewer and BigDataViewer (`scales` or
`downsamplingFactors` with `pixelResolution`) and of Paintera (`resolution`, `offset`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import Field

from em_platform.formats.chunked.arrays import (
    MOST_LEVELS,
    Edges,
    Level,
    Numbers,
    Shape,
    StoredArray,
    StoredImage,
    Text,
    broken,
    parsed,
    space,
)
from em_platform.formats.chunked.blosc import BloscObjects
from em_platform.formats.chunked.listing import can_list, folders
from em_platform.formats.chunked.store import ChunkStore
from em_platform.formats.chunked.zarr import Compressor, Multiscale, Transform, image_of
from em_platform.model.base import Foreign

_XYZ = ("x", "y", "z", "c", "t")
# Writers that state no unit mean nm in the dialects where none is asked for.
_NM = "nm"
# Thirty halvings make one voxel of any image.
_MOST_LEVELS = 30


class Resolution(Foreign):
    """n5-viewer's `pixelResolution`."""

    dimensions: Numbers
    unit: Text | None = None


class N5Space(Foreign):
    """What the attributes of an N5 array or group say of space."""

    axes: tuple[Text, ...] | None = None
    units: tuple[Text, ...] | None = None
    pixel_resolution: Resolution | Numbers | None = Field(None, alias="pixelResolution")
    resolution: Resolution | Numbers | None = None
    factors: Numbers | None = Field(None, alias="downsamplingFactors")
    offset: Numbers | None = None
    transform: Transform | None = None
    scales: Annotated[tuple[Numbers, ...], Field(max_length=MOST_LEVELS)] | None = None
    multiscales: tuple[Multiscale, ...] | None = None


class N5Array(N5Space):
    """The attributes of an N5 array."""

    dimensions: Shape
    block_size: Edges = Field(alias="blockSize")
    data_type: Text = Field(alias="dataType")
    compression: Compressor | Text | None = None
    compression_type: Text = Field("none", alias="compressionType")


def read_image(store: ChunkStore) -> StoredImage | None:
    """The levels of a group by its attributes, else the arrays `s0`, `s1` in it."""
    attributes = store.read_json("attributes.json") or {}
    if "dataType" in attributes:
        return None
    try:
        stated = parsed(N5Space, attributes, store.url)
        return _stated_levels(stated) or _numbered_levels(store, stated)
    except (TypeError, ValueError) as error:
        raise broken(store.url, f"multiscales: {error!r}") from error


def read_array(store: ChunkStore) -> StoredArray | None:
    """The array at the store, None where there is none.

    Raises
    ------
    FormatError
        Its metadata lack what every array has.
    """
    attributes = store.read_json("attributes.json") or {}
    if "dataType" not in attributes:
        return None
    try:
        return _array(parsed(N5Array, attributes, store.url))
    except (TypeError, ValueError) as error:
        raise broken(store.url, f"array: {error!r}") from error


def first_series(store: ChunkStore) -> str | None:
    """None: N5 knows no series."""
    return None


def group_paths(store: ChunkStore) -> tuple[str, ...]:
    """Names of the folders in a group, where they can be listed."""
    return folders(store, "") if can_list(store) else ()


def _array(stated: N5Array) -> StoredArray:
    # N5 1.x calls it `compressionType`.
    compression = stated.compression or stated.compression_type
    if isinstance(compression, Compressor):
        compression = compression.type
    axes = tuple(name.lower() for name in stated.axes or ())
    # Attributes are anyone's: names that do not fit are not believed.
    if len(axes) != len(stated.dimensions) or not all(axes):
        axes = _XYZ[: len(stated.dimensions)]
    return StoredArray(
        format="N5",
        spec={"driver": "n5"},
        shape=stated.dimensions,
        chunks=stated.block_size,
        objects=stated.block_size,
        dtype=np.dtype(stated.data_type).name,
        axes=axes,
        tags={"compression": compression},
        # In front are a mode, the number of axes and the edges of the block.
        blosc=BloscObjects(
            front=4 + 4 * len(stated.dimensions), edges=stated.block_size
        )
        if compression == "blosc"
        else None,
        level=_own_level(stated, stated, axes),
    )


def _stated_levels(attributes: N5Space) -> StoredImage | None:
    if not attributes.multiscales:
        return None
    image = attributes.multiscales[0]
    if image.axes and image.datasets[0].steps is not None:
        # Axes in these attributes are written slowest first, which N5 stores last.
        levels = tuple(
            replace(level, axes=level.axes[::-1])
            for level in image_of(image, "").levels
        )
        return StoredImage(format="N5", levels=levels)
    levels = tuple(
        _transformed(dataset.transform or Transform(), path=dataset.path)
        for dataset in image.datasets
    )
    return StoredImage(format="N5", levels=levels)


def _numbered_levels(store: ChunkStore, group: N5Space) -> StoredImage | None:
    scales = group.scales or ()
    levels: list[Level] = []
    # A server that makes up its answers always has one more.
    while len(levels) < _MOST_LEVELS:
        path = f"s{len(levels)}"
        content = store.read_json(f"{path}/attributes.json")
        if content is None or "dataType" not in content:
            break
        own = parsed(N5Array, content, f"{store.url}/{path}")
        # Beside `scales`, an array's own resolution is already that of its level.
        if not own.factors and not own.pixel_resolution and len(levels) < len(scales):
            own = own.model_copy(update={"factors": scales[len(levels)]})
        axes = tuple(name.lower() for name in own.axes or ())
        level = _own_level(own, group, axes or _XYZ[: len(own.dimensions)])
        levels.append(replace(level or Level(path=""), path=path, axes=axes))
    return StoredImage(format="N5", levels=tuple(levels)) if levels else None


def _own_level(own: N5Space, group: N5Space, axes: tuple[str, ...]) -> Level | None:
    """The place in space by an array's attributes, else by those of its group."""
    if own.transform and own.transform.scale:
        return _transformed(own.transform, path="")
    found = _resolution(own) or _resolution(group)
    if found is None:
        return None
    edges, unit = found
    factors = own.factors or (1.0,) * len(edges)
    offset = own.offset or group.offset or (0.0,) * len(edges)
    # The first voxel of a level has its centre amid those that it covers.
    places = [
        start + edge * (factor - 1) / 2
        for start, edge, factor in zip(offset, edges, factors, strict=True)
    ]
    scaled = [edge * factor for edge, factor in zip(edges, factors, strict=True)]
    names = axes[: len(edges)]
    units = [unit] * len(edges)
    voxel, _ = space(names, scaled, units)
    _, origin = space(names, places, units)
    return Level(path="", axes=axes, voxel_size_nm=voxel, origin_nm=origin)


def _resolution(attributes: N5Space) -> tuple[Sequence[float], str] | None:
    """Edges of a voxel, x first, and their unit."""
    stated = attributes.pixel_resolution or attributes.resolution
    if isinstance(stated, Resolution):
        return stated.dimensions, stated.unit or _NM
    return (stated, (attributes.units or (_NM,))[0]) if stated else None


def _transformed(transform: Transform, *, path: str) -> Level:
    """A COSEM transform: its axes are named, commonly z first."""
    scale = transform.scale
    if not scale:
        return Level(path=path)
    count = len(scale)
    axes = [name.lower() for name in transform.axes or "zyx"[-count:]]
    units = transform.units or (_NM,) * count
    moved = transform.translate or (0.0,) * count
    if not len(axes) == len(units) == len(moved) == count:
        raise ValueError(f"{count} scales for the axes {axes}, units and places")
    voxel, _ = space(axes, scale, units)
    _, origin = space(axes, moved, units)
    return Level(path=path, voxel_size_nm=voxel, origin_nm=origin)
