"""Live matches say the truth about the simulated frames, and what the batch says."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from TEM_comms.tile import Matches, TemplateMatches

from em_platform.acquisition.pipeline.frame import process_frame, write_processed
from em_platform.acquisition.pipeline.journaled import JournaledTile, Shape, journaled
from em_platform.acquisition.pipeline.lens_in_force import LensInForce
from em_platform.acquisition.pipeline.live_recipes import LiveRecipes
from em_platform.acquisition.pipeline.match_messages import match, template_matches
from em_platform.acquisition.pipeline.matching import (
    MeasuredPair,
    measure_neighbours,
    nominal_shifts,
)
from em_platform.config import MatchSettings, Settings
from em_platform.imaging.lens import undistort_points
from em_platform.model import Box, Montage, Size, Tile
from em_platform.simulation.devices.optics import radial_lens
from em_platform.stitching.match import match_pairs
from em_platform.stitching.tile_images import TileImages

SETTINGS = MatchSettings(search_px=32)
SIZE = Size(height_px=256, width_px=256)
SHAPE = Shape(size=SIZE, valid=Box(y0=0, x0=0, y1=256, x1=256))
Place = tuple[int, int]
Pairs = dict[tuple[Place, Place], MeasuredPair]


def process(body: dict[str, Any]) -> JournaledTile:
    tile = journaled(body, {})
    settings = Settings(home=Path(body["path"]).parent / "home")
    done = process_frame(tile, LiveRecipes(settings, LensInForce(settings)))
    write_processed(tile, done)
    return JournaledTile(
        key=tile.key, montage=tile.montage, body=body, shape=done.shape
    )


def measure(
    tile: JournaledTile, neighbours: Sequence[JournaledTile], **more: Any
) -> list[MeasuredPair]:
    given = {"remake": lambda t: pytest.fail(f"{t.tile_id} is made again"), **more}
    return measure_neighbours(
        tile, neighbours, settings=SETTINGS, pixel_nm=4.0, **given
    )


def is_near(one: JournaledTile, other: JournaledTile) -> bool:
    (y0, x0), (y1, x1) = one.place, other.place
    return abs(y0 - y1) + abs(x0 - x1) == 1


def all_pairs(tiles: Sequence[JournaledTile]) -> Pairs:
    return {
        (tile.place, each.neighbour.place): each
        for i, tile in enumerate(tiles)
        for each in measure(tile, [n for n in tiles[:i] if is_near(n, tile)])
    }


@pytest.fixture(scope="module")
def imaged(
    image_montage: Callable[..., list[Any]], tmp_path_factory: pytest.TempPathFactory
) -> list[Any]:
    return image_montage(tmp_path_factory.mktemp("frames"), rows=3, columns=3)


@pytest.fixture(scope="module")
def tiles(imaged: list[Any]) -> list[JournaledTile]:
    return [process(each.body) for each in imaged]


@pytest.fixture(scope="module")
def pairs(tiles: list[JournaledTile]) -> Pairs:
    return all_pairs(tiles)


def test_every_pair_of_a_serpentine_is_measured_once(pairs: Pairs) -> None:
    assert len(pairs) == 12
    positions = {
        places: match(each, None)["position"] for places, each in pairs.items()
    }
    assert positions[(0, 1), (0, 0)] == "left"
    assert positions[(1, 1), (1, 2)] == "right"  # this row runs backwards
    assert positions[(1, 1), (0, 1)] == "top"
    assert positions[(2, 1), (2, 0)] == "left"


def test_matches_are_the_truth_to_a_tenth_of_a_pixel(
    imaged: list[Any], pairs: Pairs
) -> None:
    truth = {each.place: each.truth for each in imaged}
    moved = 0.0
    for (place, other), measured in pairs.items():
        found = match(measured, None)
        here, there = truth[place], truth[other]
        dy = (here.placement.y_px - here.nominal_y_px) - (
            there.placement.y_px - there.nominal_y_px
        )
        dx = (here.placement.x_px - here.nominal_x_px) - (
            there.placement.x_px - there.nominal_x_px
        )
        assert found["dY"] == pytest.approx(dy, abs=0.1)
        assert found["dX"] == pytest.approx(dx, abs=0.1)
        assert found["distance"] == pytest.approx(math.hypot(dy, dx), abs=0.2)
        assert len(found["pX"]) >= 3
        moved = max(moved, abs(dy), abs(dx))
    assert moved > 3.0


def test_points_lie_on_the_same_place_of_the_specimen(
    imaged: list[Any], pairs: Pairs
) -> None:
    truth = {each.place: each.truth.placement for each in imaged}
    for (place, other), measured in pairs.items():
        found = match(measured, None)
        here, there = truth[place], truth[other]
        off_x = np.array(found["pX"]) + here.x_px - np.array(found["qX"]) - there.x_px
        off_y = np.array(found["pY"]) + here.y_px - np.array(found["qY"]) - there.y_px
        assert np.abs(np.stack([off_x, off_y])).max() < 0.5


def test_live_and_batch_agree(
    imaged: list[Any], tiles: list[JournaledTile], pairs: Pairs
) -> None:
    listed = tuple(
        Tile(
            tile_id=tile.tile_id,
            uri=tile.processed_path,
            row=tile.place[0],
            column=tile.place[1],
            y_px=each.truth.nominal_y_px,
            x_px=each.truth.nominal_x_px,
            size=SIZE,
        )
        for tile, each in zip(tiles, imaged, strict=True)
    )
    montage = Montage(
        acquisition_id="a", montage_id="m", tiles=listed, tile_size=SIZE,
        expected_tiles=9,
    )  # fmt: skip
    batch = {
        (m.a, m.b): m for m in match_pairs(montage, TileImages(), settings=SETTINGS)
    }
    turned = 0
    for measured in pairs.values():
        found = match(measured, None)
        p = tuple(zip(found["pY"], found["pX"], strict=True))
        q = tuple(zip(found["qY"], found["qX"], strict=True))
        names = measured.pair.a.tile_id, measured.pair.b.tile_id
        if names in batch:
            assert (q, p) == (batch[names].a_points, batch[names].b_points)
        else:  # this row runs backwards
            turned += 1
            other = batch[names[1], names[0]]
            assert (p, q) == (other.a_points, other.b_points)
    assert turned == 2


def test_messages_fit_their_topics_and_themselves(
    tiles: list[JournaledTile], pairs: Pairs
) -> None:
    tile = tiles[4]
    of_tile = [each for (place, _), each in pairs.items() if place == tile.place]
    fields = tile.fields()
    published = Matches(**fields, matches=[match(each, None) for each in of_tile])
    tried = TemplateMatches(**fields, matches=[template_matches(e) for e in of_tile])
    for whole, templates in zip(published.matches, tried.matches, strict=True):
        assert (whole.row, whole.column, whole.position) == (
            templates.row,
            templates.column,
            templates.position,
        )
        good = [t for t in templates.matches if t.good]
        assert len(good) == len(whole.pX)
        assert [t.query_point[0] for t in good] == whole.pX
        assert [t.query_point[1] for t in good] == whole.pY
        offsets = np.array([t.offset for t in good])
        assert offsets.mean(axis=0) == pytest.approx((whole.dX, whole.dY))
        assert offsets.std(axis=0) == pytest.approx((whole.dXsd, whole.dYsd))
        for template in templates.matches:
            found = np.array(template.matched_pos_img2)
            in_crop = np.subtract(template.maxLoc, template.expected_offset_in_crop)
            assert np.abs(in_crop - template.offset).max() <= 1.6
            assert np.abs(found - template.search_point).max() < 200
            assert template.minVal < template.maxVal <= 1.0
            assert template.distance == pytest.approx(np.hypot(*template.offset))
            angle = np.array([math.cos(template.rotation), math.sin(template.rotation)])
            assert template.distance * angle == pytest.approx(template.offset)


def test_the_centre_of_a_found_template_is_where_q_is(pairs: Pairs) -> None:
    for measured in pairs.values():
        good = [t for t in template_matches(measured)["matches"] if t["good"]]
        whole = match(measured, None)
        for template, x, y in zip(good, whole["qX"], whole["qY"], strict=True):
            assert (
                np.abs(np.subtract(template["matched_center_img2"], (x, y))).max() < 2
            )


def test_a_neighbour_that_could_not_be_read_has_its_reason(
    tiles: list[JournaledTile],
) -> None:
    unread = JournaledTile(
        key="n", montage="m", body=tiles[0].body, failure="cut short"
    )
    (measured,) = measure(tiles[1], [unread])
    (template,) = template_matches(measured)["matches"]
    assert not template["good"]
    assert "could not be read" in template["reject_reason"]
    found = match(measured, None)
    assert (found["pX"], found["dX"], found["position"]) == ([], 0.0, "left")


def test_blank_tiles_are_not_matched_and_say_why(
    image_montage: Callable[..., list[Any]], tmp_path: Path
) -> None:
    imaged = image_montage(tmp_path, rows=1, columns=2, blank="0:1", electrons=0.0)
    first, blank = (process(each.body) for each in imaged)
    (measured,) = measure(blank, [first])
    container = template_matches(measured)
    assert "no texture" in container["matches"][0]["reject_reason"]
    TemplateMatches(**blank.fields(), matches=[container])
    found = match(measured, None)
    Matches(**blank.fields(), matches=[found])
    assert found["pX"] == []


def test_a_torn_processed_frame_is_made_again(
    image_montage: Callable[..., list[Any]], tmp_path: Path
) -> None:
    first, second = (
        process(each.body) for each in image_montage(tmp_path, rows=1, columns=2)
    )
    whole = match(measure(second, [first])[0], None)
    Path(first.processed_path).write_bytes(b"")  # as a power cut may leave it
    Path(second.processed_path).unlink()
    again = match(
        measure(second, [first], remake=lambda t: process(dict(t.body)))[0], None
    )
    assert again == whole
    Path(first.processed_path).write_bytes(b"")
    Path(first.path).unlink()
    (lost,) = measure(second, [first], remake=lambda t: process(dict(t.body)))
    assert "no such file" in lost.found.reason
    assert match(lost, None)["pX"] == []


def test_the_lens_moves_points_and_not_pixels(pairs: Pairs) -> None:
    lens = radial_lens(SIZE, edge_px=8.0)
    measured = pairs[(1, 1), (1, 2)]
    plain, corrected = match(measured, None), match(measured, lens)
    p = np.stack([plain["pY"], plain["pX"]], axis=1)
    q = np.stack([plain["qY"], plain["qX"]], axis=1)
    p, q = undistort_points(lens, p), undistort_points(lens, q)
    assert corrected["pX"] == pytest.approx(p[:, 1])
    assert corrected["qY"] == pytest.approx(q[:, 0])
    nominal = measured.pair.nominal
    assert corrected["dX"] == pytest.approx((q - p)[:, 1].mean() - nominal.dx_px)
    assert abs(corrected["dX"] - plain["dX"]) > 1.0


@pytest.mark.parametrize(
    ("here", "there", "rotation_deg", "expected"),
    [
        ((768, 40), (0, 0), 0.0, (10.0, 192.0)),
        ((0, 768), (0, 0), 90.0, (0.0, 192.0)),
        (None, (0, 0), 0.0, (0.0, 192.0)),
        ((768, 0), None, 0.0, (0.0, 192.0)),
        ((7680, 0), (0, 0), 0.0, (0.0, 192.0)),  # no raster: another magnification
        ((0, 768), (0, 0), 0.0, (0.0, 192.0)),  # no raster: another rotation
    ],
)
def test_the_nominal_shift(
    here: Any, there: Any, rotation_deg: float, expected: tuple[float, float]
) -> None:
    def tile(column: int, stage: Any) -> JournaledTile:
        body = {
            "tile_id": str(column),
            "montage_id": "m",
            "row": 0,
            "column": column,
            "overlap": 64,
            "stage_position": stage,
        }
        return JournaledTile(key=str(column), montage="m", body=body, shape=SHAPE)

    shift, *_ = nominal_shifts(
        tile(1, here),
        tile(0, there),
        pixel_nm=4.0,
        rotation_rad=math.radians(rotation_deg),
    )
    assert (shift.dy_px, shift.dx_px) == pytest.approx(expected)


def test_a_wrong_rotation_in_the_settings_costs_no_match(
    tiles: list[JournaledTile], pairs: Pairs
) -> None:
    """From the stage the tile seems 70 px aside; from the raster it is found."""
    (measured,) = measure(tiles[1], [tiles[0]], rotation_rad=math.radians(20))
    found, right = match(measured, None), match(pairs[(0, 1), (0, 0)], None)
    assert found["dX"] == pytest.approx(right["dX"], abs=0.1)
    assert found["dY"] == pytest.approx(right["dY"], abs=0.1)


def test_the_rotation_is_that_of_the_tiles(
    image_montage: Callable[..., list[Any]], tmp_path: Path
) -> None:
    imaged = image_montage(tmp_path, rows=1, columns=2, turn_sd_deg=1.0, tile_px=512)
    first, second = (process(each.body) for each in imaged)
    (measured,) = measure(second, [first])
    turns = [
        math.atan2(each.truth.placement.yx, each.truth.placement.yy) for each in imaged
    ]
    turned = turns[1] - turns[0]
    assert abs(turned) > math.radians(0.2)
    # atan2(yx, yy) counts from x to y, as the message does.
    assert match(measured, None)["rotation"] == pytest.approx(turned, abs=2e-3)


def test_a_camera_frame_is_no_match(
    image_montage: Callable[..., list[Any]], tmp_path: Path
) -> None:
    """The same black border in both tiles must not be matched with itself."""
    import tifffile

    imaged = image_montage(tmp_path, rows=1, columns=2)
    for each in imaged:
        frame = tifffile.imread(each.body["path"])
        frame[:8], frame[-8:], frame[:, :8], frame[:, -8:] = 0, 0, 0, 0
        tifffile.imwrite(each.body["path"], frame)
    first, second = (process(each.body) for each in imaged)
    assert first.shape is not None
    assert 8 <= first.shape.valid.x0 <= 10
    (measured,) = measure(second, [first])
    found = match(measured, None)
    here, there = (each.truth for each in (imaged[1], imaged[0]))
    true_dx = here.placement.x_px - there.placement.x_px - measured.pair.nominal.dx_px
    assert found["dX"] == pytest.approx(true_dx, abs=0.1)
