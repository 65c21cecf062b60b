"""Montages as folders in an inbox, and a Dagster instance of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import dagster as dg
import numpy as np
import pytest

from em_platform.config import load_settings
from em_platform.formats.tiff import write_tiff
from em_platform.stitching.compute import local_cluster
from em_platform.storage import Store, store_of

TILE_PX, STEP_PX = 256, 192


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """Dagster's memory, gone after the test."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def store(home: Path) -> Store:
    """Where the assets of this test write."""
    return store_of(load_settings())


@pytest.fixture(scope="session")
def dask_address() -> Iterator[str]:
    """A scheduler with one worker that all tests share."""
    with local_cluster(1) as client:
        yield client.scheduler_info()["address"]


@pytest.fixture
def cheap_runs(monkeypatch: pytest.MonkeyPatch, dask_address: str) -> None:
    """Settings with which a run of a small montage costs little."""
    monkeypatch.setenv("EM_DASK_ADDRESS", dask_address)
    monkeypatch.setenv("EM_STITCHING__MATCH__SEARCH_PX", "32")


@pytest.fixture
def drop_montage(home: Path) -> Callable[..., Path]:
    """Put a folder of 2 x 2 tiles, cut from one image at known places, in the inbox."""

    def drop(name: str, *, seed: int = 1) -> Path:
        folder = home / "inbox" / name
        folder.mkdir(parents=True)
        noise = np.random.default_rng(seed).normal(128, 300, (512, 512))
        grain = cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 3)
        image = np.clip(grain, 0, 255).astype(np.uint8)
        lines = ["file,x_px,y_px"]
        for row in range(2):
            for column in range(2):
                y, x = row * STEP_PX, column * STEP_PX
                tile = image[y : y + TILE_PX, x : x + TILE_PX]
                write_tiff(folder / f"t{row}{column}.tiff", tile)
                lines.append(f"t{row}{column}.tiff,{x + 3},{y - 2 * column}")
        (folder / "tiles.csv").write_text("\n".join(lines) + "\n")
        return folder

    return drop
