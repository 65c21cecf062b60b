"""Reads volumes of a DVID server: whole boxes of voxels, or their blocks.

The protocol is that of Janelia's DVID (`GET /api/help` of any server): coordinates go
over the wire as x, y, z; here they are z, y, x.
"""

import logging
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import requests
from numpy.typing import NDArray

from em_platform.errors import SourceUnavailable
from em_platform.formats import pieces_of
from em_platform.ingest.dvid_instance import (
    MOST_BLOCK_VOXELS,
    Box,
    DvidInstance,
    DvidVersion,
    Three,
    aligned,
    blocks_in,
    blocks_of,
    decoded,
    parse_info,
    parse_version,
    parts,
)
from em_platform.ingest.http_answers import Cut, whole_body
from em_platform.ingest.web import Web

log = logging.getLogger(__name__)

MOST_RAW_BYTES = 3 << 30
"""What DVID's `/raw` gives at most (`MaxDataRequest` in its `server/server.go`)."""
_MOST_BLOCKS_NAMED = 64
"""In one address, which then stays below 2000 letters."""
# A box of up to 3 GiB is unpacked and placed piece by piece, not held twice.
_PIECE_BYTES = 1 << 20
_BUSY = "throttled operations"
"""In DVID's words where `throttle` lets others go first (`ThrottledHTTP`)."""
_TURNS = 20
"""How often all tries of a busy DVID are made: minutes, as its answers take seconds."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dvid:
    """One version of one instance of a DVID server.

    `throttle` lets DVID serve others first; it then answers 503, which is tried again.
    Goes to other processes (pickles).
    """

    web: Web
    url: str
    uuid: str
    name: str
    throttle: bool = True

    @property
    def node_url(self) -> str:
        """The address of the instance."""
        return f"{self.url.rstrip('/')}/api/node/{self.uuid}/{self.name}"

    def info(self) -> Any:
        """What DVID says of the instance, as it came."""
        return self.web.json(f"{self.node_url}/info")

    def instance(self) -> DvidInstance:
        """What DVID says of the instance."""
        return parse_info(self.info(), who=self.web.who, url=f"{self.node_url}/info")

    def version(self) -> DvidVersion:
        """Which version the UUID means, and whether it may still change."""
        url = f"{self.url.rstrip('/')}/api/repo/{self.uuid}/info"
        repo = self.web.json(url)
        return parse_version(repo, self.uuid, who=self.web.who, url=url)

    def raw(
        self, instance: DvidInstance, box: Box, *, most_bytes: int = MOST_RAW_BYTES
    ) -> NDArray[Any]:
        """The voxels of a box, `(z, y, x)`; what was never written is background.

        A box of more than `most_bytes` is asked for in parts that end at blocks.

        Raises
        ------
        SourceUnavailable
            DVID is busy, or sends another number of bytes, at all tries.
        SourceRefused
            It says 400 or 404, in its own words.
        """
        corner, shape = box
        # Left as it is: the parts cover each voxel of the box once.
        found = np.empty(shape, instance.dtype)
        most_voxels = max(1, most_bytes // found.itemsize)
        for part in parts(box, block=instance.block_shape, most_voxels=most_voxels):
            found[_within(part, corner)] = self._raw_part(instance, part)
        return found

    def subvolblocks(
        self, instance: DvidInstance, box: Box
    ) -> tuple[NDArray[Any], tuple[Three, ...]]:
        """The voxels of a box, from streams of blocks, and which blocks are not there.

        The blocks at the edges of the box come whole. Errors as those of `raw`.
        """
        endpoint = "blocks" if instance.is_labels else "subvolblocks"
        found = instance.nothing(box[1])
        absent: list[Three] = []
        whole = aligned(box, instance.block_shape)
        split = parts(whole, block=instance.block_shape, most_voxels=MOST_BLOCK_VOXELS)
        for part in split:
            url = f"{self.node_url}/{endpoint}/{_xyz(part[1])}/{_xyz(part[0])}"
            places = list(blocks_of(part, instance.block_shape))
            params = {"throttle": "true"} if self.throttle else {}
            absent += self._blocks(url, params, places, (instance, box, found))
        return found, tuple(absent)

    def specificblocks(
        self, instance: DvidInstance, box: Box
    ) -> tuple[NDArray[Any], tuple[Three, ...]]:
        """As `subvolblocks`, each block asked for by its place."""
        found = instance.nothing(box[1])
        absent: list[Three] = []
        places = blocks_of(aligned(box, instance.block_shape), instance.block_shape)
        while some := list(islice(places, _MOST_BLOCKS_NAMED)):
            # DVID does not throttle these.
            named = ",".join(str(n) for place in some for n in reversed(place))
            url = f"{self.node_url}/specificblocks"
            absent += self._blocks(url, {"blocks": named}, some, (instance, box, found))
        return found, tuple(absent)

    def _raw_part(self, instance: DvidInstance, part: Box) -> NDArray[Any]:
        url = f"{self.node_url}/raw/0_1_2/{_xyz(part[1])}/{_xyz(part[0])}"
        params = {"throttle": "true"} if self.throttle else {}
        if instance.is_labels:
            # A label has 8 bytes, and mostly those of its neighbour.
            params["compression"] = "gzip"
        dtype = np.dtype(instance.dtype)
        # DVID sends little-endian voxels, whatever the computer here has.
        voxels = np.empty(part[1], dtype.newbyteorder("<"))
        buffer = voxels.reshape(-1).view(np.uint8)
        take = _taker(buffer, gzipped=instance.is_labels)
        self._exchange(url, take, params)
        return voxels.astype(dtype, copy=False)

    def _exchange(
        self, url: str, take: Callable[[requests.Response], T], params: dict[str, str]
    ) -> T:
        """What `take` makes of an answer, asked for again while DVID is just busy.

        Our own workers compete where DVID serves one at a time.
        """
        for _ in range(_TURNS - 1):
            try:
                return self.web.exchange(url, take, params=params)
            except SourceUnavailable as error:
                # By its words: any other 503 has had its retries already (decision 15).
                if _BUSY not in str(error):
                    raise
        # The last try: what it raises, the caller gets.
        return self.web.exchange(url, take, params=params)

    def _blocks(
        self,
        url: str,
        params: dict[str, str],
        places: list[Three],
        into: tuple[DvidInstance, Box, NDArray[Any]],
    ) -> list[Three]:
        """Put the blocks at `places` into the voxels of a box; tell the absent ones."""
        instance, box, found = into
        encoding = encoding_of(instance)
        params = {**params, "compression": encoding}
        most_bytes = len(places) * instance.most_block_bytes

        def take(response: requests.Response) -> set[Three]:
            # Anew at each try: a broken answer has brought some blocks already.
            missing = set(places)
            # Anyone's server: a packed answer may be endless.
            body = whole_body(self.web.who, response, most_bytes=most_bytes)
            for place, payload in blocks_in(body):
                if place not in missing:
                    raise Cut(f"block {place} (z, y, x) came twice or unasked")
                missing.remove(place)
                block = decoded(place, payload, instance=instance, encoding=encoding)
                _put(block, place, into=found, box=box, edge=instance.block_shape)
            return missing

        # Sorted: a set has no order, and the log names the first.
        absent = sorted(self._exchange(url, take, params))
        if absent:
            # No error: DVID leaves out blocks that were never written (decision 15).
            log.warning(
                "%s: %s holds no block at %d of %d places, the first %s (z, y, x)",
                *(self.web.who, self.name, len(absent), len(places), absent[0]),
            )
        return absent


def encoding_of(instance: DvidInstance) -> str:
    """How blocks are asked for: as they are kept where that is small, else plain."""
    if instance.is_labels:
        return "blocks"
    return "jpeg" if instance.jpeg or instance.proxied else "uncompressed"


def _taker(
    buffer: NDArray[np.uint8], *, gzipped: bool
) -> Callable[[requests.Response], None]:
    """Fills the buffer with the body of an answer; Cut where it has another length."""

    def take(response: requests.Response) -> None:
        at = 0
        for piece in _pieces(response, gzipped=gzipped):
            if at + len(piece) > len(buffer):
                raise Cut(f"more than the {len(buffer)} bytes of the box came")
            buffer[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
            at += len(piece)
        if at != len(buffer):
            raise Cut(f"{at} bytes came instead of {len(buffer)}")

    return take


def _pieces(response: requests.Response, *, gzipped: bool) -> Iterable[bytes]:
    pieces = pieces_of(response)
    if not gzipped:
        yield from pieces
        return
    # 16 more makes zlib expect gzip's header (zlib manual, inflateInit2).
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        for piece in pieces:
            packed = piece
            # A piece may unpack to a thousand times its length.
            while packed:
                yield unpacker.decompress(packed, _PIECE_BYTES)
                packed = unpacker.unconsumed_tail
        yield unpacker.flush()
    except zlib.error as error:
        raise Cut(f"its gzip is damaged: {error}") from error
    # zlib does not complain of a stream that just ends.
    if not unpacker.eof:
        raise Cut("its gzip ends too early")


def _within(box: Box, corner: Three) -> tuple[slice, slice, slice]:
    z, y, x = (
        slice(low - start, low - start + n)
        for low, n, start in zip(box[0], box[1], corner, strict=True)
    )
    return z, y, x


def _put(
    voxels: NDArray[Any], place: Three, *, into: NDArray[Any], box: Box, edge: Three
) -> None:
    """Copy what a block and a box share."""
    source, target = [], []
    for at, length, size, start, extent in zip(
        place, edge, voxels.shape, *box, strict=True
    ):
        low = max(at * length, start)
        high = min(at * length + size, start + extent)
        if low >= high:
            return
        source.append(slice(low - at * length, high - at * length))
        target.append(slice(low - start, high - start))
    into[tuple(target)] = voxels[tuple(source)]


def _xyz(values: Three) -> str:
    """As DVID writes sizes and offsets."""
    return "_".join(str(n) for n in reversed(values))
