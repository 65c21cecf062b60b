"""One live microscope for all faults: what is done to it, what its operator sees."""

import hashlib
import json
import os
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from em_platform.acquisition.frame_paths import (
    acquisition_of,
    frames_folder,
    truth_path,
)
from em_platform.acquisition.recorder import ledger_of
from em_platform.acquisition.recorder.events import VERDICT, is_preliminary
from em_platform.acquisition.session.report import PER_TILE
from em_platform.acquisition.session.rig import (
    DEVICES,
    RECORDER,
    SERVICES,
    rig_children,
)
from em_platform.cli.watch import regions
from em_platform.config import Settings, export, load_settings
from em_platform.messaging.bus import Bus
from em_platform.model import AcquisitionUpload
from em_platform.processes import Supervisor
from em_platform.storage import layout, store_of
from em_platform.temdb import register_of
from tests.ports import reserve_port
from tests.rig import fork_server, running_rig

ROWS, COLUMNS = 3, 4
TILES = ROWS * COLUMNS
CHOSEN = {
    "acquisition.rows": str(ROWS),
    "acquisition.columns": str(COLUMNS),
    "acquisition.overlap": "0.25",
    "acquisition.pipeline.processes": "2",
    "acquisition.request_timeout_s": "2.5",
    "acquisition.request_tries": "2",
    "acquisition.buffer.timeout_s": "3",
    "acquisition.buffer.retry_s": "0.3",
    "acquisition.buffer.retry_most_s": "1",
    "acquisition.operator.stale_s": "2",
    "acquisition.operator.control_timeout_s": "900",
    "acquisition.coordinator.max_errors": "50",
    "acquisition.simulation.tile_px": "256",
    "acquisition.simulation.exposure_ms": "120",
    "acquisition.simulation.tissue_repeat_px": "2048",
    "stitching.match.search_px": "32",
}
WAIT_S = 120.0


@dataclass(slots=True)
class PageHistory:
    """What the page showed since a moment, as its service tells a browser."""

    sentences: list[str] = field(default_factory=list)
    lights: list[str] = field(default_factory=list)
    reasons: set[str] = field(default_factory=set)
    modes: list[str] = field(default_factory=list)
    montage: list[str] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    to_upload: int = 0
    broker: list[bool] = field(default_factory=list)
    silent_s: Counter[str] = field(default_factory=Counter)
    line: int | None = None

    def note(self, state: Mapping[str, Any]) -> None:
        parts, now = state["parts"], state["now"]
        journal = parts.get("journal") or []
        if self.line is None:
            self.line = journal[-1]["number"] if journal else 0
        for line in journal:
            if line["number"] > self.line:
                self.line = line["number"]
                self.sentences.append(line["text"])
        light = parts.get("qc") or {}
        _follow(self.lights, light.get("status", ""))
        self.reasons.add(light.get("reason", ""))
        _follow(self.modes, parts["mode"])
        _follow(self.montage, (parts.get("montage") or {}).get("state", ""))
        _follow(self.broker, parts["broker"]["connected"])
        _follow(self.uploads, (parts.get("upload") or {}).get("blocked", ""))
        buffer = parts.get("buffer")
        if buffer:
            self.to_upload = max(self.to_upload, buffer["queue_length"])
        named = {"state": parts.get("state"), "qc": light, "buffer": buffer}
        for name, part in {**named, **(parts.get("services") or {})}.items():
            if part and "seen_at" in part:
                silent = now - part["seen_at"]
                self.silent_s[name] = max(self.silent_s[name], silent)

    def sentence(self, words: str) -> str:
        """The sentence that has these words; empty where there was none."""
        return next((text for text in self.sentences if words in text), "")


def _follow(values: list[Any], value: Any) -> None:
    if not values or values[-1] != value:
        values.append(value)


@dataclass(kw_only=True)
class Microscope:
    """The processes, a bus that hears all, and the operator's page by its HTTP."""

    settings: Settings
    environment: dict[str, str]
    supervisor: Supervisor
    bus: Bus
    rows: list[tuple[str, ...]]
    held: threading.Event = field(default_factory=threading.Event)
    received: dict[str, Counter[str]] = field(default_factory=dict)
    number: int = 0
    _sent: set[tuple[str, ...]] = field(default_factory=set)
    _token: str = ""

    @property
    def home(self) -> Path:
        return self.settings.home

    @property
    def frames(self) -> Path:
        return frames_folder(self.settings)

    # --- processes ---

    def pid(self, name: str) -> int:
        return self.supervisor.pids[name]

    def kill(self, name: str) -> None:
        os.kill(self.pid(name), signal.SIGKILL)

    @contextmanager
    def away(self, name: str) -> Iterator[None]:
        """Kill -9 a process; it is started again after the block."""
        self.held.set()
        time.sleep(0.3)  # the one that tends may be amid its round
        before = self.supervisor.restarts[name]
        self.kill(name)
        try:
            yield
        finally:
            self.held.clear()
        self.wait(lambda: self.supervisor.restarts[name] > before)

    @contextmanager
    def instead(self, name: str, chosen: Mapping[str, str]) -> Iterator[None]:
        """A process with other settings in the place of one of ours."""
        environment = {**self.environment, **export(chosen)}
        groups = rig_children(self.settings, environment=environment, wanted=(name,))
        logs = self.home / "logs" / "instead"
        with self.away(name), Supervisor(logs, fork_server=fork_server()) as other:
            other.start_all(groups, timeout_s=WAIT_S)
            yield

    def tend(self, stop: threading.Event) -> None:
        while not stop.wait(0.1):
            if not self.held.is_set():
                self.supervisor.tend()

    # --- the operator ---

    def page(self) -> Any:
        answer = requests.get(f"{self._url()}/api/state", timeout=60)
        answer.raise_for_status()
        return answer.json()

    def press(self, command: str) -> None:
        """Press a button, as soon as it can be pressed."""
        if not self._token:
            named = {"name": "fault table"}
            taken = requests.post(f"{self._url()}/api/control", json=named, timeout=30)
            self._token = taken.json()["token"]
        self.wait(lambda: self._press(command) == requests.codes.ok)

    def _press(self, command: str) -> int:
        answer = requests.post(
            f"{self._url()}/api/run",
            json={"command": command},
            headers={"X-Control-Token": self._token},
            timeout=30,
        )
        return answer.status_code

    def _url(self) -> str:
        operator = self.settings.acquisition.operator
        return f"http://{operator.host}:{operator.port}"

    @contextmanager
    def watched(self) -> Iterator[PageHistory]:
        """All that the page shows within the block."""
        seen, stop = PageHistory(), threading.Event()
        seen.note(self.page())

        def look() -> None:
            while not stop.wait(0.1):
                seen.note(self.page())

        watching = threading.Thread(target=look)
        watching.start()
        try:
            yield seen
        finally:
            stop.set()
            watching.join()
            seen.note(self.page())

    # --- montages ---

    def queue(self) -> str:
        """Put one more region into the queue; its montage's id."""
        self.number += 1
        (region,) = regions(self.settings, 1, first=self.number)
        self.bus.publish("roi.create", **region)
        self.bus.flush()
        return str(region["montage_id"])

    def start(self) -> str:
        """Queue a region and have it imaged."""
        montage_id = self.queue()
        self.press("start")
        return montage_id

    def imaged(self, montage_id: str) -> list[float]:
        """When each of its tiles was noted as done, in order, as Unix times."""
        bodies = (self.frames / montage_id).glob("*_[0-9]*_[0-9]*.json")
        return sorted(path.stat().st_mtime for path in bodies)

    def wait_imaged(self, montage_id: str, tiles: int) -> None:
        self.wait(lambda: len(self.imaged(montage_id)) >= tiles)

    def acquisition(self, montage_id: str) -> str:
        """Its only acquisition, which is complete."""
        (path,) = (self.frames / montage_id).glob("*.complete.json")
        return path.name.removesuffix(".complete.json")

    def is_uploaded(self, montage_id: str) -> bool:
        ends = (self.frames / montage_id).glob("*.complete.json")
        names = [path.name.removesuffix(".complete.json") for path in ends]
        store = store_of(self.settings)
        return any(store.exists(layout.upload(name)) for name in names)

    def wait_uploaded(self, montage_id: str) -> float:
        """Wait until all of it is safe; the Unix time of that."""
        self.wait(lambda: self.is_uploaded(montage_id))
        verified_at = time.time()
        # Its answer may have been too late for the buffer, which asks again then.
        query = "SELECT 1 FROM montages WHERE montage_id = ? AND answered_at IS NULL"
        self.wait(lambda: not self.journal("buffer", query, montage_id))
        return verified_at

    def nothing_is_lost(self, montage_id: str, *, heard_all: bool = True) -> str:
        """Assert that each tile was imaged, judged, published and uploaded once.

        `heard_all` is false where the broker was away: then nobody can hear all, and
        what the services have noted for themselves has to show it.
        """
        key = self.acquisition(montage_id)
        upload = store_of(self.settings).read(layout.upload(key), AcquisitionUpload)
        names = {tile.tile_id for tile in upload.tiles}
        assert len(upload.tiles) == len(names) == TILES
        assert all(acquisition_of(name) == key for name in names)
        folder = self.frames / montage_id
        assert {path.stem for path in folder.glob("*_[0-9]*_[0-9]*.json")} == names
        for tile in upload.tiles:
            frame, body = (folder / f"{tile.tile_id}.{s}" for s in ("tiff", "json"))
            assert hashlib.sha256(frame.read_bytes()).hexdigest() == tile.sha256
            # Not exposed again after it was noted as done.
            assert frame.stat().st_mtime_ns <= body.stat().st_mtime_ns
            assert tile.statistics is not None
            assert tile.passed is not None, f"{tile.tile_id} went without a verdict"
        assert upload.what_is_missing == ""
        assert self.verdicts(key) == Counter(names)
        assert self.worked_on(key) == dict.fromkeys(names, "done")
        run = register_of(self.settings).run_of(key)
        assert run is not None
        assert (run.status, run.transfer_state) == ("complete", "complete")
        assert run.tile_count == TILES
        truth = json.loads(truth_path(self.frames, montage_id, key).read_bytes())
        assert truth["tiles"].keys() == names
        doubles = Counter[str]()
        for topic in PER_TILE:
            counts = {
                t: n for t, n in self.received.get(topic, {}).items() if t in names
            }
            assert not heard_all or counts.keys() == names, topic
            doubles[topic] = sum(counts.values()) - len(counts)
        notes = [f"{n} {topic} twice" for topic, n in doubles.items() if n]
        measured = [t.statistics for t in upload.tiles if t.statistics]
        anew = [each for each in measured if each.measured_by != "pipeline"]
        if anew:
            notes.append(f"statistics of {len(anew)} tile measured anew by aloha")
        return f"nothing ({', '.join(notes)})" if notes else "nothing"

    def verdicts(self, key: str) -> Counter[str]:
        """How many verdicts that stand on each tile of an acquisition."""
        with ledger_of(self.settings) as ledger:
            found = ledger.events(topics=(VERDICT,), limit=10_000)
        tiles = (e.body["tile_id"] for e in found if not is_preliminary(e.body))
        return Counter(tile for tile in tiles if acquisition_of(tile) == key)

    def worked_on(self, key: str) -> dict[str, str]:
        """Tile -> how far the pipeline is, of an acquisition or of one tile."""
        query = "SELECT key, state || failure FROM tiles WHERE key LIKE ?"
        return dict(self.journal("pipeline", query, f"{key}%"))

    def journal(self, service: str, query: str, *values: str) -> list[Any]:
        path = self.home / service / "journal.sqlite"
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            return connection.execute(query, values).fetchall()

    def hear(self, message: Any, headers: Mapping[str, str]) -> None:
        """Count what was published of a tile; a message sent again is the same."""
        body = message.model_dump(mode="json")
        if headers["topic"] == VERDICT and is_preliminary(body):
            return
        key = tuple(headers.get(n, "") for n in ("topic", "source", "sequence"))
        if key not in self._sent and message.montage_id:
            self._sent.add(key)
            self.received.setdefault(headers["topic"], Counter())[message.tile_id] += 1

    def wait(self, truth: Callable[[], object], pause_s: float = 0.05) -> None:
        deadline = time.monotonic() + WAIT_S
        while not truth():
            assert time.monotonic() < deadline, f"{self.shown()}\n{self.logs()}"
            time.sleep(pause_s)

    def shown(self) -> str:
        parts = self.page()["parts"]
        named = ("mode", "state", "montage", "qc", "buffer", "journal")
        return json.dumps({name: parts.get(name) for name in named}, indent=1)[-4000:]

    def logs(self) -> str:
        paths = sorted((self.home / "logs").glob("**/*.log"))
        return "\n".join(f"--- {p.name}\n{p.read_text()[-1200:]}" for p in paths)

    def row(self, fault: str, lost: str, saw: str, seconds: float, what: str) -> None:
        """Write a line of the table."""
        self.rows.append((fault, lost, saw, f"{seconds:.1f} s {what}"))


@pytest.fixture(scope="package")
def microscope(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Microscope]:
    """All processes, a broker among them; what was measured is printed at the end."""
    home = tmp_path_factory.mktemp("faults") / "home"
    ports = ("broker", "aloha", "temdb", "acquisition.operator")
    own = {f"{name}.port": str(reserve_port()) for name in ports}
    environment = export({**CHOSEN, **own, "home": str(home)})
    settings = load_settings(environment=environment)
    everything = (*DEVICES, RECORDER, *SERVICES)
    rows: list[tuple[str, ...]] = []
    stop = threading.Event()
    with (
        running_rig(settings, environment=environment, wanted=everything) as supervisor,
        Bus(settings.broker, "lab") as bus,
    ):
        made = Microscope(
            settings=settings,
            environment=environment,
            supervisor=supervisor,
            bus=bus,
            rows=rows,
        )
        bus.connect(30)
        bus.subscribe_many(PER_TILE, made.hear)
        tending = threading.Thread(target=made.tend, args=(stop,))
        tending.start()
        try:
            yield made
        finally:
            stop.set()
            tending.join()
    write_table(rows)


def write_table(rows: list[tuple[str, ...]]) -> None:
    """Print the table, and write it where EM_FAULT_TABLE says."""
    head = ("Fault", "Lost", "What the operator saw", "Until work went on")
    lines = [f"| {' | '.join(row)} |" for row in (head, ("---",) * 4, *rows)]
    text = "\n".join(lines) + "\n"
    sys.stdout.write("\n" + text)
    if path := os.environ.get("EM_FAULT_TABLE"):
        Path(path).write_text(text)
