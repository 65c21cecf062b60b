"""One montage live, after restarts, in Dagster and by `stitch`: equal to the digit."""

from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from em_platform.acquisition.montage_fit.growing import (
    RAW,
    Growing,
    body_of,
    complete_body,
)
from em_platform.acquisition.montage_fit.unheard import whole_montage
from em_platform.acquisition.recipes import recipe_of_tile
from em_platform.acquisition.recorder import ledger_of
from em_platform.definitions import defs
from em_platform.formats import read_image
from em_platform.messaging.topics import fitting
from em_platform.model import Montage, Size, TileMatch, TileStats
from em_platform.partitions import montages
from em_platform.stitching.inputs import open_montage
from em_platform.stitching.quality import check_tiles
from em_platform.stitching.stitch import stitch_montage
from em_platform.storage import Store, layout

pytestmark = [
    pytest.mark.usefixtures("cheap_runs"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:dagster"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

SIDE, MONTAGE, KEY = 560, "m", "m-t1"
STATISTICS = (
    "tile.statistics.min_max_mean",
    "tile.statistics.focus",
    "tile.statistics.histogram",
)
Matches = dict[tuple[str, str], tuple[Any, Any]]
"""Upper or left tile and its neighbour -> the points `(y, x)` of each."""


def check_pixels(session: Any, found: dict[str, np.ndarray]) -> None:
    assert found.keys() == session.pixels.keys()
    assert len(found) == 6
    for tile_id, image in found.items():
        assert np.array_equal(image, session.pixels[tile_id])


def check_statistics(session: Any, found: tuple[TileStats, ...]) -> None:
    assert len(found) == 6
    for stats in found:
        levels, focus, hist = (session.messages[t][stats.tile_id] for t in STATISTICS)
        assert list(stats.histogram) == list(hist.hist)
        assert 1.0 - stats.focus == focus.focus
        assert (stats.minimum, stats.maximum) == (levels.min, levels.max)
        assert (round(stats.mean), round(stats.std)) == (levels.mean, levels.std)


def published_matches(session: Any, messages: dict[str, dict[str, Any]]) -> Matches:
    """As messages, the upper or left tile first."""
    at = {(r["row"], r["column"]): r["tile_id"] for r in session.raws}
    found: Matches = {}
    for tile_id, message in messages["tile.matches"].items():
        for each in message.matches:
            p = tuple(zip(each.pY, each.pX, strict=True))
            q = tuple(zip(each.qY, each.qX, strict=True))
            other = at[each.row, each.column]
            if other < tile_id:
                found[other, tile_id] = (q, p)
            else:
                found[tile_id, other] = (p, q)
    assert len(found) == 7
    assert all(len(points) >= 3 for pair in found.values() for points in pair)
    return found


def points_of(matches: tuple[TileMatch, ...]) -> Matches:
    return {(m.a, m.b): (m.a_points, m.b_points) for m in matches}


def test_a_pipeline_that_begins_anew_makes_the_same_of_every_frame(
    live: Any,
) -> None:
    for path in live.folder.glob("*.processed.tiff"):
        path.unlink()
    (live.folder / f"{KEY}.complete.json").unlink()
    live.image_in_order(live.raws[::-1])
    messages = live.run_pipeline("second")
    check_pixels(live, live.processed())
    for topic in STATISTICS:
        assert {t: m.model_dump() for t, m in messages[topic].items()} == {
            t: m.model_dump() for t, m in live.messages[topic].items()
        }
    assert published_matches(live, messages) == published_matches(live, live.messages)


def test_a_quality_control_that_was_away_gives_the_same_verdicts(
    live: Any,
) -> None:
    found = live.verdicts("qc-1", hears=True)
    assert all(passed for passed, _ in found.values())
    assert live.verdicts("qc-2", hears=False) == found


def test_a_montage_fit_that_was_away_measures_the_same_matches(live: Any) -> None:
    growing = Growing(acquisition_id=KEY, montage_id=MONTAGE)
    for raw in live.raws:
        growing.take(RAW, body_of(RAW, fitting(RAW, raw)))
    growing.finish(complete_body(fitting("montage.complete", live.complete)), 0.0)
    first = live.raws[0]
    recipe = recipe_of_tile(first["path"], first["tile_id"], MONTAGE)
    assert recipe is not None
    assert recipe.valid_box is not None
    assert recipe.flat_field is not None
    _, found = whole_montage(
        growing,
        Size(height_px=SIDE, width_px=SIDE),
        microscope="sim",
        settings=live.settings.stitching.match,
        recipe=recipe,
    )
    assert points_of(found) == published_matches(live, live.messages)
    for tile_id, tile in growing.tiles.items():
        assert tile.focus == live.messages["tile.statistics.focus"][tile_id].focus


def run_job(
    instance: dg.DagsterInstance, overrides: dict[str, str] | None = None
) -> None:
    instance.add_dynamic_partitions(str(montages.name), [KEY])
    laid_on_top = {"configuration": {"config": {"overrides": overrides or {}}}}
    result = defs.resolve_job_def("stitch_montages").execute_in_process(
        partition_key=KEY,
        instance=instance,
        raise_on_error=False,
        run_config={"resources": laid_on_top},
    )
    assert result.success


def pixels_in(store: Store) -> dict[str, np.ndarray]:
    tiles = store.read(layout.tiles(KEY), Montage).tiles
    return {tile.tile_id: read_image(tile.uri) for tile in tiles}


def test_dagster_makes_the_tiles_of_the_live_session(
    live: Any, instance: dg.DagsterInstance, store: Store
) -> None:
    live.record()
    run_job(instance)
    check_pixels(live, pixels_in(store))
    stats = store.read(layout.tile_statistics(KEY), tuple[TileStats, ...])
    check_statistics(live, stats)
    quality = live.settings.stitching.quality
    assert all(check.passed for check in check_tiles(stats, quality))
    matches = store.read(layout.tile_matches(KEY), tuple[TileMatch, ...])
    assert points_of(matches) == published_matches(live, live.messages)
    assert all(match.kept for match in matches)


def test_dagster_decides_anew_where_other_settings_are_asked_for(
    live: Any, instance: dg.DagsterInstance, store: Store
) -> None:
    live.record()
    run_job(instance, {"stitching.tile.grey_range": "[0, 60000]"})
    for image in pixels_in(store).values():
        assert not any(np.array_equal(image, other) for other in live.pixels.values())
    run_job(instance)
    check_pixels(live, pixels_in(store))


def test_stitch_makes_the_tiles_of_the_live_session(
    live: Any, store: Store, tmp_path: Path
) -> None:
    live.record()
    with ledger_of(live.settings) as recorder:
        montage = recorder.montage(KEY)
    listed = tmp_path / "listed" / "montage.json"
    listed.parent.mkdir()
    listed.write_text(montage.model_dump_json())
    montage = open_montage(listed)
    stitching = live.settings.stitching
    result = stitch_montage(montage, str(tmp_path / "m.zarr"), settings=stitching)
    check_statistics(live, result.stats)
    assert points_of(result.fit.matches) == published_matches(live, live.messages)
    box = result.images.valid_box
    assert box is not None
    inside = np.s_[box.y0 : box.y1, box.x0 : box.x1]
    for tile in montage.tiles:
        found = result.images.read(tile)
        assert np.array_equal(found[inside], live.pixels[tile.tile_id][inside])


def test_stitch_of_the_folder_of_frames_needs_no_list(
    live: Any, tmp_path: Path
) -> None:
    montage = open_montage(live.folder, overlap=190)
    assert montage.failures == ()
    stitching = live.settings.stitching
    result = stitch_montage(montage, str(tmp_path / "m.zarr"), settings=stitching)
    for stats in result.stats:
        tile_id = stats.tile_id.removesuffix(".tiff")
        hist = live.messages["tile.statistics.histogram"][tile_id].hist
        assert list(stats.histogram) == list(hist)
