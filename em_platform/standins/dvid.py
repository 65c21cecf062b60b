"""A DVID server: volumes by their version, in boxes, planes and blocks.

Speaks as `server/web.go`, `datatype/imageblk` and `datatype/labelmap` of Janelia's DVID
do, read-only: coordinates are x, y, z; what is outside of a volume is background; a
refusal is 400 with one line of text.
"""

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from em_platform.standins.dvid_instance import (
    BLOCK_PX,
    Busy,
    Instance,
    Place,
    Refused,
    as_picture,
    blocks_of,
    box_of,
    framed,
    instance_json,
    numbers,
    payload_of,
    refuse,
    repo_json,
    repos_json,
    server_json,
)
from em_platform.standins.messages import (
    Request,
    Response,
    as_bytes,
    as_json,
    as_text,
)

# Of the public hemibrain grayscale, which the default settings name.
HEMIBRAIN_UUID = "a89eb3af216a46cdba81204d8f954786"
# `MaxDataRequest` in DVID's server/server.go; tests set it lower.
MOST_BYTES = 3 << 30
_PLANES = {
    "0_1": (0, 1),
    "xy": (0, 1),
    "0_2": (0, 2),
    "xz": (0, 2),
    "1_2": (1, 2),
    "yz": (1, 2),
}


class Dvid:
    """The handler of one DVID site with one repository of one version.

    `most_bytes` is the largest answer of `/raw`; `most_throttled` how many requests
    with `throttle=true` are served at once.
    """

    def __init__(
        self,
        instances: tuple[Instance, ...],
        *,
        uuid: str = HEMIBRAIN_UUID,
        alias: str = "hemibrain",
        most_bytes: int = MOST_BYTES,
        most_throttled: int = 1,
    ) -> None:
        self.instances = {each.name: each for each in instances}
        self.uuid = uuid
        self.alias = alias
        self.most_bytes = most_bytes
        self.most_throttled = most_throttled
        self._throttled = 0
        self._label_blocks: dict[tuple[str, Place, str], bytes | None] = {}
        # No semaphore: DVID does not wait, and says how many it works for.
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Response:
        """Answer one request."""
        try:
            return self._answer(request)
        except Refused as error:
            return refuse(400, f"{error} ({request.path}).")
        except Busy as error:
            return refuse(503, str(error))

    @contextmanager
    def throttled(self) -> Iterator[None]:
        """Take one of the places of throttled requests, as another client would.

        Raises
        ------
        Busy
            All are taken.
        """
        with self._lock:
            if self._throttled >= self.most_throttled:
                raise Busy(
                    f"Server already running {self._throttled} throttled operations "
                    f"(max = {self.most_throttled})\n"
                )
            self._throttled += 1
        try:
            yield
        finally:
            with self._lock:
                self._throttled -= 1

    def _answer(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            raise Refused(
                "Server in read-only mode and will only accept GET and HEAD requests"
            )
        parts = request.path.strip("/").split("/")
        match parts:
            case ["api", "server", "info"]:
                return as_json(server_json())
            case ["api", "repos", "info"]:
                return as_json(repos_json(self.uuid, self.alias, self.instances))
            case ["api", "repo", uuid] if request.method == "HEAD":
                self._check(uuid)
                return as_text(f"Repo available with root UUID {self.uuid}\n")
            case ["api", "repo", uuid, "info"]:
                self._check(uuid)
                return as_json(repo_json(self.uuid, self.alias, self.instances))
            case ["api", "node", uuid, name, *rest]:
                self._check(uuid)
                return self._of_node(request, name, rest)
        return refuse(404, "404 page not found")

    def _check(self, uuid: str) -> None:
        # Behind a colon may stand a branch; here the only one is master.
        uuid, _, branch = uuid.partition(":")
        if branch not in ("", "master"):
            raise Refused(f'branch "{branch}" not found')
        # DVID takes the beginning of a UUID for all of it.
        if not self.uuid.startswith(uuid):
            raise Refused(f"could not find UUID with partial match to {uuid}")

    def _of_node(self, request: Request, name: str, rest: list[str]) -> Response:
        if name not in self.instances:
            raise Refused("invalid data instance name")
        instance = self.instances[name]
        if request.method == "HEAD":
            raise Refused(f'Data "{name}" can only handle GET or POST HTTP verbs')
        if not rest:
            raise Refused("Incomplete API request")
        by_keyword: dict[str, Callable[[], Response]] = {
            "help": lambda: as_text(__doc__ or ""),
            "info": lambda: as_json(instance_json(instance, self.uuid)),
            "raw": lambda: self._raw(request, instance, rest),
            # Voxels are cubes here, so nothing has to be scaled.
            "isotropic": lambda: self._raw(request, instance, rest),
            "subvolblocks": lambda: self._subvolume(request, instance, rest),
            "specificblocks": lambda: self._specific(request, instance),
            "blocks": lambda: self._blocks(request, instance, rest),
        }
        if rest[0] not in by_keyword:
            raise Refused(f"Unknown API endpoint {rest[0]!r} for {instance.name!r}")
        return by_keyword[rest[0]]()

    def _raw(self, request: Request, instance: Instance, rest: list[str]) -> Response:
        if len(rest) < 4:
            raise Refused(f'"{rest[0]}" must be followed by shape/size/offset')
        if instance.grid_store:
            raise Refused(
                f'Data "{instance.name}" does not support /raw endpoint since it is '
                "proxying data"
            )
        axes, size, offset = rest[1], numbers(rest[2]), numbers(rest[3])
        format_text = rest[4] if len(rest) > 4 else ""
        if axes in _PLANES:
            if len(size) != 2 or len(offset) != 3:
                raise Refused("a plane needs two sizes and three offsets")
            return self._plane(instance, _PLANES[axes], (size, offset), format_text)
        if axes not in ("0_1_2", "xyz"):
            raise Refused("DVID currently supports shapes of only 2 and 3 dimensions")
        with self._place_for(request):
            corner, shape = box_of(size, offset)
            self._check_size(instance, shape)
            voxels = instance.cut(corner, shape)
            if format_text.startswith(("jpg", "jpeg")):
                return as_picture(voxels.reshape(-1, shape[2]), format_text)
            content = voxels.astype(voxels.dtype.newbyteorder("<")).tobytes()
            if instance.is_labels and request.asked("compression") == "gzip":
                content = gzip.compress(content, 1, mtime=0)
            return as_bytes(content)

    def _plane(
        self,
        instance: Instance,
        axes: tuple[int, int],
        box: tuple[list[int], list[int]],
        format_text: str,
    ) -> Response:
        size, offset = box
        edges = [1, 1, 1]
        edges[axes[0]], edges[axes[1]] = size
        corner, shape = box_of(edges, offset)
        self._check_size(instance, shape)
        voxels = instance.cut(corner, shape)
        return as_picture(voxels.reshape(size[1], size[0]), format_text)

    def _check_size(self, instance: Instance, shape: Place) -> None:
        count = (
            shape[0] * shape[1] * shape[2] * np.dtype(instance.voxels.dtype).itemsize
        )
        if count > self.most_bytes:
            raise Refused(
                f"Requested payload ({count} bytes) exceeds this DVID server's set "
                f"limit ({self.most_bytes})"
            )

    @contextmanager
    def _place_for(self, request: Request) -> Iterator[None]:
        if request.asked("throttle") not in ("on", "true"):
            yield
            return
        with self.throttled():
            yield

    def _subvolume(
        self, request: Request, instance: Instance, rest: list[str]
    ) -> Response:
        if instance.is_labels:
            raise Refused(f"Unknown API endpoint {rest[0]!r} for {instance.name!r}")
        return self._stream(request, instance, rest, endpoint="block")

    def _blocks(
        self, request: Request, instance: Instance, rest: list[str]
    ) -> Response:
        if instance.is_labels:
            return self._stream(request, instance, rest, endpoint="blocks")
        if len(rest) < 3:
            raise Refused('"blocks" must be followed by block-coord/span-x')
        (x, y, z), (span,) = numbers(rest[1]), numbers(rest[2])
        corner = (z * BLOCK_PX, y * BLOCK_PX, x * BLOCK_PX)
        row = instance.cut(corner, (BLOCK_PX, BLOCK_PX, BLOCK_PX * span))
        return as_bytes(
            b"".join(each.tobytes() for each in np.split(row, span, axis=2))
        )

    def _stream(
        self, request: Request, instance: Instance, rest: list[str], *, endpoint: str
    ) -> Response:
        if len(rest) < 3:
            raise Refused("must specify size and offset with GET /blocks endpoint")
        with self._place_for(request):
            corner, shape = box_of(numbers(rest[1]), numbers(rest[2]))
            if any(n % BLOCK_PX for n in (*corner, *shape)):
                raise Refused(
                    f"cannot use labels via '{endpoint}' endpoint in non-block aligned "
                    f"geometry {rest[2]} -> {rest[1]}"
                )
            return self._streamed(request, instance, list(blocks_of(corner, shape)))

    def _specific(self, request: Request, instance: Instance) -> Response:
        text = request.asked("blocks")
        try:
            given = [int(each) for each in text.split(",")] if text else []
        except ValueError as error:
            raise Refused(f'strconv.Atoi: parsing "{text}": invalid syntax') from error
        if len(given) % 3:
            raise Refused("block query string should be three coordinates per block")
        # One iterator three times: each triple takes its next three.
        triples = zip(*[iter(given)] * 3, strict=True)
        places = [(x, y, z) for x, y, z in triples]
        # It only warms up DVID's cache, and sends nothing.
        if request.asked("prefetch") in ("on", "true"):
            places = []
        return self._streamed(request, instance, places)

    def _streamed(
        self, request: Request, instance: Instance, places: list[Place]
    ) -> Response:
        compression = request.asked("compression")
        kinds = ("uncompressed", "jpeg", "")
        if instance.is_labels:
            kinds = ("lz4", "gzip", "blocks", "uncompressed", "")  # type: ignore[assignment]
            compression = compression or "blocks"
        if compression not in kinds:
            raise Refused(
                f"don't understand 'compression' query string value: {compression}"
            )
        sent = []
        for place in places:
            try:
                payload = self._payload(instance, place, compression)
            except ValueError as error:
                raise Refused(str(error)) from error
            # Blocks that were never written are left out of the stream.
            if payload is not None:
                sent.append(framed(place, payload))
        return as_bytes(b"".join(sent))

    def _payload(
        self, instance: Instance, place: Place, compression: str
    ) -> bytes | None:
        """A block; those of labels are kept, because packing them takes long."""
        if not instance.is_labels:
            return payload_of(instance, place, compression=compression)
        key = (instance.name, place, compression)
        # Without the lock: two threads make the same bytes.
        if key not in self._label_blocks:
            payload = payload_of(instance, place, compression=compression)
            self._label_blocks[key] = payload
        return self._label_blocks[key]
