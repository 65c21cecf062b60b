"""One frame: flat field, grey range, pictures, and the messages about it."""

import base64
import logging
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from TEM_comms import tile as topics
from TEM_comms.tile import statistics

from em_platform.acquisition.pipeline.frame import (
    ProcessedFrame,
    process_frame,
    results,
    write_processed,
)
from em_platform.acquisition.pipeline.journaled import JournaledTile, journaled
from em_platform.acquisition.pipeline.lens_in_force import LensInForce
from em_platform.acquisition.pipeline.live_recipes import LiveRecipes
from em_platform.config import (
    AcquisitionSettings,
    Settings,
    StitchingSettings,
    TileSettings,
)
from em_platform.config.acquisition import PipelineSettings
from em_platform.errors import DataError, FormatError
from em_platform.imaging.focus import focus_score
from em_platform.messaging.topics import model_of
from em_platform.simulation.specimen.tissue import tissue
from em_platform.stitching.recipe import TileRecipe

SIDE = 320
PLAIN = PipelineSettings()


def light(seed: int = 1) -> np.ndarray:
    return tissue(0, 0, height=SIDE, width=SIDE, seed=seed)


def shade() -> np.ndarray:
    """The gain of a camera that sees half as much at one side."""
    return np.linspace(0.5, 1.0, SIDE, dtype=np.float32)[None].repeat(SIDE, axis=0)


def save(folder: Path, image: np.ndarray, *, tile_id: str = "t", **more: Any) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{tile_id}.tiff"
    tifffile.imwrite(path, image)
    body = {
        "tile_id": tile_id,
        "montage_id": "m",
        "row": 0,
        "column": 1,
        "overlap": 32,
        "path": str(path),
    }
    return journaled({**body, **more}, {})


def recipes(tmp_path: Path, *, flip: bool = False, **tile: Any) -> LiveRecipes:
    """Of one process that begins now."""
    settings = Settings(
        home=tmp_path / "home",
        acquisition=AcquisitionSettings(pipeline=PipelineSettings(flip=flip)),
        stitching=StitchingSettings(tile=TileSettings(**tile)),
    )
    return LiveRecipes(settings, LensInForce(settings))


def process(tile: JournaledTile, known: LiveRecipes | None = None) -> ProcessedFrame:
    return process_frame(tile, known or recipes(Path(tile.path).parent))


def touch(path: Path, seconds: int) -> None:
    """Move a file's time, as a later writing does."""
    found = path.stat().st_mtime + seconds
    os.utime(path, (found, found))


def read(tile: JournaledTile) -> np.ndarray:
    return tifffile.imread(tile.path)


def picture(fields: dict[str, Any]) -> np.ndarray:
    content = np.frombuffer(base64.b64decode(fields["image"]), np.uint8)
    return np.asarray(cv2.imdecode(content, cv2.IMREAD_UNCHANGED))


def test_an_8_bit_frame_stays_as_it_is_and_is_reported_of(tmp_path: Path) -> None:
    frame = light().astype(np.uint8)
    tile = save(tmp_path, frame, stage_position=[40, 80], roi_id="r")
    done = process(tile)
    write_processed(tile, done)
    published = dict(results(tile, done, PLAIN))
    for topic, fields in published.items():
        message = model_of(topic)(**fields)
        assert (message.tile_id, message.roi_id) == ("t", "r")
        assert tuple(message.stage_position) == (40, 80)
    assert list(published) == [
        "tile.statistics.min_max_mean",
        "tile.statistics.focus",
        "tile.statistics.histogram",
        "tile.preview",
        "tile.mini",
        "tile.processed",
    ]
    figures = statistics.MinMaxMean(**published["tile.statistics.min_max_mean"])
    assert (figures.min, figures.max) == (frame.min(), frame.max())
    assert figures.mean == round(float(frame.mean()))
    assert figures.std == round(float(frame.std()))
    hist = published["tile.statistics.histogram"]["hist"]
    assert hist == np.bincount(frame.ravel(), minlength=256).tolist()
    focus = published["tile.statistics.focus"]["focus"]
    assert focus == pytest.approx(1.0 - focus_score(frame), abs=1e-6)
    written = topics.Processed(**published["tile.processed"]).path
    assert written == str(tmp_path / "t.processed.tiff")
    assert np.array_equal(tifffile.imread(written), frame)


def test_a_blurred_frame_has_the_higher_focus_figure(tmp_path: Path) -> None:
    sharp = light().astype(np.uint8)
    blurred = cv2.GaussianBlur(sharp, (0, 0), 3.0)
    found = []
    for name, frame in (("sharp", sharp), ("blurred", blurred)):
        tile = save(tmp_path, frame, tile_id=name)
        published = dict(results(tile, process(tile), PLAIN))
        found.append(published["tile.statistics.focus"]["focus"])
    assert found[0] < found[1] - 0.1


def test_a_frame_of_no_montage_is_shown_and_measured_only(tmp_path: Path) -> None:
    tile = save(tmp_path, light().astype(np.uint8), montage_id="")
    published = [topic for topic, _ in results(tile, process(tile), PLAIN)]
    assert published == [
        "tile.statistics.min_max_mean",
        "tile.statistics.focus",
        "tile.statistics.histogram",
        "tile.preview",
    ]


@pytest.mark.parametrize(
    ("side", "preview_px", "mini_px"),
    [(4096, 410, 123), (1024, 256, 32), (64, 32, 32), (16, 8, 8)],
)
def test_pictures_are_small_but_not_too_small(
    tmp_path: Path, side: int, preview_px: int, mini_px: int
) -> None:
    frame = np.random.default_rng(1).integers(0, 255, (side, side // 2), np.uint8)
    tile = save(tmp_path, frame)
    published = dict(results(tile, process(tile), PLAIN))
    for topic, longer in (("tile.preview", preview_px), ("tile.mini", mini_px)):
        shown = picture(published[topic])
        assert shown.shape[0] == longer
        assert abs(shown.shape[1] - longer / 2) < 1


def test_clahe_touches_the_pictures_and_nothing_else(tmp_path: Path) -> None:
    frame = (100 + light() / 16).astype(np.uint8)
    tile = save(tmp_path, frame)
    done = process(tile)
    plain = dict(results(tile, done, PLAIN))
    equal = dict(results(tile, done, PipelineSettings(clahe=True)))
    assert (
        picture(equal["tile.preview"]).std()
        > 1.5 * picture(plain["tile.preview"]).std()
    )
    for topic in ("tile.statistics.min_max_mean", "tile.statistics.histogram"):
        assert plain[topic] == equal[topic]


def test_flip_mirrors_the_frame_and_its_flat_field(tmp_path: Path) -> None:
    bright = np.rint(200 * shade()).astype(np.uint8)
    tile = save(tmp_path, (light() * shade()).astype(np.uint8))
    tifffile.imwrite(tmp_path / "bright.tiff", bright)
    straight = process(tile).tile.image
    mirrored = process(
        save(tmp_path, read(tile), montage_id="other"), recipes(tmp_path, flip=True)
    ).tile.image
    assert np.array_equal(mirrored, straight[:, ::-1])


def test_the_flat_field_beside_the_frames_makes_them_even(tmp_path: Path) -> None:
    even = light()
    dark = np.full((SIDE, SIDE), 9.0, np.float32)
    tile = save(tmp_path, np.rint(even * shade() + dark).clip(0, 255).astype(np.uint8))
    tifffile.imwrite(tmp_path / "bright.tiff", 200 * shade() + dark)
    tifffile.imwrite(tmp_path / "dark.tiff", dark)
    found = process(tile).tile.image.astype(np.float64)
    expected = even * float(shade().mean())
    inside = expected < 250 * 0.5
    assert np.abs(found - expected)[inside].max() < 3.0


def test_a_newer_flat_field_is_read_again(tmp_path: Path) -> None:
    known = recipes(tmp_path)
    tile = save(tmp_path, np.full((SIDE, SIDE), 100, np.uint8), montage_id="")
    assert np.ptp(process(tile, known).tile.image) == 0
    bright = tmp_path / "bright.tiff"
    tifffile.imwrite(bright, 200 * shade())
    first = process(tile, known).tile.image
    assert first[0, 0] > first[0, -1] + 20
    tifffile.imwrite(bright, 200 * shade()[:, ::-1])
    touch(bright, 5)
    second = process(tile, known).tile.image
    assert np.array_equal(second, first[:, ::-1])
    bright.unlink()
    assert np.ptp(process(tile, known).tile.image) == 0


def test_a_montage_keeps_the_flat_field_of_its_first_tile(tmp_path: Path) -> None:
    bright = tmp_path / "bright.tiff"
    tifffile.imwrite(bright, 200 * shade())
    tile = save(tmp_path, light().astype(np.uint8), tile_id="m_000_000")
    first = process(tile).tile.image
    tifffile.imwrite(bright, 200 * shade()[:, ::-1])
    touch(bright, 5)
    assert np.array_equal(process(tile).tile.image, first)  # another process
    bright.unlink()
    assert np.array_equal(process(tile).tile.image, first)


def test_no_flat_field_is_applied_where_the_settings_say_none(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "bright.tiff", 200 * shade())
    frame = light().astype(np.uint8)
    done = process(save(tmp_path, frame), recipes(tmp_path, flat_field="none"))
    assert np.array_equal(done.tile.image, frame)


def test_a_frame_of_another_size_than_the_first_is_refused(tmp_path: Path) -> None:
    process(save(tmp_path, light().astype(np.uint8), tile_id="m_000_000"))
    other = save(tmp_path, light()[:64].astype(np.uint8), tile_id="m_000_001")
    with pytest.raises(DataError, match=r"found 320 x 64 px, .* 320 x 320 px as"):
        process(other)


@pytest.mark.parametrize("flag", ["brightfield", "darkfield"])
def test_frames_for_a_flat_field_are_not_corrected_by_one(
    tmp_path: Path, flag: str
) -> None:
    tifffile.imwrite(tmp_path / "bright.tiff", 200 * shade())
    tile = save(tmp_path, np.full((SIDE, SIDE), 100, np.uint8), **{flag: True})
    assert np.ptp(process(tile).tile.image) == 0


def test_a_preview_is_corrected_by_the_references(tmp_path: Path) -> None:
    (tmp_path / "references").mkdir()
    tifffile.imwrite(tmp_path / "references" / "bright.tiff", 200 * shade())
    frame = np.full((SIDE, SIDE), 100, np.uint8)
    preview = save(tmp_path / "preview", frame, montage_id="")
    assert np.ptp(process(preview).tile.image) > 20
    of_montage = save(tmp_path / "m", frame)
    assert np.ptp(process(of_montage).tile.image) == 0


def test_a_flat_field_of_another_size_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tifffile.imwrite(tmp_path / "bright.tiff", np.full((8, 8), 200, np.uint8))
    frame = light().astype(np.uint8)
    done = process(save(tmp_path, frame))
    assert np.array_equal(done.tile.image, frame)
    assert "8 x 8 px" in caplog.text
    assert "take it again" in caplog.text


def test_a_broken_flat_field_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "bright.tiff").write_bytes(b"II*\0nothing")
    frame = light().astype(np.uint8)
    known = recipes(tmp_path)
    with caplog.at_level(logging.WARNING):
        for name in ("a", "b"):
            done = process(save(tmp_path, frame, tile_id=name), known)
            assert np.array_equal(done.tile.image, frame)
    assert len(caplog.records) == 1
    assert "bright.tiff" in caplog.text


def test_16_bit_frames_of_a_montage_share_the_range_of_the_first(
    tmp_path: Path,
) -> None:
    first = save(tmp_path, (light() * 100).astype(np.uint16), tile_id="a")
    darker = save(tmp_path, (light() * 50).astype(np.uint16), tile_id="b")
    one, other = (process(t).tile for t in (first, darker))  # two processes
    assert other.stats.mean < 0.6 * one.stats.mean
    assert one.image.min() < 10
    assert one.image.max() > 245
    assert [path.name for path in tmp_path.glob("*.json")] == ["m.recipe.json"]


def test_a_black_first_frame_does_not_decide_the_range(tmp_path: Path) -> None:
    black = np.zeros((SIDE, SIDE), np.uint16)
    assert process(save(tmp_path, black)).tile.stats.maximum == 0
    assert list(tmp_path.glob("*.json")) == []


def test_a_recipe_that_cannot_be_read_is_decided_anew(tmp_path: Path) -> None:
    beside = tmp_path / "m.recipe.json"
    beside.write_bytes(b"{")
    process(save(tmp_path, light().astype(np.uint8)))
    assert TileRecipe.model_validate_json(beside.read_bytes()).is_live


def test_a_given_grey_range_holds(tmp_path: Path) -> None:
    frame = (light() * 100).astype(np.uint16)
    known = recipes(tmp_path, grey_range=(0.0, 51_000.0))
    done = process(save(tmp_path, frame), known)
    assert done.tile.image.astype(int) == pytest.approx(np.rint(frame / 200), abs=1)


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "no such file"), (b"", "0 bytes"), (b"II*\0\x08", "truncated")],
)
def test_a_frame_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    tile = save(tmp_path, light().astype(np.uint8))
    path = Path(tile.path)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(FormatError, match=why):
        process(tile)
