"""Montages in an inbox and from a microscope, a TEM DB, a Dagster instance."""

import hashlib
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import dagster as dg
import numpy as np
import pytest
from distributed import LocalCluster
from numpy.typing import NDArray

from em_platform.acquisition.recorder import ledger_of
from em_platform.aloha.acquisitions import Acquisitions
from em_platform.config import AlohaSettings, load_settings
from em_platform.formats import write_tiff
from em_platform.messaging.topics import fitting
from em_platform.model import AcquisitionUpload, Size, UploadedTile
from em_platform.storage import Store, layout, store_of
from em_platform.temdb import register_of, temdb_token
from em_platform.temdb.register import Register

TILE_PX, STEP_PX = 256, 192
Cell = tuple[int, int]
"""Row and column of a tile."""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """Dagster's memory, gone after the test."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def store(home: Path) -> Store:
    """Where the assets of this test write."""
    return store_of(load_settings())


@pytest.fixture(scope="module")
def dask_address() -> Iterator[str]:
    """A scheduler with one worker, a thread here, for the tests of a file.

    Each idle cluster takes 7 % of a core, so none outlives its file.
    """
    # Not `local_cluster`: who has its address alone is refused.
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        dashboard_address="127.0.0.1:0",
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def cheap_runs(monkeypatch: pytest.MonkeyPatch, dask_address: str) -> None:
    """Settings with which a run of a small montage costs little."""
    monkeypatch.setenv("EM_DASK_ADDRESS", dask_address)
    monkeypatch.setenv("EM_STITCHING__MATCH__SEARCH_PX", "32")


def tiles_of_an_image(
    seed: int, side: int = 2
) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
    """Row, column and pixels of a square of tiles that share a quarter of an edge."""
    edge = TILE_PX + max(2, side - 1) * STEP_PX
    noise = np.random.default_rng(seed).normal(128, 300, (edge, edge))
    grain = cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 3)
    image = np.clip(grain, 0, 255).astype(np.uint8)
    for row in range(side):
        for column in range(side):
            y, x = row * STEP_PX, column * STEP_PX
            yield row, column, image[y : y + TILE_PX, x : x + TILE_PX]


@pytest.fixture
def drop_montage(home: Path) -> Callable[..., Path]:
    """Put a folder of tiles, cut from one image at known places, in the inbox."""

    def drop(
        name: str, *, seed: int = 1, side: int = 2, black: Collection[Cell] = ()
    ) -> Path:
        folder = home / "inbox" / name
        folder.mkdir(parents=True)
        lines = ["file,x_px,y_px"]
        for row, column, tile in tiles_of_an_image(seed, side):
            y, x = row * STEP_PX, column * STEP_PX
            shown = tile * ((row, column) not in black)
            write_tiff(folder / f"t{row}{column}.tiff", shown)
            lines.append(f"t{row}{column}.tiff,{x + 3},{y - 2 * column}")
        (folder / "tiles.csv").write_text("\n".join(lines) + "\n")
        return folder

    return drop


@pytest.fixture
def image_montage(home: Path) -> Callable[..., Path]:
    """Frames of tiles as a microscope leaves them, and their record.

    It announces `side` x `side` tiles without those that it `left_out`.
    """

    def image(
        montage_id: str,
        *,
        is_lens: bool = False,
        side: int = 2,
        left_out: Collection[Cell] = (),
    ) -> Path:
        key = f"{montage_id}-t1"
        folder = home / "frames" / montage_id
        folder.mkdir(parents=True)
        announced: dict[str, Any] = {}
        for row, column, pixels in tiles_of_an_image(1, side):
            if (row, column) in left_out:
                continue
            tile_id = f"{key}_{row:03d}_{column:03d}"
            path = folder / f"{tile_id}.tiff"
            write_tiff(path, pixels)
            stage = [column * STEP_PX * 4, row * STEP_PX * 4]
            raw = {
                "tile_id": tile_id,
                "montage_id": montage_id,
                "row": row,
                "column": column,
                "overlap": TILE_PX - STEP_PX,
                "stage_position": stage,
                "path": str(path),
                "lens_correction": is_lens or None,
            }
            write_body(folder / f"{tile_id}.json", "tile.raw", raw)
            announced[tile_id] = {
                "raster_index": len(announced),
                "stage_position": stage,
                "raster_position": [column, row],
            }
        complete = {
            "montage_id": montage_id,
            "tiles": announced,
            "acquisition_id": key,
            "start_time": "2026-01-01T00:00:00Z",
            "pixel_size": 4.0,
            "rotation_angle": 0.0,
            "aperture_centroid": [0, 0],
        }
        write_body(folder / f"{key}.complete.json", "montage.complete", complete)
        with ledger_of(load_settings()) as recorder:
            started = {"montage_id": montage_id, "state": "started"}
            recorder.append("montage.status", started | {"total_tiles": side**2}, {})
            assert recorder.reconcile_montage(folder) == len(announced) + 1
        return folder

    return image


def write_body(path: Path, topic: str, fields: dict[str, Any]) -> None:
    path.write_text(fitting(topic, fields).model_dump_json())


@pytest.fixture
def temdb(
    home: Path, monkeypatch: pytest.MonkeyPatch, serve_temdb: Callable[[str], str]
) -> Register:
    """A TEM DB on SQLite that the settings name."""
    address = serve_temdb(temdb_token(load_settings()))
    monkeypatch.setenv("EM_TEMDB__PORT", address.rpartition(":")[2])
    return register_of(load_settings())


@pytest.fixture
def upload(
    home: Path, store: Store, temdb: Register, tmp_path: Path
) -> Callable[[Path], AcquisitionUpload]:
    """Put a montage of `image_montage` through aloha's own hands."""

    def act(folder: Path) -> AcquisitionUpload:
        key = f"{folder.name}-t1"
        frames = sorted(folder.glob("*.tiff"))
        upload = AcquisitionUpload(
            acquisition_id=key,
            montage_id=folder.name,
            aperture_id=7,
            started_at=datetime(2026, 1, 1, tzinfo=UTC),
            ended_at=datetime(2026, 1, 1, 1, tzinfo=UTC),
            pixel_nm=4.0,
            tile_size=Size(height_px=TILE_PX, width_px=TILE_PX),
            roi={
                "vertices": [{"x": 0, "y": 0}, {"x": 900, "y": 0}, {"x": 900, "y": 9}],
                "rotation_angle": 0.1,
                "aperture_id": 7,
                "overlap": 25,
                "metadata": {"note": "first"},
            },
            tiles=tuple(
                UploadedTile(
                    tile_id=frame.stem,
                    raster_index=index,
                    row=index // 2,
                    column=index % 2,
                    stage_x_nm=index,
                    stage_y_nm=0,
                    sha256=hashlib.sha256(frame.read_bytes()).hexdigest(),
                    bytes=frame.stat().st_size,
                )
                for index, frame in enumerate(frames)
            ),
        )
        settings = AlohaSettings(chunk_px=64, min_free_gb=0)
        aloha = Acquisitions(tmp_path / "aloha", store, temdb, settings)
        aloha.announce(upload)
        for frame in frames:
            wanted = aloha.wanted(key, frame.stem)
            assert wanted is not None
            aloha.take(key, wanted, frame)
        assert aloha.complete(key) == len(frames)
        aloha.journal.close()
        return store.read(layout.upload(key), AcquisitionUpload)

    return act
