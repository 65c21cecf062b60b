"""An array of a chunked format: what is known of it, and its voxels as z, y, x.

Anyone may have written the metadata: they are checked once. What passes here has the
types, lengths and finite numbers that the readers work with; fields that none of them
needs are not looked at. Voxels are read chunk by chunk when they are asked for.
tensorstore 0.1.86 takes a rate of requests for S3 but does not keep it (measured), and
knows none for HTTP; so a read waits until those before it have had their time.
"""

import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from em_platform.errors import FormatError
from em_platform.formats.chunked.blosc import BloscObjects
from em_platform.formats.chunked.guard import Upstream, guarded, upstream_of
from em_platform.formats.chunked.store import context_of, plain_errors, tensorstore
from em_platform.formats.header_values import MOST_BYTES, nm_of, rounded
from em_platform.formats.source import local_path
from em_platform.formats.volume import Bounds, Region, bounds_of, shape_of
from em_platform.model.base import Foreign, first_problem
from em_platform.model.volume import VolumeInfo
from em_platform.storage.layout import StorageOptions

MOST_CHUNK_BYTES = 1 << 28
"""Where no source limits the memory; gzip packs zeros to a thousandth."""

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
    blosc: BloscObjects | None = None
    """Where Blosc packed whole objects."""

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
        most_bytes = MOST_CHUNK_BYTES
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


MOST_AXES = 5
MOST_LEVELS = 100

# Far beyond any microscope; products of two of them are still numbers.
Number = Annotated[float, Field(gt=-1e15, lt=1e15)]
Numbers = Annotated[tuple[Number, ...], Field(max_length=MOST_AXES)]
Shape = Annotated[
    tuple[Annotated[int, Field(ge=0, lt=2**62)], ...],
    Field(min_length=2, max_length=MOST_AXES),
]
Edges = Annotated[
    tuple[Annotated[int, Field(ge=1, lt=2**62)], ...],
    Field(min_length=2, max_length=MOST_AXES),
]
Text = Annotated[str, Field(max_length=1000)]


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


Crop = tuple[tuple[int, int, int], tuple[int, int, int]]
"""Corner and shape (z, y, x) in voxels of the array."""

_OTHER_NAMES = {"t": "time", "c": "channel"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """How stored axes become z, y, x.

    `order` is the stored axis of z, y and x, -1 where the array has no z; `fixed` is
    the one place that is taken along each other axis.
    """

    order: tuple[int, int, int]
    fixed: tuple[tuple[int, int], ...] = ()

    def zyx(self, stored: tuple[int, ...]) -> tuple[int, int, int]:
        """Numbers along the stored axes as z, y, x; 1 where there is no z."""
        z, y, x = (1 if axis < 0 else stored[axis] for axis in self.order)
        return z, y, x


def select(
    axes: tuple[str, ...],
    shape: tuple[int, ...],
    *,
    url: str,
    options: StorageOptions,
) -> Selection:
    """Which stored axes are z, y, x, and what is taken along the others.

    An axis of one place is dropped. Of longer ones, `options` name the place: `channel`
    for `c`, `time` for `t`, else the axis' own name.

    Raises
    ------
    FormatError
        There is no y or x, or a choice is missing or does not exist.
    """
    if "y" not in axes or "x" not in axes or len(set(axes)) != len(axes):
        raise FormatError(
            f"chunks: {url} has the axes {', '.join(axes) or 'none'}, expected z, y "
            "and x; name an array that is an image",
            url=url,
        )
    fixed = []
    for at, (name, length) in enumerate(zip(axes, shape, strict=True)):
        if name in "zyx":
            continue
        option = _OTHER_NAMES.get(name, name)
        chosen = options.get(option, 0 if length == 1 else None)
        if chosen is None or not 0 <= int(chosen) < length:
            raise FormatError(
                f"chunks: {url} has {length} places along {name}, expected one image; "
                f"choose one by the option {option}, from 0 to {length - 1}",
                url=url,
            )
        fixed.append((at, int(chosen)))
    z, y, x = (axes.index(name) if name in axes else -1 for name in "zyx")
    return Selection(order=(z, y, x), fixed=tuple(fixed))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkedVolume:
    """A volume in chunks; only its description goes to other processes.

    `spec` is tensorstore's, as JSON; `limits` those of requests and memory. The array
    is opened once in each process, at the first read; what that process has kept of an
    array opened before `opened_at` is compared with the source again.
    """

    info: VolumeInfo
    spec: str
    limits: str
    selection: Selection
    corner: tuple[int, int, int] = (0, 0, 0)
    server: str = ""
    """Whose requests are counted; nothing for a disk."""
    requests_per_second: float | None = None
    most_bytes: int = MOST_BYTES
    """Of one object in the store, as it is packed."""
    blosc: BloscObjects | None = None
    opened_at: int = field(default_factory=time.time_ns, compare=False)

    def read(self, region: Region) -> NDArray[Any]:
        """The voxels of a region, `(z, y, x)`; the array's fill where chunks lack."""
        bounds = bounds_of(region, self.info.shape)
        shape = shape_of(bounds)
        if not all(shape):
            return np.empty(shape, self.info.dtype)
        if self.server and self.requests_per_second:
            chunks = self._chunks_of(bounds)
            wait_for_turn(self.server, chunks, per_second=self.requests_per_second)
        array, upstream = _open(
            self.spec,
            self.limits,
            self.info.uri,
            self.most_bytes,
            self.blosc,
            self.opened_at,
            os.getpid(),
        )
        with plain_errors(self.info.uri, upstream):
            pixels = self._read(array, bounds)
        # Adds z to an array that has none.
        return np.ascontiguousarray(pixels, self.info.dtype).reshape(shape)

    def _chunks_of(self, bounds: Bounds) -> int:
        edges = self.info.chunk_shape or shape_of(bounds)
        spans = (
            -(-(end + corner) // edge) - (first + corner) // edge
            for (first, end), corner, edge in zip(
                bounds, self.corner, edges, strict=True
            )
        )
        return math.prod(spans)

    def _read(self, array: Any, bounds: Bounds) -> NDArray[Any]:
        places: list[Any] = [slice(None)] * array.rank
        for axis, place in self.selection.fixed:
            places[axis] = place
        kept = []
        for axis, (first, end), corner in zip(
            self.selection.order, bounds, self.corner, strict=True
        ):
            if axis >= 0:
                places[axis] = slice(first + corner, end + corner)
                kept.append(axis)
        folder = local_path(self.info.uri)
        if self.blosc is not None and folder is not None:
            self.blosc.check_files(folder, places, most_bytes=self.most_bytes)
        # Stored as x, y, z, Fortran's order is what z, y, x needs in memory.
        order = "F" if kept == sorted(kept, reverse=True) else "C"
        pixels = np.asarray(array[tuple(places)].read(order=order).result())
        stored = sorted(kept)
        return pixels.transpose([stored.index(axis) for axis in kept])


# In one entry: without its upstream an array has no chunks.
@lru_cache(maxsize=32)
def _open(
    spec: str,
    limits: str,
    url: str,
    most_bytes: int,
    blosc: BloscObjects | None,
    opened_at: int,
    process: int,
) -> tuple[Any, Upstream | None]:
    """The tensorstore array, its first voxel at 0, and who serves it."""
    library = tensorstore()
    described = json.loads(spec)
    upstream = upstream_of(
        described["kvstore"], url, most_bytes=most_bytes, blosc=blosc
    )
    kvstore = guarded(described["kvstore"], upstream)
    with plain_errors(url, upstream):
        opened = library.open(
            {**described, "kvstore": kvstore},
            open=True,
            read=True,
            # Within one use of an archive, a kept chunk is not asked for again.
            recheck_cached_data="open",
            recheck_cached_metadata="open",
            context=context_of(limits),
        ).result()
    # Precomputed volumes start at their offset; ours at 0.
    return opened[library.d[:].translate_to[0]], upstream


_lock = threading.Lock()
_free_at: dict[str, float] = {}


def wait_for_turn(
    server: str,
    requests: int,
    *,
    per_second: float,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when `requests` more may be sent to `server`; the first may at once."""
    with _lock:
        now = time.monotonic()
        begins = max(now, _free_at.get(server, now))
        _free_at[server] = begins + requests / per_second
    # Outside of the lock: others take their turn meanwhile.
    if begins > now:
        sleep(begins - now)
