import json
import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from em_platform.config.stitching import MatchSettings
from em_platform.formats import write_tiff
from em_platform.imaging.lens import undistort_points
from em_platform.model import Box, LensModel, Montage, Size, Tile, TileMatch
from em_platform.stitching.compute import dask_map, local_cluster, thread_map
from em_platform.stitching.match import agreeing, match_pairs
from em_platform.stitching.tile_images import TileImages

Array = NDArray[Any]
SIDE = 448
STEP = 330
MARGIN = 110
SETTINGS = MatchSettings(search_px=90)


def scene(side: int, seed: int = 0) -> Array:
    """Tissue-like texture, 0..255 float."""
    rng = np.random.default_rng(seed)
    out = np.zeros((side, side), np.float32)
    for sigma, gain in ((1.5, 12.0), (5.0, 25.0), (15.0, 15.0)):
        white = rng.standard_normal((side, side), np.float32)
        layer = cv2.GaussianBlur(white, (0, 0), sigma)
        out += gain * layer / layer.std()
    return out + 128


def photograph(world: Array, y: float, x: float, seed: int) -> NDArray[np.uint8]:
    """One tile at a place of the scene, with the camera's noise."""
    window = world[int(y) - 1 : int(y) + SIDE + 2, int(x) - 1 : int(x) + SIDE + 2]
    turn = np.array([[1, 0, -(x - int(x)) - 1], [0, 1, -(y - int(y)) - 1]], np.float64)
    image = cv2.warpAffine(window, turn, (SIDE, SIDE), flags=cv2.INTER_CUBIC)
    noise = 5.0 * np.random.default_rng(seed).standard_normal(image.shape)
    return np.clip(np.rint(image + noise), 1, 255).astype(np.uint8)


def tile(folder: Path, name: str, y_px: float, x_px: float) -> Tile:
    return Tile(
        tile_id=name,
        uri=str(folder / f"{name}.tif"),
        row=0,
        column=0,
        y_px=y_px,
        x_px=x_px,
        size=Size(height_px=SIDE, width_px=SIDE),
    )


def as_montage(tiles: Iterable[Tile], size: Size | None = None) -> Montage:
    tiles = tuple(tiles)
    return Montage(
        acquisition_id="m",
        montage_id="m",
        tiles=tiles,
        tile_size=size or Size(height_px=SIDE, width_px=SIDE),
        expected_tiles=len(tiles),
    )


Truth = dict[str, Array]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Montage, Truth, Path]:
    """3 x 3 tiles with jitter in whole pixels; `1-1` lies 60 px off its place."""
    folder = tmp_path_factory.mktemp("tiles")
    world = scene(2 * STEP + SIDE + 2 * MARGIN)
    rng = np.random.default_rng(1)
    tiles, truth = [], {}
    for r in range(3):
        for c in range(3):
            name = f"{r}-{c}"
            off = rng.integers(-12, 13, 2) + np.array([45, -40]) * ((r, c) == (1, 1))
            place = np.array([STEP * r, STEP * c]) + off
            truth[name] = place
            image = photograph(world, *(place + MARGIN), seed=10 * r + c)
            write_tiff(folder / f"{name}.tif", image)
            tiles.append(tile(folder, name, STEP * r, STEP * c))
    return as_montage(tiles), truth, folder


def shift_of(match: TileMatch) -> tuple[float, float]:
    return match.shift.dy_px, match.shift.dx_px


def test_every_pair_is_measured_also_of_a_tile_that_jumped(
    grid: tuple[Montage, Truth, Path],
) -> None:
    montage, truth, _ = grid
    matches = match_pairs(montage, TileImages(), settings=SETTINGS)
    assert len(matches) == 12
    for match in matches:
        assert match.kept, match.reason
        assert shift_of(match) == pytest.approx(
            tuple(truth[match.b] - truth[match.a]), abs=0.1
        )
        assert match.points >= 4
        assert match.score > 0.8
        assert match.peak_z > 8
        assert match.spread_px < 0.1


def test_points_are_in_each_tile_s_own_pixels(
    grid: tuple[Montage, Truth, Path],
) -> None:
    montage, truth, _ = grid
    for match in match_pairs(montage, TileImages(), settings=SETTINGS):
        a, b = np.array(match.a_points), np.array(match.b_points)
        for points in (a, b):
            assert points.min() > 0
            assert points.max() < SIDE - 1
        assert a + truth[match.a] == pytest.approx(b + truth[match.b], abs=0.3)


def test_a_search_that_is_too_short_says_so(
    grid: tuple[Montage, Truth, Path],
) -> None:
    montage, _, _ = grid
    matches = match_pairs(
        montage, TileImages(), settings=MatchSettings(search_px=30, min_peak_z=5.0)
    )
    jumped = [match for match in matches if "1-1" in (match.a, match.b)]
    assert not any(match.kept for match in jumped)
    for match in jumped:
        assert "needed" in match.reason or "border of the search" in match.reason


def test_the_way_the_work_is_shared_out_changes_nothing(
    grid: tuple[Montage, Truth, Path],
) -> None:
    montage, _, _ = grid

    def last_first(act: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return iter([act(item) for item in list(items)[::-1]])

    alone = match_pairs(montage, TileImages(), settings=SETTINGS)
    for run in (last_first, thread_map(2)):
        assert match_pairs(montage, TileImages(), settings=SETTINGS, run=run) == alone


def test_a_large_montage_is_shared_out_in_blocks_that_can_be_sent(
    grid: tuple[Montage, Truth, Path],
) -> None:
    _, _, folder = grid
    tiles = [
        tile(folder, "0-0", STEP * r, STEP * c).model_copy(
            update={"tile_id": f"{r}-{c}"}
        )
        for r in range(40)
        for c in range(40)
    ]
    blocks: list[Any] = []

    def weigh(act: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            assert len(pickle.dumps((act, item))) < 200_000
            blocks.append(item)
        return iter(())

    with pytest.raises(KeyError):
        match_pairs(as_montage(tiles), TileImages(), settings=SETTINGS, run=weigh)
    assert max(len(block) for block in blocks) <= 2 * 10 * 10
    assert sum(len(block) for block in blocks) == 2 * 40 * 39


@pytest.mark.system
def test_dask_workers_find_the_same(grid: tuple[Montage, Truth, Path]) -> None:
    montage, _, _ = grid
    alone = match_pairs(montage, TileImages(), settings=SETTINGS)
    with local_cluster(1) as client:
        run = dask_map(client)
        assert match_pairs(montage, TileImages(), settings=SETTINGS, run=run) == alone


def pair(folder: Path, a: Array, b: Array) -> Montage:
    write_tiff(folder / "a.tif", a)
    write_tiff(folder / "b.tif", b)
    return as_montage([tile(folder, "a", 0, 0), tile(folder, "b", 0, STEP)])


def images_of(seed: int = 3) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    world = scene(SIDE + STEP + 20, seed)
    return photograph(world, 5, 5, 1), photograph(world, 10, STEP, 2)


def only(montage: Montage, images: TileImages | None = None) -> TileMatch:
    (match,) = match_pairs(montage, images or TileImages(), settings=SETTINGS)
    return match


def test_a_blank_overlap_is_reported_and_not_invented(tmp_path: Path) -> None:
    a, b = images_of()
    a[:, 200:] = 190
    match = only(pair(tmp_path, a, b))
    assert not match.kept
    assert match.reason == "no texture in the overlap (tile a is blank there)"
    assert (match.points, match.a_points) == (0, ())


def test_camera_noise_on_a_blank_overlap_is_no_texture_to_match(tmp_path: Path) -> None:
    a, b = images_of()
    for seed, image, part in ((5, a, np.s_[:, 200:]), (6, b, np.s_[:, :248])):
        shape = image[part].shape
        noise = np.random.default_rng(seed).normal(190, 8, shape)
        image[part] = noise.astype(np.uint8)
    match = only(pair(tmp_path, a, b))
    assert not match.kept
    assert "sigma, 6 needed" in match.reason


def test_tiles_of_different_places_are_not_matched(tmp_path: Path) -> None:
    match = only(pair(tmp_path, images_of(1)[0], images_of(2)[1]))
    assert not match.kept
    assert "needed" in match.reason


def test_a_black_frame_does_not_draw_the_match_to_itself(tmp_path: Path) -> None:
    a, b = images_of()
    valid = Box(y0=14, x0=12, y1=SIDE - 10, x1=SIDE - 12)
    for image in (a, b):
        framed = np.zeros_like(image)
        inside = np.s_[valid.y0 : valid.y1, valid.x0 : valid.x1]
        framed[inside] = image[inside]
        image[:] = framed
    match = only(pair(tmp_path, a, b), TileImages(valid_box=valid))
    assert match.kept, match.reason
    assert shift_of(match) == pytest.approx((5.0, STEP - 5.0), abs=0.1)


def test_what_a_mask_hides_is_not_looked_at(tmp_path: Path) -> None:
    a, b = images_of()
    a[100:200, 360:414] = b[40:140, 20:74] = 255  # a label that would draw the match
    b[100:200, 45:99] = 255
    mask = np.full((SIDE, SIDE), 255, np.uint8)
    mask[96:204, 356:418] = mask[36:144, 16:78] = mask[96:204, 41:103] = 0
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    montage = pair(tmp_path, a, b)
    hidden = {"mask_uri": str(tmp_path / "mask.png")}
    masked = as_montage(tile.model_copy(update=hidden) for tile in montage.tiles)
    match = only(masked)
    assert match.kept, match.reason
    assert shift_of(match) == pytest.approx((5.0, STEP - 5.0), abs=0.1)


def test_a_tile_that_cannot_be_read_spoils_only_its_own_pairs(
    grid: tuple[Montage, Truth, Path], tmp_path: Path
) -> None:
    montage, _, _ = grid
    broken = tmp_path / "broken.tif"
    broken.write_bytes(Path(montage.tiles[2].uri).read_bytes()[:2000])
    tiles = list(montage.tiles)
    tiles[2] = tiles[2].model_copy(update={"uri": str(broken)})
    matches = match_pairs(as_montage(tiles), TileImages(), settings=SETTINGS)
    for match in matches:
        assert match.kept == ("0-2" not in (match.a, match.b))
        assert match.kept or "broken.tif" in match.reason


def test_with_a_lens_points_and_shifts_are_corrected(tmp_path: Path) -> None:
    size = Size(height_px=SIDE, width_px=SIDE)
    dy, dx = [0.0] * 10, [0.0] * 10
    dy[6] = dy[8] = dx[7] = dx[9] = 1.0
    lens = LensModel(
        microscope="m",
        magnification=1,
        size=size,
        degree=3,
        dy_px=tuple(dy),
        dx_px=tuple(dx),
        residual_mean_px=0.0,
        residual_std_px=0.0,
        points=0,
    )
    world = scene(SIDE + STEP + 60, 8)
    at = np.stack(np.mgrid[:SIDE, :SIDE], axis=-1).reshape(-1, 2).astype(float)
    # a raw pixel shows the scene at its corrected place
    corrected = undistort_points(lens, at)
    for name, y, x in (("a", 20.0, 20.0), ("b", 25.0, 20.0 + STEP)):
        places = np.float32(corrected.reshape(SIDE, SIDE, 2) + np.array([y, x]))
        image = cv2.remap(world, places[..., 1], places[..., 0], cv2.INTER_CUBIC)
        write_tiff(tmp_path / f"{name}.tif", np.rint(image).astype(np.uint8))
    montage = as_montage([tile(tmp_path, "a", 0, 0), tile(tmp_path, "b", 0, STEP)])
    (plain,) = match_pairs(montage, TileImages(), settings=SETTINGS)
    (match,) = match_pairs(montage, TileImages(), settings=SETTINGS, lens=lens)
    assert shift_of(match) == pytest.approx((5.0, float(STEP)), abs=0.2)
    assert abs(plain.shift.dx_px - STEP) > 0.8
    apart = np.array(match.a_points) - np.array(match.b_points)
    assert apart.std(axis=0).max() < 0.1


def test_patches_that_contradict_the_trend_of_an_edge_are_left_out() -> None:
    rng = np.random.default_rng(0)
    points = np.stack([np.full(10, 50.0), np.linspace(0, 900, 10)], axis=1)
    turned = np.array([4.0, -3.0]) + (points[:, 1:] - 450) * (2e-3, -1e-3)
    shifts = turned + rng.normal(0, 0.05, (10, 2))
    shifts[[2, 7, 8]] += ((14, 3), (-9, 18), (6, -6))
    assert np.flatnonzero(~agreeing(points, shifts)).tolist() == [2, 7, 8]
    assert agreeing(np.zeros((0, 2)), np.zeros((0, 2))).tolist() == []


def real_pair_montage(folder: Path) -> Montage:
    """The four real tiles; their nominal places are tens of pixels off."""
    spec = json.loads((folder / "test_4_tiles_level_1.json").read_text())
    size = Size(height_px=1130, width_px=1325)
    tiles = []
    for entry in spec:
        name = entry["mipmapLevels"]["0"]["imageUrl"].rpartition("/")[2]
        affine = entry["transforms"]["specList"][0]["dataString"].split()
        tiles.append(
            Tile(
                tile_id=name.removesuffix(".png"),
                uri=str(folder / name),
                row=0,
                column=0,
                y_px=float(affine[5]) / 2,
                x_px=float(affine[4]) / 2,
                size=size,
                mask_uri=str(folder / "test_mask.png"),
            )
        )
    return as_montage(tiles, size)


def test_real_tiles_in_a_black_frame_match_within_a_pixel(shared_data: Path) -> None:
    truth = json.loads((shared_data / "truth.json").read_text())["render_stitch_2x2"]
    montage = real_pair_montage(shared_data / "tem_tiles/render_stitch_2x2")
    matches = match_pairs(montage, TileImages(), settings=MatchSettings())
    found = {(match.a, match.b): match for match in matches}
    for a, b, dy, dx, _ in truth["pairs"]:
        match = found[a, b]
        assert match.kept, match.reason
        assert shift_of(match) == pytest.approx((dy, dx), abs=1.0)


@pytest.mark.parametrize("nominal_px", [299.0, 240.0])
def test_a_real_16_bit_pair_matches_to_a_hundredth_of_a_pixel(
    shared_data: Path, nominal_px: float
) -> None:
    folder = shared_data / "tem_tiles/render_16bit_pair"
    size = Size(height_px=400, width_px=400)
    tiles = [
        Tile(
            tile_id=side,
            uri=str(folder / f"16_bit_source_{side}.png"),
            row=0,
            column=column,
            y_px=0.0,
            x_px=nominal_px * column,
            size=size,
        )
        for column, side in enumerate(("left", "right"))
    ]
    images = TileImages(grey_range=(819.0, 2993.0))
    (match,) = match_pairs(as_montage(tiles, size), images, settings=MatchSettings())
    assert shift_of(match) == pytest.approx((0.0, 299.0), abs=0.01)


def test_the_time_of_a_tile_does_not_grow_with_the_montage(
    grid: tuple[Montage, Truth, Path],
) -> None:
    _, _, folder = grid

    def seconds(side: int) -> float:
        tiles = [
            tile(folder, "0-0", STEP * r, STEP * c).model_copy(
                update={"tile_id": f"{r}-{c}"}
            )
            for r in range(side)
            for c in range(side)
        ]
        start = time.process_time()
        match_pairs(as_montage(tiles), TileImages(), settings=MatchSettings())
        return (time.process_time() - start) / (2 * side * (side - 1))

    seconds(3)
    assert seconds(14) < 2.5 * seconds(4)
