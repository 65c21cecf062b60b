"""The whole live microscope of real processes: imaged, recorded, and played again."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import stomp
import tifffile

from em_platform.acquisition.session.report import PER_TILE, LiveReport
from em_platform.acquisition.session.rig import free_ports
from em_platform.config import BrokerSettings, Settings, export, load_settings
from em_platform.messaging.login import login_of
from em_platform.messaging.topics import topics
from em_platform.model import AcquisitionUpload
from em_platform.storage import layout, store_of
from em_platform.storage.tokens import token_of
from tests.ports import reserve_port
from tests.rig import running_rig

pytestmark = [pytest.mark.system, pytest.mark.timeout(420)]

MONTAGES, ROWS, COLUMNS = 2, 2, 3
SMALL = {
    "acquisition.overlap": "0.25",
    "acquisition.pipeline.processes": "2",
    "acquisition.simulation.tile_px": "256",
    "stitching.match.search_px": "32",
}
REPLAYED = ("pipeline", "qc", "montage_fit", "buffer", "recorder", "operator")
SOURCES = ("coordinator", "scope", "stage", "camera", "acquire")
"""Services whose messages are played to those that are replayed."""


@dataclass(slots=True)
class Tap:
    """Every body on the bus, as it is, with its topic and headers."""

    received: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def on_message(self, frame: Any) -> None:
        topic = frame.headers["subscription"]
        self.received.append((topic, frame.body, dict(frame.headers)))

    def of(self, topic: str) -> list[dict[str, Any]]:
        return [json.loads(body) for name, body, _ in self.received if name == topic]


class _Listener(stomp.ConnectionListener):
    def __init__(self, tap: Tap) -> None:
        self.tap = tap

    def on_message(self, frame: Any) -> None:
        self.tap.on_message(frame)


@contextmanager
def tapped(broker: BrokerSettings) -> Iterator[tuple[Tap, stomp.Connection12]]:
    """Hear everything that TEM_comms knows, by a bare STOMP client."""
    tap = Tap()
    client = stomp.Connection12([("127.0.0.1", broker.port)], heartbeats=(0, 0))
    client.set_listener("tap", _Listener(tap))
    client.connect(*login_of(broker), wait=True)
    for topic in topics():
        client.subscribe(destination=topic, id=topic)
    yield tap, client
    client.disconnect()


def pigeon(broker: BrokerSettings) -> tuple[str, ...]:
    """Pigeon's own command line, with the login that a person would type."""
    username, password = login_of(broker)
    login = ("--username", username, "--password", password)
    return (sys.executable, "-m", "pigeon", "--port", str(broker.port), *login)


@contextmanager
def recorded(broker: BrokerSettings, path: Path) -> Iterator[None]:
    """`pigeon record` of all topics, as anybody would run it."""
    # Not `record -a`: pigeon-client 3.1.2 ends with a TypeError on Python 3.11 then.
    command = (*pigeon(broker), "record")
    with subprocess.Popen(
        (*command, "-o", str(path), *topics()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        own = psutil.Process(process.pid)
        wait_until(
            lambda: process.poll() is not None or bool(own.net_connections("tcp")),
            what=lambda: "pigeon record does not connect",
        )
        assert process.poll() is None, process.communicate()
        yield
        process.send_signal(signal.SIGINT)
        _, output = process.communicate(timeout=60)
    assert output.decode() == "", "pigeon complained about a message"


@dataclass(slots=True, kw_only=True)
class Done:
    """A session that was imaged and recorded."""

    settings: Settings
    environment: dict[str, str]
    recording: list[dict[str, Any]]
    tap: Tap
    report: LiveReport
    output: str
    """Both streams; the one object that `--json` prints is `printed`."""
    printed: str


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    folder = tmp_path_factory.mktemp("live")
    environment = export(
        {**SMALL, "home": str(folder / "home"), "broker.port": str(reserve_port())}
    )
    settings = load_settings(environment=environment)
    recording, report = folder / "session.json", folder / "report.json"
    with (
        running_rig(settings, environment=environment, wanted=()),
        tapped(settings.broker) as (tap, _),
        recorded(settings.broker, recording),
    ):
        command = (sys.executable, "-m", "em_platform", "acquire", "--profile", "sim")
        ended = subprocess.run(
            (
                *(*command, "--montages", str(MONTAGES)),
                *("--rows", str(ROWS), "--columns", str(COLUMNS)),
                *("--json", "--report", str(report)),
            ),
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        output = ended.stdout + ended.stderr
        assert ended.returncode == 0, output + logs(settings)
    yield Done(
        settings=settings,
        environment=environment,
        recording=json.loads(recording.read_text()),
        tap=tap,
        report=LiveReport.model_validate_json(report.read_text()),
        output=output,
        printed=ended.stdout,
    )


def logs(settings: Settings) -> str:
    """The end of each service's log, for a test that fails."""
    return "\n".join(
        f"--- {path.name}\n{path.read_text()[-1500:]}"
        for path in sorted((settings.home / "logs").glob("*.log"))
    )


def test_a_session_ends_well_and_its_report_says_so(done: Done) -> None:
    report = done.report
    assert report.is_good, report
    tiles = MONTAGES * ROWS * COLUMNS
    assert (report.tiles_imaged, report.tiles_lost) == (tiles, 0)
    assert [each.montage_id for each in report.montages] == ["m-0001", "m-0002"]
    for each in report.montages:
        assert (each.state, each.uploaded, each.duplicates) == ("completed", True, 0)
        assert each.passed + each.failed == ROWS * COLUMNS
    assert report.verdict_p99_ms is not None
    assert report.mpix_per_s > 0
    assert "operator's page at http://127.0.0.1:" in done.output
    assert f"{tiles} tiles, 0 lost" in done.output
    images = list((done.settings.home / "frames").glob("m-*/*.tiff"))
    frames = [path for path in images if not path.name.endswith(".processed.tiff")]
    assert (len(frames), len(images)) == (tiles, 2 * tiles)
    assert {tifffile.imread(frame).shape for frame in frames} == {(256, 256)}


def test_json_is_one_object_on_stdout_and_the_same_as_the_report(done: Done) -> None:
    assert LiveReport.model_validate_json(done.printed) == done.report
    assert done.printed.count("\n") == 1


def test_nothing_is_left_running(done: Done) -> None:
    home = str(done.settings.home)
    assert [p for p in psutil.process_iter() if _home_of(p) == home] == []


def _home_of(process: psutil.Process) -> str:
    try:
        return process.environ().get("EM_HOME", "")
    except psutil.Error:
        return ""


def test_no_service_complained(done: Done) -> None:
    lines = [
        (path.stem, line)
        for path in sorted((done.settings.home / "logs").glob("*.log"))
        for line in path.read_text().splitlines()
        if not line.startswith(("ready ", "broker listens"))
    ]
    assert len(lines) > 10
    records = [(name, json.loads(line)) for name, line in lines]
    assert [each for each in records if each[1]["level"] != "INFO"] == []


def test_every_message_is_valid_and_each_tile_is_published_once(done: Done) -> None:
    invalid = [
        (topic, body[:500], headers["service"])
        for topic, body, headers in done.tap.received
        if not is_valid(topic, body)
    ]
    assert invalid == []
    names = {headers["service"] for _, _, headers in done.tap.received}
    assert {*SOURCES, "qc", "buffer", "montage_fit"} <= names
    assert any(name.startswith("pipeline") for name in names)
    for topic in (*PER_TILE, "tile.preview", "tile.mini", "tile.statistics.focus"):
        counts = Counter(
            body["tile_id"] for body in done.tap.of(topic) if body["montage_id"]
        )
        assert len(counts) == done.report.tiles_imaged, topic
        assert set(counts.values()) == {1}, topic


def is_valid(topic: str, body: str) -> bool:
    try:
        topics()[topic].model_validate_json(body, strict=False)
    except ValueError:
        return False
    return True


def test_the_frames_are_uploaded_verified_and_in_the_tem_database(done: Done) -> None:
    settings = done.settings
    store = store_of(settings)
    for each in done.report.montages:
        uploaded = store.read(layout.upload(each.acquisition_id), AcquisitionUpload)
        assert len(uploaded.tiles) == ROWS * COLUMNS
        for tile in uploaded.tiles:
            folder = settings.home / "frames" / each.montage_id
            frame = (folder / f"{tile.tile_id}.tiff").read_bytes()
            assert hashlib.sha256(frame).hexdigest() == tile.sha256
            assert tile.statistics is not None
            assert tile.passed is not None
    port = reserve_port()
    environment = {**done.environment, **export({"temdb.port": str(port)})}
    with running_rig(
        load_settings(environment=environment),
        environment=environment,
        wanted=("temdb",),
    ):
        token = token_of(
            settings.home, "temdb", settings.temdb.token.get_secret_value()
        )
        for each in done.report.montages:
            base = f"http://127.0.0.1:{port}/api/v2/acquisitions/{each.acquisition_id}"
            head = {"Authorization": f"Bearer {token}"}
            found = requests.get(base, headers=head, timeout=30).json()
            assert found["status"] == "complete"
            assert found["transfer_state"] == "complete"
            counted = requests.get(f"{base}/tile-count", headers=head, timeout=30)
            assert ROWS * COLUMNS in counted.json().values()


def test_the_recording_played_again_gives_the_same_verdicts(
    done: Done, tmp_path: Path
) -> None:
    environment = export(
        {**SMALL, "home": str(tmp_path / "again"), "broker.port": str(reserve_port())}
    )
    settings = load_settings(environment=environment)
    environment |= export(free_ports(settings))
    settings = load_settings(environment=environment)
    shutil.copytree(
        done.settings.home / "frames",
        settings.home / "frames",
        # Frames alone: what was published about them comes from the recording.
        ignore=shutil.ignore_patterns("*.processed.tiff", "*.json"),
    )
    path = tmp_path / "session.json"
    path.write_text(json.dumps(list(inputs(done, settings))))
    verdicts = verdicts_of(done.tap)
    with running_rig(settings, environment=environment, wanted=REPLAYED) as services:
        tending = threading.Thread(target=services.run)
        tending.start()
        with tapped(settings.broker) as (tap, client):
            disturb(client)
            play(path, settings.broker, "--rate", "3")
            wait_until(
                lambda: len(verdicts_of(tap)) == len(verdicts),
                what=lambda: f"{sorted(verdicts_of(tap))} {logs(settings)}",
            )
            assert verdicts_of(tap) == verdicts
            disturb(client)
            play(path, settings.broker, "--immediate")
            time.sleep(5)
            assert services.restarts == dict.fromkeys(services.restarts, 0)
        services.stopping.set()
        tending.join()
    made = ("qc.tile", "tile.processed", "tile.matches", "tile.statistics.focus")
    for topic in made:
        counts = Counter(
            body["tile_id"] for body in tap.of(topic) if body["montage_id"]
        )
        assert set(counts.values()) == {1}, topic
        assert len(counts) == len(verdicts), topic
    assert all(
        is_valid(topic, body)
        for topic, body, headers in tap.received
        if headers.get("service") != "disturber"
    )


def inputs(done: Done, settings: Settings) -> Iterator[dict[str, Any]]:
    """What the devices and the coordinator published, of frames in the new home."""
    old, new = str(done.settings.home / "frames"), str(settings.home / "frames")
    for message in done.recording:
        if message["headers"]["service"] in SOURCES:
            yield json.loads(json.dumps(message).replace(old, new))


def verdicts_of(tap: Tap) -> dict[str, tuple[bool, tuple[str, ...]]]:
    return {
        body["tile_id"]: (
            body["passed"],
            tuple(sorted(fault["fault_type"] for fault in body.get("faults") or ())),
        )
        for body in tap.of("qc.tile")
    }


def disturb(client: stomp.Connection12) -> None:
    """Say what no service knows: a new topic, a newer version, a body that is none."""
    head = {"source": "disturber", "service": "disturber", "sent_at": "1"}
    newer = {**head, "version": "99.0.0"}
    tile = {"tile_id": "m-9_000_000", "montage_id": "m-9", "row": 0, "column": 0}
    tile |= {"overlap": 1, "path": "nowhere", "a_field_of_tomorrow": 1}
    client.send("tile.hologram", json.dumps(tile), headers=newer)
    client.send("tile.raw", json.dumps(tile), headers=newer)
    client.send("tile.raw", json.dumps(tile), headers={**head, "version": "2.9.0"})
    client.send("montage.status", "not json", headers=head)
    client.send("qc.status", '{"status": "EXPLODE"}', headers=head)


def play(path: Path, broker: BrokerSettings, *options: str) -> None:
    subprocess.run(
        (*pigeon(broker), "play", *options, str(path)),
        check=True,
        timeout=200,
    )


def wait_until(
    truth: Callable[[], bool], *, what: Callable[[], str], timeout_s: float = 120
) -> None:
    deadline = time.monotonic() + timeout_s
    while not truth():
        assert time.monotonic() < deadline, what()
        time.sleep(0.3)
