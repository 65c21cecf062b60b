"""OpenOrganelle's bucket: an int16 pyramid in Zarr v2, labels of a crop, an N5."""

from collections.abc import Callable, Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from em_platform.model import JsonObject
from em_platform.standins import s3
from em_platform.standins.chunk_stores import (
    ZSTD,
    Readable,
    consolidate,
    halved,
    halved_by_slabs,
    write_json,
    write_n5_array,
    write_zarr_array,
    write_zarr_group,
)
from em_platform.standins.messages import (
    Handler,
    Request,
    Response,
    Router,
    as_bytes,
    as_json,
)
from em_platform.standins.part import Ground, Part, Site, Tree
from em_platform.standins.pixels import Pixels, Three, Voxels

BUCKET = "janelia-cosem-datasets"
_SHAPES: dict[str, tuple[Three, int]] = {
    "small": ((70, 157, 162), 32),
    "demo": ((141, 315, 324), 64),
    "bench": ((282, 630, 649), 64),
    "real": ((564, 2520, 2596), 64),
}
"""Of s0, and the edge of a chunk."""
# Of the nine that are published, s0 to s8.
_LEVELS = 5
# z, y, x as published; `real` above has the published shape, too.
_VOXEL_NM = (2.96, 4.0, 4.0)
_ACCUMBENS = "jrc_mus-nacc-2/jrc_mus-nacc-2.zarr"
_EM = "recon-2/em/fibsem-int16"
_CROP = "recon-2/labels/groundtruth/crop155/mito"
_CROP_AT = (8, 40, 50)
"""Corner of the labels, in voxels of s0."""
_HELA = "jrc_hela-2/jrc_hela-2.n5"
_HELA_EM = "em/fibsem-uint16"
_HELA_SHAPE = (45, 70, 90)
# As published; the shape is not.
_HELA_NM = (5.24, 4.0, 4.0)


def openorganelle(ground: Ground) -> Part:
    """The anonymous bucket `janelia-cosem-datasets`, and manifests of its datasets."""
    truths: dict[str, Callable[[], Voxels]] = {
        **{
            _key(_ACCUMBENS, _EM, n): partial(_level, ground, n) for n in range(_LEVELS)
        },
        _key(_ACCUMBENS, _CROP, 0): _mitochondria,
        _key(_HELA, _HELA_EM, 0): partial(_hela_level, 0),
        _key(_HELA, _HELA_EM, 1): partial(_hela_level, 1),
    }

    def fill(folder: Path) -> None:
        _write_accumbens(folder / _ACCUMBENS, ground)
        _write_hela(folder / _HELA)

    def settings(urls: Mapping[str, str]) -> dict[str, str]:
        return {
            "ingest.openorganelle.bucket_url": f"s3://{BUCKET}",
            "ingest.openorganelle.endpoint_url": urls["s3"],
            "ingest.openorganelle.metadata_url": urls["cosem-metadata"],
        }

    def truth(key: str) -> Voxels:
        array, _, crop = key.partition(".crop_")
        if not crop:
            return truths[array]()
        z, y, x, dz, dy, dx = (int(each) for each in crop.split("_"))
        box = slice(z, z + dz), slice(y, y + dy), slice(x, x + dx)
        # Only the box: the finest level has 7 GB in a `real` world.
        if array == _key(_ACCUMBENS, _EM, 0):
            return _finest(ground)[box]
        found: Voxels = truths[array]()[box]
        return found

    tree = Tree(ground.folder / "openorganelle", fill)
    buckets = s3.Buckets({BUCKET: tree}, faults=ground.faults)
    return Part(
        sites={
            "s3": Site(handler=buckets, refuse=s3.refuse),
            "cosem-metadata": Site(handler=manifests()),
        },
        settings=settings,
        keys=tuple(truths),
        truth=truth,
        trees=(tree,),
    )


def manifests() -> Handler:
    """Answers `/<dataset>/manifest.json` by recorded files; that of jrc_hela-2 is real.

    Date and conditions of jrc_mus-nacc-2 are made up.
    """

    def manifest(request: Request) -> Response:
        name = f"recorded/{request.params['dataset']}.json"
        found = files("em_platform.standins").joinpath(name)
        if not found.is_file():
            return as_json({"error": 404}, status=404)
        return as_bytes(found.read_bytes(), media_type="application/json")

    router = Router()
    router.add(r"/(?P<dataset>jrc_[\w-]+)/manifest\.json", manifest)
    return router


def _key(store: str, image: str, level: int) -> str:
    dataset = store.partition("/")[0]
    return f"{dataset}.{image.replace('/', '.')}.s{level}"


def _finest(ground: Ground) -> Pixels:
    return Pixels(shape=_SHAPES[ground.size][0], dtype="int16", variant=6)


def _level(ground: Ground, level: int) -> Voxels:
    if level == 0:
        return _finest(ground).whole()
    voxels: Voxels = halved_by_slabs(_finest(ground))
    for _ in range(level - 1):
        voxels = halved(voxels, (2, 2, 2))
    return voxels


def _mitochondria() -> Voxels:
    """Labels 0, 1, 2 ... of a crop of s0, as a segmentation has them."""
    grey = Pixels(shape=(24, 48, 56), variant=6).whole()
    mask = grey < 100  # type: ignore[operator]
    z = np.arange(24)[:, None, None]
    labels: Voxels = (mask * (1 + z // 8)).astype("uint8")
    return labels


def _hela_level(level: int) -> Voxels:
    voxels = Pixels(shape=_HELA_SHAPE, dtype="uint16", variant=8).whole()
    for _ in range(level):
        voxels = halved(voxels, (2, 2, 2))
    return voxels


def _write_accumbens(root: Path, ground: Ground) -> None:
    _, edge = _SHAPES[ground.size]
    for name in ("", "recon-2", "recon-2/em", "recon-2/labels"):
        write_zarr_group(root / name, {})
    for name in ("groundtruth", "groundtruth/crop155"):
        write_zarr_group(root / "recon-2/labels" / name, {})
    voxels: Readable = _finest(ground)
    for level in range(_LEVELS):
        folder = root / _EM / f"s{level}"
        write_zarr_array(
            folder, voxels, chunks=(edge,) * 3, compressor=ZSTD, attributes={}
        )
        voxels = halved_by_slabs(voxels)
    write_zarr_group(root / _EM, _multiscales(_LEVELS, _VOXEL_NM, (0, 0, 0)))
    write_zarr_array(
        root / _CROP / "s0", _mitochondria(), chunks=(edge,) * 3, compressor=ZSTD
    )
    write_zarr_group(root / _CROP, _multiscales(1, _VOXEL_NM, _CROP_AT))
    # Last: it gathers what was written before.
    consolidate(root)


def _multiscales(levels: int, voxel_nm: Any, corner: Three) -> JsonObject:
    """OME-NGFF 0.4 with a scale and a translation for each level.

    Voxel (0, 0, 0) of level n is the middle of 2^n voxels of s0 along each axis.
    """
    datasets: list[JsonObject] = [
        {
            "coordinateTransformations": [
                {"scale": [edge * 2**n for edge in voxel_nm], "type": "scale"},
                {
                    "translation": [
                        edge * (first + (2**n - 1) / 2)
                        for edge, first in zip(voxel_nm, corner, strict=True)
                    ],
                    "type": "translation",
                },
            ],
            "path": f"s{n}",
        }
        for n in range(levels)
    ]
    multiscale: JsonObject = {
        "axes": [{"name": n, "type": "space", "unit": "nanometer"} for n in "zyx"],
        "coordinateTransformations": [{"scale": [1.0, 1.0, 1.0], "type": "scale"}],
        "datasets": datasets,
        "metadata": None,
        "name": "",
        "type": None,
        "version": "0.4",
    }
    return {"multiscales": [multiscale]}


def _write_hela(root: Path) -> None:
    """COSEM's older layout: transforms are written for z, y, x, sizes for x, y, z."""
    write_json(root / "attributes.json", {"n5": "2.0.0"})
    write_json(root / "em" / "attributes.json", {})
    datasets = []
    for level in range(2):
        scale = [edge * 2**level for edge in _HELA_NM]
        transform = {
            "axes": ["z", "y", "x"],
            "scale": scale,
            "translate": [
                (new - edge) / 2 for new, edge in zip(scale, _HELA_NM, strict=True)
            ],
            "units": ["nm", "nm", "nm"],
        }
        datasets.append({"path": f"s{level}", "transform": transform})
        resolution = {"dimensions": scale[::-1], "unit": "nm"}
        write_n5_array(
            root / _HELA_EM / f"s{level}",
            _hela_level(level),
            block=(32, 32, 32),
            attributes={"transform": transform, "pixelResolution": resolution},
        )
    write_json(
        root / _HELA_EM / "attributes.json",
        {
            "axes": ["x", "y", "z"],
            "multiscales": [{"datasets": datasets, "name": "fibsem-uint16"}],
            "pixelResolution": {"dimensions": list(_HELA_NM[::-1]), "unit": "nm"},
            "scales": [[1, 1, 1], [2, 2, 2]],
            "units": ["nm", "nm", "nm"],
        },
    )
