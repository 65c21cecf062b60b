"""Mosaics of known specimens: exact where they must be, the same however cut."""

import math

import numpy as np
import pytest
import tifffile

from em_platform.config import RenderSettings
from em_platform.errors import FitFailed, FormatError
from em_platform.formats import open_level
from em_platform.imaging.lens import lens_field
from em_platform.model import (
    Box,
    LensModel,
    Montage,
    MontageFit,
    Size,
    Tile,
    TilePlacement,
    review_of,
)
from em_platform.stitching.compute import dask_map, local_cluster, thread_map
from em_platform.stitching.placed import SpatialIndex
from em_platform.stitching.render import MosaicPixels, render_mosaic
from em_platform.stitching.tile_images import TileImages

SIZE = 200
SETTINGS = RenderSettings(chunk_px=32, shard_px=128)


def smooth(y, x):
    """Grey level of a specimen without sharp edges at real coordinates."""
    return (
        128 + 50 * np.sin(y / 17.0) * np.cos(x / 23.0) + 40 * np.sin((y + 2 * x) / 31.0)
    )


def grid_of(height, width, y0=0.0, x0=0.0):
    return np.meshgrid(np.arange(height) + y0, np.arange(width) + x0, indexing="ij")


class Scene:
    """Tiles in a folder, with their places."""

    def __init__(self, folder):
        self.folder, self.tiles, self.places = folder, [], []

    def add(self, pixels, y_px, x_px, *, mask=None, **affine):
        name = f"t{len(self.tiles)}"
        path = self.folder / f"{name}.tif"
        tifffile.imwrite(path, pixels)
        mask_path = self.folder / f"{name}-mask.tif"
        if mask is not None:
            tifffile.imwrite(mask_path, mask.astype(np.uint8) * 255)
        height, width = pixels.shape
        self.tiles.append(
            Tile(
                tile_id=name,
                uri=str(path),
                row=0,
                column=len(self.tiles),
                y_px=y_px,
                x_px=x_px,
                size=Size(height_px=height, width_px=width),
                mask_uri=None if mask is None else str(mask_path),
            )
        )
        self.places.append(TilePlacement(tile_id=name, y_px=y_px, x_px=x_px, **affine))

    def montage(self):
        return Montage(
            acquisition_id="scene",
            montage_id="scene",
            tiles=tuple(self.tiles),
            tile_size=self.tiles[0].size,
            pixel_nm=4.0,
            expected_tiles=len(self.tiles),
        )

    def fit(self):
        return MontageFit(
            acquisition_id="scene",
            placements=tuple(self.places),
            matches=(),
            residual_px=0.0,
        )

    def render(self, name="mosaic.zarr", *, images=None, settings=SETTINGS, **more):
        target = str(self.folder / name)
        mosaic = render_mosaic(
            self.montage(),
            self.fit(),
            images or TileImages(),
            target,
            settings=settings,
            review=review_of(()),
            **more,
        )
        return mosaic, open_level(target, 0)[:]


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


@pytest.fixture
def noisy(scene):
    """3 x 3 tiles of one noisy specimen at whole pixels, with jitter."""
    rng = np.random.default_rng(5)
    world = rng.integers(1, 256, (620, 620), dtype=np.uint8)
    for row in range(3):
        for column in range(3):
            y = row * 170 + int(rng.integers(0, 20))
            x = column * 170 + int(rng.integers(0, 20))
            scene.add(world[y : y + SIZE, x : x + SIZE], y, x)
    scene.world = world
    return scene


@pytest.fixture
def fractional(scene):
    """2 x 3 tiles of noise at fractions of a pixel: each seam is a real blend."""
    rng = np.random.default_rng(6)
    for row in range(2):
        for column in range(3):
            pixels = rng.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
            scene.add(pixels, *(np.array([row, column]) * 165 + rng.uniform(0, 9, 2)))
    return scene


def test_at_whole_pixels_the_specimen_comes_back_exactly(noisy):
    mosaic, pixels = noisy.render()
    y0, x0 = mosaic.origin_px
    truth = noisy.world[y0 : y0 + mosaic.shape[0], x0 : x0 + mosaic.shape[1]]
    covered = np.zeros(mosaic.shape, bool)
    for place in noisy.places:
        y, x = int(place.y_px) - y0, int(place.x_px) - x0
        covered[y : y + SIZE, x : x + SIZE] = True
    assert np.array_equal(pixels[covered], truth[covered])
    assert (pixels[~covered] == 0).all()
    assert mosaic.mpix == pytest.approx(pixels.size / 1e6)


def test_where_one_tile_alone_lies_its_pixels_are_exact(scene):
    rng = np.random.default_rng(8)
    left, right = rng.integers(0, 256, (2, 100, 100), dtype=np.uint8)
    scene.add(left, 0, 0)
    scene.add(right, 0, 80)
    _, pixels = scene.render()
    assert np.array_equal(pixels[:, :80], left[:, :80])
    assert np.array_equal(pixels[:, 100:], right[:, 20:])


def test_across_an_overlap_one_tile_fades_into_the_other(scene):
    scene.add(np.full((100, 100), 50, np.uint8), 0, 0)
    scene.add(np.full((100, 100), 150, np.uint8), 0, 60)
    _, pixels = scene.render()
    middle = pixels[50].astype(int)
    assert (np.diff(middle) >= 0).all()
    assert np.diff(middle).max() <= 3  # 100 grey levels over 40 pixels
    assert abs(middle[79] - 100) <= 2 and (middle[:60] == 50).all()


def test_fractions_of_a_pixel_are_interpolated(scene):
    for y, x in ((0.0, 0.0), (0.3, 150.6), (149.75, 0.5), (150.2, 150.9)):
        scene.add(np.rint(smooth(*grid_of(SIZE, SIZE, y, x))).astype(np.uint8), y, x)
    _, pixels = scene.render()
    truth = smooth(*grid_of(*pixels.shape))
    inner = np.s_[2:-3, 2:-3]
    # Rounding to whole grey levels twice, and curvature between pixels.
    assert np.abs(pixels[inner] - truth[inner]).max() < 1.5


@pytest.mark.parametrize("shard_px", [32, 64, 512])
def test_the_size_of_the_shards_changes_no_pixel(fractional, shard_px):
    _, pixels = fractional.render("a.zarr")
    settings = RenderSettings(chunk_px=32, shard_px=shard_px)
    _, again = fractional.render("b.zarr", settings=settings)
    assert np.array_equal(pixels, again)


def test_odd_cuts_change_no_pixel(fractional):
    from em_platform.stitching.placed import lay_out

    images = TileImages()
    layout = lay_out(fractional.montage(), fractional.fit(), images, lens=None)
    pixels = MosaicPixels(layout, images, settings=SETTINGS)
    height, width = layout.shape
    whole = pixels((slice(0, height), slice(0, width)))
    for y0, x0 in ((0, 0), (37, 101), (150, 3), (171, 290)):
        part = pixels((slice(y0, y0 + 61), slice(x0, x0 + 77)))
        assert np.array_equal(part, whole[y0 : y0 + 61, x0 : x0 + 77])


def test_a_cache_too_small_for_one_tile_changes_no_pixel(fractional):
    _, pixels = fractional.render("a.zarr")
    settings = SETTINGS.model_copy(update={"tile_cache_mb": 0})
    _, again = fractional.render("b.zarr", settings=settings)
    assert np.array_equal(pixels, again)


def test_each_tile_is_read_once(noisy, monkeypatch):
    reads = []

    class Counting(TileImages):
        def read(self, tile, box=None):
            reads.append(tile.tile_id)
            return super().read(tile, box)

    noisy.render(images=Counting())
    assert sorted(reads) == sorted(tile.tile_id for tile in noisy.tiles)


def test_turned_tiles_come_back_straight(scene):
    angle = math.radians(2.0)
    yy, yx, xy, xx = (
        math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
    )  # fmt: skip
    for y_px, x_px in ((10.0, 10.3), (12.4, 160.8)):
        rows, columns = grid_of(SIZE, SIZE)
        pixels = smooth(
            y_px + yy * rows + yx * columns, x_px + xy * rows + xx * columns
        )
        affine = {"yy": yy, "yx": yx, "xy": xy, "xx": xx}
        scene.add(np.rint(pixels).astype(np.uint8), y_px, x_px, **affine)
    mosaic, pixels = scene.render()
    truth = smooth(*grid_of(*pixels.shape, *mosaic.origin_px))
    covered = pixels > 0
    assert covered.mean() > 0.9
    assert np.abs(pixels[covered] - truth[covered]).max() < 1.5


@pytest.fixture
def lens():
    dy, dx = [0.0] * 10, [0.0] * 10
    # u**3 and u * v**2 (dy), v * u**2 and v**3 (dx): radial, third order
    dy[6], dy[8], dx[7], dx[9] = 3.0, 3.0, 3.0, 3.0
    return LensModel(
        microscope="sim",
        magnification=1,
        size=Size(height_px=SIZE, width_px=SIZE),
        degree=3,
        dy_px=tuple(dy),
        dx_px=tuple(dx),
        residual_mean_px=0.0,
        residual_std_px=0.0,
        points=1,
    )


def test_a_lens_is_taken_out(scene, lens):
    rows, columns = grid_of(SIZE, SIZE)
    dy, dx = lens_field(lens, rows, columns)
    assert np.hypot(dy, dx).max() > 4
    for y, x in ((0.0, 0.0), (0.4, 150.7)):
        pixels = smooth(y + rows + dy, x + columns + dx)
        scene.add(np.rint(pixels).astype(np.uint8), y, x)
    mosaic, pixels = scene.render(lens=lens)
    truth = smooth(*grid_of(*pixels.shape, *mosaic.origin_px))
    covered = pixels > 0
    assert covered.mean() > 0.95
    assert np.abs(pixels[covered] - truth[covered]).max() < 1.6


@pytest.mark.parametrize("shard_px", [32, 512])
def test_with_a_lens_too_the_size_of_the_shards_changes_no_pixel(
    fractional, lens, shard_px
):
    _, pixels = fractional.render("a.zarr", lens=lens)
    settings = RenderSettings(chunk_px=32, shard_px=shard_px)
    _, again = fractional.render("b.zarr", lens=lens, settings=settings)
    assert np.array_equal(pixels, again)


def test_a_camera_s_black_frame_does_not_show(scene):
    for x in (0, 130):
        framed = np.zeros((100, 160), np.uint8)
        framed[5:95, 10:150] = 90
        scene.add(framed, 0, x)
    valid = Box(y0=5, x0=10, y1=95, x1=150)
    mosaic, pixels = scene.render(images=TileImages(valid_box=valid))
    assert pixels.shape == (90, 270) and mosaic.origin_px == (5, 10)
    assert (pixels == 90).all()


def test_what_a_mask_hides_is_filled_from_the_neighbour(scene):
    bright, mask = np.full((100, 100), 200, np.uint8), np.ones((100, 100), bool)
    bright[:, 70:80] = 0
    mask[:, 70:80] = False
    scene.add(bright, 0, 0, mask=mask)
    scene.add(np.full((100, 100), 200, np.uint8), 0, 60)
    _, pixels = scene.render()
    assert (pixels[:, :160] == 200).all()


def test_a_mask_at_whole_pixels_keeps_the_grey_levels_exact(scene):
    rng = np.random.default_rng(9)
    pixels = rng.integers(1, 256, (90, 90), dtype=np.uint8)
    mask = np.ones((90, 90), bool)
    mask[30:40, 30:40] = False
    scene.add(pixels, 3, 4, mask=mask)
    settings = SETTINGS.model_copy(update={"background": 7})
    _, rendered = scene.render(settings=settings)
    assert np.array_equal(rendered, np.where(mask, pixels, 7))


def test_holes_show_the_background(scene):
    scene.add(np.full((50, 50), 100, np.uint8), 0, 0)
    scene.add(np.full((50, 50), 100, np.uint8), 400, 300)
    settings = SETTINGS.model_copy(update={"background": 33})
    _, pixels = scene.render(settings=settings)
    assert set(np.unique(pixels)) == {33, 100}
    assert (pixels == 100).sum() == 2 * 50 * 50


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_threads_write_the_same_bytes(fractional):
    fractional.render("a.zarr")
    fractional.render("b.zarr", run=thread_map(2))
    folder = fractional.folder
    assert files_of(folder / "a.zarr") == files_of(folder / "b.zarr")


@pytest.mark.system
def test_dask_workers_write_the_same_bytes(fractional):
    serial, _ = fractional.render("a.zarr")
    with local_cluster(2) as client:
        mosaic, _ = fractional.render("b.zarr", run=dask_map(client))
    folder = fractional.folder
    assert files_of(folder / "a.zarr") == files_of(folder / "b.zarr")
    assert mosaic.shape == serial.shape
    assert mosaic.cpu_seconds > 0


def test_a_tile_that_cannot_be_read_is_named(noisy):
    path = noisy.folder / "t4.tif"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(FormatError, match=r"t4\.tif"):
        noisy.render()
    assert not (noisy.folder / "mosaic.zarr").exists()


def test_a_changed_tile_is_not_mixed_with_what_an_interrupted_call_left(noisy):
    path = noisy.folder / "t8.tif"
    good = path.read_bytes()
    path.write_bytes(good[:1000])
    with pytest.raises(FormatError):
        noisy.render()
    first = tifffile.imread(noisy.folder / "t0.tif")
    tifffile.imwrite(noisy.folder / "t0.tif", 255 - first)
    path.write_bytes(good)
    _, pixels = noisy.render()
    _, fresh = noisy.render("fresh.zarr")
    assert np.array_equal(pixels, fresh)


def test_a_montage_without_placed_tiles_is_reported_in_one_sentence(scene):
    scene.add(np.zeros((50, 50), np.uint8), 0, 0)
    nothing = Box(y0=0, x0=0, y1=0, x1=0)
    with pytest.raises(FitFailed, match="no tile with a valid region"):
        scene.render(images=TileImages(valid_box=nothing))


def test_the_index_finds_every_box_that_touches_a_region():
    rng = np.random.default_rng(2)
    corners = rng.integers(0, 5000, (300, 2)).tolist()
    boxes = [Box(y0=y, x0=x, y1=y + 210, x1=x + 190) for y, x in corners]
    index = SpatialIndex(boxes, cell_px=256)
    for y, x in rng.integers(0, 5000, (50, 2)).tolist():
        region = Box(y0=y, x0=x, y1=y + 100, x1=x + 300)
        touching = [
            number
            for number, box in enumerate(boxes)
            if box.y0 < region.y1
            and box.y1 > region.y0
            and box.x0 < region.x1
            and box.x1 > region.x0
        ]
        found = index.near(region)
        assert found == sorted(found)
        assert set(touching) <= set(found)
        assert len(found) < 30
