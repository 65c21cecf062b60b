"""A platform for hours: `python -m benchmarks soak --hours H [--pause S] [--seed N]`.

A platform with its microscope and stand-ins of the public sources runs in a home of its
own. At random, by a seed: montages are imaged, public data are ingested, folders come
into the inbox, and a process is killed, also amid a montage. `--pause` is the mean rest
between two of these. Each half minute the memory, open files and threads of all
processes are noted, and the sizes of what they write: what is kept of each montage
(`kept_mb`: rows of tiles, events, history), and what must not grow (logs, looks of
sensors, write-ahead logs of SQLite, frames). At the end: tiles lost or published twice,
runs that do not end, and how much each curve rose per hour in the second half. The
status is 0 when nothing was lost, nothing is stuck and everything ended well.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import psutil

_SAMPLE_S = 30.0
_PATIENCE_S = 300.0
"""For a command, and for runs at the end; the slowest takes a minute alone."""
_PARTS = (
    *("broker", "recorder", "daemon", "web", "code_server"),
    *("scope", "stage", "camera", "pipeline-1", "qc", "montage_fit"),
    *("buffer", "aloha", "temdb", "operator", "coordinator"),
)
"""What is killed, by the names that the supervisor gives its processes."""
_SOURCES = ("ebi", "epfl", "flyem", "idr", "openorganelle")
_KEEP_S = 300.0
"""In place of hours and months, so that in two hours the old goes as the new comes."""
_SETTINGS = {
    "EM_STITCHING__MATCH__SEARCH_PX": "32",
    "EM_ACQUISITION__INBOX_QUIET_S": "1",
    "EM_ACQUISITION__BUFFER__KEEP_S": str(_KEEP_S),
    "EM_ACQUISITION__PIPELINE__KEEP_S": str(_KEEP_S),
    "EM_HISTORY__PACK_AFTER_MIN": "1",
    "EM_HISTORY__KEEP_LOGS_DAYS": str(_KEEP_S / 86_400),
    "EM_HISTORY__KEEP_SKIPPED_HOURS": str(_KEEP_S / 3600),
}
# What the files below the home are, by the first pattern that fits.
_FILES = {
    "write_ahead_mb": ("*-wal", "*-shm"),
    "looks_mb": ("*/schedules/*",),
    "kept_mb": ("*/runs/index.db", "*/history/runs.db", "*.sqlite"),
    "step_logs_mb": ("*/dagster/history/*", "*/dagster/storage/*"),
    "logs_mb": ("*/logs/*",),
    "frames_mb": ("*/frames/*",),
}


@dataclass(slots=True)
class Soak:
    """What is done to a platform, and what came of it."""

    home: Path
    seed: int
    pause_s: float = 5.0
    session: str = ""
    done: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    samples: list[dict[str, float]] = field(default_factory=list)
    memory_mb: list[dict[str, float]] = field(default_factory=list)
    """By a process's name, for each sample."""
    begun_s: float = field(default_factory=time.monotonic)
    chance: random.Random = field(init=False)
    montages: int = 0
    lost: int = 0
    doubled: int = 0
    repeated: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    @property
    def hours(self) -> float:
        return (time.monotonic() - self.begun_s) / 3600

    def act(self) -> None:
        """One thing that happens in a lab, chosen at random."""
        acts: list[Callable[[], None]] = [
            *(self.image,) * 4,
            *(self.image_and_kill,) * 3,
            *(self.ingest,) * 2,
            self.drop,
            self.kill,
        ]
        chosen = self.chance.choice(acts)
        name = chosen.__name__.replace("_", " ")
        print(f"{self.hours * 60:6.1f} min  {name}", flush=True)
        chosen()
        self.done[name] = self.done.get(name, 0) + 1
        time.sleep(self.chance.uniform(0, 2 * self.pause_s))

    def image(self) -> None:
        """A montage of 2 by 2 to 4 by 4 tiles; its report says what was lost."""
        report = self.home.parent / "report.json"
        report.unlink(missing_ok=True)
        side = str(self.chance.randint(2, 4))
        size = ("--rows", side, "--columns", side)
        status = self.command("acquire", *size, "--exit", "--report", str(report))
        if not report.is_file():
            self.faults.append(f"acquire ended with {status} and without a report")
            return
        for montage in json.loads(report.read_text())["montages"]:
            self.montages += 1
            self.lost += montage["lost"]
            self.doubled += montage["duplicates"]
            self.repeated += montage["repeats"]
            if montage["state"] != "completed" or montage["unjudged"]:
                self.faults.append(f"{montage['acquisition_id']}: {montage}")

    def image_and_kill(self) -> None:
        """A process is killed while a montage is imaged."""
        later = threading.Timer(self.chance.uniform(2, 12), self.kill)
        later.start()
        self.image()
        later.join()

    def ingest(self) -> None:
        """A public source; what is there already is not fetched again."""
        source = self.chance.choice(_SOURCES)
        if status := self.command("ingest", "--source", source):
            self.faults.append(f"ingest of {source} ended with {status}")

    def drop(self) -> None:
        """A folder of tiles comes into the inbox."""
        montages = [p for p in (self.home / "frames").glob("*") if p.is_dir()]
        if montages:
            name = f"dropped-{len(self.samples):04d}"
            tiles = sorted(self.chance.choice(montages).glob("*_[0-9]*_[0-9]*.tiff"))
            made = self.home.parent / name
            made.mkdir()
            inbox = self.home / "inbox"
            inbox.mkdir(exist_ok=True)
            for number, tile in enumerate(tiles[:4]):
                shutil.copy(tile, made / f"tile_{number // 2}_{number % 2}.tif")
            made.rename(inbox / name)

    def kill(self) -> None:
        """`kill -9` of one process; its supervisor starts it again."""
        name = self.chance.choice(_PARTS)
        for process in processes(self.session):
            if process.name() == name[:15]:
                print(f"{self.hours * 60:6.1f} min  kill -9 {name}", flush=True)
                process.kill()

    def command(self, *words: str) -> int:
        """The status of a command of ours; 1 where it does not end in time."""
        call = (sys.executable, "-m", "em_platform", *words)
        log = self.home.parent / "commands.log"
        with log.open("ab") as output:
            try:
                return subprocess.run(
                    call, stdout=output, stderr=output, timeout=_PATIENCE_S, check=False
                ).returncode
            except subprocess.TimeoutExpired:
                return 1

    def sample(self) -> None:
        """Note what all processes and files take."""
        names = ("memory_mb", "services_mb", "files", "threads", "processes")
        found = {"hours": self.hours} | dict.fromkeys(names, 0.0)
        services = {name[:15] for name in _PARTS}
        by_name: dict[str, float] = {}
        for process in processes(self.session):
            try:
                used_mb = process.memory_full_info().pss / 1e6
                found["memory_mb"] += used_mb
                found["services_mb"] += used_mb * (process.name() in services)
                name = process.name()
                by_name[name] = by_name.get(name, 0.0) + used_mb
                found["files"] += process.num_fds()
                found["threads"] += process.num_threads()
                found["processes"] += 1
            except psutil.Error:
                continue
        found |= sizes_mb(self.home)
        found["montages"] = self.montages
        self.samples.append(found)
        self.memory_mb.append(by_name)


def main(arguments: list[str]) -> int:
    """The status: 0 when nothing was lost, doubled or stuck."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks soak", description=__doc__
    )
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--pause", type=float, default=5.0, help="mean rest in seconds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="picture of the curves")
    parser.add_argument("--json", type=Path, help="all samples")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder) / "home", given.seed, given.pause)
        stuck = soaked(soak, given.hours)
    if given.json:
        samples = {"samples": soak.samples, "memory_mb": soak.memory_mb}
        given.json.write_text(json.dumps(samples))
    if given.plot:
        draw(soak.samples, given.plot)
    return report(soak, stuck)


def soaked(soak: Soak, hours: float) -> list[str]:
    """Run the platform for so long; the runs that did not end."""
    from em_platform.processes import SESSION_VARIABLE, free_port
    from em_platform.standins.world import running_world

    host, top = "127.0.0.1", soak.home.parent
    ports = ("BROKER", "WEB", "TEMDB", "ALOHA", "ACQUISITION__OPERATOR")
    os.environ |= {f"EM_{name}__PORT": str(free_port(host)) for name in ports}
    os.environ |= {
        **_SETTINGS,
        "EM_HOME": str(soak.home),
        "DAGSTER_HOME": str(soak.home / "dagster"),
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
    with running_world(top / "world") as world, (top / "up.log").open("wb") as output:
        os.environ |= world.environment
        call = (sys.executable, "-m", "em_platform", "up", "--microscope")
        platform = subprocess.Popen(call, stdout=output, stderr=output)
        try:
            until(lambda: b"Ctrl-C" in (top / "up.log").read_bytes())
            children = psutil.Process(platform.pid).children()
            marks = (child.environ().get(SESSION_VARIABLE) for child in children)
            soak.session = next(mark for mark in marks if mark)
            watch(soak, hours)
            return stuck_runs()
        finally:
            platform.terminate()
            platform.wait(120)


def watch(soak: Soak, hours: float) -> None:
    """Act until the time is over, and take samples meanwhile."""
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(_SAMPLE_S):
            soak.sample()

    sampling = threading.Thread(target=sample)
    sampling.start()
    try:
        while soak.hours < hours:
            soak.act()
    finally:
        ended.set()
        sampling.join()


def stuck_runs() -> list[str]:
    """Dagster's runs that have not ended when nothing has come for some minutes."""
    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            left = [
                f"{run.job_name} {run.tags.get('dagster/partition', '')} {run.status}"
                for run in instance.get_runs(limit=200)
                if not run.is_finished
            ]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(2)


def report(soak: Soak, stuck: list[str]) -> int:
    """Print what happened; 0 when all is well."""
    for what, count in sorted(soak.done.items()):
        print(f"{what:16} {count:5d} times")
    print(f"tiles lost {soak.lost}, messages that contradict {soak.doubled}, ", end="")
    print(f"repeated unchanged {soak.repeated}")
    for what, name in (("stuck run", stuck), ("fault", soak.faults)):
        for line in name:
            print(f"{what}: {line}")
    if len(soak.samples) >= 4:
        print(f"{'':14} {'first':>10} {'last':>10} {'rise per hour, 2nd half':>26}")
        for what in list(soak.samples[0])[1:]:
            values = [sample[what] for sample in soak.samples]
            print(f"{what:14} {values[0]:10.1f} {values[-1]:10.1f} ", end="")
            print(f"{rise(soak.samples, what):26.2f}")
    if len(soak.samples) >= 4:
        half = soak.samples[len(soak.samples) // 2 :]
        more = {k: half[-1][k] - half[0][k] for k in ("kept_mb", "montages")}
        if more["montages"]:
            each_kb = 1000 * more["kept_mb"] / more["montages"]
            print(f"kept of a montage, 2nd half: {each_kb:.0f} kB")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    share = (used.ru_utime + used.ru_stime) / (soak.hours * 3600)
    print(f"CPU: {share:.2f} of a core")
    return int(bool(soak.lost or soak.doubled or stuck or soak.faults))


def rise(samples: list[dict[str, float]], what: str) -> float:
    """Slope per hour of the second half, by a straight line."""
    half = samples[len(samples) // 2 :]
    hours, values = ([sample[key] for sample in half] for key in ("hours", what))
    return float(np.polyfit(hours, values, 1)[0])


def draw(samples: list[dict[str, float]], path: Path) -> None:
    """The curves, one below the other."""
    from matplotlib.figure import Figure

    names = [name for name in samples[0] if name != "hours"]
    figure = Figure(figsize=(8, 1.6 * len(names)), layout="constrained")
    hours = [sample["hours"] for sample in samples]
    for axes, name in zip(
        figure.subplots(len(names), 1, sharex=True), names, strict=True
    ):
        axes.plot(hours, [sample[name] for sample in samples])
        axes.set_ylabel(name)
        axes.set_ylim(bottom=0)
    axes.set_xlabel("hours")
    figure.savefig(path, dpi=80)


def processes(session: str) -> list[psutil.Process]:
    """Those of the platform."""
    from em_platform.processes import members

    return members(session)


def sizes_mb(home: Path) -> dict[str, float]:
    """What the files below the home take, by kind."""
    found = dict.fromkeys(_FILES, 0.0)
    for path in home.rglob("*"):
        for kind, patterns in _FILES.items():
            if any(fnmatch(str(path), pattern) for pattern in patterns):
                with contextlib.suppress(FileNotFoundError):  # just taken away
                    found[kind] += path.stat().st_size / 1e6 if path.is_file() else 0
                break
    return found


def until(truth: Callable[[], Any]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + _PATIENCE_S
    while not truth():
        if time.monotonic() > deadline:
            sys.exit("soak: the platform did not start in time; see its log")
        time.sleep(0.5)
