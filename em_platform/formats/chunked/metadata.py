"""What the metadata of a chunked format say of an image and of its arrays.

Anyone may have written them: they are checked once. What passes here has the types,
lengths and finite numbers that the readers work with; fields that none of them needs
are not looked at.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import Field, ValidationError

from em_platform.errors import FormatError
from em_platform.formats.header_values import nm_of, rounded
from em_platform.model import Review
from em_platform.model.base import Foreign, first_problem

# Where no source limits the memory: half of what the usual codecs take at once.
_MOST_CHUNK_BYTES = 1 << 30

Zyx = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level of a pyramid: where it lies in its group, and in space.

    `axes` are names in the order of storage, empty where nobody says; `origin_nm` is
    the centre of the first voxel.
    """

    path: str
    axes: tuple[str, ...] = ()
    voxel_size_nm: Zyx | None = None
    origin_nm: Zyx = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """The levels of a group, finest first."""

    format: str
    levels: tuple[Level, ...]
    name: str = ""
    tags: Mapping[str, Any] = field(default_factory=dict)


_INDEX_BYTES = 16  # of each chunk in the index of a shard (Zarr v3, sharding)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredArray:
    """One array as it is stored; all tuples in the order of its own axes.

    `chunks` is what is compressed at once, `objects` what one object in the store
    holds (a shard, else a chunk). `spec` is tensorstore's, without `kvstore`.
    """

    format: str
    spec: Mapping[str, Any]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    objects: tuple[int, ...]
    dtype: str
    axes: tuple[str, ...]
    tags: Mapping[str, str] = field(default_factory=dict)
    level: Level | None = None
    """What the array itself says of its place in space."""
    folder: str = ""
    """Where its objects lie below its metadata."""
    offset: tuple[int, ...] = ()
    """The number of the first voxel, where names of objects count from it."""
    sharding: Mapping[str, Any] | None = None
    """How a precomputed volume finds a chunk's shard."""

    @property
    def most_bytes(self) -> int:
        """Of one object as it is packed: of noise, codecs make a little more."""
        pixels = math.prod(self.objects) * np.dtype(self.dtype).itemsize
        chunks = math.prod(self.objects) // max(1, math.prod(self.chunks))
        return 2 * (pixels + chunks * _INDEX_BYTES) + (1 << 20)


def space(
    axes: Sequence[str], values: Sequence[float], units: Sequence[str]
) -> tuple[Zyx | None, Zyx]:
    """Lengths along z, y, x in nm from values along named axes.

    Returns
    -------
    tuple[Zyx | None, Zyx]
        As edges of a voxel, None where a unit is no length, 0 where an axis is absent;
        and as a place, where all numbers are allowed.
    """
    edges: list[float | None] = []
    places: list[float] = []
    for name in "zyx":
        if name not in axes:
            edges.append(0.0)
            places.append(0.0)
            continue
        at = list(axes).index(name)
        if at >= min(len(values), len(units)):
            raise ValueError(f"no number or unit for the axis {name}")
        # An axis that is turned around has a negative scale.
        edges.append(nm_of(abs(float(values[at])), units[at]))
        # By a factor, as places may be 0 or negative, which are no lengths.
        factor = nm_of(1.0, units[at]) or 0.0
        places.append(rounded(float(values[at]) * factor))
    z, y, x = edges
    known = None if z is None or y is None or x is None else (z, y, x)
    return known, (places[0], places[1], places[2])


def plane_or_space(edges: Zyx | None) -> Zyx | None:
    """Edges of a voxel, None where only the absent axes were known."""
    return None if edges is None or not any(edges) else edges


def check_chunks(
    array: StoredArray, *, url: str, memory_limit_mb: float | None = None
) -> None:
    """Refuse chunks that are none, or that would fill the memory.

    One voxel costs the whole chunk that it is in: a chunk may have a quarter of
    `memory_limit_mb`, as it is unpacked and copied beside others.

    Raises
    ------
    FormatError
        An edge is below 1, or a chunk has more bytes.
    """
    for edges in (array.chunks, array.objects):
        if len(edges) != len(array.shape) or min(edges, default=1) < 1:
            raise broken(url, f"chunks of {edges} for a shape of {array.shape}")
    if memory_limit_mb is None:
        most_bytes = _MOST_CHUNK_BYTES
    else:
        most_bytes = int(memory_limit_mb * 2**20) // 4
    chunk_bytes = math.prod(array.chunks) * np.dtype(array.dtype).itemsize
    if chunk_bytes > most_bytes:
        raise FormatError(
            f"chunks: {url} has chunks of {array.chunks} voxels ({chunk_bytes} bytes), "
            f"expected at most {most_bytes}, a quarter of the memory; raise the "
            "source's memory_limit_mb or write it with smaller chunks",
            url=url,
        )


def broken(url: str, found: str) -> FormatError:
    """The error for metadata that do not say what they must."""
    return FormatError(
        f"chunks: the metadata of {url} cannot be used ({found}); fetch them again or "
        "report it to who made them",
        url=url,
    )


_MOST_AXES = 5
MOST_LEVELS = 100

# Far beyond any microscope; products of two of them are still numbers.
Number = Annotated[float, Field(gt=-1e15, lt=1e15)]
Numbers = Annotated[tuple[Number, ...], Field(max_length=_MOST_AXES)]
Shape = Annotated[
    tuple[Annotated[int, Field(ge=0, lt=2**62)], ...],
    Field(min_length=2, max_length=_MOST_AXES),
]
Edges = Annotated[
    tuple[Annotated[int, Field(ge=1, lt=2**62)], ...],
    Field(min_length=2, max_length=_MOST_AXES),
]
Text = Annotated[str, Field(max_length=1000)]


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

    axes: Annotated[tuple[Axis | Text, ...], Field(max_length=_MOST_AXES)] | None = None
    datasets: Annotated[
        tuple[Dataset, ...], Field(min_length=1, max_length=MOST_LEVELS)
    ]
    steps: tuple[Step, ...] | None = Field(None, alias="coordinateTransformations")
    name: Text | None = None
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


Kind = TypeVar("Kind", bound=Foreign)


def parsed(kind: type[Kind], content: Any, url: str) -> Kind:
    """The content as a model.

    Raises
    ------
    FormatError
        It is not; the sentence names the first field that is wrong.
    """
    try:
        return kind.model_validate(content)
    except (ValidationError, RecursionError) as error:
        raise broken(url, first_problem(error)) from error


OURS = "em_platform"
"""Where a group of ours says more than OME-NGFF does."""


def review_in(attributes: Mapping[str, Any]) -> Review | None:
    """The review in a group's attributes; None where there is none that we know."""
    ours = attributes.get(OURS)
    found = ours.get("review") if isinstance(ours, Mapping) else None
    try:
        return Review.model_validate(found)
    except ValueError:  # not ours, or of a version to come: it says nothing to us
        return None
