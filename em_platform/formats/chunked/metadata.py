"""Metadata of chunked formats as anyone may have written them, checked once.

What passes here has the types, lengths and finite numbers that the readers work with;
fields that none of them needs are not looked at.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from em_platform.formats.chunked.arrays import broken
from em_platform.model.base import Foreign, first_problem

_MOST_AXES = 5
_MOST_LEVELS = 100

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
Xyz = tuple[Number, Number, Number]
_Whole = Annotated[int, Field(gt=-(2**62), lt=2**62)]
_Length = Annotated[int, Field(ge=1, lt=2**62)]
_Bits = Annotated[int, Field(ge=0, le=64)]
PlaceXyz = tuple[_Whole, _Whole, _Whole]
LengthXyz = tuple[_Length, _Length, _Length]
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
        tuple[Dataset, ...], Field(min_length=1, max_length=_MOST_LEVELS)
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
    scales: Annotated[tuple[Numbers, ...], Field(max_length=_MOST_LEVELS)] | None = None
    multiscales: tuple[Multiscale, ...] | None = None


class N5Array(N5Space):
    """The attributes of an N5 array."""

    dimensions: Shape
    block_size: Edges = Field(alias="blockSize")
    data_type: Text = Field(alias="dataType")
    compression: Compressor | Text | None = None
    compression_type: Text = Field("none", alias="compressionType")


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
    size: LengthXyz
    resolution: Xyz
    chunk_sizes: Annotated[tuple[LengthXyz, ...], Field(min_length=1)]
    encoding: Text
    voxel_offset: PlaceXyz | None = None
    sharding: ShardingSpec | None = None


class Info(Foreign):
    """An `info` of a precomputed volume."""

    scales: Annotated[tuple[Scale, ...], Field(min_length=1, max_length=_MOST_LEVELS)]
    data_type: Text
    num_channels: int = Field(1, ge=1, lt=2**20)
    type: Text = "image"


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
