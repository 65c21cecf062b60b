"""A coordinator in the test process, real simulated devices, and an operator."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from em_platform.acquisition.coordinator.service import CoordinatorService
from em_platform.acquisition.roi import roi_of
from em_platform.config import CoordinatorSettings, Settings
from em_platform.messaging.bus import Bus
from em_platform.simulation.devices.camera import Camera
from em_platform.simulation.devices.scope import Scope
from em_platform.simulation.devices.stage import Stage

TOPICS = (
    "state.current",
    "state.change",
    "montage.status",
    "montage.complete",
    "roi.status",
    "roi.current",
    "roi.queue.status",
    "tile.raw",
    "camera.command",
    "camera.status",
    "scope.command",
    "stage.motion.command",
    "stage.rotation.command",
    "stage.aperture.command",
)
PATIENCE_S = 40.0


class Operator:
    """Publishes what an operator does, and records all messages, in order."""

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self._bus = bus
        self._settings = settings
        self._received: list[tuple[str, Any]] = []
        self._news = threading.Condition()
        bus.subscribe_many(TOPICS, self._receive)

    def _receive(self, message: Any, headers: Any) -> None:
        with self._news:
            self._received.append((headers["topic"], message))
            self._news.notify_all()

    def publish(self, topic: str, **fields: Any) -> None:
        self._bus.publish(topic, **fields)

    def run(self, word: str) -> None:
        self._bus.publish("ui.run", **{word: True})

    def queue(
        self, montage_id: str, rows: int = 2, columns: int = 2, **fields: Any
    ) -> None:
        """Create a region of so many tiles in aperture 1."""
        made = roi_of(montage_id, 1, rows, columns, None, self._settings)
        self._bus.publish("roi.create", **{**made, **fields})

    def mark(self) -> int:
        with self._news:
            return len(self._received)

    def all(self, topic: str, *, since: int = 0) -> list[Any]:
        with self._news:
            return [
                message for name, message in self._received[since:] if name == topic
            ]

    def order(self, since: int = 0) -> list[tuple[str, Any]]:
        with self._news:
            return list(self._received[since:])

    def wait(self, topic: str, accept: Callable[[Any], bool], *, since: int = 0) -> Any:
        """The first such message since the mark; AssertionError when none comes."""
        deadline = time.monotonic() + PATIENCE_S
        with self._news:
            while True:
                for name, message in self._received[since:]:
                    if name == topic and accept(message):
                        return message
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not self._news.wait(left_s):
                    last = [(n, m) for n, m in self._received if n == topic][-3:]
                    raise AssertionError(f"no such {topic}; the last were {last}")

    def wait_state(self, part: str, *, since: int = 0) -> None:
        self.wait("state.current", lambda m: part in m.state, since=since)

    def wait_montage(self, state: str, montage_id: str = "", *, since: int = 0) -> Any:
        return self.wait(
            "montage.status",
            lambda m: m.state == state and montage_id in ("", m.montage_id),
            since=since,
        )

    def statuses(self, montage_id: str, *, since: int = 0) -> list[str]:
        """The statuses of one region in roi.status, without repetitions."""
        statuses = [
            m.status.value
            for m in self.all("roi.status", since=since)
            if m.montage_id == montage_id
        ]
        return [
            s
            for s, before in zip(statuses, [None, *statuses], strict=False)
            if s != before
        ]


@pytest.fixture
def settings(rig_settings: Settings) -> Settings:
    acquisition = rig_settings.acquisition.model_copy(
        update={
            "request_timeout_s": 1.5,
            "request_tries": 2,
            "coordinator": CoordinatorSettings(preview_s=0.0, lens_timeout_s=2.0),
        }
    )
    return rig_settings.model_copy(update={"acquisition": acquisition})


@pytest.fixture
def devices(serve: Callable[..., Any], settings: Settings) -> None:
    for kind in (Scope, Stage, Camera):
        serve(kind, settings)


@pytest.fixture
def start(
    open_bus: Callable[[str], Bus], settings: Settings
) -> Iterator[Callable[..., CoordinatorService]]:
    """Start a coordinator; all are closed after the test."""
    made: list[CoordinatorService] = []

    def begin(**own: Any) -> CoordinatorService:
        changed = settings.acquisition.coordinator.model_copy(update=own)
        acquisition = settings.acquisition.model_copy(update={"coordinator": changed})
        made.append(
            CoordinatorService(
                open_bus("coordinator"),
                settings.model_copy(update={"acquisition": acquisition}),
            )
        )
        return made[-1]

    yield begin
    for service in made:
        service.close()


@pytest.fixture
def operator(
    open_bus: Callable[[str], Bus], settings: Settings, devices: None
) -> Operator:
    return Operator(open_bus("operator"), settings)
