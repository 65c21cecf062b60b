"""The service within this process: what it hears, finds, says, and says only once."""

import base64
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from em_platform.acquisition.frame_paths import frame_path
from em_platform.acquisition.pipeline.journal import Journal
from em_platform.acquisition.pipeline.missed_tiles import missed_tiles
from em_platform.config import Settings
from em_platform.messaging.bus import Bus
from em_platform.model import LensModel, Size
from em_platform.simulation.devices.optics import radial_lens
from em_platform.simulation.devices.scope import start_status
from em_platform.storage import layout
from em_platform.storage.store import store_of

EARLY = (
    "tile.statistics.min_max_mean",
    "tile.statistics.focus",
    "tile.statistics.histogram",
    "tile.preview",
    "tile.mini",
    "tile.processed",
)
LATE = ("tile.template_matches", "tile.matches")
Message = dict[str, list[Any]]


@pytest.fixture
def reported(open_bus: Callable[[str], Bus]) -> Message:
    """Topic -> what was published of it."""
    received: Message = defaultdict(list)
    bus = open_bus("listener")
    for topic in (*EARLY, *LATE):
        bus.subscribe(topic, lambda m, h: received[h["topic"]].append(m))
    return received


def wait_until(truth: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not truth():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def publish(bus: Bus, imaged: list[Any]) -> None:
    for each in imaged:
        bus.publish("tile.raw", **each.body)
    bus.flush()


def check_once(reported: Message, imaged: list[Any]) -> None:
    """Every result of every tile came exactly once."""
    names = sorted(each.body["tile_id"] for each in imaged)
    for topic in (*EARLY, *LATE):
        assert sorted(m.tile_id for m in reported[topic]) == names, topic


def all_received(reported: Message, count: int) -> Callable[[], bool]:
    return lambda: all(len(reported[topic]) >= count for topic in (*EARLY, *LATE))


def test_a_montage_heard_twice_is_done_once_by_two_processes(
    start: Callable[..., Journal],
    reported: Message,
    frames: Path,
    open_bus: Callable[[str], Bus],
    image_montage: Callable[..., list[Any]],
) -> None:
    journal = start("one")
    start("other")
    imaged = image_montage(frames, rows=3, columns=4)
    bus = open_bus("session")
    publish(bus, imaged)
    publish(bus, imaged)
    wait_until(all_received(reported, len(imaged)))
    publish(bus, imaged)
    wait_until(lambda: journal.counts() == {"done": 12})
    time.sleep(0.5)
    check_once(reported, imaged)
    edges = Counter(len(message.matches) for message in reported["tile.matches"])
    assert edges == {0: 1, 1: 5, 2: 6}
    truth = {each.place: each.truth for each in imaged}
    for message in reported["tile.matches"]:
        here = truth[message.row, message.column]
        for match in message.matches:
            there = truth[match.row, match.column]
            true_dx = (here.placement.x_px - here.nominal_x_px) - (
                there.placement.x_px - there.nominal_x_px
            )
            assert match.dX == pytest.approx(true_dx, abs=0.1)


def test_a_tile_that_nobody_heard_of_is_found_at_the_start(
    start: Callable[..., Journal],
    reported: Message,
    frames: Path,
    image_montage: Callable[..., list[Any]],
) -> None:
    imaged = image_montage(frames)
    journal = start()
    wait_until(all_received(reported, len(imaged)))
    wait_until(lambda: journal.counts() == {"done": len(imaged)})
    check_once(reported, imaged)
    assert [len(m.matches) for m in reported["tile.matches"]] == [0, 1, 1, 1, 2, 2]


def test_tiles_said_while_the_broker_was_away_are_found(
    start: Callable[..., Journal],
    reported: Message,
    frames: Path,
    restart_broker: Callable[[], None],
    image_montage: Callable[..., list[Any]],
) -> None:
    journal = start()
    restart_broker()
    imaged = image_montage(frames, rows=1, columns=3)
    wait_until(lambda: journal.counts() == {"done": 3})
    wait_until(all_received(reported, 3))
    check_once(reported, imaged)


def test_results_wait_for_the_broker(
    start: Callable[..., Journal],
    frames: Path,
    brokers: list[Any],
    reported: Message,
    open_bus: Callable[[str], Bus],
    image_montage: Callable[..., list[Any]],
    restart_broker: Callable[[], None],
) -> None:
    """The broker goes while tiles are worked on; every result arrives after all."""
    journal = start()
    imaged = image_montage(frames, rows=2, columns=8)
    bus = open_bus("session")
    publishing = threading.Thread(target=publish, args=(bus, imaged))
    publishing.start()
    time.sleep(0.1)
    restart_broker()
    publishing.join()
    wait_until(lambda: journal.counts() == {"done": 16})
    wait_until(all_received(reported, 16))
    for topic in (*EARLY, *LATE):
        assert {m.tile_id for m in reported[topic]} == {
            e.body["tile_id"] for e in imaged
        }


def test_a_frame_that_cannot_be_read_is_reported_by_its_empty_matches(
    start: Callable[..., Journal],
    reported: Message,
    frames: Path,
    open_bus: Callable[[str], Bus],
    image_montage: Callable[..., list[Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = start()
    imaged = image_montage(frames, rows=1, columns=3)
    Path(imaged[1].body["path"]).write_bytes(b"II*\0")
    publish(open_bus("session"), imaged)
    wait_until(lambda: journal.counts() == {"done": 3})
    wait_until(lambda: len(reported["tile.matches"]) == 3)
    lost = imaged[1].body["tile_id"]
    assert lost not in {m.tile_id for m in reported["tile.statistics.focus"]}
    by_id = {m.tile_id: m for m in reported["tile.matches"]}
    assert by_id[lost].matches == []
    (match,) = by_id[imaged[2].body["tile_id"]].matches
    assert (match.column, match.pX) == (1, [])
    tried = {m.tile_id: m for m in reported["tile.template_matches"]}
    (container,) = tried[imaged[2].body["tile_id"]].matches
    assert "could not be read" in container.matches[0].reject_reason
    (sentence,) = journal.failures().values()
    assert lost in sentence
    assert caplog.text.count(sentence) == 1


def test_a_tile_over_which_processes_end_is_given_up(
    start: Callable[..., Journal],
    reported: Message,
    frames: Path,
    settings: Settings,
    image_montage: Callable[..., list[Any]],
) -> None:
    imaged = image_montage(frames, rows=1, columns=2)
    path = settings.home / "pipeline" / "journal.sqlite"
    before = Journal(path, worker="ends", lease_s=-1.0)
    before.add(missed_tiles(frames, before))
    for _ in range(3):
        assert before.claim_next().tile.place == (0, 0)  # type: ignore[union-attr]
        assert before.free() == 1
    journal = start()
    wait_until(lambda: journal.counts() == {"done": 2})
    (sentence,) = journal.failures().values()
    assert "3 attempts at" in sentence
    wait_until(lambda: len(reported["tile.matches"]) == 2)
    assert [m.column for m in reported["tile.statistics.focus"]] == [1]
    assert imaged[1].place == (0, 1)


def test_a_disk_that_does_not_take_a_tile_costs_time_only(
    start: Callable[..., Journal],
    reported: Message,
    frames: Path,
    open_bus: Callable[[str], Bus],
    image_montage: Callable[..., list[Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    imaged = image_montage(frames, rows=1, columns=2)
    first = Path(imaged[0].body["path"])
    in_the_way = first.with_suffix(".processed.tiff")
    (in_the_way / "content").mkdir(parents=True)
    journal = start()
    wait_until(lambda: "could not be written" in caplog.text)
    time.sleep(4.5)  # more tries than a tile that breaks its process would get
    # The other one does not wait for it.
    assert [each.column for each in reported["tile.statistics.focus"]] == [1]
    assert caplog.text.count("could not be written") == 1
    (in_the_way / "content").rmdir()
    in_the_way.rmdir()
    wait_until(lambda: journal.counts() == {"done": 2})
    assert journal.failures() == {}
    wait_until(all_received(reported, 2))
    check_once(reported, imaged)


def test_each_frame_of_no_montage_is_shown(
    start: Callable[..., Journal],
    reported: Message,
    frames: Path,
    open_bus: Callable[[str], Bus],
    image_montage: Callable[..., list[Any]],
) -> None:
    start("one")
    start("other")
    (imaged,) = image_montage(frames, rows=1, columns=1)
    path = frame_path(frames, "", imaged.body["tile_id"])
    path.parent.mkdir()
    Path(imaged.body["path"]).rename(path)
    bus = open_bus("session")
    for _ in range(3):
        fields = {**imaged.body, "montage_id": "", "path": str(path)}
        bus.publish("tile.raw", **fields)
    wait_until(lambda: len(reported["tile.preview"]) == 3)
    time.sleep(0.3)
    assert {topic: len(m) for topic, m in reported.items() if m} == dict.fromkeys(
        EARLY[:4], 3
    )


def lens_message(lens: LensModel) -> dict[str, Any]:
    text = base64.b64encode(lens.model_dump_json().encode()).decode()
    return {"montage_id": "lens", "ok": True, "transform": text}


@pytest.mark.parametrize(
    "source", ["message", "store", "nothing", "flagged", "other magnification"]
)
def test_matches_are_corrected_by_the_lens_in_force(
    start: Callable[..., Journal],
    reported: Message,
    frames: Path,
    settings: Settings,
    open_bus: Callable[[str], Bus],
    image_montage: Callable[..., list[Any]],
    source: str,
) -> None:
    lens = radial_lens(Size(height_px=256, width_px=256), edge_px=3.0)
    acquisition = settings.acquisition
    if source == "store":
        name = layout.lens(acquisition.microscope, acquisition.magnification)
        store_of(settings).write(name, lens, LensModel)
    journal = start()
    bus = open_bus("session")
    if source in ("message", "flagged"):
        bus.publish("lens_correction.transform", **lens_message(lens))
    if source == "other magnification":
        bus.publish("lens_correction.transform", **lens_message(lens))
        bus.publish("scope.status", **start_status(200).model_dump())
    bus.publish("lens_correction.transform", montage_id="l", transform="no lens")
    bus.flush()
    time.sleep(0.2)
    imaged = image_montage(frames, rows=1, columns=2, lens_px=3.0)
    for each in imaged:
        each.body["lens_correction"] = source == "flagged"
    publish(bus, imaged)
    wait_until(lambda: journal.counts() == {"done": 2})
    wait_until(lambda: len(reported["tile.matches"]) == 2)
    (match,) = reported["tile.matches"][1].matches
    here, there = imaged[1].truth.placement, imaged[0].truth.placement
    true_x = here.x_px - there.x_px
    off = max(abs(q - p - true_x) for p, q in zip(match.pX, match.qX, strict=True))
    if source in ("message", "store"):
        assert off < 0.8
    else:
        assert off > 1.5
        raw = [
            t for t in reported["tile.template_matches"][1].matches[0].matches if t.good
        ]
        assert match.pX == [t.query_point[0] for t in raw]


def test_a_montage_that_is_over_is_forgotten_and_not_done_again(
    start: Callable[..., Journal],
    reported: Message,
    frames: Path,
    open_bus: Callable[[str], Bus],
    image_montage: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from em_platform.acquisition.pipeline import service

    monkeypatch.setattr(service, "_PRUNE_S", 0.1)
    imaged = image_montage(frames, rows=1, columns=2)
    journal = start(keep_s=0.1)
    wait_until(lambda: journal.counts() == {"done": 2})
    time.sleep(0.5)
    assert journal.counts() == {"done": 2}  # it may go on after a pause
    acquisition_id = "m-1-20260102t030405"
    (frames / "m-1" / f"{acquisition_id}.complete.json").write_text("{}")
    wait_until(lambda: journal.counts() == {})
    publish(open_bus("session"), imaged)
    start("later")
    time.sleep(0.5)
    assert journal.counts() == {}
    check_once(reported, imaged)


def test_what_a_killed_process_had_half_written_is_removed(
    start: Callable[..., Journal],
    frames: Path,
    image_montage: Callable[..., list[Any]],
) -> None:
    imaged = image_montage(frames, rows=1, columns=1)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    tile_id = imaged[0].body["tile_id"]
    left = f".{tile_id}.processed.tiff.{socket.gethostname()}.{ended.pid}.ab.partial"
    (frames / "m-1" / left).write_bytes(b"half")
    journal = start()
    wait_until(lambda: journal.counts() == {"done": 1})
    assert sorted(path.suffix for path in (frames / "m-1").iterdir()) == [
        ".json",
        ".json",
        ".sealed",
        ".sealed",
        ".tiff",
        ".tiff",
    ]


def test_a_wrong_lens_size_is_named(
    start: Callable[..., Journal],
    reported: Message,
    frames: Path,
    open_bus: Callable[[str], Bus],
    image_montage: Callable[..., list[Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = start()
    bus = open_bus("session")
    lens = radial_lens(Size(height_px=64, width_px=64), edge_px=6.0)
    bus.publish("lens_correction.transform", **lens_message(lens))
    bus.flush()
    time.sleep(0.2)
    publish(bus, image_montage(frames, rows=1, columns=2))
    wait_until(lambda: journal.counts() == {"done": 2})
    assert caplog.text.count("the lens model is for 64 x 64 px") == 1
