"""Services restarted at random moments of a session: same verdicts, same fit."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from em_platform.acquisition.montage_fit.growing import as_montage, tile_matches
from em_platform.acquisition.qc.service import QcService
from em_platform.config import Settings, SolveSettings
from em_platform.messaging.bus import Bus
from em_platform.model import Size
from em_platform.stitching.solve import solve_montage

pytestmark = pytest.mark.timeout(400)

TILES = 9
Verdicts = dict[str, bool]
Places = dict[str, tuple[float, float]]
Start = Callable[[], AbstractContextManager[Any]]


@contextmanager
def live_qc(settings: Settings) -> Iterator[QcService]:
    """A quality control whose ticks come from a thread."""
    stop = threading.Event()
    with Bus(settings.broker, "qc") as bus:
        bus.connect(5.0)
        service = QcService(bus, settings)

        def ticks() -> None:
            while not stop.wait(0.05):
                service.tick()

        thread = threading.Thread(target=ticks)
        thread.start()
        try:
            yield service
        finally:
            stop.set()
            thread.join(30)
            service.close()


class Session:
    """Services that can be restarted one by one, and the verdicts that they publish."""

    def __init__(self, stack: ExitStack, bus: Bus, starts: dict[str, Start]) -> None:
        self.verdicts: Verdicts = {}
        self.published: list[tuple[str, bool]] = []
        self.services: dict[str, Any] = {}
        self._starts = starts
        self._open = {name: stack.enter_context(ExitStack()) for name in starts}
        bus.subscribe("qc.tile", self._take)
        for name in starts:
            self.start(name)

    def _take(self, message: Any, _: Any) -> None:
        # A verdict may come twice, when it was published and not yet recorded.
        self.published.append((message.tile_id, message.passed))
        self.verdicts[message.tile_id] = message.passed

    def stop(self, name: str) -> None:
        self._open[name].close()

    def start(self, name: str) -> None:
        self.services[name] = self._open[name].enter_context(self._starts[name]())


def wait(until: Callable[[], bool], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 150.0
    while not until():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def places(service: Any) -> Places:
    (growing,) = service.growing.values()
    montage = as_montage(growing, Size(height_px=384, width_px=384))
    fit = solve_montage(
        montage,
        tile_matches(growing, montage),
        settings=SolveSettings(model="translation"),
    )
    return {place.tile_id: (place.y_px, place.x_px) for place in fit.placements}


@pytest.fixture
def session(image, changed, live_recorder, live_pipeline, live_fit, open_bus):
    """Image one montage; restart the services at moments that `chance` picks."""

    def run(
        settings: Settings, home: Path, chance: random.Random | None
    ) -> tuple[Verdicts, Places]:
        settings = changed(settings, {"home": str(home)})
        imaged = image(settings)
        bus = open_bus("coordinator")
        with live_recorder(settings), ExitStack() as stack:
            starts: dict[str, Start] = {
                "pipeline": lambda: live_pipeline(settings, home),
                "qc": lambda: live_qc(settings),
                "montage_fit": lambda: live_fit(settings),
            }
            live = Session(stack, bus, starts)
            down: str = ""
            for raw in imaged.raws:
                if down:
                    live.start(down)
                down = ""
                if chance and chance.random() < 0.7:
                    time.sleep(chance.random())
                    down = chance.choice(tuple(starts))
                    live.stop(down)
                # As the coordinator does: on the disk first, then on the bus.
                body = Path(raw["path"]).with_suffix(".json")
                body.write_text(json.dumps(raw))
                bus.publish("tile.raw", **raw)
                time.sleep(0.1)
            if down:
                live.start(down)
            bus.publish("montage.complete", **imaged.complete)
            wait(lambda: len(live.verdicts) == TILES, lambda: live.verdicts)
            fit = live.services["montage_fit"]
            wait(
                lambda: any(each.is_done for each in fit.growing.values()),
                lambda: fit.growing,
            )
            # None is taken back.
            assert all(live.verdicts[tile] == passed for tile, passed in live.published)
            return live.verdicts, places(fit)

    return run


def test_restarts_at_random_moments_change_neither_verdicts_nor_fit(
    settings, changed, session, tmp_path
) -> None:
    settings = changed(
        settings,
        {
            "acquisition.qc.tile_wait_s": 3.0,
            "acquisition.simulation.blank": "2:2",
        },
    )
    verdicts, fitted = session(settings, tmp_path / "calm", None)
    assert sum(not passed for passed in verdicts.values()) == 1
    for seed in (1, 2):
        home = tmp_path / f"restarted-{seed}"
        again, refitted = session(settings, home, random.Random(seed))
        assert again == verdicts
        for tile_id, (y_px, x_px) in fitted.items():
            assert refitted[tile_id] == pytest.approx((y_px, x_px), abs=0.1)
