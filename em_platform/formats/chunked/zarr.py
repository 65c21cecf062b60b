"""Zarr v2 and v3 arrays, and the images that OME-Zarr 0.1 to 0.5 make of them.

Sources: https://zarr-specs.readthedocs.io and https://ngff.openmicroscopy.org.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from em_platform.formats.chunked.arrays import (
    MOST_AXES,
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
    plane_or_space,
    space,
)
from em_platform.formats.chunked.blosc import BloscObjects
from em_platform.formats.chunked.listing import can_list, folders
from em_platform.formats.chunked.store import ChunkStore
from em_platform.model import Review
from em_platform.model.base import Foreign

OURS = "em_platform"
"""Where a group of ours says more than OME-NGFF does."""

_TCZYX = ("t", "c", "z", "y", "x")


class Axis(Foreign):
    """One axis of an OME image."""

    name: Text
    unit: Text | None = None


class Step(Foreign):
    """One coordinate transformation of OME."""

    type: Text
    scale: Numbers | None = None
    translation: Numbers | None = None


class Transform(Foreign):
    """A COSEM transform."""

    axes: tuple[Text, ...] | None = None
    units: tuple[Text, ...] | None = None
    scale: Numbers | None = None
    translate: Numbers | None = None


class Dataset(Foreign):
    """One level of a multiscale image."""

    path: Text
    steps: tuple[Step, ...] | None = Field(None, alias="coordinateTransformations")
    transform: Transform | None = None


class Multiscale(Foreign):
    """One entry of `multiscales`."""

    axes: Annotated[tuple[Axis | Text, ...], Field(max_length=MOST_AXES)] | None = None
    datasets: Annotated[
        tuple[Dataset, ...], Field(min_length=1, max_length=MOST_LEVELS)
    ]
    steps: tuple[Step, ...] | None = Field(None, alias="coordinateTransformations")
    version: Text | None = None
    kind: Text | None = Field(None, alias="type")


class Compressor(Foreign):
    """What packs the chunks of Zarr v2 or N5."""

    id: Text = "none"
    cname: Text | None = None
    type: Text = "none"


class ArrayV2(Foreign):
    """A `.zarray`."""

    shape: Shape
    chunks: Edges
    dtype: Text
    compressor: Compressor | None = None
    dimension_separator: Text | None = None


class Codec(Foreign):
    """One step of Zarr v3's chain; `configuration` is the codec's own."""

    name: Text
    configuration: Mapping[str, Any] | None = None


class _ChunkShape(Foreign):
    chunk_shape: Edges


class ChunkGrid(Foreign):
    """How Zarr v3 cuts an array."""

    configuration: _ChunkShape


class Sharding(Foreign):
    """How Zarr v3 cuts a shard."""

    chunk_shape: Edges
    codecs: tuple[Codec, ...]


class _Separator(Foreign):
    separator: Text | None = None


class KeyEncoding(Foreign):
    """How Zarr v3 names its chunks."""

    name: Text
    configuration: _Separator | None = None


class ArrayV3(Foreign):
    """A `zarr.json` of an array."""

    shape: Shape
    data_type: Text
    chunk_grid: ChunkGrid
    chunk_key_encoding: KeyEncoding
    codecs: tuple[Codec, ...]
    dimension_names: tuple[Text | None, ...] | None = None


def read_image(store: ChunkStore) -> StoredImage | None:
    """The multiscale image that the group is, None where it is none."""
    attributes = read_attributes(store)
    # Our own attributes stand beside `ome`, not in it.
    review = review_in(attributes)
    ome = attributes.get("ome")
    # From 0.5 on all that OME states is in there.
    if isinstance(ome, Mapping):
        attributes = dict(ome)
    images = attributes.get("multiscales")
    if not isinstance(images, Sequence) or not images:
        return None
    try:
        stated = parsed(Multiscale, images[0], store.url)
        image = image_of(stated, str(attributes.get("version", ""))[:100])
        return image if review is None else replace(image, tags=_review_tags(review))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise broken(store.url, f"multiscales: {error!r}") from error


def review_in(attributes: Mapping[str, Any]) -> Review | None:
    """The review in a group's attributes; None where there is none that we know."""
    ours = attributes.get(OURS)
    found = ours.get("review") if isinstance(ours, Mapping) else None
    try:
        return Review.model_validate(found)
    except ValueError:  # not ours, or of a version to come: it says nothing to us
        return None


def _review_tags(review: Review) -> dict[str, Any]:
    return {"review": (review.status.replace("_", " "), *review.reasons)}


def read_attributes(store: ChunkStore) -> dict[str, Any]:
    """The attributes of the group or array, nothing where there are none."""
    node = store.read_json("zarr.json")
    if node is not None:
        found = node.get("attributes") or {}
        return dict(found) if isinstance(found, Mapping) else {}
    return store.read_json(".zattrs") or {}


def first_series(store: ChunkStore) -> str | None:
    """The first image of what bioformats2raw wrote, None where it did not."""
    attributes = read_attributes(store)
    ome = attributes.get("ome")
    places = (attributes, ome if isinstance(ome, Mapping) else {})
    found = any("bioformats2raw.layout" in place for place in places)
    return "0" if found else None


def read_array(store: ChunkStore) -> StoredArray | None:
    """The array at the store, None where there is none.

    Raises
    ------
    FormatError
        Its metadata lack what every array has.
    """
    node = store.read_json("zarr.json")
    try:
        if node is not None:
            if node.get("node_type") != "array":
                return None
            return _array_v3(node, store.url)
        metadata = store.read_json(".zarray")
        if metadata is None:
            return None
        return _array_v2(metadata, store.read_json(".zattrs") or {}, store.url)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise broken(store.url, f"array: {error!r}") from error


def group_paths(store: ChunkStore) -> tuple[str, ...]:
    """Paths of the arrays below a group by its consolidated metadata.

    Without these, names of the folders in it, where they can be listed.
    """
    node = store.read_json("zarr.json")
    if node is not None:
        entries = _mapping(_mapping(node.get("consolidated_metadata")).get("metadata"))
        kinds = {path: _mapping(entry) for path, entry in entries.items()}
        found = [p for p, entry in kinds.items() if entry.get("node_type") == "array"]
    else:
        entries = _mapping((store.read_json(".zmetadata") or {}).get("metadata"))
        arrays = (path for path in entries if path.endswith("/.zarray"))
        found = [path.removesuffix("/.zarray") for path in arrays]
    if not found and can_list(store):
        return folders(store, "")
    return tuple(sorted(found))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def image_of(image: Multiscale, version: str) -> StoredImage:
    """The levels that one entry of `multiscales` names."""
    version = image.version or version
    names, units = _axes(image.axes or ())
    outer = image.steps or ()
    levels = []
    for dataset in image.datasets:
        inner = dataset.steps or ()
        # A level's own steps come first (OME-NGFF 0.4, multiscales).
        scale, move = _combined((*inner, *outer), len(names))
        # Before 0.4 no scale is stated: it is not known, and not 1.
        if not inner and not outer:
            levels.append(Level(path=dataset.path, axes=names))
            continue
        edges, _ = space(names, scale, units)
        _, origin = space(names, move, units)
        levels.append(
            Level(
                path=dataset.path,
                axes=names,
                voxel_size_nm=plane_or_space(edges),
                origin_nm=origin,
            )
        )
    return StoredImage(
        format=f"OME-Zarr {version}".strip(),
        levels=tuple(levels),
    )


def _axes(axes: Sequence[Axis | str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and units: 0.4 has objects, 0.3 has names, before that all five are."""
    if not axes:
        return _TCZYX, ("",) * 5
    named = [axis if isinstance(axis, Axis) else Axis(name=axis) for axis in axes]
    names = tuple(axis.name.lower() for axis in named)
    return names, tuple(axis.unit or "" for axis in named)


def _combined(steps: Sequence[Step], axes: int) -> tuple[list[float], list[float]]:
    """Scale and translation of steps that are applied one after the other."""
    scale, move = np.ones(axes), np.zeros(axes)
    for step in steps:
        if step.type == "scale":
            factor = _per_axis(step.scale, axes)
            # It scales the translations before it, too.
            scale, move = scale * factor, move * factor
        elif step.type == "translation":
            move = move + _per_axis(step.translation, axes)
    return scale.tolist(), move.tolist()


def _per_axis(values: Sequence[float] | None, axes: int) -> NDArray[np.float64]:
    if values is None or len(values) != axes:
        raise ValueError(f"{len(values or ())} numbers for {axes} axes")
    return np.asarray(values, np.float64)


def _array_v2(
    content: Mapping[str, Any], attributes: Mapping[str, Any], url: str
) -> StoredArray:
    if isinstance(content["dtype"], list):
        raise ValueError("voxels of several fields")
    metadata = parsed(ArrayV2, content, url)
    packing = metadata.compressor
    # xarray's way to name the axes of Zarr v2; attributes are anyone's.
    names = attributes.get("_ARRAY_DIMENSIONS")
    separator = metadata.dimension_separator or "."  # v2's default
    is_blosc = packing is not None and packing.id == "blosc"
    return StoredArray(
        format="Zarr v2",
        spec={"driver": "zarr"},
        shape=metadata.shape,
        chunks=metadata.chunks,
        objects=metadata.chunks,
        dtype=np.dtype(metadata.dtype).name,
        axes=tuple(str(n).lower() for n in names) if isinstance(names, list) else (),
        tags={
            "compression": (packing.cname or packing.id) if packing else "none",
            "separator": separator,
        },
        blosc=BloscObjects(edges=metadata.chunks, separator=separator)
        if is_blosc
        else None,
    )


def _array_v3(content: Mapping[str, Any], url: str) -> StoredArray:
    node = parsed(ArrayV3, content, url)
    objects = node.chunk_grid.configuration.chunk_shape
    codecs = node.codecs
    sharding = next((c for c in codecs if c.name == "sharding_indexed"), None)
    chunks = objects
    if sharding is not None:
        inner = parsed(Sharding, sharding.configuration, url)
        chunks, codecs = inner.chunk_shape, inner.codecs
    known = ("bytes", "transpose", "crc32c")
    compression = [c.name for c in codecs if c.name not in known]
    key = node.chunk_key_encoding
    stated = key.configuration and key.configuration.separator
    # Defaults of the two encodings (Zarr v3, chunk key encodings).
    separator = stated or ("." if key.name == "v2" else "/")
    names = node.dimension_names or ()
    tags = {
        "compression": ", ".join(compression) or "none",
        "key": key.name,
        "separator": separator,
    }
    blosc = None
    # Of chunks in a shard it is not at the beginning of an object.
    if _begins_with_blosc(node.codecs):
        head = f"c{separator}" if key.name == "default" else ""
        blosc = BloscObjects(edges=objects, head=head, separator=separator)
    return StoredArray(
        format="Zarr v3",
        spec={"driver": "zarr3"},
        shape=node.shape,
        chunks=chunks,
        objects=objects,
        dtype=np.dtype(node.data_type).name,
        axes=tuple(str(n).lower() for n in names) if all(names) else (),  # may be null
        tags=tags,
        blosc=blosc,
    )


def _begins_with_blosc(codecs: Sequence[Codec]) -> bool:
    """Whether Blosc packed last; ValueError where its header is packed again."""
    names = [codec.name for codec in codecs]
    if "blosc" not in names:
        return False
    after = names[names.index("blosc") + 1 :]
    # A checksum stands at the end.
    if set(after) - {"crc32c"}:
        raise ValueError(f"{', '.join(after)} after blosc, expected blosc last")
    return True
