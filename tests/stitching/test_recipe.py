"""One recipe for all tiles of a montage: what decides it, and what it is equal to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from em_platform.config import TileSettings
from em_platform.errors import DataError
from em_platform.formats import write_tiff
from em_platform.imaging.correct import FlatField
from em_platform.model import Box, LensModel, Size
from em_platform.stitching.flat_field import KnownFlatField
from em_platform.stitching.inputs import open_montage
from em_platform.stitching.recipe import (
    TileRecipe,
    choose_recipe,
    decide_recipe,
    settings_digest,
)

SIZE = Size(height_px=300, width_px=300)
PLAIN = TileRecipe(size=SIZE, settings=settings_digest(TileSettings()))
LENS = LensModel(
    microscope="sim",
    magnification=2000,
    size=SIZE,
    degree=2,
    dy_px=(0.0,) * 6,
    dx_px=(0.0,) * 6,
    residual_mean_px=0.0,
    residual_std_px=0.1,
    points=9,
)


def grain(scale: float = 1.0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).normal(120, 20, (300, 300)).clip(9, 250) * scale


def decide(*frames: np.ndarray[Any, Any], **settings: Any) -> TileRecipe:
    return decide_recipe(frames, TileSettings(**settings), flat_field=None).tile


@pytest.mark.parametrize(
    "change",
    [
        {"flip": True},
        {"grey_range": (0.0, 9.0)},
        {"valid_box": Box(y0=1, x0=0, y1=9, x1=9)},
        {"lens": LENS},
        {"kernel": 0},
        {"flat_field": {"kind": "acquired", "digest": "a"}},
    ],
)
def test_what_changes_a_tile_or_a_match_changes_the_digest(
    change: dict[str, Any],
) -> None:
    changed = TileRecipe.model_validate(PLAIN.model_dump() | change)
    assert changed.digest != PLAIN.digest


def test_when_it_was_decided_does_not_change_the_digest() -> None:
    later = {"is_live": True, "settings": "other", "stored_lens": "other"}
    assert PLAIN.model_copy(update=later).digest == PLAIN.digest


@pytest.mark.parametrize(
    ("settings", "kind", "follows"),
    [
        ({}, None, True),
        ({"percentiles": (1.0, 99.0)}, None, False),
        ({"flat_field": "acquired"}, None, False),
        ({"flat_field": "acquired"}, "acquired", True),
        ({"flat_field": "estimate"}, "acquired", False),
        ({"flat_field": "auto"}, "acquired", True),
    ],
)
def test_a_recipe_holds_while_the_settings_ask_for_the_same(
    settings: dict[str, Any], kind: str | None, follows: bool
) -> None:
    asked = TileSettings(**settings)
    decided_by = asked if "percentiles" not in settings else TileSettings()
    flat = None if kind is None else {"kind": kind, "digest": "a"}
    recipe = TileRecipe(
        size=SIZE, settings=settings_digest(decided_by), flat_field=flat
    )
    assert recipe.follows(asked) is follows
    assert not recipe.follows(asked, flip=True)


def test_the_worst_black_frame_and_one_grey_range_count_for_all() -> None:
    frames = [grain(100.0).astype(np.uint16) for _ in range(2)]
    frames[0][:20] = 0
    frames[1][:, -30:] = 0
    recipe = decide(*frames)
    box = recipe.valid_box
    assert box is not None
    assert (box.y0, box.x0, box.y1, box.x1) == pytest.approx((20, 0, 300, 270), abs=2)
    assert recipe.grey_range is not None
    low, high = recipe.grey_range
    assert 900 < low < 8000 < 16000 < high <= 25000


def test_more_black_than_a_camera_has_is_specimen() -> None:
    frame = grain().astype(np.uint8)
    frame[:60] = 0
    assert decide(frame).valid_box is None


def test_frames_that_show_nothing_decide_nothing() -> None:
    with pytest.raises(DataError, match="show nothing"):
        decide(np.zeros((300, 300), np.uint16))


def test_reference_frames_are_used_where_they_lie_unless_none_is_asked_for(
    tmp_path: Path, cut_tiles: Callable[..., Any]
) -> None:
    cut_tiles(tmp_path)
    montage = open_montage(tmp_path)
    assert choose_recipe(montage, TileSettings()).flat_field is None
    write_tiff(tmp_path / "bright.tif", np.full((240, 240), 200, np.uint8))
    found = choose_recipe(montage, TileSettings()).tile.flat_field
    assert found is not None
    assert found.kind == "acquired"
    none = TileSettings(flat_field="none")
    assert choose_recipe(montage, none).flat_field is None
    write_tiff(tmp_path / "bright.tif", np.full((9, 9), 200, np.uint8))
    assert choose_recipe(montage, TileSettings()).flat_field is None


def test_a_mirrored_frame_is_read_in_part_as_the_whole_is(
    tmp_path: Path, cut_tiles: Callable[..., Any]
) -> None:
    cut_tiles(tmp_path)
    montage = open_montage(tmp_path)
    plain = choose_recipe(montage, TileSettings()).images()
    images = choose_recipe(montage, TileSettings(), flip=True).images()
    tile, box = montage.tiles[0], Box(y0=10, x0=30, y1=90, x1=200)
    assert np.array_equal(images.read(tile), plain.read(tile)[:, ::-1])
    assert np.array_equal(images.read(tile, box), images.read(tile)[10:90, 30:200])


def test_a_flat_field_is_reported_by_its_planes() -> None:
    gain = np.ones((4, 4), np.float32)
    one = KnownFlatField(kind="acquired", field=FlatField(gain=gain))
    same = KnownFlatField(kind="estimated", field=FlatField(gain=gain.copy()))
    dark = KnownFlatField(kind="acquired", field=FlatField(gain=gain, dark=0 * gain))
    assert one.digest == same.digest != dark.digest
