"""Frames that have left the disk are read from where aloha has put them."""

import hashlib
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import numpy as np
import pytest
from TEM_comms.montage import Complete
from TEM_comms.tile import Raw

from em_platform.acquisition.montages.stored import as_first_planned, located, with_plan
from em_platform.acquisition.processing import process_tiles
from em_platform.acquisition.recorder.ledger import Ledger
from em_platform.aloha.pyramids import Frame, store_frame
from em_platform.config import AlohaSettings, Settings, StorageSettings, TileSettings
from em_platform.errors import FormatError
from em_platform.formats import read_header, read_image, write_tiff
from em_platform.model import AcquisitionUpload, Box, Failure, Montage, Size, Tile
from em_platform.stitching.recipe import choose_recipe
from em_platform.storage import Store, layout, open_store, store_of

KEY = "m1-20260102t030405"
TILE_IDS = [f"{KEY}_000_{column:03d}" for column in range(3)]

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store in a folder, and one on a real S3 server."""
    if request.param == "folder":
        yield open_store(str(tmp_path / "data"))
        return
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    storage = StorageSettings(
        root=f"s3://frames-{port}/em",
        endpoint_url=f"http://{host}:{port}",
        access_key="key",
        secret_key="secret",
    )
    store = store_of(Settings(storage=storage))
    fsspec.filesystem("s3", **store.options).mkdir(f"frames-{port}")
    yield store
    server.stop()


def pixels(column: int) -> np.ndarray:
    noise = np.random.default_rng(column).normal(2000, 300, (128, 200))
    return noise.astype(np.uint16)


@pytest.fixture
def imaged(tmp_path: Path) -> Iterator[tuple[Ledger, Path]]:
    """A recorded montage, and the folder of its frames."""
    folder = tmp_path / "frames" / "m1"
    with Ledger(f"sqlite:///{tmp_path / 'events.sqlite'}") as recorder:
        for column, tile_id in enumerate(TILE_IDS):
            path = folder / f"{tile_id}.tiff"
            write_tiff(path, pixels(column))
            raw = Raw(
                tile_id=tile_id,
                montage_id="m1",
                row=0,
                column=column,
                overlap=20,
                stage_position=(column * 720, 0),
                path=str(path),
            ).model_dump_json()
            path.with_suffix(".json").write_text(raw)
        complete = Complete(
            montage_id="m1",
            acquisition_id=KEY,
            start_time="2026-01-02T03:04:05Z",
            pixel_size=4.0,
            rotation_angle=0.0,
            aperture_centroid=(0, 0),
            tiles={
                tile_id: {
                    "raster_index": column,
                    "stage_position": (column * 720, 0),
                    "raster_position": (column, 0),
                }
                for column, tile_id in enumerate(TILE_IDS)
            },
        ).model_dump_json()
        (folder / f"{KEY}.complete.json").write_text(complete)
        assert recorder.reconcile_montage(folder) == 4
        yield recorder, folder


def upload(store: Store, folder: Path, scratch: Path) -> None:
    """What aloha leaves in the store."""
    scratch.mkdir(exist_ok=True)
    for tile_id in TILE_IDS:
        path = folder / f"{tile_id}.tiff"
        frame = Frame(
            name=layout.uploaded_tile(KEY, tile_id),
            tile_id=tile_id,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            pixel_nm=4.0,
        )
        settings = AlohaSettings(chunk_px=64)
        store_frame(
            path, frame, store, settings=settings, scratch=scratch, measure=False
        )
    assert not list(scratch.iterdir())
    published = AcquisitionUpload(
        acquisition_id=KEY,
        montage_id="m1",
        started_at=datetime(2026, 1, 2, tzinfo=UTC),
        tile_size=Size(height_px=128, width_px=200),
    )
    store.write(layout.upload(KEY), published, AcquisitionUpload)


def processed(montage: Montage, store: Store, target: Path) -> dict[str, bytes]:
    recipe = choose_recipe(montage, TileSettings(), options=store.options)
    images = recipe.images(store.options)
    done = process_tiles(montage, images, open_store(str(target)))
    assert not done.montage.failures
    return {
        tile.tile_id: Path(tile.uri.removeprefix("file://")).read_bytes()
        for tile in done.montage.tiles
    }


def test_uploaded_tiles_become_the_same_bytes_as_the_frames(
    imaged: tuple[Ledger, Path], store: Store, tmp_path: Path
) -> None:
    recorder, folder = imaged
    from_frames = processed(recorder.montage(KEY), store, tmp_path / "one")
    upload(store, folder, tmp_path / "scratch")
    before = recorder.montage(KEY, store=store)
    assert all(tile.uri.endswith(".tiff") for tile in before.tiles)
    for path in folder.glob("*_00?.*"):
        path.unlink()
    assert [path.name for path in folder.iterdir()] == [f"{KEY}.complete.json"]

    moved = located(before, store)
    assert all(tile.uri.endswith(".zarr/0") for tile in moved.tiles)
    assert processed(moved, store, tmp_path / "two") == from_frames
    again = recorder.montage(KEY, store=store)
    assert again == moved
    assert len(from_frames) == 3


def test_part_of_an_uploaded_tile_is_read(
    imaged: tuple[Ledger, Path], store: Store, tmp_path: Path
) -> None:
    _, folder = imaged
    upload(store, folder, tmp_path / "scratch")
    uri = f"{store.url(layout.uploaded_tile(KEY, TILE_IDS[1]))}/0"
    header = read_header(uri, store.options)
    assert (header.size.height_px, header.size.width_px) == (128, 200)
    assert header.dtype == "uint16"
    box = Box(y0=10, x0=60, y1=70, x1=131)
    part = read_image(uri, box, options=store.options)
    assert np.array_equal(part, pixels(1)[10:70, 60:131])
    with pytest.raises(FormatError, match="not an OME-Zarr"):
        read_image(uri.replace(".zarr", "x.zarr"), options=store.options)


def test_a_frame_that_is_gone_and_not_verified_is_reported(
    imaged: tuple[Ledger, Path], tmp_path: Path
) -> None:
    recorder, folder = imaged
    store = open_store(str(tmp_path / "data"))
    upload(store, folder, tmp_path / "scratch")
    (folder / f"{TILE_IDS[0]}.tiff").unlink()
    store.remove(layout.upload(KEY))  # aloha has verified nothing
    montage = recorder.montage(KEY, store=store)
    assert len(montage.tiles) == 2
    (failure,) = montage.failures
    assert TILE_IDS[0] in failure.item or TILE_IDS[0] in failure.sentence


def test_a_recorder_goes_on_where_the_buffer_has_deleted_frames(
    imaged: tuple[Ledger, Path],
) -> None:
    recorder, folder = imaged
    for path in folder.glob("*_00?.*"):
        path.unlink()
    assert recorder.reconcile_montage(folder) == 0  # complete.json stays
    assert recorder.tile_ids("m1") == set(TILE_IDS)
    shutil.rmtree(folder)
    assert recorder.reconcile_montage(folder) == 0
    assert [key for _, key in recorder.montages()] == [KEY]


SIZE = Size(height_px=8, width_px=8)


def montage(
    *cells: tuple[str, int, int], failures: tuple[str, ...] = (), expected: int = 0
) -> Montage:
    """Tiles of these names, rows and columns; `expected` are at least all of them."""
    return Montage(
        acquisition_id="m",
        montage_id="m",
        tiles=tuple(
            Tile(
                tile_id=name,
                uri=name,
                row=row,
                column=column,
                y_px=8 * row,
                x_px=8 * column,
                size=SIZE,
            )
            for name, row, column in cells
        ),
        tile_size=SIZE,
        expected_tiles=max(expected, len(cells) + len(failures)),
        failures=tuple(
            Failure(item=name, error="FormatError", sentence=f"{name}: gone")
            for name in failures
        ),
    )


A, B, C = ("a", 0, 0), ("b", 0, 1), ("c", 1, 0)


def test_the_first_run_makes_the_plan() -> None:
    first = with_plan(montage(A, B, C), ())
    assert [tile.tile_id for tile in first.planned] == ["a", "b", "c"]
    assert (first.expected_tiles, first.failures) == (3, ())


def test_a_tile_that_is_gone_stays_missing_in_every_later_run() -> None:
    first = with_plan(montage(A, B, C), ())
    later = with_plan(montage(A, B), first.planned)
    last = with_plan(montage(A, B), later.planned)
    for found in (later, last):
        assert [failure.item for failure in found.failures] == ["c"]
        assert (len(found.tiles), found.expected_tiles) == (2, 3)


def test_a_tile_that_comes_back_is_no_longer_missing() -> None:
    first = with_plan(montage(A, B, C), ())
    later = with_plan(montage(A, B), first.planned)
    healed = with_plan(montage(A, B, C), later.planned)
    assert (healed.failures, healed.expected_tiles) == ((), 3)


def test_a_tile_whose_failure_is_known_is_counted_once() -> None:
    first = with_plan(montage(A, B, C), ())
    later = with_plan(montage(A, B, failures=("c",)), first.planned)
    assert [failure.sentence for failure in later.failures] == ["c: gone"]
    assert later.expected_tiles == 3


def test_a_tile_that_was_imaged_again_takes_the_place_of_the_old_one() -> None:
    first = with_plan(montage(A, B, C), ())
    later = with_plan(montage(A, B, ("c2", 1, 0)), first.planned)
    assert (later.failures, later.expected_tiles) == ((), 3)


def test_the_plan_of_the_microscope_is_not_counted_twice() -> None:
    first = with_plan(montage(A, B, C, expected=9), ())
    later = with_plan(montage(A, B, expected=9), first.planned)
    assert (len(later.failures), later.expected_tiles) == (1, 9)


def test_a_damaged_record_of_a_montage_is_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(str(tmp_path))
    store.write_bytes(layout.montage("m"), b'{"acquisition_id": "half')
    found = as_first_planned(montage(A, B), store)
    assert (found.failures, found.expected_tiles) == ((), 2)
    assert "is not a Montage" in caplog.text
