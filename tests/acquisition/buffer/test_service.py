"""The buffer on a real broker."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from em_platform.acquisition.buffer import service
from em_platform.acquisition.buffer.journal import Journal
from em_platform.acquisition.buffer.service import BufferService
from em_platform.acquisition.recorder import ledger_of
from em_platform.acquisition.recorder.events import Message
from em_platform.config import (
    AcquisitionSettings,
    AlohaSettings,
    BrokerSettings,
    BufferSettings,
    Settings,
)
from em_platform.errors import ConfigError, PlatformError
from em_platform.messaging.broker import Broker
from em_platform.messaging.bus import Bus
from em_platform.messaging.topics import fitting
from em_platform.processes.single_instance import single_instance


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker(BrokerSettings(port=0)) as broker:
        yield broker


@pytest.fixture
def settings(tmp_path: Path, broker: Broker, free_port: Callable[[], int]) -> Settings:
    return Settings(
        home=tmp_path,
        broker=BrokerSettings(port=broker.port),
        acquisition=AcquisitionSettings(
            buffer=BufferSettings(
                statistics_wait_s=0, retry_s=0.05, retry_most_s=0.2, keep_s=0
            )
        ),
        aloha=AlohaSettings(port=free_port(), token="token"),
    )


@contextmanager
def buffer_on(settings: Settings) -> Iterator[BufferService]:
    with ExitStack() as stack:
        folder = settings.home / "buffer"
        journal = stack.enter_context(closing(Journal(folder / "journal.sqlite")))
        bus = stack.enter_context(Bus(settings.broker, "buffer"))
        bus.connect()
        service = stack.enter_context(closing(BufferService(bus, journal, settings)))
        stop = threading.Event()

        def tick() -> None:
            while not stop.wait(0.1):
                service.tick()

        thread = threading.Thread(target=tick)
        thread.start()
        stack.callback(thread.join)
        stack.callback(stop.set)
        yield service


@pytest.fixture
def session(settings: Settings) -> Iterator[Bus]:
    with Bus(settings.broker, "session") as bus:
        bus.connect()
        bus.latest("buffer.status")
        yield bus


def wait_for_queue(session: Bus, length: int) -> Any:
    return session.wait_for(
        "buffer.status", lambda status: status.queue_length == length, 60
    )


def test_a_montage_goes_from_the_bus_to_aloha_and_off_the_disk(
    settings: Settings,
    session: Bus,
    imaged: Any,
    aloha_app: Any,
    serve_app: Callable[..., str],
) -> None:
    with buffer_on(settings), ledger_of(settings) as recorder:
        montage = imaged.ImagedMontage(settings.home / "frames", "m1", tiles=3)
        montage.image(session.publish)
        status = wait_for_queue(session, 3)
        assert status.free_space > 0
        assert status.upload_rate == 0
        montage.process(session.publish)
        montage.complete(session.publish)
        time.sleep(0.5)
        assert wait_for_queue(session, 3)  # aloha is not there yet
        serve_app(aloha_app, settings.aloha.port)
        size = montage.path(montage.tile_ids[0]).stat().st_size
        moved = session.wait_for("buffer.status", lambda s: s.upload_rate > 0, 60)
        frames = moved.upload_rate * 5 / 8 / size
        assert frames == pytest.approx(max(1, round(frames)), abs=0.01)
        wait_for_queue(session, 0)
        recorder.reconcile_montage(montage.folder)
        deadline = time.monotonic() + 60
        while len(list(montage.folder.iterdir())) > 1:
            assert time.monotonic() < deadline, list(montage.folder.iterdir())
            time.sleep(0.1)
        assert recorder.is_complete(montage.acquisition_id)


def test_what_nobody_heard_is_found_beside_the_frames(
    settings: Settings, session: Bus, imaged: Any
) -> None:
    before = imaged.ImagedMontage(settings.home / "frames", "m1", tiles=3)
    before.image()
    before.complete()
    half_received = imaged.ImagedMontage(settings.home / "frames", "m2", tiles=4)
    with buffer_on(settings):
        wait_for_queue(session, 3)
        half_received.image_tile(half_received.tile_ids[0], session.publish)
        for tile_id in half_received.tile_ids[1:]:
            half_received.image_tile(tile_id)
        half_received.complete(session.publish)
        wait_for_queue(session, 7)
    with buffer_on(settings):
        wait_for_queue(session, 7)
    with closing(Journal(settings.home / "buffer" / "journal.sqlite")) as journal:
        assert len(journal.open_ids()) == 2


def test_more_than_waits_in_memory_is_read_from_the_ledger_at_the_start(
    settings: Settings, session: Bus, imaged: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits is bounded since round3 1.3.1: it must not hold up the start."""
    monkeypatch.setattr(service, "WAITING", 1)
    montage = imaged.ImagedMontage(settings.home / "frames", "m1", tiles=4)
    messages: list[Message] = []

    def record(topic: str, **fields: Any) -> None:
        body = fitting(topic, fields).model_dump(mode="json")
        messages.append(Message(topic, body, {"sent_at": "1000"}))

    montage.image(record)
    montage.process(record)
    with ledger_of(settings) as recorder:
        recorder.append_all(messages)
    with buffer_on(settings):
        deadline = time.monotonic() + 60
        with closing(Journal(settings.home / "buffer" / "journal.sqlite")) as noted:
            while len(noted.notes(montage.acquisition_id)) < 4:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_two_buffers_do_not_work_in_one_home(tmp_path: Path) -> None:
    with (
        single_instance(tmp_path / "buffer", "buffer"),
        pytest.raises(ConfigError, match="another process works"),
        single_instance(tmp_path / "buffer", "buffer"),
    ):
        pass
    with single_instance(tmp_path / "buffer", "buffer"):
        pass


def test_a_thread_that_has_ended_ends_the_process(settings: Settings) -> None:
    with ExitStack() as stack:
        journal = stack.enter_context(closing(Journal(settings.home / "j.sqlite")))
        bus = stack.enter_context(Bus(settings.broker, "buffer"))
        bus.connect()
        service = BufferService(bus, journal, settings)
        service.tick()
        service.close()  # Its threads have ended, for whatever reason.
        with pytest.raises(PlatformError, match="'buffer journal' has ended"):
            service.tick()
