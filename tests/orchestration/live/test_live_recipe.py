"""One montage live, after restarts, in Dagster and by `stitch`: equal to the digit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from em_platform.acquisition.live_products import measured_tile, recipe_of_tile
from em_platform.acquisition.montage_fit.growing import (
    RAW,
    LiveMontage,
    body_of,
    complete_body,
)
from em_platform.acquisition.montage_fit.remeasure import whole_montage
from em_platform.acquisition.recorder import ledger_of
from em_platform.definitions import defs
from em_platform.formats import read_image, write_tiff
from em_platform.messaging.topics import fitting
from em_platform.model import Montage, Size, TileMatch, TileStats
from em_platform.partitions import montages
from em_platform.stitching.inputs import open_montage
from em_platform.stitching.quality import check_tiles
from em_platform.stitching.stitch import stitch_montage
from em_platform.storage import Store, layout

pytestmark = [
    # Three runs in one test take two minutes on a machine that does other things, too.
    pytest.mark.timeout(600),
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


def check_statistics(
    session: Any, found: tuple[TileStats, ...], *, tiles: int = 6
) -> None:
    assert len(found) == tiles
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


@pytest.mark.parametrize("left", ["statistics and pixels", "pixels"])
def test_a_quality_control_that_was_away_gives_the_same_verdicts(
    live: Any, left: str
) -> None:
    found = live.verdicts("qc-1", hears=True)
    assert all(passed for passed, _ in found.values())
    for path in live.folder.glob("*.processed.sealed") if left == "pixels" else ():
        path.unlink()
    assert live.verdicts("qc-2", hears=False) == found
    for raw in live.raws:
        recipe = recipe_of_tile(raw["path"], raw["tile_id"], MONTAGE)
        stats = measured_tile(raw["path"], raw["tile_id"], recipe)
        assert stats is not None
        check_statistics(live, (stats,), tiles=1)


def test_a_montage_fit_that_was_away_measures_the_same_matches(live: Any) -> None:
    growing = LiveMontage(acquisition_id=KEY, montage_id=MONTAGE)
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
        assert tile.focus == 1.0 - live.messages["tile.statistics.focus"][tile_id].focus


COMPARED = ("raw_tiles", "tiles", "tile_statistics", "tile_matches")
"""Assets that adopt what was made live; what comes of them knows no difference."""


def run_job(
    instance: dg.DagsterInstance,
    overrides: dict[str, str] | None = None,
    *,
    assets: tuple[str, ...] = (),
) -> dict[str, int]:
    """Run the job, or some `assets`; returns how much was adopted and computed."""
    instance.add_dynamic_partitions(str(montages.name), [KEY])
    laid_on_top = {"configuration": {"config": {"overrides": overrides or {}}}}
    result = defs.resolve_job_def("stitch_montages").execute_in_process(
        partition_key=KEY,
        instance=instance,
        raise_on_error=False,
        run_config={"resources": laid_on_top},
        asset_selection=[dg.AssetKey(name) for name in assets] or None,
    )
    assert result.success
    return {
        name: value.value
        for event in result.get_asset_materialization_events()
        for name, value in event.materialization.metadata.items()
        if name.endswith((" adopted", " computed"))
    }


def counts(*, adopted: tuple[int, int], computed: tuple[int, int]) -> dict[str, int]:
    """Of tiles and of pairs."""
    return {
        "tiles adopted": adopted[0],
        "tiles computed": computed[0],
        "pairs adopted": adopted[1],
        "pairs computed": computed[1],
    }


ALL_ADOPTED = counts(adopted=(6, 7), computed=(0, 0))
ALL_COMPUTED = counts(adopted=(0, 0), computed=(6, 7))


def pixels_in(store: Store) -> dict[str, np.ndarray]:
    tiles = store.read(layout.tiles(KEY), Montage).tiles
    return {tile.tile_id: read_image(tile.uri) for tile in tiles}


def made(store: Store) -> tuple[tuple[TileStats, ...], tuple[TileMatch, ...]]:
    """Statistics and matches, whole, as Dagster left them."""
    return (
        store.read(layout.tile_statistics(KEY), tuple[TileStats, ...]),
        store.read(layout.tile_matches(KEY), tuple[TileMatch, ...]),
    )


def check_dagster(session: Any, store: Store) -> None:
    """Tiles, statistics, verdicts and matches are those of the session."""
    check_pixels(session, pixels_in(store))
    stats, matches = made(store)
    check_statistics(session, stats)
    quality = session.settings.stitching.quality
    assert all(check.passed for check in check_tiles(stats, quality))
    assert points_of(matches) == published_matches(session, session.messages)
    assert all(match.kept and match.score > 0.5 for match in matches)


def test_dagster_adopts_the_tiles_and_matches_of_the_live_session(
    live: Any, instance: dg.DagsterInstance, store: Store
) -> None:
    live.record()
    assert run_job(instance) == ALL_ADOPTED
    check_dagster(live, store)


def test_dagster_computes_to_the_digit_what_it_would_have_adopted(
    live: Any, instance: dg.DagsterInstance, store: Store
) -> None:
    live.record()
    run_job(instance, assets=COMPARED)
    adopted = made(store)
    for path in live.folder.glob("*.sealed"):
        path.unlink()
    assert run_job(instance, assets=COMPARED) == ALL_COMPUTED
    check_dagster(live, store)
    assert made(store) == adopted


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize("damage", [flip_a_byte, cut_short, Path.unlink])
@pytest.mark.parametrize(
    ("suffix", "adopted"),
    # The corner tile has two pairs, both in the lists of others.
    [(".processed.tiff", (5, 5)), (".processed.sealed", (5, 5))],
)
@pytest.mark.parametrize("live", ["uint16"], indirect=True)
def test_a_damaged_live_tile_is_made_anew(
    live: Any,
    instance: dg.DagsterInstance,
    store: Store,
    damage: Callable[[Path], None],
    suffix: str,
    adopted: tuple[int, int],
) -> None:
    live.record()
    damage(live.folder / f"{KEY}_000_000{suffix}")
    computed = (6 - adopted[0], 7 - adopted[1])
    found = run_job(instance, assets=COMPARED)
    assert found == counts(adopted=adopted, computed=computed)
    check_dagster(live, store)


@pytest.mark.parametrize("live", ["uint16"], indirect=True)
def test_damaged_live_matches_are_measured_anew(
    live: Any, instance: dg.DagsterInstance, store: Store
) -> None:
    live.record()
    flip_a_byte(live.folder / f"{KEY}_001_001.matches.sealed")
    found = run_job(instance, assets=COMPARED)
    assert found == counts(adopted=(6, 5), computed=(0, 2))
    check_dagster(live, store)


@pytest.mark.parametrize("live", ["uint16"], indirect=True)
def test_the_tile_of_another_frame_is_not_adopted(
    live: Any, instance: dg.DagsterInstance, store: Store
) -> None:
    live.record()
    frame = Path(live.raws[0]["path"])
    write_tiff(frame, np.ascontiguousarray(read_image(str(frame))[::-1]))
    found = run_job(instance, assets=COMPARED)
    assert (found["tiles adopted"], found["tiles computed"]) == (5, 1)
    tiles = pixels_in(store)
    assert not np.array_equal(tiles[frame.stem], live.pixels[frame.stem])


def test_dagster_decides_anew_where_other_settings_are_asked_for(
    live: Any, instance: dg.DagsterInstance, store: Store
) -> None:
    live.record()
    # Wider than that of the frames, and not so wide that nothing is seen in them.
    frame = read_image(str(live.folder / f"{KEY}_000_000.tiff"))
    wide = "[0, 400]" if frame.dtype == np.uint8 else "[0, 60000]"
    other = {"stitching.tile.grey_range": wide}
    assert run_job(instance, other, assets=COMPARED) == ALL_COMPUTED
    for image in pixels_in(store).values():
        assert not any(np.array_equal(image, one) for one in live.pixels.values())
    assert run_job(instance, assets=COMPARED) == ALL_ADOPTED
    check_pixels(live, pixels_in(store))
    patches = {"stitching.match.patches": "9"}
    found = run_job(instance, patches, assets=COMPARED)
    assert found == counts(adopted=(6, 0), computed=(0, 7))


def test_stitch_makes_the_tiles_of_the_live_session(
    live: Any, instance: dg.DagsterInstance, store: Store, tmp_path: Path
) -> None:
    live.record()
    run_job(instance, assets=COMPARED)
    with ledger_of(live.settings) as recorder:
        montage = recorder.montage(KEY)
    listed = tmp_path / "listed" / "montage.json"
    listed.parent.mkdir()
    listed.write_text(montage.model_dump_json())
    montage = open_montage(listed)
    stitching = live.settings.stitching
    result = stitch_montage(montage, str(tmp_path / "m.zarr"), settings=stitching)
    check_statistics(live, result.stats)
    # All of a match, its score and peak too, but what the fit adds.
    assert [m.model_copy(update={"residual_px": None}) for m in result.fit.matches] == (
        list(made(store)[1])
    )
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
