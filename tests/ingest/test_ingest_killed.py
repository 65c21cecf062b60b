"""An ingest that is killed at any moment goes on, and no finished part comes twice."""

import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from em_platform.ingest.manifest import NAME
from em_platform.standins.faults import Fault
from em_platform.standins.world import World, running_world

log = logging.getLogger(__name__)

pytestmark = pytest.mark.system

ITEMS = (("ebi", "11759"), ("epfl", "training"))
FILES = (".dm3", ".tif")
KILLS = 10
SEED = random.SystemRandom().randrange(1_000_000)

INGEST = """
import sys
import em_platform.formats.open_volume, em_platform.formats.volume_writer
from em_platform.config import load_settings
from em_platform.ingest.sources import open_source
from em_platform.ingest.steps import take_all
from em_platform.storage.store import store_of

settings = load_settings()
store = store_of(settings)
print("ready", flush=True)
for item in sys.argv[1:]:
    name, _, key = item.partition("/")
    take_all(open_source(name, settings), key, store, settings=settings)
"""

Span = tuple[str, int, int]
"""A file's name, and the first and last byte but one of a part."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with running_world(tmp_path / "world", sources=("ebi", "epfl")) as world:
        world.faults.add(
            *(Fault("slow", path=f"*{end}", bytes_per_s=300_000.0) for end in FILES)
        )
        yield world


def start(world: World, home: Path) -> "subprocess.Popen[bytes]":
    """An ingest of all items, when it has loaded what it needs and begins."""
    environment = {
        **os.environ,
        **world.environment,
        "EM_HOME": str(home),
        "EM_INGEST__TRANSFER__PART_MB": "0.03",
    }
    items = [f"{source}/{key}" for source, key in ITEMS]
    process = subprocess.Popen(
        [sys.executable, "-c", INGEST, *items], env=environment, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def noted_parts(home: Path) -> set[Span]:
    """Parts, and whole files as one part, that the manifests hold for finished."""
    found: set[Span] = set()
    for source, key in ITEMS:
        path = home / "raw" / source / key / NAME
        if not path.exists():
            continue
        with closing(sqlite3.connect(path)) as manifest:
            try:
                found |= {*manifest.execute("SELECT name, start, stop FROM parts")}
                found |= {
                    *manifest.execute(
                        "SELECT name, 0, size_bytes FROM files WHERE state = 'whole'"
                    )
                }
            except sqlite3.OperationalError:
                continue  # killed before it had tables
    return found


def asked_parts(world: World, *, after: int) -> list[Span]:
    """The parts that were asked for by the requests from number `after` on."""
    found = []
    for request in world.requests.all()[after:]:
        name = request.path.rpartition("/")[2]
        if request.method == "GET" and name.endswith(FILES):
            first, last = request.range.removeprefix("bytes=").split("-")
            found.append((name, int(first), int(last) + 1))
    return found


def wait_for_parts(
    world: World, process: "subprocess.Popen[bytes]", *, after: int, number: int
) -> None:
    """Until so many parts are asked for: a busy machine takes long to get there."""
    while process.poll() is None and len(asked_parts(world, after=after)) < number:
        time.sleep(0.01)


def overlapping(some: Sequence[Span], others: set[Span]) -> list[Span]:
    return [
        (name, start, stop)
        for name, start, stop in some
        if any(n == name and start < b and a < stop for n, a, b in others)
    ]


def written(home: Path) -> dict[str, bytes]:
    """Every byte of the volumes and of the files they come from."""
    folders = [home / "data/volumes", home / "raw"]
    paths = [p for folder in folders for p in folder.rglob("*") if p.is_file()]
    return {
        str(p.relative_to(home)): p.read_bytes()
        for p in paths
        if p.name != NAME and not p.name.endswith(".lock")
    }


@pytest.mark.timeout(300)
def test_an_ingest_that_is_killed_ten_times_asks_for_no_finished_part_again(
    world: World, tmp_path: Path
) -> None:
    log.warning("moments of seed %d", SEED)  # shown where the test fails
    moments = random.Random(SEED)
    home = tmp_path / "killed"
    finished: set[Span] = set()
    for _ in range(KILLS):
        before = len(world.requests.all())
        with start(world, home) as process:
            wait_for_parts(world, process, after=before, number=moments.randrange(9))
            time.sleep(moments.uniform(0.0, 0.2))
            process.send_signal(signal.SIGKILL)
        asked = asked_parts(world, after=before)
        assert overlapping(asked, finished) == [], f"seed {SEED}"
        now = noted_parts(home)
        assert not [part for part in finished if not overlapping([part], now)]
        finished = now
        log.warning("%d parts or files are finished", len(finished))
    assert finished, f"seed {SEED}"
    world.faults.clear()
    before = len(world.requests.all())
    with start(world, home) as process:
        assert process.wait(60) == 0, f"seed {SEED}"
    asked = asked_parts(world, after=before)
    assert overlapping(asked, finished) == [], f"seed {SEED}"
    assert max(Counter(asked).values(), default=1) == 1
    with start(world, tmp_path / "undisturbed") as process:
        assert process.wait(60) == 0
    assert written(home) == written(tmp_path / "undisturbed"), f"seed {SEED}"
