"""N5 arrays and the several ways in which groups of them say their place in space.

N5 counts x first. Sources: https://github.com/saalfeldlab/n5 (array metadata and block
paths); the dialects are those of COSEM and OpenOrganelle (`multiscales` with a
`transform`, `pixelResolution`), of n5-viewer and BigDataViewer (`scales` or
`downsamplingFactors` with `pixelResolution`) and of Paintera (`resolution`, `offset`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from em_platform.formats.chunked import zarr
from em_platform.formats.chunked.arrays import (
    Level,
    StoredArray,
    StoredImage,
    broken,
    space,
)
from em_platform.formats.chunked.listing import can_list, folders
from em_platform.formats.chunked.store import ChunkStore

_XYZ = ("x", "y", "z", "c", "t")
# Writers that state no unit mean nm in the dialects where none is asked for.
_NM = "nm"
# Thirty halvings make one voxel of any image.
_MOST_LEVELS = 30


def read_image(store: ChunkStore) -> StoredImage | None:
    """The levels of a group by its attributes, else the arrays `s0`, `s1` in it."""
    attributes = store.read_json("attributes.json") or {}
    if "dataType" in attributes:
        return None
    try:
        return _stated_levels(attributes) or _numbered_levels(store, attributes)
    except (KeyError, TypeError, ValueError, IndexError) as error:
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
        return _array(attributes)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise broken(store.url, f"array: {error!r}") from error


def first_series(store: ChunkStore) -> str | None:
    """None: N5 knows no series."""
    return None


def group_paths(store: ChunkStore) -> tuple[str, ...]:
    """Names of the folders in a group, where they can be listed."""
    return folders(store, "") if can_list(store) else ()


def _array(attributes: Mapping[str, Any]) -> StoredArray:
    shape = tuple(int(length) for length in attributes["dimensions"])
    blocks = tuple(int(length) for length in attributes["blockSize"])
    # N5 1.x calls it `compressionType`.
    compression = attributes.get("compression") or attributes["compressionType"]
    if isinstance(compression, Mapping):
        compression = compression["type"]
    stated = attributes.get("axes")
    axes = tuple(str(name).lower() for name in stated or ())
    # Attributes are anyone's: names that do not fit are not believed.
    if len(axes) != len(shape) or not all(axes):
        axes = _XYZ[: len(shape)]
    return StoredArray(
        format="N5",
        spec={"driver": "n5"},
        shape=shape,
        chunks=blocks,
        objects=blocks,
        dtype=np.dtype(str(attributes["dataType"])).name,
        axes=axes,
        tags={"compression": str(compression)},
        level=_own_level(attributes, attributes, axes),
    )


def _stated_levels(attributes: Mapping[str, Any]) -> StoredImage | None:
    images = attributes.get("multiscales")
    if not isinstance(images, Sequence) or not images:
        return None
    (image, *_) = images
    if image.get("axes") and "coordinateTransformations" in image["datasets"][0]:
        found = zarr.image_of(image, "")
        levels = tuple(_reversed(level) for level in found.levels)
        return StoredImage(format="N5", levels=levels, name=found.name)
    levels = tuple(
        _transformed(dataset.get("transform") or {}, path=str(dataset["path"]))
        for dataset in image["datasets"]
    )
    return StoredImage(format="N5", levels=levels, name=str(image.get("name") or ""))


def _reversed(level: Level) -> Level:
    # Axes in these attributes are written slowest first, which N5 stores last.
    return Level(
        path=level.path,
        axes=level.axes[::-1],
        voxel_size_nm=level.voxel_size_nm,
        origin_nm=level.origin_nm,
    )


def _numbered_levels(
    store: ChunkStore, attributes: Mapping[str, Any]
) -> StoredImage | None:
    scales = attributes.get("scales") or ()
    levels: list[Level] = []
    # A server that makes up its answers always has one more.
    while len(levels) < _MOST_LEVELS:
        path = f"s{len(levels)}"
        own = store.read_json(f"{path}/attributes.json")
        if own is None or "dataType" not in own:
            break
        stated = dict(own)
        if "downsamplingFactors" not in own and len(levels) < len(scales):
            stated["downsamplingFactors"] = scales[len(levels)]
            # Beside `scales`, an array's own resolution is already that of its level.
            if "pixelResolution" in own:
                del stated["downsamplingFactors"]
        axes = tuple(str(name).lower() for name in own.get("axes") or ())
        level = _own_level(stated, attributes, axes or _XYZ[: len(own["dimensions"])])
        levels.append(
            Level(
                path=path,
                axes=axes,
                voxel_size_nm=level.voxel_size_nm if level else None,
                origin_nm=level.origin_nm if level else (0.0, 0.0, 0.0),
            )
        )
    return StoredImage(format="N5", levels=tuple(levels)) if levels else None


def _own_level(
    own: Mapping[str, Any], group: Mapping[str, Any], axes: tuple[str, ...]
) -> Level | None:
    """The place in space by an array's attributes, else by those of its group."""
    if isinstance(own.get("transform"), Mapping) and "scale" in own["transform"]:
        return _transformed(own["transform"], path="")
    found = _resolution(own) or _resolution(group)
    if found is None:
        return None
    edges, unit = found
    factors = [float(f) for f in own.get("downsamplingFactors") or (1,) * len(edges)]
    offset = [float(o) for o in own.get("offset") or group.get("offset") or ()]
    offset = offset or [0.0] * len(edges)
    # The first voxel of a level has its centre amid those that it covers.
    places = [
        start + edge * (factor - 1) / 2
        for start, edge, factor in zip(offset, edges, factors, strict=True)
    ]
    scaled = [edge * factor for edge, factor in zip(edges, factors, strict=True)]
    names = axes[: len(edges)]
    voxel, _ = space(names, scaled, [unit] * len(edges))
    _, origin = space(names, places, [unit] * len(edges))
    return Level(path="", axes=axes, voxel_size_nm=voxel, origin_nm=origin)


def _resolution(attributes: Mapping[str, Any]) -> tuple[list[float], str] | None:
    """Edges of a voxel, x first, and their unit."""
    stated = attributes.get("pixelResolution") or attributes.get("resolution")
    units = attributes.get("units") or ()
    if isinstance(stated, Mapping):
        unit = str(stated.get("unit") or _NM)
        return [float(edge) for edge in stated["dimensions"]], unit
    if isinstance(stated, Sequence) and stated:
        return [float(edge) for edge in stated], str(units[0] if units else _NM)
    return None


def _transformed(transform: Mapping[str, Any], *, path: str) -> Level:
    """A COSEM transform: its axes are named, commonly z first."""
    if "scale" not in transform:
        return Level(path=path)
    scale = transform["scale"]
    count = len(scale)
    axes = [str(name).lower() for name in transform.get("axes") or "zyx"[-count:]]
    units = [str(unit) for unit in transform.get("units") or (_NM,) * count]
    voxel, _ = space(axes, scale, units)
    _, origin = space(axes, transform.get("translate") or (0.0,) * count, units)
    return Level(path=path, voxel_size_nm=voxel, origin_nm=origin)
