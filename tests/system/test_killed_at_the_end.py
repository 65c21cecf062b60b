"""A run whose process is killed when nothing is left to do still ends well."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import dagster as dg
import numpy as np
import pytest

from em_platform.cli.runs import montage_runs
from em_platform.formats import write_tiff

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

TILE_PX, STEP_PX = 256, 192
KEY = "grid-1"

# Python runs this file at the start of each process; it acts in workers alone.
KILL_AFTER_THE_LAST_STEP = """
import os, signal, sys

if "--multiprocessing-fork" in sys.orig_argv:
    from dagster import DagsterInstance

    tell = DagsterInstance.handle_new_event

    def tell_and_die(self, event, *given, **named):
        told = tell(self, event, *given, **named)
        if is_last(event) and not os.path.exists({mark!r}):
            open({mark!r}, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return told

    def is_last(event):
        step = event.dagster_event
        kind = step.event_type_value if step else ""
        return kind == "STEP_SUCCESS" and step.step_key == "dataset_record"

    DagsterInstance.handle_new_event = tell_and_die
"""


def drop(folder: Path) -> None:
    noise = np.random.default_rng(1).normal(128, 300, (512, 512))
    image = np.clip(cv2.GaussianBlur(noise, (0, 0), 3), 0, 255).astype(np.uint8)
    folder.mkdir(parents=True)
    lines = ["file,x_px,y_px"]
    for x in (0, STEP_PX):
        write_tiff(folder / f"t{x}.tiff", image[:TILE_PX, x : x + TILE_PX])
        lines.append(f"t{x}.tiff,{x + 2},0")
    (folder / "tiles.csv").write_text("\n".join(lines) + "\n")


def test_a_run_killed_after_its_last_step_is_followed_by_one_that_succeeds(
    make_platform, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    mark = tmp_path / "killed"
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    code = KILL_AFTER_THE_LAST_STEP.format(mark=str(mark))
    (hooks / "sitecustomize.py").write_text(code)
    with make_platform(tmp_path / "home") as platform:
        platform.environment["PYTHONPATH"] = str(hooks)
        platform.start()
        drop(platform.home / "inbox" / KEY)

        def has_succeeded() -> bool:
            # Until then no one is told that all is over.
            runs = montage_runs(platform.url, KEY)
            assert runs.status not in ("FAILURE", "CANCELED"), runs
            return runs.status == "SUCCESS"

        wait_until(has_succeeded, timeout_s=500, what=platform.said, pause_s=1)
        assert mark.exists()
        with platform.instance() as instance:
            assert_only_the_last_step_was_done_twice(instance)


def assert_only_the_last_step_was_done_twice(instance: dg.DagsterInstance) -> None:
    runs = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": KEY}))
    killed, successor = sorted(runs, key=lambda run: run.status.value)
    assert killed.status is dg.DagsterRunStatus.FAILURE
    assert killed.job_name == "stitch_montages"
    assert successor.status is dg.DagsterRunStatus.SUCCESS
    assert successor.job_name == "record_datasets"
    steps = Counter(
        entry.step_key
        for run in runs
        for entry in instance.all_logs(
            run.run_id, of_type=dg.DagsterEventType.STEP_SUCCESS
        )
    )
    assert steps.pop("dataset_record") == 2
    assert set(steps.values()) == {1}
    assert "mosaic" in steps
