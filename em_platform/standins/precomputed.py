"""Neuroglancer's precomputed volumes, written by tensorstore, to be served as files."""

from pathlib import Path
from typing import Any, Literal

from em_platform.standins.dvid_blocks import Grid, Place

Encoding = Literal["raw", "jpeg", "compressed_segmentation"]
Method = Literal["mode", "mean"]
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
    method: Method = "mode" if encoding == "compressed_segmentation" else "mean"
    for index in range(scales):
        factor = 2**index
        store = ts.open(
            _spec(
                folder,
                scale=_scale(
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
        store[ts.d["channel"][0]].T.write(smaller).result()


def _scale(
    shape: tuple[int, ...],
    voxel_size_nm: tuple[float, ...],
    *,
    origin: tuple[int, ...],
    encoding: Encoding,
    layout: str,
) -> dict[str, Any]:
    """One entry of `scales`; everything in it is x, y, z."""
    scale: dict[str, Any] = {
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
            "preshift_bits": 3,
            "minishard_bits": 2,
            "shard_bits": 2,
            "minishard_index_encoding": "gzip",
            "data_encoding": "raw" if encoding == "jpeg" else "gzip",
        }
    return scale


def _spec(folder: Path, *, scale: dict[str, Any], dtype: str) -> dict[str, Any]:
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
