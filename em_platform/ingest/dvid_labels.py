"""DVID's compressed label blocks: a list of labels, and bits that choose from it.

Janelia's description of the bytes stands in DVID's `datatype/common/labels`, above the
type `Block`. A block is cut into sub-blocks of 8³ voxels, x fastest. Little-endian:

- 3 × uint32: sub-blocks along x, y, z; uint32: number of labels n; n × uint64: labels;
- only where n > 1: a uint16 for each sub-block, the number of its labels; then the
  uint32 places of these labels in the list, sub-block by sub-block; then the voxels of
  each sub-block with more than one label as ⌈log2(number)⌉ bits each, high bit first.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError

_EDGE_PX = 8
_VOXELS = _EDGE_PX**3
_MOST_SUBBLOCKS = 128
"""Along one axis: blocks of 1024 voxels, more than any DVID instance has."""

_HEADER = np.dtype("<u4")


def decode_label_block(content: bytes, *, who: str) -> NDArray[np.uint64]:
    """The labels of one block, `(z, y, x)`, uint64.

    Raises
    ------
    FormatError
        The bytes end too early, or name a label that is not in the list; the sentence
        begins with `who`.
    """
    grid, labels, rest = _head(content, who)
    shape = (grid[0] * _EDGE_PX, grid[1] * _EDGE_PX, grid[2] * _EDGE_PX)
    if len(labels) == 1:
        return np.full(shape, labels[0], np.uint64)
    subblocks = _subblocks(rest, labels, count=grid[0] * grid[1] * grid[2], who=who)
    voxels = subblocks.reshape(*grid, _EDGE_PX, _EDGE_PX, _EDGE_PX)
    # Each axis of the grid beside the same axis inside of a sub-block.
    return np.ascontiguousarray(voxels.transpose(0, 3, 1, 4, 2, 5)).reshape(shape)


def _head(
    content: bytes, who: str
) -> tuple[tuple[int, int, int], NDArray[np.uint64], bytes]:
    """Sub-blocks along z, y, x; the labels; and the bytes behind them."""
    x, y, z, count = (int(n) for n in _take(content, _HEADER, 4, who=who))
    if not all(1 <= n <= _MOST_SUBBLOCKS for n in (x, y, z)) or not count:
        raise FormatError(
            f"{who}: a label block states {x} × {y} × {z} sub-blocks and {count} "
            f"labels, expected 1 to {_MOST_SUBBLOCKS} each way and at least one label; "
            "the bytes are no DVID label block, ask for it again"
        )
    after = content[4 * _HEADER.itemsize :]
    labels = _take(after, np.dtype("<u8"), count, who=who).astype(np.uint64)
    return (z, y, x), labels, after[labels.nbytes :]


def _subblocks(
    content: bytes, labels: NDArray[np.uint64], *, count: int, who: str
) -> NDArray[np.uint64]:
    """The labels of all sub-blocks, `(count, 512)`."""
    numbers = _take(content, np.dtype("<u2"), count, who=who).astype(np.int64)
    content = content[2 * count :]
    places = _take(content, _HEADER, int(numbers.sum()), who=who)
    content = content[4 * len(places) :]
    if len(places) and int(places.max()) >= len(labels):
        raise _beyond(who, int(places.max()), len(labels))
    # ⌈log2 n⌉ in whole numbers.
    widths = np.array([(max(int(n), 1) - 1).bit_length() for n in numbers])
    lengths = widths * (_VOXELS // 8)
    packed = _take(content, np.dtype("u1"), int(lengths.sum()), who=who)
    first_place = np.cumsum(numbers) - numbers
    first_byte = np.cumsum(lengths) - lengths
    # A sub-block without labels stays background.
    voxels = np.zeros((count, _VOXELS), np.uint64)
    # By width, so that numpy decodes all sub-blocks of one width at once.
    for width in np.unique(widths[numbers > 0]):
        here = np.flatnonzero((widths == width) & (numbers > 0))
        chosen = _chosen(packed, first_byte[here], int(width))
        if (over := chosen.max(axis=1) >= numbers[here]).any():
            subblock = here[over][0]
            raise _beyond(who, int(chosen[over][0].max()), int(numbers[subblock]))
        voxels[here] = labels[places[first_place[here][:, None] + chosen]]
    return voxels


def _chosen(
    packed: NDArray[np.uint8], first_byte: NDArray[np.int64], width: int
) -> NDArray[np.int64]:
    """Which of its sub-block's labels each voxel has, `(len(first_byte), 512)`."""
    if not width:
        return np.zeros((len(first_byte), _VOXELS), np.int64)
    length = width * (_VOXELS // 8)
    bits = np.unpackbits(packed[first_byte[:, None] + np.arange(length)], axis=1)
    powers = 1 << np.arange(width - 1, -1, -1)
    chosen: NDArray[np.int64] = bits.reshape(-1, _VOXELS, width) @ powers
    return chosen


def _take(
    content: bytes, dtype: np.dtype[Any], count: int, *, who: str
) -> NDArray[Any]:
    """The first `count` numbers."""
    needed = count * dtype.itemsize
    if len(content) < needed:
        raise FormatError(
            f"{who}: a label block ends {needed - len(content)} bytes too early; "
            "it was cut on its way, ask for it again"
        )
    return np.frombuffer(content, dtype, count)


def _beyond(who: str, place: int, count: int) -> FormatError:
    return FormatError(
        f"{who}: a label block names label {place} of a list of {count}; "
        "its bytes are damaged, ask for it again"
    )
