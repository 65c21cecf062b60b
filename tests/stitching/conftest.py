"""Nine small overlapping tiles cut from a real section, with their true places."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from em_platform.formats import write_tiff

SECTION = Path(__file__).parent.parent / "data/flyem_medulla_fibsem/iso.03690.png"
TILE_PX, STEP_PX = 240, 140

Truth = dict[str, tuple[int, int]]


@pytest.fixture(scope="session")
def section() -> np.ndarray:
    """520 x 520 px of FlyEM medulla, FIB-SEM at 10 nm."""
    image = cv2.imread(str(SECTION), cv2.IMREAD_UNCHANGED)
    assert image.shape == (520, 520)
    return image


@pytest.fixture
def cut_tiles(section: np.ndarray) -> Callable[..., Truth]:
    """Write `r?c?.tif` and `tiles.csv` (nominal, up to 6 px wrong); the true places."""

    def cut(folder: Path, *, dtype: str = "uint8") -> Truth:
        folder.mkdir(parents=True, exist_ok=True)
        wrong = np.random.default_rng(1).integers(-6, 7, (9, 2))
        truth, lines = {}, ["file,x_px,y_px"]
        for number in range(9):
            y, x = (STEP_PX * n for n in divmod(number, 3))
            name = f"r{number // 3}c{number % 3}.tif"
            tile = section[y : y + TILE_PX, x : x + TILE_PX]
            write_tiff(folder / name, tile.astype(dtype))
            truth[name] = (y, x)
            lines.append(f"{name},{x + wrong[number, 1]},{y + wrong[number, 0]}")
        (folder / "tiles.csv").write_text("\n".join(lines) + "\n")
        return truth

    return cut
