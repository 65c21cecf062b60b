"""`em-platform ingest` against the stand-ins: all sources, each order, what fails."""

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from em_platform.standins.faults import Fault, Logged
from em_platform.standins.world import World, running_world
from tests.system.ingesting import Command, statuses

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

ITEMS = {
    "ebi": "11759",
    "epfl": "training",
    "flyem": "64_0_64_64_72_100",
    "idr": "9846137",
    "openorganelle": "jrc_mus-nacc-2.recon-2.em.fibsem-int16.s1",
}
PIXELS = re.compile(r"\.dm3$|\.tif$|/raw/|blocks|/jpeg/\d|/s1/\d")
"""In the path of every request that brings voxels."""


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files of the worlds lie, made by the first test."""
    return tmp_path_factory.mktemp("world")


@pytest.fixture
def world(made_once: Path) -> Iterator[World]:
    with running_world(made_once) as running:
        yield running


@pytest.fixture
def command(world: World, tmp_path: Path) -> Command:
    return Command(world, tmp_path / "home")


def brings_voxels(request: Logged) -> bool:
    return request.method == "GET" and bool(PIXELS.search(request.path))


def test_all_five_sources_come_bit_by_bit_and_a_second_time_nothing_is_fetched(
    world: World, command: Command
) -> None:
    status, report = command.run("--mode=staged", items=ITEMS)
    assert status == 0, report
    assert statuses(report) == dict.fromkeys(ITEMS, "complete")
    for source, key in ITEMS.items():
        assert np.array_equal(command.voxels(source, key), world.truth(source, key))
        assert command.record(source, key)["status"] == "complete"
    catalog = json.loads((command.data / "catalog/metadata_catalog.json").read_text())
    assert catalog["summary"]["validation_errors"] == 0

    files = {p: p.stat().st_mtime_ns for p in command.data.rglob("*") if p.is_file()}
    assert world.requests.count(brings_voxels) > 20
    before = len(world.requests.all())
    status, report = command.run("--mode=parallel", items=ITEMS)
    assert status == 0, report
    again = world.requests.all()[before:]
    assert [r.path for r in again if brings_voxels(r)] == []
    assert sum(each["fetched_bytes"] for each in report["outcomes"]) == 0
    changed = [
        str(path.relative_to(command.data))
        for path, when in files.items()
        if "volumes/" in str(path) and path.stat().st_mtime_ns != when
    ]
    assert changed == []


@pytest.mark.parametrize("mode", ["background", "sequential"])
def test_a_source_that_is_down_fails_alone_and_the_catalog_is_still_made(
    mode: str, world: World, command: Command
) -> None:
    world.faults.add(Fault("status", "/empiar/*", status=503))
    items = {name: ITEMS[name] for name in ("ebi", "epfl", "idr")}
    status, report = command.run(f"--mode={mode}", items=items)
    assert status == 1
    assert statuses(report) == {"ebi": "failed", "epfl": "complete", "idr": "complete"}
    (failed,) = [each for each in report["outcomes"] if each["source"] == "ebi"]
    assert "503" in failed["sentence"]
    record = command.record("ebi", "11759")
    assert record["status"] == "failed"
    assert record["error"]["message"] == failed["sentence"]
    assert (command.data / "catalog/validation_report.html").is_file()

    world.faults.clear()
    status, report = command.run(f"--mode={mode}", items={"ebi": "11759"})
    assert status == 0, report
    record = command.record("ebi", "11759")
    assert (record["status"], record["error"]["retry_count"]) == ("complete", 1)


def test_an_interrupted_ingest_says_so_and_goes_on_where_it_was(
    world: World, command: Command
) -> None:
    world.faults.add(Fault("slow", "*.dm3", bytes_per_s=60_000))
    process = command.start("--mode=parallel", items={"ebi": "11759"})
    deadline = time.monotonic() + 60
    while not any(r.path.endswith(".dm3") and r.whole for r in world.requests.all()):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert statuses(json.loads(out)) == {"ebi": "cancelled"}
    assert command.record("ebi", "11759")["status"] == "cancelled"
    world.faults.clear()
    status, report = command.run(items={"ebi": "11759"})
    assert status == 0, report
    assert np.array_equal(command.voxels("ebi", "11759"), world.truth("ebi", "11759"))


def test_a_process_that_is_killed_is_a_failed_item_and_not_a_hanging_command(
    world: World, command: Command
) -> None:
    world.faults.add(Fault("hang", "/groups/*", seconds=600, methods=("GET",)))
    process = command.start(items={"epfl": "training", "idr": ITEMS["idr"]})
    deadline = time.monotonic() + 60
    while not any(r.path.startswith("/groups/") for r in world.requests.all()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (worker,) = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "--worker epfl" in " ".join(child.cmdline())
    ]
    worker.kill()
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    report = json.loads(out)
    assert statuses(report) == {"epfl": "failed", "idr": "complete"}
    assert "ended by SIGKILL" in command.record("epfl", "training")["error"]["message"]


def test_a_dry_run_says_what_would_come_and_fetches_nothing(
    world: World, command: Command
) -> None:
    process = command.start("--dry-run", items=ITEMS)
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    planned = {each["source"]: each for each in json.loads(out)}
    assert set(planned) == set(ITEMS)
    truth = world.truth("openorganelle", ITEMS["openorganelle"])
    assert planned["openorganelle"]["volume_bytes"] == truth.nbytes
    assert planned["ebi"]["fetch_bytes"] > 16 * 275 * 274
    assert [r.path for r in world.requests.all() if brings_voxels(r)] == []
    assert not command.data.exists()
