"""kill -9 of everything, at any moment: nothing is lost, nothing is done twice.

Takes minutes: `python -m benchmarks faults`. Once each part is killed in test_platform.
"""

import logging
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from em_platform.acquisition.session.rig import DEVICES, rig_children
from em_platform.config import Settings, load_settings
from em_platform.formats import open_level
from em_platform.model import Montage, MontageFit
from em_platform.processes import Supervisor
from em_platform.storage import layout, store_of

log = logging.getLogger(__name__)

pytestmark = [pytest.mark.system, pytest.mark.many_kills, pytest.mark.timeout(900)]

MONTAGES = 5
STITCHING = ("stitch_montages", "record_datasets")
MOSAIC = dg.AssetKey("mosaic")


@contextmanager
def session_of_montages(platform) -> Iterator[subprocess.Popen[bytes]]:
    """The microscope's own processes, which no platform starts or ends."""
    environment = platform.environment
    with Supervisor(platform.home / "microscope_logs") as rig:
        (devices,) = rig_children(Settings(), environment=environment, wanted=DEVICES)
        rig.start(*devices, timeout_s=120)
        acquire = (sys.executable, "-m", "em_platform", "acquire")
        with (platform.home / "acquire.out").open("wb") as output:
            session = subprocess.Popen(
                (*acquire, "--montages", str(MONTAGES)),
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield session
        finally:
            session.kill()
            session.wait()


def test_killing_every_part_at_random_loses_nothing(
    make_platform, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    with make_platform(tmp_path / "home") as platform:
        kill_everything(platform, wait_until)


def kill_everything(platform, wait_until: Callable[..., None]) -> None:
    chosen = os.environ.get("KILL_SEED")
    seed = int(chosen) if chosen else random.SystemRandom().randrange(10_000)
    log.warning("KILL_SEED=%d repeats these moments", seed)
    chance = random.Random(seed)
    platform.start()
    with session_of_montages(platform) as session:
        time.sleep(chance.uniform(0.5, 3))
        parts = ["daemon", "broker", "recorder", "code_server"]
        for name in chance.sample(parts, len(parts)):
            kill_part(platform, name)
            time.sleep(chance.uniform(0.5, 4))
        wait_until(lambda: platform.run_worker() is not None, timeout_s=90)
        time.sleep(chance.uniform(0, 4))
        kill_worker(platform, wait_until)
        wait_until(
            lambda: session.poll() is not None,
            timeout_s=120,
            what=lambda: (platform.home / "acquire.out").read_text(),
        )
        assert session.returncode == 0, (platform.home / "acquire.out").read_text()
    time.sleep(chance.uniform(0, 5))
    platform.kill()
    platform.start()
    wait_until(
        lambda: finished(platform),
        timeout_s=480,
        what=lambda: state(platform),
        pause_s=2,
    )
    assert_each_montage_is_there_once(platform)


def kill_part(platform, name: str) -> None:
    process = platform.part(name)
    if process is not None:
        log.warning("kill -9 %s", name)
        process.kill()


def kill_worker(platform, wait_until: Callable[..., None]) -> None:
    wait_until(lambda: platform.run_worker() is not None, timeout_s=60)
    worker = platform.run_worker()
    if worker is not None:
        log.warning("kill -9 run worker")
        worker.kill()


def acquired(platform) -> list[str]:
    frames = platform.home / "frames"
    return sorted(
        path.name.removesuffix(".complete.json")
        for path in frames.glob("*/*.complete.json")
    )


def finished(platform) -> bool:
    with platform.instance() as instance:
        runs = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS]))
        done = {r.tags["dagster/partition"] for r in runs if r.job_name in STITCHING}
        return done == set(acquired(platform)) and not active(instance)


def active(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Runs under way; reviews wait for a TEM DB, which ended with the microscope."""
    statuses = [
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
    ]
    runs = instance.get_runs(dg.RunsFilter(statuses=statuses))
    return [run for run in runs if run.job_name in STITCHING]


def state(platform) -> str:
    with platform.instance() as instance:
        lines = [
            f"{run.run_id[:8]} {run.tags.get('dagster/partition')} {run.status.value}"
            for run in instance.get_runs()
        ]
    return "\n".join([*lines, platform.output()])


def assert_each_montage_is_there_once(platform) -> None:
    keys = acquired(platform)
    assert len(keys) == MONTAGES
    with platform.instance() as instance:
        assert sorted(instance.get_dynamic_partitions("montages")) == keys
        made = Counter(
            run.tags["dagster/partition"]
            for run in instance.get_runs()
            for entry in instance.all_logs(
                run.run_id, of_type=dg.DagsterEventType.STEP_SUCCESS
            )
            if entry.step_key == "mosaic"
        )
        assert made == dict.fromkeys(keys, 1)
        assert active(instance) == []
    store = store_of(load_settings(environment={"EM_HOME": str(platform.home)}))
    for key in keys:
        montage = store.read(layout.tiles(key), Montage)
        fit = store.read(layout.montage_fit(key), MontageFit)
        assert (len(montage.tiles), len(fit.placements)) == (4, 4)
        assert montage.failures == ()
        image = open_level(store.url(layout.mosaic(key)), 0)
        assert min(image.shape) > 400
        assert image[200:300, 200:300].std() > 1
