"""Writes Zarr v2 and N5, chunk by chunk, as the public buckets hold them."""

import gzip
import json
import struct
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from em_platform.model import JsonObject

Attributes: TypeAlias = JsonObject


class Compressor(TypedDict, total=False):
    """As numcodecs words it: zstd has a level, blosc the rest."""

    id: str
    level: int
    blocksize: int
    clevel: int
    cname: str
    shuffle: int


ZSTD: Compressor = {"id": "zstd", "level": 1}
BLOSC: Compressor = {
    "blocksize": 0,
    "clevel": 5,
    "cname": "lz4",
    "id": "blosc",
    "shuffle": 1,
}
"""Compressors by which the public Zarrs are written, as numcodecs words them."""


def write_json(path: Path, value: Any) -> None:
    """Write JSON as the stores have it: indented, one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=4))


def write_zarr_group(folder: Path, attributes: Attributes | None = None) -> None:
    """A Zarr v2 group."""
    write_json(folder / ".zgroup", {"zarr_format": 2})
    if attributes is not None:
        write_json(folder / ".zattrs", attributes)


class Readable(Protocol):
    """An array, or what gives its boxes as an array does."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all of it."""
        ...

    @property
    def dtype(self) -> Any:
        """As numpy knows it, or its name."""
        ...

    def __getitem__(self, box: Any) -> Any: ...


def write_zarr_array(
    folder: Path,
    voxels: Readable,
    *,
    chunks: Sequence[int],
    compressor: Compressor,
    attributes: Attributes | None = None,
) -> None:
    """A Zarr v2 array with "/" between the numbers of a chunk.

    `compressor` is `ZSTD` or `BLOSC`; chunks at the far end are filled up.
    """
    kind = np.dtype(voxels.dtype)
    write_json(
        folder / ".zarray",
        {
            "chunks": list(chunks),
            "compressor": compressor,
            "dimension_separator": "/",
            "dtype": kind.str,
            "fill_value": 0,
            "filters": None,
            "order": "C",
            "shape": list(voxels.shape),
            "zarr_format": 2,
        },
    )
    if attributes is not None:
        write_json(folder / ".zattrs", attributes)
    for place, part in _chunks(voxels, chunks):
        # Zarr's chunks are all of one size; N5's end where the array ends.
        full = np.zeros(tuple(chunks), kind)
        full[tuple(slice(0, length) for length in part.shape)] = part
        path = folder.joinpath(*(str(each) for each in place))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_encoded(full, compressor))


def consolidate(root: Path) -> None:
    """Write `.zmetadata` of all groups and arrays below `root`."""
    found = (p for p in root.rglob("*") if p.name in (".zgroup", ".zarray", ".zattrs"))
    metadata = {
        path.relative_to(root).as_posix(): json.loads(path.read_text())
        # Sorted: the same tree gives the same bytes.
        for path in sorted(found)
    }
    write_json(
        root / ".zmetadata", {"metadata": metadata, "zarr_consolidated_format": 1}
    )


def write_n5_array(
    folder: Path,
    voxels: NDArray[Any],
    *,
    block: Sequence[int],
    attributes: Attributes | None = None,
) -> None:
    """An N5 dataset, gzip. `voxels` and `block` are z, y, x; N5 has x first.

    A block is as large as what is in it; values are big-endian, x fastest.
    """
    write_json(
        folder / "attributes.json",
        {
            "dataType": voxels.dtype.name,
            "compression": {"type": "gzip", "level": 1},
            "blockSize": list(block[::-1]),
            "dimensions": list(voxels.shape[::-1]),
            **(attributes or {}),
        },
    )
    big = voxels.dtype.newbyteorder(">")
    for place, part in _chunks(voxels, block):
        # Mode 0, three axes and their lengths: a block's head in N5's specification.
        head = struct.pack(">HH3I", 0, 3, *part.shape[::-1])
        # Without the time of day: a store made again has the same bytes.
        packed = gzip.compress(part.astype(big).tobytes(), compresslevel=1, mtime=0)
        path = folder.joinpath(*(str(each) for each in place[::-1]))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(head + packed)


def halved_by_slabs(voxels: Readable, *, planes: int = 16) -> NDArray[Any]:
    """`halved` by 2 along z, y, x, of which only some planes are read at once."""
    depth, height, width = voxels.shape
    found = np.empty((depth // 2, height // 2, width // 2), voxels.dtype)
    # An odd last plane fills no block; even slabs divide none.
    for z in range(0, depth - 1, planes):
        slab = voxels[z : min(z + planes, depth), 0:height, 0:width]
        half = halved(slab, (2, 2, 2))
        found[z // 2 : z // 2 + len(half)] = half
    return found


def halved(voxels: NDArray[Any], factors: Sequence[int]) -> NDArray[Any]:
    """Means of blocks, rounded down; what does not fill a block is left out."""
    trimmed = voxels[
        tuple(
            slice(0, length // factor * factor)
            for length, factor in zip(voxels.shape, factors, strict=True)
        )
    ]
    # More than 16 bits: the sum of eight 16-bit values has 19.
    total = np.zeros(
        [n // f for n, f in zip(trimmed.shape, factors, strict=True)], "i8"
    )
    # By strided sums: `mean` would make floats of the whole volume.
    for corner in product(*(range(factor) for factor in factors)):
        step = tuple(
            slice(first, None, factor)
            for first, factor in zip(corner, factors, strict=True)
        )
        total += trimmed[step]
    return (total // int(np.prod(factors))).astype(voxels.dtype)


def _encoded(chunk: NDArray[Any], compressor: Compressor) -> bytes:
    import imagecodecs

    if compressor["id"] == "zstd":
        return bytes(
            imagecodecs.zstd_encode(chunk.tobytes(), level=compressor["level"])
        )
    return bytes(
        imagecodecs.blosc_encode(
            chunk.tobytes(),
            level=compressor["clevel"],
            compressor=compressor["cname"],
            shuffle=compressor["shuffle"],
            typesize=chunk.dtype.itemsize,
        )
    )


def _chunks(
    voxels: Readable, chunks: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], NDArray[Any]]]:
    counts = [-(-n // c) for n, c in zip(voxels.shape, chunks, strict=True)]
    for place in product(*(range(count) for count in counts)):
        corner = tuple(
            slice(number * edge, (number + 1) * edge)
            for number, edge in zip(place, chunks, strict=True)
        )
        yield place, voxels[corner]
