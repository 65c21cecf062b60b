"""A data instance of DVID and its streamed blocks; its x, y, z becomes z, y, x here."""

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats import jpeg_size, nm_of, unzip_to_limit
from em_platform.ingest.dvid_labels import decode_label_block
from em_platform.ingest.http_answers import Answer, Cut

Three = tuple[int, int, int]
Box = tuple[Three, Three]
"""Corner and shape, z, y, x."""

MOST_BLOCK_VOXELS = 256**3
"""Larger streams of blocks make DVID serve one request at a time."""
_LABELS = {"labelmap", "labelarray"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DvidInstance:
    """One volume of DVID; `low` is its first voxel, `high` the first one behind it.

    `jpeg` says whether its blocks are kept as JPEG, `proxied` whether they come from
    another store, so that boxes of voxels cannot be had.
    """

    name: str
    type_name: str
    dtype: str
    low: Three
    high: Three
    block_shape: Three
    voxel_size_nm: tuple[float, float, float] | None
    jpeg: bool
    proxied: bool
    background: int = 0
    """Each byte of a voxel that was never written."""

    @property
    def is_labels(self) -> bool:
        """Whether its blocks are DVID's compressed label blocks."""
        return self.type_name in _LABELS

    @property
    def shape(self) -> Three:
        """How many voxels along z, y, x."""
        z, y, x = (b - a for a, b in zip(self.low, self.high, strict=True))
        return z, y, x

    @property
    def most_block_bytes(self) -> int:
        """What one block can have, with its head; labels may be longer than voxels."""
        return 2 * math.prod(self.block_shape) * np.dtype(self.dtype).itemsize + 4096

    def nothing(self, shape: Three) -> NDArray[Any]:
        """Voxels that were never written."""
        found = np.empty(shape, self.dtype)
        # DVID's Background is one byte, also of types with more.
        found.view(np.uint8)[...] = self.background
        return found

    def holds(self, corner: Three, shape: Three) -> bool:
        """Whether a box is within."""
        return all(
            low <= c and c + n <= high
            for low, c, n, high in zip(self.low, corner, shape, self.high, strict=True)
        )


def parse_info(info: Any, *, who: str, url: str) -> DvidInstance:
    """The instance that `/info` tells of.

    Raises
    ------
    FormatError
        It is not what DVID answers for a volume of voxels, or the volume is empty.
    """
    try:
        return _parsed(info)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise FormatError(
            f"{who}: {url} tells of no volume of voxels ({error!r}); expected DVID's "
            f"Base and Extended with Values, BlockSize, MinPoint and MaxPoint; name an "
            f"image or label instance in ingest.{who}",
            url=url,
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class DvidVersion:
    """One version of a repository; one that is not `locked` may still change.

    `changed` is another text after each change of the repository.
    """

    uuid: str
    alias: str
    locked: bool
    changed: str


def parse_version(repo: Any, uuid: str, *, who: str, url: str) -> DvidVersion:
    """The version that a UUID, or its first letters, means in `/api/repo/.../info`.

    Raises
    ------
    FormatError
        It is not what DVID answers for a repository.
    """
    try:
        nodes = repo["DAG"]["Nodes"]
        # Unpacking fails where the letters fit no version, or several.
        (full,) = [each for each in nodes if each.startswith(uuid.partition(":")[0])]
        node = nodes[full]
        # `uuid:branch` is the newest version of a branch, another one tomorrow.
        moves = ":" in uuid
        return DvidVersion(
            uuid=uuid if moves else full,
            alias=str(repo.get("Alias") or ""),
            locked=bool(node["Locked"]) and not moves,
            changed=f"{repo.get('MutationID', 0)} {repo.get('Updated', '')}".strip(),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"{who}: {url} does not tell of version {uuid} ({error!r}), expected "
            f"DVID's DAG with its Nodes; check ingest.{who}.uuid",
            url=url,
        ) from error


def _parsed(info: Answer) -> DvidInstance:
    base, extended = info["Base"], info["Extended"]
    values = extended["Values"]
    # Several values a voxel are colours: no grey levels and no labels.
    if len(values) != 1:
        raise ValueError(f"{len(values)} values a voxel")
    extents = info.get("Extents") or extended
    units = {*extended.get("VoxelUnits", [])}
    # One unit for all axes: no size is better than a wrong one.
    unit = units.pop() if len(units) == 1 else ""
    sizes = [nm_of(float(n), unit) for n in extended.get("VoxelSize", [])]
    lengths = tuple(n for n in reversed(sizes) if n is not None)
    high_z, high_y, high_x = _zyx(extents["MaxPoint"])
    block = _zyx(extended["BlockSize"])
    if min(block) < 1 or math.prod(block) > MOST_BLOCK_VOXELS:
        raise ValueError(f"blocks of {block} voxels")
    return DvidInstance(
        name=str(base["Name"]),
        type_name=str(base["TypeName"]),
        dtype=np.dtype(values[0]["DataType"]).name,
        low=_zyx(extents["MinPoint"]),
        # MaxPoint is the last voxel itself.
        high=(high_z + 1, high_y + 1, high_x + 1),
        block_shape=block,
        voxel_size_nm=(lengths[0], lengths[1], lengths[2])
        if len(lengths) == 3
        else None,
        jpeg=str(base.get("Compression", "")).lower().startswith("jpeg"),
        proxied=bool(extended.get("GridStore")),
        background=int(extended.get("Background") or 0),
    )


def _zyx(point: Any) -> Three:
    x, y, z = (int(n) for n in point)
    return z, y, x


def aligned(box: Box, block: Three) -> Box:
    """The smallest box of whole blocks around a box."""
    corner, shape = box
    low = [c // edge * edge for c, edge in zip(corner, block, strict=True)]
    high = [
        # -(-a // b) rounds up, exactly for integers of any size.
        -(-(c + n) // edge) * edge
        for c, n, edge in zip(corner, shape, block, strict=True)
    ]
    sizes = [b - a for a, b in zip(low, high, strict=True)]
    return (low[0], low[1], low[2]), (sizes[0], sizes[1], sizes[2])


def blocks_of(box: Box, block: Three) -> Iterator[Three]:
    """The places (z, y, x, in blocks) of a box of whole blocks, x fastest."""
    ranges = [
        range(c // edge, (c + n) // edge)
        for c, n, edge in zip(box[0], box[1], block, strict=True)
    ]
    return ((z, y, x) for z in ranges[0] for y in ranges[1] for x in ranges[2])


def parts(box: Box, *, block: Three, most_voxels: int) -> Iterator[Box]:
    """The box in parts of at most `most_voxels`, halved at the edges of blocks.

    Only what is larger within one block is cut within it.
    """
    corner, shape = box
    if shape[0] * shape[1] * shape[2] <= most_voxels:
        yield box
        return
    axis, cut = _cut(corner, shape, block)
    first, rest, after = list(shape), list(shape), list(corner)
    first[axis] = cut - corner[axis]
    rest[axis] -= first[axis]
    after[axis] = cut
    for half in ((corner, tuple(first)), (tuple(after), tuple(rest))):
        # mypy sees no length in tuple(list).
        yield from parts(half, block=block, most_voxels=most_voxels)  # type: ignore[arg-type]


def _cut(corner: Three, shape: Three, block: Three) -> tuple[int, int]:
    """The axis and the coordinate at which to halve a box."""
    # z first: the halves of the slowest axis are contiguous in memory.
    for axis, (c, n, edge) in enumerate(zip(corner, shape, block, strict=True)):
        middle = round((c + n / 2) / edge) * edge
        if c < middle < c + n:
            return axis, middle
        # A block's edge may lie within, but not near the middle.
        nearest = -(-(c + 1) // edge) * edge
        if nearest < c + n:
            return axis, nearest
    axis = int(np.argmax(shape))
    return axis, corner[axis] + shape[axis] // 2


# x, y, z and length of each block: DVID writes little-endian int32 (datatype/imageblk).
_HEAD = struct.Struct("<4i")


def blocks_in(content: bytes) -> Iterator[tuple[Three, memoryview]]:
    """The place (z, y, x, in blocks) and the bytes of each block, in their order.

    Raises
    ------
    Cut
        The stream ends within a block, or is none.
    """
    at = 0
    while at < len(content):
        if at + _HEAD.size > len(content):
            raise Cut(f"the blocks end within a head, after {len(content)} bytes")
        x, y, z, length = _HEAD.unpack_from(content, at)
        at += _HEAD.size
        # Signed: a negative length would lead back and never end.
        if not 0 <= length <= len(content) - at:
            raise Cut(
                f"block {x},{y},{z} states {length} bytes, {len(content) - at} came"
            )
        # A view, not a copy: an answer may hold 256³ voxels.
        yield (z, y, x), memoryview(content)[at : at + length]
        at += length


def decoded(
    place: Three, payload: memoryview, *, instance: DvidInstance, encoding: str
) -> NDArray[Any]:
    """The voxels of a block, `(z, y, x)`; smaller at the edge of a proxied volume.

    `encoding` is `uncompressed`, `jpeg`, or `blocks`: gzip of a compressed label block.

    Raises
    ------
    Cut
        The bytes are no such block; another try may bring the right ones.
    """
    if encoding == "blocks":
        return _labels(place, payload, instance)
    if encoding == "jpeg":
        voxels = _picture(place, payload, instance)
    else:
        voxels = np.frombuffer(payload, np.dtype(instance.dtype).newbyteorder("<"))
    for shape in _shapes(place, instance):
        if voxels.size == shape[0] * shape[1] * shape[2]:
            return voxels.reshape(shape)
    raise Cut(f"block {_named(place)} has {voxels.size} voxels")


def _shapes(place: Three, instance: DvidInstance) -> Iterator[Three]:
    """What a block there may measure; proxied chunks end where the volume ends."""
    yield instance.block_shape
    if instance.proxied:
        z, y, x = (
            min(edge, high - at * edge)
            for at, edge, high in zip(
                place, instance.block_shape, instance.high, strict=True
            )
        )
        yield z, y, x


def _picture(place: Three, payload: memoryview, instance: DvidInstance) -> NDArray[Any]:
    import imagecodecs

    content = bytes(payload)
    try:
        height, width = jpeg_size(content, uri=f"block {_named(place)}")
        # Before memory is taken: the length of a block says nothing of its pixels.
        if height * width > math.prod(instance.block_shape):
            raise Cut(f"block {_named(place)} has {height} x {width} pixels")
        # A JPEG is flat: the planes of a block stand in it one below the other.
        return np.asarray(imagecodecs.jpeg_decode(content)).ravel()
    except (RuntimeError, ValueError, FormatError) as error:
        raise Cut(f"block {_named(place)} is no JPEG: {error}") from error


def _labels(
    place: Three, payload: memoryview, instance: DvidInstance
) -> NDArray[np.uint64]:
    try:
        most_bytes = instance.most_block_bytes
        content = unzip_to_limit(bytes(payload), most_bytes=most_bytes)
        if content is None:
            raise Cut(f"block {_named(place)} unpacks to more than {most_bytes} bytes")
        labels = decode_label_block(content, who=f"block {_named(place)}")
    except (OSError, EOFError, zlib.error, FormatError) as error:
        raise Cut(f"block {_named(place)} is no label block: {error}") from error
    if labels.shape != instance.block_shape:
        raise Cut(f"block {_named(place)} has shape {labels.shape}")
    return labels


def _named(place: Three) -> str:
    """As DVID names it."""
    return ",".join(str(n) for n in reversed(place))
