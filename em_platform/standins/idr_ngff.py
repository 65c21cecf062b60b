"""IDR's bucket of OME-Zarr images, version 0.4 of OME-NGFF in Zarr v2."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.standins.chunk_stores import (
    BLOSC,
    halved,
    write_zarr_array,
    write_zarr_group,
)
from em_platform.standins.part import Tree
from em_platform.standins.pixels import Pixels

BUCKET = "idr"
NUCLEI = Pixels(shape=(24, 55, 54), dtype="uint16", variant=12)
"""First channel of 6001240, whose real shape is (2, 236, 275, 271)."""
NUCLEI_NM = (500.2, 360.4, 360.4)
CHROMATIN = Pixels(shape=(30, 66, 72), variant=13)
"""Of an image that is made up: electron microscopy in one channel."""
CHROMATIN_NM = (20.0, 20.0, 20.0)
LEVELS = 3


def ngff_tree(folder: Path) -> Tree:
    """The bucket's files: two images, each with three levels."""

    def fill(root: Path) -> None:
        first = NUCLEI.whole()
        second = Pixels(shape=NUCLEI.shape, dtype="uint16", variant=14).whole()
        _write(
            root / "zarr/v0.4/idr0062A/6001240.zarr",
            np.stack([first, second]),
            edges=(1.0, *(edge / 1000 for edge in NUCLEI_NM)),
            chunks=(1, 1, *NUCLEI.shape[1:]),
        )
        _write(
            root / "zarr/v0.4/idr0086D/9846199.zarr",
            CHROMATIN.whole(),
            edges=tuple(edge / 1000 for edge in CHROMATIN_NM),
            chunks=(16, 32, 32),
        )

    return Tree(folder, fill)


def _write(
    root: Path, image: NDArray[Any], *, edges: Sequence[float], chunks: Sequence[int]
) -> None:
    """Levels `0`, `1` ...: only y and x are halved, as in IDR's images."""
    factors = (1,) * (image.ndim - 2) + (2, 2)
    datasets = []
    level = image
    for number in range(LEVELS):
        within = [min(c, n) for c, n in zip(chunks, level.shape, strict=True)]
        write_zarr_array(root / str(number), level, chunks=within, compressor=BLOSC)
        grown = [
            edge * factor**number for edge, factor in zip(edges, factors, strict=True)
        ]
        scale = {"type": "scale", "scale": grown}
        datasets.append({"path": str(number), "coordinateTransformations": [scale]})
        level = halved(level, factors)
    write_zarr_group(root, _attributes(image, datasets))


def _attributes(image: NDArray[Any], datasets: list[dict[str, Any]]) -> dict[str, Any]:
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    channels = 1
    if image.ndim == 4:
        channels = image.shape[0]
        axes = [{"name": "c", "type": "channel"}, *axes]
    window = {"start": 0, "end": 65535, "min": 0, "max": 65535}
    return {
        "multiscales": [{"axes": axes, "datasets": datasets, "version": "0.4"}],
        "omero": {
            "id": 1,
            "version": "0.4",
            "channels": [
                {"active": True, "color": "FFFFFF", "label": str(n), "window": window}
                for n in range(channels)
            ],
            "rdefs": {
                "defaultT": 0,
                "defaultZ": image.shape[-3] // 2,
                "model": "color",
            },
        },
    }
