"""Pictures are read back: colours lie where the tiles lie."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from em_platform.model import (
    Montage,
    MontageFit,
    Shift,
    Size,
    Tile,
    TileMatch,
    TilePlacement,
)
from em_platform.stitching import pictures
from em_platform.stitching.pictures import residual_plot, tile_map

SIDE, STEP = 1000, 900


def montage(
    rows: int, columns: int, *, without: tuple[int, int] | None = None
) -> Montage:
    size = Size(height_px=SIDE, width_px=SIDE)
    tiles = tuple(
        Tile(
            tile_id=f"t{row}_{column}",
            uri="frame.tif",
            row=row,
            column=column,
            y_px=STEP * row,
            x_px=STEP * column,
            size=size,
        )
        for row in range(rows)
        for column in range(columns)
        if (row, column) != without
    )
    return Montage(
        acquisition_id="roi",
        montage_id="roi",
        tiles=tiles,
        tile_size=size,
        expected_tiles=rows * columns,
    )


def fitted(given: Montage, *matches: TileMatch, loose: str = "") -> MontageFit:
    placements = tuple(
        TilePlacement(
            tile_id=tile.tile_id,
            y_px=tile.y_px,
            x_px=tile.x_px,
            component=int(tile.tile_id == loose),
        )
        for tile in given.tiles
    )
    return MontageFit(
        acquisition_id="roi", placements=placements, matches=matches, residual_px=0.0
    )


def match(a: str, b: str, dy_px: float, dx_px: float, *, kept: bool) -> TileMatch:
    return TileMatch(
        a=a,
        b=b,
        shift=Shift(dy_px=dy_px, dx_px=dx_px),
        score=0.9,
        points=9,
        peak_z=30.0,
        spread_px=0.1,
        residual_px=0.1,
        kept=kept,
    )


def pixels(png: bytes) -> NDArray[np.int_]:
    bgr = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    return bgr[..., ::-1].astype(int)


def near(picture: NDArray[np.int_], colour: pictures.Colour) -> NDArray[np.bool_]:
    return np.asarray(np.abs(picture - colour).max(axis=2) < 24)


def test_a_tile_map_is_as_wide_as_the_page_and_small_enough() -> None:
    for rows, columns in ((1, 1), (5, 5), (40, 40), (1, 60), (60, 1)):
        given = montage(rows, columns)
        png = tile_map(given, {t.tile_id: 0.3 for t in given.tiles}, "focus")
        height, width, _ = pixels(png).shape
        assert width == pictures.WIDTH_PX
        assert height <= 1050
        assert len(png) < 200_000


def test_the_worst_tile_is_the_darkest_cell() -> None:
    given = montage(3, 3)
    values = {tile.tile_id: 0.4 for tile in given.tiles} | {"t2_0": 0.02}
    picture = pixels(tile_map(given, values, "focus"))[92:, 62:480]
    grey = picture.sum(axis=2)
    thirds = [np.array_split(row, 3, axis=1) for row in np.array_split(grey[:420], 3)]
    means = np.array([[float(np.median(cell)) for cell in row] for row in thirds])
    assert np.unravel_index(means.argmin(), means.shape) == (2, 0)
    assert means[2, 0] < 0.5 * np.median(means)


def test_a_missing_tile_is_crossed_out_in_red() -> None:
    values = {tile.tile_id: 0.4 for tile in montage(3, 3).tiles}
    whole = pixels(tile_map(montage(3, 3), values, "focus"))
    holed = pixels(tile_map(montage(3, 3, without=(1, 1)), values, "focus"))
    assert near(whole, pictures.RED).sum() == 0
    assert near(holed, pictures.RED).sum() > 50
    assert near(holed, pictures.PALE).sum() > 10_000


@pytest.mark.parametrize("values", [{}, {"t0_0": -3.0, "t0_1": 5.0}, {"t0_0": 0.0}])
def test_any_values_can_be_shown(values: dict[str, float]) -> None:
    picture = pixels(tile_map(montage(1, 2), values, "offset µm"))
    assert picture.std() > 1


def test_arrows_point_to_where_the_match_would_have_the_tile() -> None:
    given = montage(1, 2)
    down = match("t0_0", "t0_1", 0.04, STEP, kept=True)
    picture = pixels(residual_plot(given, fitted(given, down)))
    blue = near(picture, pictures.BLUE)[:-48]  # without the legend
    ys, xs = np.nonzero(blue)
    assert np.ptp(ys) > 3 * np.ptp(xs)
    middle = 72 + (picture.shape[0] - 72 - 48) / 2  # of the seam
    assert ys.min() == pytest.approx(middle, abs=4)


def test_what_was_left_out_is_red_and_what_hangs_loose_is_orange() -> None:
    given = montage(2, 2)
    good = match("t0_0", "t0_1", 0.0, STEP, kept=True)
    bad = match("t0_0", "t1_0", STEP, 50.0, kept=False)
    plain = pixels(residual_plot(given, fitted(given, good)))[:-48]
    faulty = pixels(residual_plot(given, fitted(given, good, bad, loose="t1_1")))[:-48]
    assert near(plain, pictures.RED).sum() == near(plain, pictures.ORANGE).sum() == 0
    assert near(faulty, pictures.RED).sum() > 100
    assert near(faulty, pictures.ORANGE).sum() > 50_000


def test_a_large_montage_fits_on_the_page() -> None:
    given = montage(40, 40)
    edges = [
        match(f"t{row}_{column}", f"t{row}_{column + 1}", 0.01, STEP, kept=True)
        for row in range(40)
        for column in range(39)
    ]
    png = residual_plot(given, fitted(given, *edges))
    assert len(png) < 300_000
    assert pixels(png).shape[1] == pictures.WIDTH_PX


def test_a_montage_without_matches_is_drawn_too() -> None:
    given = montage(1, 1)
    assert pixels(residual_plot(given, fitted(given))).std() > 1
