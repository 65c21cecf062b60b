"""Services restarted at random moments: same verdicts, same fit, same uploads."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from em_platform.acquisition.buffer.journal import Journal
from em_platform.acquisition.buffer.service import BufferService
from em_platform.acquisition.montage_fit.growing import as_montage, tile_matches
from em_platform.acquisition.qc.service import QcService
from em_platform.aloha.acquisitions import Acquisitions
from em_platform.aloha.app import make_app
from em_platform.config import AlohaSettings, Settings, SolveSettings
from em_platform.messaging.bus import Bus
from em_platform.model import AcquisitionUpload, Size
from em_platform.stitching.solve import solve_montage
from em_platform.storage import layout, open_store
from em_platform.temdb.app import create_app
from em_platform.temdb.database import Database, migrate
from em_platform.temdb.register import Register

pytestmark = pytest.mark.timeout(400)

TILES = 9
Verdict = tuple[bool, list[dict[str, Any]]]
"""Whether a tile passed, and its faults."""
Verdicts = dict[str, Verdict]
Places = dict[str, tuple[float, float]]
Start = Callable[[], AbstractContextManager[Any]]


@contextmanager
def ticking(service: Any) -> Iterator[Any]:
    """Run the ticks of a service in a thread for a block."""
    stop = threading.Event()

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


@contextmanager
def live_qc(settings: Settings) -> Iterator[QcService]:
    """A quality control for a block."""
    with Bus(settings.broker, "qc") as bus:
        bus.connect(5.0)
        with closing(QcService(bus, settings)) as service, ticking(service):
            yield service


@contextmanager
def live_buffer(settings: Settings) -> Iterator[BufferService]:
    """A buffer for a block."""
    folder = settings.home / "buffer"
    with (
        closing(Journal(folder / "journal.sqlite")) as journal,
        Bus(settings.broker, "buffer") as bus,
    ):
        bus.connect(5.0)
        with closing(BufferService(bus, journal, settings)) as service:
            with ticking(service):
                yield service


@pytest.fixture
def serve_aloha(served) -> Iterator[Callable[[Path], str]]:
    """Serve an aloha with a store and a TEM DB of its own, and give its address."""
    with ExitStack() as stack:

        def serve(home: Path) -> str:
            url = f"sqlite:///{home / 'temdb.sqlite'}"
            home.mkdir()
            migrate(url)
            database = stack.enter_context(closing(Database(url)))
            temdb = stack.enter_context(served(create_app(database, "secret")))
            settings = AlohaSettings(min_free_gb=0, chunk_px=128)
            acquisitions = Acquisitions(
                home / "aloha",
                open_store(str(home / "data")),
                Register(temdb, "secret"),
                settings,
            )
            stack.callback(acquisitions.journal.close)
            app = make_app(
                acquisitions,
                token="token",
                settings=settings,
                waiters=stack.enter_context(ThreadPoolExecutor(2)),
                workers=stack.enter_context(ThreadPoolExecutor(2)),
            )
            return str(stack.enter_context(served(app)))

        yield serve


def uploaded_tiles(home: Path) -> list[dict[str, Any]]:
    """All that aloha knows of the tiles: checksum, figures, matches and verdict."""
    store = open_store(str(home / "data"))
    record = store.read(layout.upload("m-1"), AcquisitionUpload)
    assert record.failures == ()
    return [tile.model_dump(exclude={"uri"}) for tile in record.tiles]


class Session:
    """Services that can be restarted one by one, and the verdicts that they publish."""

    def __init__(self, stack: ExitStack, bus: Bus, starts: dict[str, Start]) -> None:
        self.verdicts: Verdicts = {}
        self.published: list[tuple[str, Verdict]] = []
        self.services: dict[str, Any] = {}
        self._starts = starts
        self._open = {name: stack.enter_context(ExitStack()) for name in starts}
        bus.subscribe("qc.tile", self._take)
        for name in starts:
            self.start(name)

    def _take(self, message: Any, _: Any) -> None:
        # A verdict may come twice, when it was published and not yet recorded.
        faults = [fault.model_dump() for fault in message.faults or ()]
        self.published.append((message.tile_id, (message.passed, faults)))
        self.verdicts[message.tile_id] = (message.passed, faults)

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
def session(
    image, changed, live_recorder, live_pipeline, live_fit, open_bus, serve_aloha
):
    """Image one montage; restart the services at moments that `chance` picks."""

    def run(
        settings: Settings, home: Path, chance: random.Random | None
    ) -> tuple[Verdicts, Places, list[dict[str, Any]]]:
        aloha = serve_aloha(home)
        own = {"home": str(home), "acquisition.buffer.url": aloha}
        settings = changed(settings, own)
        imaged = image(settings)
        bus = open_bus("coordinator")
        with live_recorder(settings), ExitStack() as stack:
            starts: dict[str, Start] = {
                "pipeline": lambda: live_pipeline(settings, home),
                "qc": lambda: live_qc(settings),
                "montage_fit": lambda: live_fit(settings),
                "buffer": lambda: live_buffer(settings),
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
            record = home / "data" / layout.upload("m-1")
            wait(record.is_file, lambda: sorted((home / "buffer").iterdir()))
            # None is taken back.
            assert all(live.verdicts[tile] == found for tile, found in live.published)
            return live.verdicts, places(fit), uploaded_tiles(home)

    return run


def test_restarts_at_random_moments_change_neither_verdicts_nor_fit_nor_uploads(
    settings, changed, session, tmp_path
) -> None:
    settings = changed(
        settings,
        {
            "acquisition.qc.tile_wait_s": 3.0,
            "acquisition.simulation.blank": "2:2",
            "acquisition.buffer.statistics_wait_s": 120.0,
            "acquisition.buffer.retry_s": 0.05,
            "aloha.token": "token",
        },
    )
    verdicts, fitted, uploaded = session(settings, tmp_path / "calm", None)
    assert sum(not passed for passed, _ in verdicts.values()) == 1
    assert sum(tile["passed"] is False for tile in uploaded) == 1
    assert all(tile["statistics"] for tile in uploaded)
    for seed in (1, 2):
        home = tmp_path / f"restarted-{seed}"
        again, refitted, sent = session(settings, home, random.Random(seed))
        assert again == verdicts
        assert sent == uploaded
        for tile_id, (y_px, x_px) in fitted.items():
            assert refitted[tile_id] == pytest.approx((y_px, x_px), abs=0.1)
