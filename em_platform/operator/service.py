"""The operator's page as a process: bus, disk, Dagster's results, HTTP."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from em_platform.acquisition.buffer.backlog import read_backlog
from em_platform.acquisition.frame_paths import frames_folder
from em_platform.config import Settings
from em_platform.errors import BrokerUnavailable, SourceUnavailable, is_own_fault
from em_platform.messaging.bus import Bus
from em_platform.operator.api import application
from em_platform.operator.finished import result_of
from em_platform.operator.modes import SETUP
from em_platform.operator.shared_board import SharedBoard
from em_platform.operator.snapshot import (
    fill_map,
    find_finished,
    keep_or_complain,
    restore,
)
from em_platform.processes.web import serve
from em_platform.storage.own_faults import OwnFaults, read_troubles

log = logging.getLogger(__name__)

_SEND_TIMEOUT_S = 3.0  # an operator waits no longer to learn that a stop failed
_LOOK_S = 0.5  # so soon the page shows that the broker is gone
_KEEP_S = 5.0  # of what is shown a crash may lose so much; each write is a whole file
_RESULTS_S = 5.0  # stitching takes minutes: soon enough, and light on the web UI
_ASKED = 5  # montages, each time


def serve_page(settings: Settings, *, name: str) -> None:
    """Serve the page until SIGTERM; without a broker it shows so and waits for one."""
    chosen = settings.acquisition.operator
    with Bus(settings.broker, name, send_timeout_s=_SEND_TIMEOUT_S) as bus:
        shared = SharedBoard(bus, control_timeout_s=chosen.control_timeout_s)
        keeper = Keeper(shared, bus, settings)
        try:
            app = application(shared, settings, about=_about(settings, name))
            serve(
                app,
                name=name,
                host=chosen.host,
                port=chosen.port,
                trusted_proxies=settings.web.trusted_proxies,
            )
        finally:
            keeper.close()


class Keeper:
    """Keeps the board true beside the messages: broker, disk, results, control."""

    def __init__(self, shared: SharedBoard, bus: Bus, settings: Settings) -> None:
        self._shared = shared
        self._bus = bus
        self._frames = frames_folder(settings)
        self._home = Path(settings.home).absolute()
        self._memory = self._home / "operator" / "board.json"
        self._broker = f"{settings.broker.host}:{settings.broker.port}"
        self._web = f"http://{settings.web.host}:{settings.web.port}"
        # -1 is no number of reconnects: the first look fills the map.
        self._filled: tuple[str, str, int] = ("", "", -1)
        self._kept_at, self._kept_version = time.monotonic(), 0
        self._troubled: dict[str, tuple[str, ...]] = {}
        self._stopping = threading.Event()
        with shared.locked() as board:
            restore(board, self._memory)
        find_finished(shared, self._frames)  # before the messages, which are newer
        bus.subscribe_many(shared.topics, shared.receive)
        self._connect()
        self._threads = [
            self._start("tending", self._look, _LOOK_S),
            self._start("results", self._ask_for_results, _RESULTS_S),
        ]

    def close(self) -> None:
        """End the threads, and write down what is shown."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=15.0)  # longer than a request to the web UI lasts
        keep_or_complain(self._shared, self._memory)

    def _start(
        self, name: str, work: Callable[[], None], pause_s: float
    ) -> threading.Thread:
        def run() -> None:
            faults, wait_s = OwnFaults(f"operator: {name}"), pause_s
            while not self._stopping.wait(wait_s):
                wait_s = pause_s
                try:
                    work()
                except Exception as error:  # one failure must not end the looking
                    if is_own_fault(error):
                        wait_s = faults.pause_s(error)
                    else:
                        log.exception("operator: %s failed", name)
                else:
                    faults.over()

        thread = threading.Thread(target=run, name=f"operator {name}", daemon=True)
        thread.start()
        return thread

    def _connect(self) -> None:
        """Begin to connect; the bus goes on by itself."""
        try:
            self._bus.connect(_LOOK_S)
        except BrokerUnavailable as error:
            log.warning("%s", error)
        self._show_broker()

    def _look(self) -> None:
        self._show_broker()
        self._show_upload()
        self._show_troubles()
        self._shared.control.expire()
        with self._shared.locked() as board:
            montage = board.parts.get("montage") or {}
            # the page was started in the middle of a montage
            if montage.get("state") in ("started", "in_progress") and (
                not board.map.montage_id
            ):
                board.map.montage_id = montage["montage_id"]
            shown = (
                board.map.montage_id,
                board.map.acquisition_id,
                self._bus.reconnects,
            )
            version = board.parts.version
        # another montage, or messages missed while the broker was away
        if shown != self._filled:
            fill_map(self._shared, self._frames)
            self._filled = shown
        late = time.monotonic() - self._kept_at > _KEEP_S
        if late and version != self._kept_version:
            self._kept_at, self._kept_version = time.monotonic(), version
            keep_or_complain(self._shared, self._memory)

    def _show_broker(self) -> None:
        connected = self._bus.connected
        with self._shared.locked() as board:
            before = board.parts.get("broker")
            if before and before["connected"] == connected:
                return
            board.parts.put(
                "broker",
                {
                    "connected": connected,
                    "address": self._broker,
                    "since": self._shared.now(),
                },
            )
            if before or not connected:
                words = "is back" if connected else "does not answer"
                text = f"The broker at {self._broker} {words}"
                board.log("broker", text, self._shared.now())

    def _show_upload(self) -> None:
        """Show what blocks the upload, which no message reports."""
        sentence = read_backlog(self._home)
        with self._shared.locked() as board:
            before = (board.parts.get("upload") or {}).get("blocked", "")
            if sentence == before:
                return
            board.parts.put("upload", {"blocked": sentence})
            text = (
                f"The upload waits: {sentence}" if sentence else "The upload continues"
            )
            board.log("upload" if not sentence else "error", text, self._shared.now())

    def _show_troubles(self) -> None:
        """Log which service cannot go on for now, which no message reports."""
        troubles = read_troubles(self._home)
        with self._shared.locked() as board:
            for service in troubles.keys() - self._troubled.keys():
                board.log("error", troubles[service][0], self._shared.now())
            for service in self._troubled.keys() - troubles.keys():
                board.log("service", f"{service} goes on", self._shared.now())
        self._troubled = troubles

    def _ask_for_results(self) -> None:
        with self._shared.locked() as board:
            asked = board.finished.to_ask(_ASKED)
        for acquisition_id in asked:
            try:
                result = result_of(self._web, acquisition_id)
            except SourceUnavailable as error:
                # Not a warning: without a web UI it would be one every 5 s.
                log.debug("%s", error)
                return
            with self._shared.locked() as board:
                if result and board.finished.set_run(acquisition_id, result):
                    board.show_finished()


def _about(settings: Settings, name: str) -> dict[str, Any]:
    """What a page gets once."""
    acquisition = settings.acquisition
    return {
        "service": name,
        "microscope": acquisition.microscope,
        "stale_s": acquisition.operator.stale_s,
        # Several may be lost before control ends.
        "heartbeat_s": acquisition.operator.control_timeout_s / 9,
        "web": {"host": settings.web.host, "port": settings.web.port},
        "overlap_percent": round(acquisition.overlap * 100, 1),
        "rows": acquisition.rows,
        "columns": acquisition.columns,
        "setup": SETUP,
        "pixel_nm": acquisition.pixel_nm,
        "magnification": acquisition.magnification,
        "focus_limit": settings.stitching.quality.min_focus,
        "focus_relative_limit": settings.stitching.quality.min_relative_focus,
    }
