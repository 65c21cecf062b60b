"""One platform as a person uses it: filled, looked at, doubled, killed and ended.

All tests share it, and the last of them ends it: they run in this order.
"""

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import dagster as dg
import numpy as np
import pytest

from em_platform.cli.runs import partition_runs
from em_platform.formats.image import write_tiff
from em_platform.processes import members
from em_platform.processes.web_ui import ask
from em_platform.resources.code_server import RUNS_TITLE
from tests.chromium import chromium, needs_chromium
from tests.system.backfilling import backfill, backfill_job
from tests.system.kill_once import KILL_ONCE
from tests.system.simulating import contents, put_plan, tilts_made

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

TILE_PX, STEP_PX = 256, 192


@pytest.fixture(scope="module")
def kill_wish(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While this file is there, the next run is killed on its way, as above."""
    return tmp_path_factory.mktemp("hooks") / "kill"


@pytest.fixture(scope="module")
def platform(
    make_platform, kill_wish: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator:
    code = KILL_ONCE.format(wish=str(kill_wish))
    (kill_wish.parent / "sitecustomize.py").write_text(code)
    with make_platform(tmp_path_factory.mktemp("platform")) as platform:
        platform.environment["PYTHONPATH"] = str(kill_wish.parent)
        platform.start()
        yield platform


@pytest.fixture(scope="module")
def bad(platform, wait_until: Callable[..., None]) -> str:
    """The key of a montage with a black tile."""
    return stitch(platform, "grid-bad", wait_until, black=STEP_PX)


@pytest.fixture(scope="module")
def stitched(platform, bad: str, wait_until: Callable[..., None]) -> str:
    """The key of a montage that came by the inbox after the bad one."""
    return stitch(platform, "grid-1", wait_until)


def stitch(
    platform, key: str, wait_until: Callable[..., None], *, black: int | None = None
) -> str:
    """Drop a montage and wait until its run is over; gives its key."""
    drop(platform.home / "inbox" / key, black=black)
    wait_until(
        lambda: partition_runs(platform.url, key).is_over,
        timeout_s=180,
        what=lambda: str(partition_runs(platform.url, key)) + platform.output(),
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
    runs = partition_runs(platform.url, stitched)
    assert runs.is_good, runs
    assert len(runs.run_ids) == 1
    assert runs.assets[0] == "raw_tiles"
    assert runs.assets[-1] == "dataset_record"
    assert len(runs.checks) == 12
    assert (platform.home / "data/montages/grid-1/mosaic.zarr/zarr.json").is_file()


def test_runs_are_forked_from_a_process_that_has_imported_all(
    platform, stitched
) -> None:
    server = platform.part("code_server")
    lines = [" ".join(child.cmdline()) for child in server.children()]
    assert [line for line in lines if RUNS_TITLE in line]
    assert [
        line for line in lines if "spawn_main" in line or "forkserver" in line
    ] == []


STATUSES = """
query { assetNodeOrError(assetKey: {path: ["tiles"]}) { ... on AssetNode {
  assetCheckOrError(checkName: "montage_is_complete") { ... on AssetCheck {
    partitionStatuses { ... on AssetCheckDefaultPartitionStatuses {
      succeededPartitions failedPartitions
    } }
  } }
} } }"""


def test_the_web_ui_shows_a_bad_montage_behind_the_good_one_after_it(
    platform, bad: str, stitched: str
) -> None:
    runs = partition_runs(platform.url, bad)
    assert runs.status == "SUCCESS"
    assert not runs.is_good
    assert runs.checks["montage_is_complete"].sentence.startswith("Missing: 1 of 2")
    node = ask(platform.url, STATUSES)["assetNodeOrError"]
    statuses = node["assetCheckOrError"]["partitionStatuses"]
    assert statuses["failedPartitions"] == [bad]
    assert stitched in statuses["succeededPartitions"]


def test_dagster_is_reported_the_partition_of_each_check(
    platform, stitched: str
) -> None:
    with platform.instance() as instance:
        key = dg.AssetCheckKey(dg.AssetKey("montage_fit"), "seams_are_closed")
        [record, *_] = instance.event_log_storage.get_asset_check_execution_history(
            key, limit=5
        )
        assert record.status.value == "SUCCEEDED"


@needs_chromium
def test_the_web_pages_show_the_assets_and_no_error(platform, stitched: str) -> None:
    errors: list[str] = []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1500, "height": 950})
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{platform.url}/asset-groups")
        for group in ("acquisition", "stitching", "catalog"):
            page.get_by_text(group, exact=True).last.wait_for(timeout=60_000)
            page.get_by_text(group, exact=True).last.dblclick()
        page.get_by_text("dataset_record").first.wait_for(timeout=60_000)
        view = f"view=partitions&partition={stitched}"
        page.goto(f"{platform.url}/assets/mosaic?{view}")
        page.get_by_text("Show Markdown").first.click(timeout=60_000)
        picture = page.locator("img[alt='mosaic']")
        picture.wait_for(timeout=60_000)
        assert picture.evaluate("img => img.naturalWidth") > 100
        page.goto(f"{platform.url}/assets/montage_fit?view=checks")
        page.get_by_text("seams_are_closed").first.wait_for(timeout=60_000)
    assert errors == []


def test_a_montage_is_made_again_by_a_backfill(
    platform, stitched: str, wait_until: Callable[..., None]
) -> None:
    # That of the command line is queued in test_up_microscope.py.
    backfill_job(platform.url, "stitch_tiles", [stitched])

    def is_made_again() -> bool:
        runs = partition_runs(platform.url, stitched)
        return len(runs.run_ids) == 2 and runs.status == "SUCCESS"

    wait_until(is_made_again, timeout_s=120)
    assert partition_runs(platform.url, stitched).assets.count("mosaic") == 2


def test_what_an_assets_page_launches_obeys_executor_queue_and_pools(
    platform, bad: str, stitched: str, wait_until: Callable[..., None]
) -> None:
    chosen = [{"path": ["montage_fit"]}, {"path": ["mosaic"]}]
    names = [bad, stitched]
    made = backfill(platform.url, assetSelection=chosen, partitionNames=names)
    wanted = dg.RunsFilter(tags={"dagster/backfill": made})

    with platform.instance() as instance:

        def are_done() -> bool:
            runs = instance.get_runs(wanted)
            done = [run.status is dg.DagsterRunStatus.SUCCESS for run in runs]
            return len(done) == 2 and all(done)

        wait_until(are_done, timeout_s=180, what=platform.output)
        for run in instance.get_runs(wanted):
            assert run.job_name == "__ASSET_JOB"
            assert (run.tags["em/part"], run.tags["dagster/priority"]) == (
                "montage",
                "-10",
            )
            assert run.tags["dagster/max_runtime"] == "43200"
            assert run.run_op_concurrency
            assert run.run_op_concurrency.all_pools == {"montage"}
            # One process a run: the other executor starts one a step.
            events = instance.all_logs(
                run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT
            )
            started = [e for e in events if "Executing steps in process" in e.message]
            assert len(started) == 1, [entry.message for entry in events]


def test_a_run_killed_after_its_last_step_is_followed_by_one_that_succeeds(
    platform, kill_wish: Path, wait_until: Callable[..., None]
) -> None:
    kill_wish.touch()
    key = "grid-killed"
    drop(platform.home / "inbox" / key)

    def has_succeeded() -> bool:
        # Until then nothing says that all is over.
        runs = partition_runs(platform.url, key)
        assert runs.status not in ("FAILURE", "CANCELED"), runs
        return runs.status == "SUCCESS"

    wait_until(has_succeeded, timeout_s=300, what=platform.output, pause_s=1)
    assert not kill_wish.exists()
    with platform.instance() as instance:
        runs = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": key}))
        killed, successor = sorted(runs, key=lambda run: run.status.value)
        assert killed.status is dg.DagsterRunStatus.FAILURE
        assert killed.job_name == "stitch_montages"
        assert successor.status is dg.DagsterRunStatus.SUCCESS
        assert successor.job_name == "record_datasets"
        steps = steps_done(instance, key)
        assert steps.pop("dataset_record") == 2
        assert set(steps.values()) == {1}
        assert "mosaic" in steps


def test_a_killed_tilt_series_is_resumed_to_what_a_backfill_makes_undisturbed(
    platform, kill_wish: Path, wait_until: Callable[..., None]
) -> None:
    kill_wish.touch()
    key = put_plan(platform.home / "plans")  # the sensor starts a run
    folder = platform.home / "simulations" / key

    def made(runs: int) -> list[int]:
        wait_until(
            lambda: (
                partition_runs(platform.url, key).status == "SUCCESS"
                and len(tilts_made(platform, key)) == runs
            ),
            timeout_s=300,
            what=platform.output,
        )
        return tilts_made(platform, key)

    assert made(runs=1) == [2]  # of 5: three were made before the kill
    assert not kill_wish.exists()
    resumed = contents(folder)
    shutil.rmtree(folder)
    backfill_job(platform.url, "simulate_stacks", [key])
    assert made(runs=2) == [2, 5]
    assert contents(folder) == resumed
    assert "grains-0000.mrc" in resumed


def steps_done(instance: dg.DagsterInstance, key: str) -> Counter[str]:
    """How often each step has succeeded, in all runs of a montage."""
    return Counter(
        str(entry.step_key)
        for run in instance.get_runs(dg.RunsFilter(tags={"dagster/partition": key}))
        for entry in instance.all_logs(
            run.run_id, of_type=dg.DagsterEventType.STEP_SUCCESS
        )
    )


def test_two_platforms_do_not_disturb_each_other(
    platform, make_platform, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    with make_platform(tmp_path / "other") as other:
        # The other wants the same web port, and gets a free one.
        wanted = other.environment["EM_WEB__PORT"] = platform.environment[
            "EM_WEB__PORT"
        ]
        other.start(check_loaded=False)
        refused = up(platform.environment)
        assert refused.returncode == 1
        assert "a platform already runs in" in refused.stderr
        assert refused.stderr.count("\n") == 1
        refused = up(platform.environment | {"EM_HOME": str(tmp_path / "third")})
        assert refused.returncode == 1
        port = platform.environment["EM_BROKER__PORT"]
        assert f"port {port} on 127.0.0.1 is taken" in refused.stderr
        wait_until(lambda: "Ctrl-C ends all" in other.output(), timeout_s=120)
        assert f"port {wanted} is taken, the web UI is at " in other.output()
        session = other.session
        other.stop()
        assert other.process.returncode == 0
        assert members(session) == []
    assert platform.is_loaded()


def up(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "em_platform", "up"),
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_whatever_is_killed_starts_again_and_the_montage_is_made_once(
    platform, wait_until: Callable[..., None]
) -> None:
    key = "grid-through-it-all"
    drop(platform.home / "inbox" / key)
    wait_until(lambda: platform.run_worker() is not None, timeout_s=120)
    platform.run_worker().kill()
    parts = ("daemon", "broker", "recorder", "code_server")
    killed = {name: platform.part(name) for name in parts}
    for process in killed.values():
        process.kill()
    wait_until(
        lambda: all(
            (now := platform.part(name)) is not None and now.pid != killed[name].pid
            for name in parts
        ),
        timeout_s=90,
        what=platform.output,
    )
    assert "daemon ended with status -9; it starts again" in platform.output()
    platform.kill()  # leaves no process behind
    platform.start()
    wait_until(
        lambda: partition_runs(platform.url, key).status == "SUCCESS",
        timeout_s=240,
        what=lambda: str(partition_runs(platform.url, key)) + platform.output(),
        pause_s=1,
    )
    with platform.instance() as instance:
        assert steps_done(instance, key)["mosaic"] == 1
    session = platform.session
    platform.stop()
    assert platform.process.returncode == 0
    assert members(session) == []
