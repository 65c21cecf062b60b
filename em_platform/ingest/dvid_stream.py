"""The blocks that DVID streams: place, length, bytes, and again."""

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats import decode_label_block
from em_platform.ingest.dvid_instance import DvidInstance, Three
from em_platform.ingest.http_answers import Cut

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
        if not 0 <= length <= len(content) - at:
            raise Cut(
                f"block {x},{y},{z} states {length} bytes, {len(content) - at} came"
            )
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
        voxels = _picture(place, payload)
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


def _picture(place: Three, payload: memoryview) -> NDArray[Any]:
    import imagecodecs

    try:
        return np.asarray(imagecodecs.jpeg_decode(bytes(payload))).ravel()
    except (RuntimeError, ValueError) as error:
        raise Cut(f"block {_named(place)} is no JPEG: {error}") from error


def _labels(
    place: Three, payload: memoryview, instance: DvidInstance
) -> NDArray[np.uint64]:
    try:
        content = zlib.decompress(payload, wbits=zlib.MAX_WBITS | 16)
        labels = decode_label_block(content, who=f"block {_named(place)}")
    except (zlib.error, FormatError) as error:
        raise Cut(f"block {_named(place)} is no label block: {error}") from error
    if labels.shape != instance.block_shape:
        raise Cut(f"block {_named(place)} has shape {labels.shape}")
    return labels


def _named(place: Three) -> str:
    """As DVID names it."""
    return ",".join(str(n) for n in reversed(place))
