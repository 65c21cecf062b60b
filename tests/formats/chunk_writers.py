"""Arrays in chunked formats, written by the libraries of those formats."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
import zarr
from numpy.typing import NDArray

from em_platform.formats.volume import Volume

SHAPE = (21, 34, 45)


ALL = (slice(None), slice(None), slice(None))


def noise(dtype: str = "uint16", shape: tuple[int, ...] = SHAPE) -> NDArray[Any]:
    return np.random.default_rng(7).integers(0, 120, shape).astype(dtype)


def write_v2(path: Path, voxels: NDArray[Any], **how: Any) -> None:
    zarr.create_array(
        path,
        shape=voxels.shape,
        dtype=voxels.dtype,
        chunks=how.pop("chunks", (8, 16, 16)),
        zarr_format=2,
        **how,
    )[...] = voxels


def write_v3(path: Path, voxels: NDArray[Any], **how: Any) -> None:
    zarr.create_array(
        path, shape=voxels.shape, dtype=voxels.dtype, zarr_format=3, **how
    )[...] = voxels


def write_n5(path: Path, voxels: NDArray[Any], **attributes: Any) -> None:
    store = ts.open(
        {
            "driver": "n5",
            "kvstore": {"driver": "file", "path": f"{path}/"},
            "metadata": {
                "dimensions": voxels.shape[::-1],
                "blockSize": (16, 12, 8),
                "dataType": voxels.dtype.name,
                "compression": {"type": "gzip"},
                **attributes,
            },
        },
        create=True,
    ).result()
    store[...] = voxels.transpose()


def write_precomputed(
    path: Path, voxels: NDArray[Any], scales: int = 1, **scale: Any
) -> None:
    for number in range(scales):
        step = 2**number
        part = voxels[::step, ::step, ::step]
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": f"{path}/"},
            "multiscale_metadata": {
                "data_type": voxels.dtype.name,
                "num_channels": 1,
                "type": "segmentation" if voxels.dtype == np.uint64 else "image",
            },
            "scale_metadata": {
                "size": part.shape[::-1],
                "resolution": [4.0 * step, 5.0 * step, 6.0 * step],
                "chunk_size": (16, 12, 8),
                "encoding": "raw",
                **scale,
            },
        }
        store = ts.open(spec, create=True, open=True).result()
        store[..., 0] = part.transpose()


def multiscales(levels: int, **image: Any) -> dict[str, Any]:
    unit = image.pop("unit", "nanometer")
    return {
        "axes": [{"name": n, "type": "space", "unit": unit} for n in "zyx"],
        "datasets": [
            {
                "path": f"s{n}",
                "coordinateTransformations": [
                    {"type": "scale", "scale": [2.96 * 2**n, 4.0 * 2**n, 4.0 * 2**n]},
                    {"type": "translation", "translation": [1.48, 2.0 * n, 0.0]},
                ],
            }
            for n in range(levels)
        ],
        **image,
    }


def pixels(volume: Volume) -> NDArray[Any]:
    return volume.read(ALL)
