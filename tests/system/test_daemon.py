"""One platform, its daemon and its web UI, as a person uses them."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import dagster as dg
import numpy as np
import pytest

from em_platform.cli.runs import ask, montage_runs
from em_platform.formats import write_tiff

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

CHROMIUM = Path("/usr/bin/chromium")
TILE_PX, STEP_PX = 256, 192


@pytest.fixture(scope="module")
def platform(make_platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    with make_platform(tmp_path_factory.mktemp("daemon")) as platform:
        platform.start()
        yield platform


@pytest.fixture(scope="module")
def stitched(platform, wait_until: Callable[..., None]) -> str:
    """The key of a montage that came by the inbox."""
    return stitch(platform, "grid-1", wait_until)


def stitch(
    platform, key: str, wait_until: Callable[..., None], *, black: int | None = None
) -> str:
    """Drop a montage and wait until its run is over; gives its key."""
    drop(platform.home / "inbox" / key, black=black)
    wait_until(
        lambda: montage_runs(platform.url, key).is_over,
        timeout_s=120,
        what=lambda: str(montage_runs(platform.url, key)) + platform.said(),
    )
    return key


def drop(folder: Path, *, black: int | None = None) -> None:
    noise = np.random.default_rng(1).normal(128, 300, (512, 512))
    image = np.clip(cv2.GaussianBlur(noise, (0, 0), 3), 0, 255).astype(np.uint8)
    folder.mkdir(parents=True)
    lines = ["file,x_px,y_px"]
    for x in (0, STEP_PX):
        tile = image[:TILE_PX, x : x + TILE_PX] * np.uint8(x != black)
        write_tiff(folder / f"t{x}.tiff", tile)
        lines.append(f"t{x}.tiff,{x + 2},0")
    (folder / "tiles.csv").write_text("\n".join(lines) + "\n")


def test_a_folder_in_the_inbox_becomes_a_checked_mosaic(platform, stitched) -> None:
    runs = montage_runs(platform.url, stitched)
    assert runs.is_good, runs
    assert len(runs.run_ids) == 1
    assert runs.assets[0] == "raw_tiles"
    assert runs.assets[-1] == "dataset_record"
    assert len(runs.checks) == 10
    assert (platform.home / "data/montages/grid-1/mosaic.zarr/zarr.json").is_file()


STATUSES = """
query { assetNodeOrError(assetKey: {path: ["tiles"]}) { ... on AssetNode {
  assetCheckOrError(checkName: "montage_is_complete") { ... on AssetCheck {
    partitionStatuses { ... on AssetCheckDefaultPartitionStatuses {
      succeededPartitions failedPartitions
    } }
  } }
} } }"""


def test_the_web_ui_shows_a_bad_montage_behind_the_good_one_after_it(
    platform, stitched: str, wait_until: Callable[..., None]
) -> None:
    bad = stitch(platform, "grid-bad", wait_until, black=STEP_PX)
    good = stitch(platform, "grid-good", wait_until)
    runs = montage_runs(platform.url, bad)
    assert runs.status == "SUCCESS"
    assert not runs.is_good
    assert runs.checks["montage_is_complete"].sentence.startswith("Missing: 1 of 2")
    node = ask(platform.url, STATUSES)["assetNodeOrError"]
    statuses = node["assetCheckOrError"]["partitionStatuses"]
    assert statuses["failedPartitions"] == [bad]
    assert {stitched, good} <= set(statuses["succeededPartitions"])


def test_a_montage_is_made_again_from_the_command_line(
    platform, stitched: str, wait_until: Callable[..., None]
) -> None:
    workspace = platform.home / "dagster" / "workspace.yaml"
    told = subprocess.run(
        (
            *(sys.executable, "-m", "dagster", "job", "backfill"),
            *("-w", str(workspace), "-l", "em_platform", "-j", "stitch_tiles"),
            *("--partitions", stitched, "--noprompt"),
        ),
        env=platform.environment | {"DAGSTER_HOME": str(platform.home / "dagster")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stderr

    def again() -> bool:
        runs = montage_runs(platform.url, stitched)
        return len(runs.run_ids) == 2 and runs.status == "SUCCESS"

    wait_until(again, timeout_s=90)
    assert montage_runs(platform.url, stitched).assets.count("mosaic") == 2


def test_dagster_is_told_the_partition_of_each_check(platform, stitched: str) -> None:
    with platform.instance() as instance:
        key = dg.AssetCheckKey(dg.AssetKey("montage_fit"), "seams_are_closed")
        [record, *_] = instance.event_log_storage.get_asset_check_execution_history(
            key, limit=5
        )
        assert record.status.value == "SUCCEEDED"


@pytest.mark.skipif(not CHROMIUM.is_file(), reason="chromium is not installed")
def test_the_web_pages_show_the_assets_and_no_error(platform, stitched: str) -> None:
    from playwright.sync_api import sync_playwright

    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1500, "height": 950})
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{platform.url}/asset-groups")
        for group in ("acquisition", "stitching", "catalog"):
            page.get_by_text(group, exact=True).last.wait_for(timeout=60_000)
            page.get_by_text(group, exact=True).last.dblclick()
        page.get_by_text("dataset_record").first.wait_for(timeout=30_000)
        view = f"view=partitions&partition={stitched}"
        page.goto(f"{platform.url}/assets/mosaic?{view}")
        page.get_by_text("Show Markdown").first.click(timeout=60_000)
        picture = page.locator("img[alt='mosaic']")
        picture.wait_for(timeout=30_000)
        assert picture.evaluate("img => img.naturalWidth") > 200
        page.goto(f"{platform.url}/assets/montage_fit?view=checks")
        page.get_by_text("seams_are_closed").first.wait_for(timeout=60_000)
        browser.close()
    assert errors == []
