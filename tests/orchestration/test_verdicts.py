"""A montage without all of its tiles says so wherever it is shown."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import zarr

from em_platform.catalog.repository import found_in
from em_platform.catalog.search import select
from em_platform.config import (
    AcquisitionSettings,
    CatalogSettings,
    SimulationSettings,
    load_settings,
)
from em_platform.definitions import defs
from em_platform.formats import inspect, read_image, write_tiff
from em_platform.model import Montage
from em_platform.model.dataset import DatasetRecord, Status
from em_platform.partitions import montages
from em_platform.simulation.devices.commanded import CommandedFault, Faults
from em_platform.simulation.devices.sensor import Command, Sensor
from em_platform.stitching.inputs import open_montage
from em_platform.stitching.stitch import stitch_montage
from em_platform.storage import Store, layout

TILE_PX = 256  # as `drop_montage` cuts them

pytestmark = [
    pytest.mark.usefixtures("cheap_runs"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:dagster"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

Folder = Callable[..., Path]
COMPLETE = dg.AssetCheckKey(dg.AssetKey("tiles"), "montage_is_complete")


def run(
    instance: dg.DagsterInstance,
    key: str,
    *,
    job: str = "stitch_montages",
    assets: list[str] | None = None,
) -> dg.ExecuteInProcessResult:
    instance.add_dynamic_partitions(str(montages.name), [key])
    return defs.resolve_job_def(job).execute_in_process(
        partition_key=key,
        instance=instance,
        raise_on_error=False,
        asset_selection=[dg.AssetKey(name) for name in assets or ()] or None,
    )


def failed_checks(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """Failed check -> its sentence."""
    found = result.get_asset_check_evaluations()
    return {c.check_name: c.description or "" for c in found if not c.passed}


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    [made] = result.asset_materializations_for_node(asset)
    return {name: value.value for name, value in made.metadata.items()}


def review_of_mosaic(url: str) -> dict[str, Any]:
    ours: Any = zarr.open_group(url, mode="r").attrs["em_platform"]
    found: dict[str, Any] = ours["review"]
    return found


def status_of_partitions(instance: dg.DagsterInstance) -> dict[str | None, str]:
    """What Dagster keeps of the check of completeness, montage by montage."""
    found = instance.event_log_storage.get_asset_check_partition_info([COMPLETE])
    return {
        each.partition_key: str(each.latest_execution_status.value) for each in found
    }


def assert_marked(
    result: dg.ExecuteInProcessResult, key: str, store: Store, *, sentence: str
) -> None:
    """Check, mosaic, record, catalog's report and search all say the sentence."""
    assert result.success, "a mosaic is made all the same"
    assert sentence in failed_checks(result)["montage_is_complete"]
    url = str(store.local_path(layout.mosaic(key)))
    review = review_of_mosaic(url)
    assert review["status"] == "needs_review"
    assert sentence in review["reasons"][0]
    assert sentence in str(inspect(url).tags["review"])
    shown = metadata_of(result, "mosaic")["review"]
    assert "needs review" in shown
    assert sentence in shown
    record = store.read(layout.dataset_record(key), DatasetRecord)
    assert record.status is Status.NEEDS_REVIEW
    assert list(record.metadata.quality.review_reasons) == review["reasons"]
    assert any(sentence in e for e in record.metadata.quality.validation_errors)
    in_review = select(found_in(store), "status=needs_review")
    assert [each.content["key"] for each in in_review] == [key]
    assert_in_catalog(store, key, sentence=sentence)


def assert_in_catalog(store: Store, key: str, *, sentence: str) -> None:
    from em_platform.catalog.consolidate import catalog_is_complete, consolidate

    made = consolidate(store, CatalogSettings())
    assert made.invalid == 0, made.report
    assert made.catalog["summary"]["by_status"]["needs_review"] == 1
    check = catalog_is_complete(made)
    assert not check.passed
    assert f"{key}.json" in check.sentence
    assert "1 needs_review" in check.sentence
    page = store.read_bytes(f"{layout.CATALOG}/validation_report.html").decode()
    row = page[page.index(f"<strong>{key}</strong>") - 3000 :]
    assert 'class="status needs_review"' in row
    assert sentence in row
    table = store.read_bytes(f"{layout.CATALOG}/validation_report.csv").decode()
    assert any(
        f",{key},needs_review,yes,review," in line and sentence in line
        for line in table.splitlines()
    )


def test_two_black_tiles_of_sixteen_in_the_inbox_are_said_wherever_one_looks(
    instance: dg.DagsterInstance, drop_montage: Folder, store: Store, tmp_path: Path
) -> None:
    folder = drop_montage("grid-1", side=4, black={(1, 2), (3, 3)})
    result = run(instance, "grid-1")
    assert_marked(result, "grid-1", store, sentence="Missing: 2 of 16 tiles")
    named = failed_checks(result)["montage_is_complete"]
    assert "t12.tiff: found all pixels black" in named
    assert "t33.tiff: found all pixels black" in named
    alone = str(tmp_path / "alone.zarr")
    stitching = load_settings().stitching
    made = stitch_montage(open_montage(folder), alone, settings=stitching)
    assert made.review.model_dump(mode="json") == review_of_mosaic(alone)
    assert review_of_mosaic(alone) == review_of_mosaic(
        store.url(layout.mosaic("grid-1"))
    )


def test_a_good_montage_does_not_hide_the_bad_one_before_it(
    instance: dg.DagsterInstance, drop_montage: Folder, store: Store
) -> None:
    drop_montage("bad-1", black={(1, 1)})
    drop_montage("good-1")
    assert run(instance, "bad-1").success
    good = run(instance, "good-1")
    assert failed_checks(good) == {}
    assert status_of_partitions(instance) == {"bad-1": "FAILED", "good-1": "SUCCEEDED"}
    assert review_of_mosaic(store.url(layout.mosaic("good-1"))) == {
        "status": "passed",
        "reasons": [],
    }
    record = store.read(layout.dataset_record("good-1"), DatasetRecord)
    assert (record.status, record.metadata.quality.review_reasons) == ("complete", ())
    assert metadata_of(good, "mosaic")["review"] == "passed"


def test_a_burnt_tile_and_a_hole_need_review_and_the_next_montage_does_not(
    instance: dg.DagsterInstance, drop_montage: Folder, store: Store
) -> None:
    folder = drop_montage("bad1", side=3, black={(1, 1)})
    burnt = folder / "t02.tiff"
    shown = 3 * read_image(str(burnt)).astype(int)
    write_tiff(burnt, np.clip(shown, 0, 255).astype(np.uint8))
    drop_montage("good1", seed=2, side=3)
    bad = run(instance, "bad1")
    assert_marked(bad, "bad1", store, sentence="Missing: 1 of 9 tiles")
    good = run(instance, "good1")
    assert "t02.tiff" in failed_checks(bad)["tiles_are_not_saturated"]
    assert "row 1, column 1" in failed_checks(bad)["montage_has_no_gaps"]
    assert failed_checks(good) == {}
    assert status_of_partitions(instance) == {"bad1": "FAILED", "good1": "SUCCEEDED"}
    record = store.read(layout.dataset_record("good1"), DatasetRecord)
    assert record.status is Status.COMPLETE


def test_too_few_tiles_stop_the_run_and_stand_in_the_record(
    instance: dg.DagsterInstance, drop_montage: Folder, store: Store
) -> None:
    drop_montage("grid-1", black={(0, 1), (1, 0), (1, 1)})
    result = run(instance, "grid-1")
    assert_blocked(result, "enough_tiles_are_present", after="tiles")
    sentence = "Too few to be used: 1 of 4 tiles, at least 2 needed"
    assert sentence in failed_checks(result)["enough_tiles_are_present"]
    record = store.read(layout.dataset_record("grid-1"), DatasetRecord)
    assert record.status is Status.FAILED
    assert record.error is not None
    assert sentence in record.error.message
    assert not store.exists(layout.mosaic("grid-1"))


def test_tiles_that_nothing_connects_stop_the_run_and_mark_the_earlier_mosaic(
    instance: dg.DagsterInstance, drop_montage: Folder, store: Store
) -> None:
    folder = drop_montage("grid-1")
    assert run(instance, "grid-1").success
    for number, path in enumerate(sorted(folder.glob("*.tiff"))):
        noise = np.random.default_rng(number).integers(0, 255, (TILE_PX, TILE_PX))
        write_tiff(path, noise.astype(np.uint8))
    result = run(instance, "grid-1")
    assert_blocked(result, "enough_tiles_are_connected", after="montage_fit")
    record = store.read(layout.dataset_record("grid-1"), DatasetRecord)
    assert record.status is Status.NEEDS_REVIEW
    [reason] = record.metadata.quality.review_reasons
    assert "at most 1 of 4 are connected by matches, at least 2 needed" in reason
    assert store.exists(layout.mosaic("grid-1")), "what was good before stays"


def assert_blocked(
    result: dg.ExecuteInProcessResult, check: str, *, after: str
) -> None:
    """The step of `after` is the last, and no mosaic is made from what it found."""
    assert not result.success
    assert check in failed_checks(result)
    made = {
        e.asset_key.to_user_string()
        for e in result.get_asset_materialization_events()
        if e.asset_key
    }
    assert after in made
    assert not made & {"mosaic", "dataset_record"}


def test_every_check_of_a_partitioned_asset_has_its_partitions() -> None:
    graph = defs.get_repository_def().asset_graph
    checks = {key: graph.get(key) for key in graph.asset_check_keys}
    assert len(checks) > 40
    for key, check in checks.items():
        asset = graph.get(key.asset_key)
        assert check.partitions_def == asset.partitions_def, key


def test_four_of_thirty_six_tiles_that_were_never_announced_are_missing(
    instance: dg.DagsterInstance, image_montage: Folder, store: Store
) -> None:
    # The last of the raster: no number of an announced tile counts them.
    image_montage("m-1", side=6, left_out={(5, 2), (5, 3), (5, 4), (5, 5)})
    result = run(instance, "m-1-t1")
    sentence = "Missing: 4 of 36 tiles (montage m-1: 32 tiles were announced, 36 were"
    assert_marked(result, "m-1-t1", store, sentence=sentence)
    montage = store.read(layout.tiles("m-1-t1"), Montage)
    assert (len(montage.tiles), montage.expected_tiles) == (32, 36)


def test_four_of_thirty_six_tiles_that_lost_the_beam_are_missing(
    instance: dg.DagsterInstance, image_montage: Folder, store: Store
) -> None:
    folder = image_montage("m-1", side=6)
    simulation = SimulationSettings(tile_px=256)
    lost = Faults(on={"beam_loss": CommandedFault(value=1.0, since=0.0)})
    camera = Sensor(AcquisitionSettings(simulation=simulation), lambda: lost)
    for row, column in ((0, 0), (2, 3), (4, 1), (5, 5)):
        tile_id = f"m-1-t1_{row:03d}_{column:03d}"
        asked = Command(
            tile_id=tile_id, montage_id="m-1", row=row, column=column, overlap=64
        )
        write_tiff(folder / f"{tile_id}.tiff", camera.frame(asked).image)
    result = run(instance, "m-1-t1")
    assert_marked(result, "m-1-t1", store, sentence="Missing: 4 of 36 tiles")
    named = failed_checks(result)["montage_is_complete"]
    assert "m-1-t1_002_003: found all pixels black" in named


@pytest.mark.parametrize("job", ["stitch_montages", "finish_tiles"])
def test_a_frame_that_was_removed_before_a_backfill_is_missing(
    job: str, instance: dg.DagsterInstance, image_montage: Folder, store: Store
) -> None:
    folder = image_montage("m-1")
    assert failed_checks(run(instance, "m-1-t1")) == {}
    (folder / "m-1-t1_001_001.tiff").unlink()
    frames_stay = ["tiles", "tile_statistics", "tile_matches", "montage_fit"]
    chosen = [*frames_stay, "mosaic", "dataset_record"] if job == "finish_tiles" else []
    result = run(instance, "m-1-t1", assets=chosen)
    assert_marked(result, "m-1-t1", store, sentence="Missing: 1 of 4 tiles")
    assert "m-1-t1_001_001" in failed_checks(result)["montage_is_complete"]
    assert status_of_partitions(instance) == {"m-1-t1": "FAILED"}


def test_a_frame_that_left_the_list_before_a_backfill_is_missing_too(
    instance: dg.DagsterInstance, drop_montage: Folder, store: Store
) -> None:
    folder = drop_montage("grid-1")
    assert failed_checks(run(instance, "grid-1")) == {}
    (folder / "t11.tiff").unlink()
    lines = (folder / "tiles.csv").read_text().splitlines()
    (folder / "tiles.csv").write_text("\n".join(lines[:-1]) + "\n")
    for _ in range(2):  # the plan outlives a run that has seen what is missing
        result = run(instance, "grid-1")
        sentence = "Missing: 1 of 4 tiles (tile t11.tiff: was there when montage grid-1"
        assert_marked(result, "grid-1", store, sentence=sentence)
