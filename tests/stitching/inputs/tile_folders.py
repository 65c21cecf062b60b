"""Folders of tiles for the tests of tile lists, and what was read from them."""

from pathlib import Path

import cv2
import numpy as np

from em_platform.formats import write_tiff
from em_platform.model import Montage

GRAIN = np.random.default_rng(0).integers(1, 255, (64, 96), np.uint8)


def write_tiles(folder: Path, names: list[str]) -> None:
    """Write the same tile of 64 x 96 px under each name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith((".tif", ".tiff")):
            write_tiff(path, GRAIN)
        else:
            cv2.imwrite(str(path), GRAIN)


def places(montage: Montage) -> dict[str, tuple[float, float]]:
    """Tile id -> `(y, x)` px."""
    return {t.tile_id: (t.y_px, t.x_px) for t in montage.tiles}


def grid(montage: Montage) -> dict[str, tuple[int, int]]:
    """Tile id -> row and column."""
    return {t.tile_id: (t.row, t.column) for t in montage.tiles}
