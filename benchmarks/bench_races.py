"""Two and three writers of one output at once, some of them killed: is it whole?

Ingests, stitches and Dagster backfills of the same item, of one home and of two, on a
disk and in a bucket (moto), begin within half a second of each other. Each must end
with an output that is bit by bit that of a lone run, or with the sentence that says who
writes. What a killed one left is made whole by the next, and nothing is left beside it.

    python benchmarks/bench_races.py --count 200 --seed 1
"""

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ITEM = ("epfl", "volumedata")
KEY = "grid-1"
SENTENCES = ("is being written by", "was taken over by another process")
REFUSED, FAILED = 3, 4
_WITHIN_S = 0.5
_TILE_PX, _STEP_PX = 256, 192

CLUSTER = """
from distributed import LocalCluster
import sys
if __name__ == "__main__":
    where = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=1, threads_per_worker=1, **where) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where outputs are; `variables` name it to the platform."""

    root: str
    variables: Mapping[str, str]

    @property
    def is_bucket(self) -> bool:
        return self.root.startswith("s3://")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, help="races (200; 12 with --quick)")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    count = given.count or (12 if given.quick else 200)
    print(f"{count} races, seed {given.seed}")
    with tempfile.TemporaryDirectory() as folder, services(Path(folder)) as places:
        import_all()
        races = Races(Path(folder), places, random.Random(given.seed))
        for number in range(count):
            races.run(number)
            if number % 10 == 9:
                print(f"{number + 1} done, {len(races.wrong)} wrong", flush=True)
    for name, times in sorted(races.ends.items()):
        print(f"{times:5} {name}")
    print(f"{len(races.wrong)} of {count} races ended wrongly")
    for sentence in races.wrong:
        print(f"- {sentence}")
    if given.json:
        given.json.write_text("[]")
    return 1 if races.wrong else 0


@contextmanager
def services(folder: Path) -> Iterator[tuple[Place, Place]]:
    """Stand-ins of a public source and of a bucket, and Dask, in other processes."""
    written = folder / "standins.env"
    command = [sys.executable, "-m", "em_platform", "standins", "--size", "small"]
    command += ["--sources", ITEM[0], "--writable", "--write", str(written)]
    environment = {**os.environ, "EM_HOME": str(folder / "world")}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    world = subprocess.Popen(command, env=environment, **quiet)  # type: ignore[call-overload]
    cluster = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        while not written.exists():
            time.sleep(0.1)
        lines = (line.split("=", 1) for line in written.read_text().splitlines()[1:])
        variables = {name: value.strip("'") for name, value in lines}
        assert cluster.stdout is not None
        variables["EM_DASK_ADDRESS"] = cluster.stdout.readline().strip()
        bucket = {n: v for n, v in variables.items() if n.startswith("EM_STORAGE__")}
        common = {n: v for n, v in variables.items() if n not in bucket} | {
            "EM_STITCHING__MATCH__SEARCH_PX": "32",
            "EM_INGEST__OUTPUT__SHARD_PX": "64",
            "EM_INGEST__OUTPUT__CHUNK_PX": "32",
            "EM_STITCHING__RENDER__SHARD_PX": "128",
            "EM_STITCHING__RENDER__CHUNK_PX": "64",
        }
        root = str(folder / "store")
        yield (
            Place(root=root, variables={**common, "EM_STORAGE__ROOT": root}),
            Place(root=bucket["EM_STORAGE__ROOT"], variables={**common, **bucket}),
        )
    finally:
        world.terminate()
        cluster.communicate("")
        world.wait()


def import_all() -> None:
    """What the writers need, once for all: they are forked."""
    import em_platform.cli.stitch
    import em_platform.definitions
    import em_platform.ingest.worker
    import em_platform.stitching.blend
    import em_platform.stitching.stitch  # noqa: F401


def stitch(home: Path, place: Place) -> None:
    from em_platform.cli import main as em_platform

    target = f"{place.root}/stitched/m.zarr"
    tiles = home.parent / "inbox" / KEY
    em_platform(["stitch", str(tiles), "--output", target, "--workers", "1"])


def ingest(_: Path, __: Place) -> None:
    from em_platform.config import load_settings
    from em_platform.ingest.worker import ingest_source

    source, key = ITEM
    (outcome,) = ingest_source(
        source, (key,), settings=load_settings(), report=lambda _: None
    )
    if outcome.status != "complete":
        raise RuntimeError(outcome.sentence)


def backfill(home: Path, _: Place) -> None:
    import dagster as dg

    from em_platform.definitions import defs
    from em_platform.partitions import montages

    folder = home / "dagster" / str(os.getpid())
    folder.mkdir(parents=True)
    with dg.DagsterInstance.local_temp(str(folder)) as instance:
        instance.add_dynamic_partitions(str(montages.name), [KEY])
        job = defs.resolve_job_def("stitch_montages")
        done = job.execute_in_process(
            partition_key=KEY, instance=instance, raise_on_error=False
        )
        if not done.success:
            events = (
                event.step_failure_data
                for event in done.all_events
                if event.is_step_failure
            )
            raise RuntimeError(" ".join(str(data.error) for data in events if data))


WORK: dict[str, tuple[Callable[[Path, Place], None], tuple[str, ...]]] = {
    "stitch": (stitch, ("stitched/m.zarr",)),
    "ingest": (ingest, (f"volumes/{ITEM[0]}/{ITEM[1]}.zarr",)),
    "backfill": (
        backfill,
        tuple(
            f"montages/{KEY}/{name}"
            for name in (
                "mosaic.zarr",
                "montage_fit.json",
                "tile_matches.json",
                "tiles",
            )
        ),
    ),
}


class Races:
    """Runs one race after the other, and collects how they ended."""

    def __init__(
        self, folder: Path, places: tuple[Place, Place], dice: random.Random
    ) -> None:
        self.ends: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._folder = folder
        self._places = places
        self._dice = dice
        self._lone: dict[tuple[str, bool], dict[str, str]] = {}
        (folder / "inbox").mkdir()
        drop_tiles(folder / "inbox" / KEY)

    def run(self, number: int) -> None:
        kind = list(WORK)[number % len(WORK)]
        place = self._places[number // len(WORK) % 2]
        lone = self._lone_run(kind, place)
        self._clear(place)
        writers = self._dice.choice((2, 3))
        homes = self._dice.choice((1, 2))
        killed = self._dice.random() < 0.5
        where = "bucket" if place.is_bucket else "disk"
        label = f"race {number}: {writers} of {kind}, {homes} home(s), {where}"
        label += ", one killed" if killed else ""
        outcomes = self._race(kind, place, writers=writers, homes=homes, killed=killed)
        self.ends.update(name for name, _ in outcomes)
        for name, text in outcomes:
            if name == "failed":
                self.wrong.append(f"{label}: {text[-600:]}")
        found = self._found(kind, place)
        if any(name == "done" for name, _ in outcomes) and found != lone:
            self.wrong.append(f"{label}: {difference(found, lone)}")
        name, text = self._wait(*self._start(kind, place, home=0, delay_s=0.0))
        found = self._found(kind, place)
        if name != "done" or found != lone:
            self.wrong.append(
                f"{label}: the next run: {name} {text[-600:]} {difference(found, lone)}"
            )
        left = self._left(place)
        if left:
            self.wrong.append(f"{label}: left beside the output: {left}")

    def _lone_run(self, kind: str, place: Place) -> dict[str, str]:
        known = self._lone.get((kind, place.is_bucket))
        if known is not None:
            return known
        self._clear(place)
        name, text = self._wait(*self._start(kind, place, home=0, delay_s=0.0))
        if name != "done":
            raise SystemExit(f"a lone {kind} did not end well: {name} {text}")
        found = self._found(kind, place)
        if not found:
            raise SystemExit(f"a lone {kind} left nothing in {place.root}")
        self._lone[kind, place.is_bucket] = found
        return found

    def _race(
        self, kind: str, place: Place, *, writers: int, homes: int, killed: bool
    ) -> list[tuple[str, str]]:
        delay = self._dice.uniform(0, _WITHIN_S)
        started = [
            self._start(
                kind, place, home=n % homes, delay_s=self._dice.uniform(0, delay)
            )
            for n in range(writers)
        ]
        if killed:
            time.sleep(self._dice.uniform(0.02, 2 if kind == "backfill" else 0.8))
            with suppress(ProcessLookupError):
                os.kill(self._dice.choice(started)[0], signal.SIGKILL)
        return [self._wait(*each) for each in started]

    def _start(
        self, kind: str, place: Place, *, home: int, delay_s: float
    ) -> tuple[int, Path]:
        text = self._folder / f"{time.monotonic_ns()}.txt"
        folder = self._folder / f"home-{home}"
        process = os.fork()
        if process == 0:
            os._exit(write(kind, folder, place, delay_s=delay_s, text=text))
        return process, text

    def _wait(self, process: int, text: Path) -> tuple[str, str]:
        _, status = os.waitpid(process, 0)
        if os.WIFSIGNALED(status):
            return "killed", ""
        found = text.read_text() if text.exists() else ""
        names = {0: "done", REFUSED: "refused with a sentence"}
        return names.get(os.WEXITSTATUS(status), "failed"), found

    def _clear(self, place: Place) -> None:
        for home in self._folder.glob("home-*"):
            shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(self._folder / "store", ignore_errors=True)
        if place.is_bucket:
            client, bucket, prefix = opened(place)
            for key in keys(client, bucket, prefix):
                client.delete_object(Bucket=bucket, Key=key)

    def _found(self, kind: str, place: Place) -> dict[str, str]:
        """Every file of the outputs, with the digest of its bytes."""
        found = {}
        for name, content in contents(place):
            if name.startswith(WORK[kind][1]) and "/." not in f"/{name}":
                found[name] = hashlib.sha256(content).hexdigest()
        return {n: d for n, d in found.items() if ".partial/" not in n}

    def _left(self, place: Place) -> list[str]:
        names = [name for name, _ in contents(place)]
        left = [name for name in names if ".partial" in name]
        return left if place.is_bucket else left + [n for n in names if ".lease" in n]


def write(kind: str, home: Path, place: Place, *, delay_s: float, text: Path) -> int:
    """In the forked process: write, and say how it ended."""
    os.environ.update(place.variables)
    os.environ["EM_HOME"] = str(home)
    os.environ["EM_ACQUISITION__INBOX"] = str(home.parent / "inbox")
    output = io.StringIO()
    time.sleep(delay_s)
    status = 0
    with redirect_stdout(output), redirect_stderr(output):
        try:
            WORK[kind][0](home, place)
        except SystemExit as end:
            status = FAILED if end.code not in (0, None) else 0
        except BaseException as error:
            print(repr(error), file=output)
            status = FAILED
    found = output.getvalue()
    text.write_text(found)
    if status and any(sentence in found for sentence in SENTENCES):
        return REFUSED
    return status


def drop_tiles(folder: Path) -> None:
    """2 x 2 tiles of one image, with a list of their places."""
    import cv2
    import numpy as np

    from em_platform.formats import write_tiff

    noise = np.random.default_rng(1).normal(128, 300, (512, 512)).astype(np.float32)
    image = np.clip(cv2.GaussianBlur(noise, (0, 0), 3), 0, 255).astype(np.uint8)
    folder.mkdir()
    lines = ["file,x_px,y_px"]
    for row in range(2):
        for column in range(2):
            y, x = row * _STEP_PX, column * _STEP_PX
            name = f"t{row}{column}.tiff"
            write_tiff(folder / name, image[y : y + _TILE_PX, x : x + _TILE_PX])
            lines.append(f"{name},{x + 3},{y - 2 * column}")
    (folder / "tiles.csv").write_text("\n".join(lines) + "\n")


def contents(place: Place) -> Iterator[tuple[str, bytes]]:
    """Name below the root and bytes of all that is there."""
    if not place.is_bucket:
        root = Path(place.root)
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            yield str(path.relative_to(root)), path.read_bytes()
        return
    client, bucket, prefix = opened(place)
    for key in keys(client, bucket, prefix):
        body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        yield key.removeprefix(f"{prefix}/"), body


def opened(place: Place) -> tuple[Any, str, str]:
    """A plain client, which starts no threads before we fork."""
    import boto3

    found = place.variables
    client = boto3.client(
        "s3",
        endpoint_url=found["EM_STORAGE__ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id=found["EM_STORAGE__ACCESS_KEY"],
        aws_secret_access_key=found["EM_STORAGE__SECRET_KEY"],
    )
    bucket, _, prefix = place.root.removeprefix("s3://").partition("/")
    return client, bucket, prefix


def keys(client: Any, bucket: str, prefix: str) -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix=prefix
    )
    return [each["Key"] for page in pages for each in page.get("Contents", ())]


def difference(found: dict[str, str], lone: dict[str, str]) -> str:
    changed = sorted(
        n for n in found.keys() | lone.keys() if found.get(n) != lone.get(n)
    )
    return json.dumps({"not as of a lone run": len(changed), "first": changed[:4]})


if __name__ == "__main__":
    sys.exit(main())
