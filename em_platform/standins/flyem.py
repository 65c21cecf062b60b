"""FlyEM's hemibrain, small: DVID, a bucket of precomputed volumes, and neuPrint.

neuPrint says what is known of a dataset, for those who show a token.
"""

import gzip
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from em_platform.model import Json, JsonObject
from em_platform.standins.dvid import HEMIBRAIN_UUID, Dvid
from em_platform.standins.dvid_instance import Grid, Instance, Place, refuse
from em_platform.standins.messages import Request, Response, as_json, refuse_in_json
from em_platform.standins.part import FileHost, Ground, Part, Site, Tree
from em_platform.standins.pixels import Pixels, Voxels

# What the tests and the demo send; every other token is refused with 401.
TOKEN = "a-token-of-the-stand-in"
HEMIBRAIN = "hemibrain:v1.2.1"
_UUID = "31597f95a2cf4a3689e71d8d51b5b41e"
_LAST_MODIFIED = "2021-10-06 16:32:29"
_SUPER = ["AL(R)", "CX", "INP", "MB(R)", "OL(R)"]
_PRIMARY = ["AL(R)", "CA(R)", "EB", "FB", "ME(R)", "PB", "a'L(R)"]
_ALL = [*_PRIMARY, "CX", "INP", "MB(R)", "OL(R)", "a'1(R)"]


class Neuprint:
    """The handler of one neuPrint site.

    Without a `token` it is open to all. `version` None: the endpoint is not there, as
    after the move of the service to another platform.
    """

    def __init__(self, *, token: str = TOKEN, version: str | None = "1.7.7") -> None:
        self.token = token
        self.version = version
        self.datasets = {HEMIBRAIN: _dataset(), "manc:v1.0": _dataset()}

    def __call__(self, request: Request) -> Response:
        """Answer one request."""
        given = request.headers.get("Authorization") or ""
        # Before all else: without a token no question is answered.
        if self.token and given != f"Bearer {self.token}":
            words = "invalid or expired jwt" if given else "missing or malformed jwt"
            return refuse_in_json(401, words)
        answers: Mapping[tuple[str, str], Any] = {
            ("GET", "/api/dbmeta/datasets"): self.datasets,
            ("GET", "/api/dbmeta/database"): {
                "Location": "stand-in",
                "Description": "",
            },
            ("GET", "/api/dbmeta/instances"): {},
            ("GET", "/api/dbmeta/version"): {"Version": "0.5.0"},
            ("GET", "/api/serverinfo"): {"IsPublic": not self.token},
            ("GET", "/profile"): {
                "Email": "user@example.org",
                "AuthLevel": "readonly",
            },
            ("GET", "/token"): {"token": self.token},
            ("GET", "/api/available"): ["/api/custom/custom", "/api/dbmeta/datasets"],
        }
        if request.path == "/api/version" and self.version is not None:
            return as_json({"Version": self.version})
        if (request.method, request.path) in answers:
            return as_json(answers[request.method, request.path])
        if request.path == "/api/custom/custom" and request.method == "POST":
            return self._custom(request)
        return refuse_in_json(404, "Not Found")

    def _custom(self, request: Request) -> Response:
        """Answer the Cypher that neuprint-python sends; there is no database behind."""
        try:
            asked = request.json
            cypher, dataset = asked["cypher"], asked["dataset"]
        except (ValueError, KeyError, TypeError):
            return as_json(
                {"error": "request object not formatted correctly"}, status=400
            )
        if dataset not in self.datasets:
            return as_json({"error": f"no dataset {dataset}"}, status=400)
        meta = _meta(dataset)
        # By what they ask to be returned: no parser of Cypher is needed.
        by_return: dict[str, Callable[[], JsonObject]] = {
            "as roiInfo": lambda: _table(
                meta=meta,
                roiInfo={name: {"pre": 1000, "post": 3000} for name in _ALL},
                roiHierarchy=_hierarchy(),
                neuroglancerInfo={},
                neuroglancerMeta=[],
                statusDefinitions={"Traced": "all is followed to its end"},
            ),
            "m.primaryRois as rois": lambda: _table(rois=_PRIMARY),
            "m.superLevelRois as rois": lambda: _table(rois=_SUPER),
        }
        for words, answer in by_return.items():
            if words in cypher:
                return as_json(answer())
        return as_json({"error": f"no answer is known to {cypher!r}"}, status=400)


def _table(**columns: Any) -> JsonObject:
    """One row, as Neo4j's answers are passed on."""
    return {"columns": list(columns), "data": [list(columns.values())], "debug": ""}


def _dataset() -> JsonObject:
    return {
        "last-mod": _LAST_MODIFIED,
        "uuid": _UUID,
        "ROIs": _ALL,
        "superLevelROIs": _SUPER,
        "info": "https://dvid.io/blog/release-v1.2",
        "logo": "",
        "hidden": False,
    }


def _meta(dataset: str) -> JsonObject:
    name, _, tag = dataset.partition(":")
    return {
        "dataset": name,
        "tag": tag,
        "uuid": _UUID,
        "lastDatabaseEdit": _LAST_MODIFIED,
        "latestMutationId": 1_000_000,
        "primaryRois": _PRIMARY,
        "superLevelRois": _SUPER,
        "totalPreCount": 9_489_999,
        "totalPostCount": 64_072_451,
        "info": "https://dvid.io/blog/release-v1.2",
        "logo": "",
        "voxelSize": [8.0, 8.0, 8.0],
        "voxelUnits": "nanometers",
    }


def _hierarchy() -> JsonObject:
    parents = {
        "CX": ["EB", "FB", "PB"],
        "MB(R)": ["CA(R)", "a'L(R)"],
        "OL(R)": ["ME(R)"],
    }
    children: list[JsonObject] = [
        {"name": name, "children": [{"name": each} for each in parents.get(name, [])]}
        for name in _SUPER
    ]
    return {"name": "hemibrain", "children": children}


def certificates(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A TLS context for 127.0.0.1, and the file of the authority that vouches for it.

    They are made once and lie in `folder`.
    """
    root = Tree(folder, _make_certificates).root
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(root / "server.pem")
    return context, root / "authority.pem"


def _make_certificates(folder: Path) -> None:
    import trustme

    authority = trustme.CA(organization_name="em-platform stand-in")
    # The files of a world are kept: no certificate among them may run out.
    never = datetime(2100, 1, 1, tzinfo=UTC)
    server = authority.issue_cert("127.0.0.1", "localhost", not_after=never)
    (folder / "authority.pem").write_bytes(authority.cert_pem.bytes())
    server.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))


Encoding = Literal["raw", "jpeg", "compressed_segmentation"]
Method = Literal["mode", "mean"]
# As hemibrain's EM: sharded JPEG in chunks of 64.
CHUNK_PX = 64
JPEG_QUALITY = 85


def write_precomputed(
    folder: Path,
    grid: Grid,
    *,
    voxel_size_nm: tuple[float, float, float] = (8.0, 8.0, 8.0),
    origin: Place = (0, 0, 0),
    encoding: Encoding = "jpeg",
    layout: Literal["sharded", "unsharded"] = "sharded",
    scales: int = 2,
) -> None:
    """Write `grid` with its coarser scales below `folder`; lengths are z, y, x.

    `origin` is the `voxel_offset` of the first scale.
    """
    import tensorstore as ts

    voxels = grid.read((0, 0, 0), grid.shape)
    held = ts.array(voxels)
    # The mean of two labels would be a third one.
    method: Method = "mode" if encoding == "compressed_segmentation" else "mean"
    for index in range(scales):
        factor = 2**index
        store = ts.open(
            _spec(
                folder,
                scale=_scale(
                    # Rounded up, as `ts.downsample` rounds.
                    tuple(-(-n // factor) for n in grid.shape),
                    tuple(n * factor for n in voxel_size_nm),
                    origin=tuple(n // factor for n in origin),
                    encoding=encoding,
                    layout=layout,
                ),
                dtype=grid.dtype,
            ),
            create=True,
            open=True,
        ).result()
        smaller = held if index == 0 else ts.downsample(held, [factor] * 3, method)
        # Neuroglancer's axes are x, y, z.
        store[ts.d["channel"][0]].T.write(smaller).result()


def _scale(
    shape: tuple[int, ...],
    voxel_size_nm: tuple[float, ...],
    *,
    origin: tuple[int, ...],
    encoding: Encoding,
    layout: str,
) -> JsonObject:
    """One entry of `scales`; everything in it is x, y, z."""
    scale: dict[str, Json] = {
        "size": list(reversed(shape)),
        "resolution": list(reversed(voxel_size_nm)),
        "voxel_offset": list(reversed(origin)),
        "encoding": encoding,
        "chunk_size": [CHUNK_PX] * 3,
    }
    if encoding == "jpeg":
        scale["jpeg_quality"] = JPEG_QUALITY
    if encoding == "compressed_segmentation":
        scale["compressed_segmentation_block_size"] = [8, 8, 8]
    if layout == "sharded":
        scale["sharding"] = {
            "@type": "neuroglancer_uint64_sharded_v1",
            "hash": "identity",
            # Few bits, so that even a small volume has several shards.
            "preshift_bits": 3,
            "minishard_bits": 2,
            "shard_bits": 2,
            "minishard_index_encoding": "gzip",
            # Nothing is left in a JPEG for gzip.
            "data_encoding": "raw" if encoding == "jpeg" else "gzip",
        }
    return scale


def _spec(folder: Path, *, scale: JsonObject, dtype: str) -> JsonObject:
    labels = scale["encoding"] == "compressed_segmentation"
    return {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        "multiscale_metadata": {
            "type": "segmentation" if labels else "image",
            "data_type": dtype,
            "num_channels": 1,
        },
        "scale_metadata": scale,
    }


BUCKET = "neuroglancer-janelia-flyem-hemibrain"
GREY = "emdata/clahe_yz/jpeg"
"""Sharded JPEG, as the bucket has it."""
PLAIN = "emdata/raw/jpeg"
"""JPEG with a file for each chunk."""
LABELS = "v1.2/segmentation"
_SHAPES: dict[str, Place] = {
    "small": (130, 150, 200),
    "demo": (200, 264, 330),
    "bench": (520, 600, 700),
    "real": (1040, 1100, 1200),
}
_CROPS = {
    "small": ("64_0_64_64_72_100",),
    "demo": ("64_64_64_128_192_256",),
    "bench": ("0_64_128_512_512_512",),
    "real": ("12_34_56_1000_1000_1000",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Real labels in any size: one block of FIB-19, mirrored."""

    shape: Place
    dtype: str = "uint64"

    def read(self, corner: Place, shape: Place) -> NDArray[Any]:
        """The labels of a box, `(z, y, x)`."""
        edge = 64
        places = []
        for first, length in zip(corner, shape, strict=True):
            # Mirrored: two labels cannot fade into each other, as grey levels do.
            turn = np.arange(first, first + length) % (2 * edge)
            places.append(np.minimum(turn, 2 * edge - 1 - turn))
        found: NDArray[Any] = fib19()[np.ix_(*places)]
        return found


@cache
def fib19() -> NDArray[np.uint64]:
    """The block `(64, 64, 64)` of FIB-19's labels; see its README."""
    packed = (files("em_platform.standins") / "fib19/labels.dat.gz").read_bytes()
    return np.frombuffer(gzip.decompress(packed), "<u8").reshape(64, 64, 64)


def flyem(ground: Ground) -> Part:
    """Grey voxels and labels of one volume behind all three services."""
    grey = Pixels(shape=_SHAPES[ground.size], variant=4)
    labels = Labels(shape=_SHAPES[ground.size])
    server = Dvid(
        (
            Instance(name="grayscale", voxels=grey),
            Instance(name="grayscalejpeg", voxels=grey, stored="jpeg"),
            # It passes on another store, and so refuses /raw.
            Instance(name="grayscale-proxied", voxels=grey, grid_store="hemibrain"),
            Instance(name="segmentation", voxels=labels),
        )
    )

    def fill(folder: Path) -> None:
        write_precomputed(folder / GREY, grey)
        write_precomputed(folder / PLAIN, grey, layout="unsharded")
        if ground.size != "bench":  # eight bytes a voxel, all in memory
            where = folder / LABELS
            write_precomputed(where, labels, encoding="compressed_segmentation")

    def settings(urls: Mapping[str, str]) -> dict[str, str]:
        return {
            "ingest.flyem.dvid_url": urls["dvid"],
            "ingest.flyem.uuid": HEMIBRAIN_UUID,
            "ingest.flyem.items": ",".join(_CROPS[ground.size]),
            "ingest.flyem.precomputed_url": f"{urls['flyem']}/{BUCKET}/{GREY}",
            "ingest.flyem.neuprint_url": urls["neuprint"],
            "ingest.flyem.neuprint_dataset": HEMIBRAIN,
            "ingest.flyem.neuprint_token": TOKEN,
            "ingest.flyem.neuprint_certificate": str(authority),
        }

    def truth(key: str) -> Voxels:
        z, y, x, dz, dy, dx = (int(each) for each in key.split("_"))
        return grey.read((z, y, x), (dz, dy, dx))

    context, authority = certificates(ground.folder / "neuprint")
    bucket = Tree(ground.folder / "flyem", fill)
    host = FileHost(bucket, prefix=f"/{BUCKET}", faults=ground.faults)
    return Part(
        sites={
            "dvid": Site(handler=server, refuse=refuse),
            "flyem": Site(handler=host),
            "neuprint": Site(handler=Neuprint(), refuse=refuse_in_json, tls=context),
        },
        settings=settings,
        keys=_CROPS[ground.size],
        truth=truth,
        trees=(bucket,),
    )
