"""A data instance of DVID: its blocks of voxels as kept and sent, and its JSON."""

import gzip
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from em_platform.model import Json, JsonObject
from em_platform.standins.messages import Response, as_bytes, as_text

# DVID's own: blocks of 64, in compressed labels divided into 8 (labels/compressed.go).
BLOCK_PX = 64
SUBBLOCK_PX = 8
JPEG_QUALITY = 80
"""DVID's own (`DefaultJPEGQuality`)."""

Place = tuple[int, int, int]
_WHOLE: Place = (BLOCK_PX, BLOCK_PX, BLOCK_PX)


class Grid(Protocol):
    """Voxels of which any part can be had; axes z, y, x."""

    @property
    def shape(self) -> Place:
        """How many there are."""
        ...

    @property
    def dtype(self) -> str:
        """Of a voxel, in numpy's words."""
        ...

    def read(self, corner: Place, shape: Place) -> NDArray[Any]:
        """Those of a box within."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One data instance: `voxels` whose first one is at `origin` (z, y, x).

    `absent` are blocks `(x, y, z)` that were never written. With a `grid_store` it
    passes on the JPEG chunks of a precomputed volume, which end where the volume ends.
    """

    name: str
    voxels: Grid
    origin: Place = (0, 0, 0)
    stored: Literal["lz4", "jpeg"] = "lz4"
    grid_store: str = ""
    absent: frozenset[Place] = frozenset()
    voxel_size_nm: tuple[float, float, float] = (8.0, 8.0, 8.0)
    background: int = 0

    @property
    def is_labels(self) -> bool:
        """Whether it is a labelmap."""
        return self.voxels.dtype == "uint64"

    @property
    def is_lossy(self) -> bool:
        """Whether what it holds went through JPEG."""
        return self.stored == "jpeg" or bool(self.grid_store)

    @property
    def end(self) -> Place:
        """The first z, y and x behind the last voxel."""
        z, y, x = (o + n for o, n in zip(self.origin, self.voxels.shape, strict=True))
        return z, y, x

    def cut(self, corner: Place, shape: Place) -> NDArray[Any]:
        """What the instance holds there, `(z, y, x)`; background elsewhere."""
        # Else by blocks: what JPEG changed, or nobody wrote, is so in every answer.
        if not (self.is_lossy or self.absent):
            return self._as_given(corner, shape)
        found = np.full(shape, self.background, self.voxels.dtype)
        for block in blocks_of(corner, shape):
            if (stored := self.block(block)) is None:
                continue
            at = _corner(block)
            low = [max(a, c) for a, c in zip(at, corner, strict=True)]
            high = [
                min(a + h, c + s)
                for a, h, c, s in zip(at, stored.shape, corner, shape, strict=True)
            ]
            if all(a < b for a, b in zip(low, high, strict=True)):
                found[_within(low, high, corner)] = stored[_within(low, high, at)]
        return found

    def block(self, place: Place) -> NDArray[Any] | None:
        """The voxels `(z, y, x)` of a block `(x, y, z)`; None where there is none."""
        if self.is_lossy:
            picture = self.jpeg(place)
            return None if picture is None else from_jpeg(picture, self._shape(place))
        return self._as_given(_corner(place), _WHOLE) if self._has(place) else None

    def jpeg(self, place: Place) -> bytes | None:
        """A block as JPEG."""
        if not self._has(place):
            return None
        return to_jpeg(self._as_given(_corner(place), self._shape(place)))

    def _has(self, place: Place) -> bool:
        corner = _corner(place)
        box = zip(corner, self.origin, self.end, strict=True)
        inside = all(c < end and c + BLOCK_PX > start for c, start, end in box)
        return inside and place not in self.absent

    def _shape(self, place: Place) -> Place:
        if not self.grid_store:
            return _WHOLE
        z, y, x = (
            min(BLOCK_PX, end - c)
            for c, end in zip(_corner(place), self.end, strict=True)
        )
        return z, y, x

    def _as_given(self, corner: Place, shape: Place) -> NDArray[Any]:
        found = np.full(shape, self.background, self.voxels.dtype)
        low = [max(a, b) for a, b in zip(corner, self.origin, strict=True)]
        high = [min(a + n, b) for a, n, b in zip(corner, shape, self.end, strict=True)]
        if all(a < b for a, b in zip(low, high, strict=True)):
            z, y, x = (a - o for a, o in zip(low, self.origin, strict=True))
            dz, dy, dx = (b - a for a, b in zip(low, high, strict=True))
            inside = self.voxels.read((z, y, x), (dz, dy, dx))
            found[_within(low, high, corner)] = inside
        return found


def _corner(place: Place) -> Place:
    """Where a block `(x, y, z)` begins, as z, y, x."""
    return place[2] * BLOCK_PX, place[1] * BLOCK_PX, place[0] * BLOCK_PX


def _within(low: list[int], high: list[int], corner: Any) -> tuple[slice, ...]:
    return tuple(slice(a - c, b - c) for a, b, c in zip(low, high, corner, strict=True))


def blocks_of(corner: Place, shape: Place) -> Iterator[Place]:
    """The blocks `(x, y, z)` that a box `(z, y, x)` touches, x fastest."""
    first = [c // BLOCK_PX for c in corner]
    last = [(c + n - 1) // BLOCK_PX for c, n in zip(corner, shape, strict=True)]
    for z in range(first[0], last[0] + 1):
        for y in range(first[1], last[1] + 1):
            for x in range(first[2], last[2] + 1):
                yield x, y, z


def framed(place: Place, payload: bytes) -> bytes:
    """A block in a stream: x, y, z, number of bytes as little-endian int32, bytes."""
    return struct.pack("<4i", *place, len(payload)) + payload


def to_jpeg(voxels: NDArray[Any]) -> bytes:
    """Grey voxels `(z, y, x)` as one picture, all planes below each other."""
    import imagecodecs

    picture = voxels.reshape(-1, voxels.shape[2])
    return bytes(imagecodecs.jpeg_encode(picture, level=JPEG_QUALITY))


def from_jpeg(content: bytes, shape: tuple[int, ...]) -> NDArray[Any]:
    """The voxels of `to_jpeg`, as JPEG left them."""
    import imagecodecs

    return np.asarray(imagecodecs.jpeg_decode(content)).reshape(shape)


def to_lz4(content: bytes) -> bytes:
    """LZ4 behind the number of bytes, as DVID keeps it."""
    import imagecodecs

    return struct.pack("<I", len(content)) + bytes(imagecodecs.lz4_encode(content))


def to_label_block(labels: NDArray[np.uint64]) -> bytes:
    """DVID's compressed block of labels `(z, y, x)`, edges multiples of 8."""
    grid = [n // SUBBLOCK_PX for n in labels.shape]
    # By value; DVID lists them as it meets them, which no reader can tell.
    found = np.unique(labels)
    head = (
        struct.pack("<4I", *reversed(grid), len(found)) + found.astype("<u8").tobytes()
    )
    # DVID writes no more for a block of one label.
    if len(found) == 1:
        return head
    numbers, places, values = [], [], []
    e = SUBBLOCK_PX
    cells = labels.reshape(grid[0], e, grid[1], e, grid[2], e)
    # One sub-block after the other, x fastest, and so in each its voxels.
    for cell in cells.transpose(0, 2, 4, 1, 3, 5).reshape(-1, e**3):
        own, chosen = np.unique(cell, return_inverse=True)
        numbers.append(len(own))
        places.append(np.searchsorted(found, own))
        # A sub-block of one label takes no bits at all.
        width = (len(own) - 1).bit_length()
        # The highest bit first, as DVID packs them.
        bits = chosen[:, None] >> np.arange(width - 1, -1, -1) & 1
        values.append(np.packbits(bits.astype(np.uint8).ravel()).tobytes())
    return b"".join(
        (
            head,
            np.array(numbers, "<u2").tobytes(),
            np.concatenate(places).astype("<u4").tobytes(),
            *values,
        )
    )


def payload_of(instance: Instance, place: Place, *, compression: str) -> bytes | None:
    """A block as a stream carries it; None where there is none.

    Raises
    ------
    ValueError
        It is not kept in a way that can be sent so.
    """
    stored = instance.block(place)
    if stored is None:
        return None
    if instance.is_labels:
        return _payload_of_labels(stored, compression)
    if compression == "uncompressed":
        return stored.tobytes()
    if instance.is_lossy:
        return instance.jpeg(place)
    if compression == "jpeg":
        raise ValueError(
            "can't encode JPEG: expected internal block data to be JPEG, was "
            "LZ4 compression instead"
        )
    return to_lz4(stored.tobytes())


def _payload_of_labels(labels: NDArray[np.uint64], compression: str) -> bytes:
    import imagecodecs

    if compression == "blocks":
        return gzip.compress(to_label_block(labels), mtime=0)
    raw = labels.astype("<u8").tobytes()
    if compression == "gzip":
        return gzip.compress(raw, mtime=0)
    return raw if compression == "uncompressed" else bytes(imagecodecs.lz4_encode(raw))


# As the public hemibrain answers; the date has nanoseconds, as Go writes it.
DATA_UUID = "be657e3e71c54a4ba6fa2bd9ca0a4fe5"
_CREATED = "2019-01-25T15:02:37.123456789-05:00"


class Refused(Exception):
    """What DVID answers with 400 and its words."""


class Busy(Exception):
    """What DVID answers with 503 and its words."""


def server_json() -> dict[str, str]:
    """`/api/server/info`."""
    return {
        "Cores": "2",
        "Maximum Cores": "2",
        "DVID Version": "1.0-standin",
        "Datastore Version": "0.9",
        "Storage backend": "stand-in",
        "Mode": "read only",
        "Host": "127.0.0.1",
        "Note": "A stand-in: it speaks DVID's protocol and holds one small volume.",
    }


def repos_json(uuid: str, alias: str, instances: Mapping[str, Instance]) -> JsonObject:
    """`/api/repos/info`: the repositories by their root."""
    return {uuid: repo_json(uuid, alias, instances)}


def repo_json(uuid: str, alias: str, instances: Mapping[str, Instance]) -> JsonObject:
    """`/api/repo/{uuid}/info`."""
    stored = {name: instance_json(each, uuid) for name, each in instances.items()}
    node: JsonObject = {
        "Branch": "",
        "Note": "",
        "Log": [],
        "UUID": uuid,
        "VersionID": 1,
        "Locked": True,
        "Parents": [],
        "Children": [],
        "Created": _CREATED,
        "Updated": _CREATED,
    }
    return {
        "Root": uuid,
        "Alias": alias,
        "Description": "Real voxels in a repository of a stand-in",
        "Log": [],
        "Properties": {},
        "DataInstances": stored,
        "DAG": {"Root": uuid, "Nodes": {uuid: node}},
        "MutationID": 0,
        "SavedMutationID": 0,
        "Created": _CREATED,
        "Updated": _CREATED,
    }


def instance_json(instance: Instance, uuid: str) -> JsonObject:
    """`/api/node/{uuid}/{name}/info`; every list is x, y, z."""
    first = list(reversed(instance.origin))
    # Inclusive, as DVID counts.
    last = [n - 1 for n in reversed(instance.end)]
    dtype = instance.voxels.dtype
    kind = "labelmap" if instance.is_labels else f"{dtype}blk"
    source = "labelmap" if instance.is_labels else dtype
    room = "labelmap" if instance.is_labels else "imageblk"
    jpeg = instance.stored == "jpeg"
    extents = {"MinPoint": first, "MaxPoint": last}
    extended: dict[str, Json] = {
        "Values": [{"DataType": dtype, "Label": kind if room == "labelmap" else dtype}],
        "Interpolable": not instance.is_labels,
        "BlockSize": [BLOCK_PX] * 3,
        "VoxelSize": list(reversed(instance.voxel_size_nm)),
        "VoxelUnits": ["nanometers"] * 3,
        **extents,
        "MinIndex": [n // BLOCK_PX for n in first],
        "MaxIndex": [n // BLOCK_PX for n in last],
        "Background": instance.background,
        "GridStore": instance.grid_store,
        "ScaleLevel": 0,
    }
    base: JsonObject = {
        "TypeName": kind,
        "TypeURL": f"github.com/janelia-flyem/dvid/datatype/{room}/{source}.go",
        "TypeVersion": "0.2",
        "DataUUID": DATA_UUID,
        "Name": instance.name,
        "RepoUUID": uuid,
        "Compression": (
            f"jpeg compression, level {BLOCK_PX}"
            if jpeg
            else "LZ4 compression, level -1"
        ),
        "Checksum": "No checksum",
        "Syncs": [],
        "Versioned": True,
        # As the public hemibrain says.
        "KVStore": "google cloud storage, bucket hemibrain-raw-grayscale",
        "LogStore": "no mutation log set",
        "Tags": None,
    }
    if instance.is_labels:
        extended |= {"MaxLabel": {}, "MaxRepoLabel": 0, "MaxDownresLevel": 0}
    return {"Base": base, "Extended": extended, "Extents": extents}


def refuse(status: int, words: str) -> Response:
    """Plain text, as Go's `http.Error` writes it."""
    return as_text(f"{words}\n", status=status)


def numbers(text: str) -> list[int]:
    """`64_64_64` as numbers; Refused where it is none."""
    try:
        return [int(each) for each in text.split("_")]
    except ValueError as error:
        raise Refused(f'strconv.Atoi: parsing "{text}": invalid syntax') from error


def box_of(size: list[int], offset: list[int]) -> tuple[Place, Place]:
    """Corner and shape as z, y, x."""
    if len(size) != 3 or len(offset) != 3:
        raise Refused("must specify 3D subvolumes")
    if min(size) < 1:
        raise Refused(f"Illegal geometry requested: {size}")
    return (offset[2], offset[1], offset[0]), (size[2], size[1], size[0])


def as_picture(voxels: NDArray[Any], format_text: str) -> Response:
    """A plane in the format that is asked for, png or `jpg:80`; else Refused."""
    import imagecodecs

    name, _, quality = format_text.partition(":")
    if name in ("", "png"):
        content = imagecodecs.png_encode(voxels)
        return as_bytes(bytes(content), media_type="image/png")
    if name in ("jpg", "jpeg"):
        # 80 is DVID's `DefaultJPEGQuality`.
        content = imagecodecs.jpeg_encode(voxels, level=int(quality or 80))
        return as_bytes(bytes(content), media_type="image/jpeg")
    raise Refused(f"Illegal image format requested: {name}")
