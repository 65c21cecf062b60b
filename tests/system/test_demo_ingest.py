"""`em-platform demo` once whole, then its sources again while a person looks on."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from em_platform.ingest.sources import SOURCES
from em_platform.processes import members
from tests.chromium import chromium, needs_chromium
from tests.system.backfilling import backfill_job

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def platform(make_platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with make_platform(tmp_path_factory.mktemp("demo") / "home") as platform:
        # Two files of EPFL are wanted; the demo itself brings the first.
        platform.environment["EM_INGEST__EPFL__ITEMS"] = "volumedata,training"
        yield platform


@pytest.fixture(scope="module")
def whole(platform) -> subprocess.CompletedProcess[str]:
    """The demo with all its parts."""
    return subprocess.run(
        (
            *(sys.executable, "-m", "em_platform", "demo", "--exit"),
            *("--montages", "1", "--home", str(platform.home)),
        ),
        env=platform.environment,
        capture_output=True,
        text=True,
        timeout=550,
    )


def test_the_demo_makes_a_montage_five_volumes_and_a_tilt_series_and_checks_them(
    platform, whole: subprocess.CompletedProcess[str]
) -> None:
    output = whole.stdout
    assert whole.returncode == 0, output + whole.stderr
    assert "all checks passed" in output
    assert output.count("15 of 15") == 1  # with `placements_match_truth`
    assert len(re.findall(r"│ 4 of 4 +│ verified", output)) == 1
    assert len(list(platform.home.glob("data/montages/*/mosaic.zarr/zarr.json"))) == 1
    assert len(list(platform.home.glob("data/records/acquisition/*.json"))) == 1

    assert "The tiles lie where they were imaged (RMSE " in output
    assert "demo-0000: 4 of 4 checks passed" in output
    assert len(list(platform.home.glob("data/records/simulation/*.json"))) == 1

    # What compared nothing is not counted: not each source states shape and checksums.
    passed = re.findall(r"([4-7]) of \1 +complete", output)
    assert len(passed) == len(SOURCES) and "7" in passed
    assert re.search(r"\d+ requests fetched [\d.]+ MB of image data", output)
    for source in SOURCES:
        [volume] = platform.home.glob(f"data/volumes/{source}/*.zarr/zarr.json")
        assert volume.is_file()
    report = json.loads(
        (platform.home / "data/catalog/validation_report.json").read_text()
    )
    assert report["summary"]["invalid_files"] == 0
    assert members(platform.session) == []


@dataclass(slots=True)
class Serving:
    """A demo on a terminal, which serves until Ctrl-C."""

    process: subprocess.Popen[bytes]
    received: list[str] = field(default_factory=list)

    @property
    def output(self) -> str:
        return "".join(self.received)


@pytest.fixture(scope="module")
def serving(
    platform,
    whole: subprocess.CompletedProcess[str],
    wait_until: Callable[..., None],
) -> Iterator[Serving]:
    """The sources once more in the same home."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        (
            *(sys.executable, "-m", "em_platform", "demo", "ingest"),
            *("--home", str(platform.home)),
        ),
        env=platform.environment | {"COLUMNS": "100"},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    serving = Serving(process)

    def hear() -> None:
        try:
            while piece := os.read(ours, 4096):
                serving.received.append(piece.decode(errors="replace"))
        except OSError:
            return  # the other end is closed

    listener = threading.Thread(target=hear)
    listener.start()
    try:
        wait_until(
            lambda: (
                "serving until Ctrl-C" in serving.output or process.poll() is not None
            ),
            timeout_s=240,
            what=lambda: serving.output,
        )
        yield serving
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        listener.join(10)
        os.close(ours)


def test_running_again_fetches_nothing(serving: Serving) -> None:
    assert "nothing was fetched: every item was there already" in serving.output
    assert "all checks passed" in serving.output


def test_the_demos_own_runs_say_who_launched_them(platform, serving: Serving) -> None:
    """round3 1.2.9: Dagster's pages had them as "Manually launched"."""
    with platform.instance() as instance:
        runs = [run for run in instance.get_runs() if "em/demo" in run.tags]
    assert runs and {run.tags["user"] for run in runs} == {"em-platform demo"}


def test_a_backfill_brings_its_partitions(
    platform, serving: Serving, wait_until: Callable[..., None]
) -> None:
    with platform.instance() as instance:
        wait_until(
            lambda: instance.has_dynamic_partition("epfl_files", "training"),
            timeout_s=60,
        )
    # That of the command line is queued in test_up_microscope.py.
    backfill_job(platform.url, "ingest_epfl", ["volumedata", "training"])
    with platform.instance() as instance:

        def is_done() -> bool:
            made = instance.get_materialized_partitions(dg.AssetKey(["epfl", "record"]))
            return "training" in made

        wait_until(is_done, timeout_s=120)
        [backfill] = instance.get_backfills()
        assert sorted(backfill.partition_names or []) == ["training", "volumedata"]
    [volume] = platform.home.glob("data/volumes/epfl/training.zarr/zarr.json")
    assert volume.is_file()


@needs_chromium
def test_the_web_pages_show_lineage_previews_schedules_and_the_backfill(
    platform, serving: Serving, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    from playwright.sync_api import TimeoutError

    errors: list[str] = []
    pictures = Path(os.environ.get("TEST_PICTURES", tmp_path))
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1500, "height": 950})
        page.on("pageerror", lambda error: errors.append(str(error)))

        def look(path: str, *texts: str, name: str) -> None:
            page.goto(f"{platform.url}{path}")
            for text in texts:
                page.get_by_text(text).first.wait_for(timeout=60_000)
            page.screenshot(path=str(pictures / f"{name}.png"))

        groups = [f"ingest_{source}" for source in SOURCES]
        look("/asset-groups", *groups, "catalog", name="lineage")
        look(
            "/locations/em_platform/asset-groups/ingest_ebi/lineage",
            *("entry", "raw", "volume", "record", "metadata_catalog"),
            name="lineage_ebi",
        )
        schedules = [f"{group}_schedule" for group in groups]
        look("/automation", *schedules, "discovery_sensor", name="schedules")
        view = "view=partitions&partition=11759"
        look(f"/assets/ebi/volume?{view}", "grey levels", name="volume")
        preview = page.locator("img[alt='mid-sections']")

        def shows_preview() -> bool:
            page.get_by_text("Show Markdown").first.click(timeout=60_000)
            try:
                preview.wait_for(timeout=15_000)
            except TimeoutError:
                # Dagster's page closes the dialog when it loads its data anew.
                page.keyboard.press("Escape")
                return False
            return True

        wait_until(shows_preview, timeout_s=90, what=page.content)
        assert preview.evaluate("img => img.naturalWidth") > 100
        page.screenshot(path=str(pictures / "preview.png"))
        look("/runs?view=backfills", "ingest_epfl", name="runs")
        with platform.instance() as instance:
            [backfill] = instance.get_backfills()
        look(f"/runs/b/{backfill.backfill_id}", "ingest_epfl", name="backfill")
        look("/assets/epfl/record?view=partitions", "training", name="partitions")
    assert errors == []
