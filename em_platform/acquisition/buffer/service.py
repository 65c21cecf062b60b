"""The process of the buffer."""

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from em_platform.acquisition.buffer.aloha_client import AlohaClient
from em_platform.acquisition.buffer.backlog import write_backlog
from em_platform.acquisition.buffer.freeing import Freer
from em_platform.acquisition.buffer.intake import (
    NOTED,
    OF_A_MONTAGE,
    TOPICS,
    Intake,
    Reader,
)
from em_platform.acquisition.buffer.journal import Journal
from em_platform.acquisition.buffer.uploading import Uploader
from em_platform.acquisition.frame_paths import frames_folder
from em_platform.acquisition.recorder import ledger_of
from em_platform.acquisition.recorder.consumer import Consumer
from em_platform.acquisition.recorder.events import (
    COMPLETE,
    KEPT_ACQUISITIONS,
    Message,
    safe_id,
)
from em_platform.acquisition.recorder.reconcile import Reconciliation, scan_folder
from em_platform.config import Settings
from em_platform.errors import PlatformError, is_own_fault
from em_platform.messaging.bus import Bus
from em_platform.messaging.service import run_service
from em_platform.processes.single_instance import single_instance
from em_platform.storage.own_faults import OwnFaults
from em_platform.storage.tokens import token_of

log = logging.getLogger(__name__)

_COMMIT_AT_MOST = 500  # Bounds what a failed commit has to try again
WAITING = 5000  # messages in memory; the bus keeps the others, and counts them
_RETRY_S = 1.0
_RECONCILE_S = 30.0  # Seldom: only what the bus lost is found by it
_END_S = 10.0  # An upload under way may end; else it is sent again after the start


def run(settings: Settings, *, name: str) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises
    ------
    ConfigError
        Another buffer works in this home.
    """
    folder = settings.home.absolute() / "buffer"
    with (
        single_instance(folder, "buffer"),
        closing(Journal(folder / "journal.sqlite")) as j,
    ):
        run_service(
            name,
            settings.broker,
            setup=lambda bus: BufferService(bus, j, settings),
        )


class BufferService:
    """Receives, reads, uploads and frees, each in a thread of its own.

    What came while the journal could not be written waits. The folder of frames is
    reconciled at the start, after the broker was away, and every half minute; what was
    measured and judged while the buffer was down comes from the ledger.
    """

    def __init__(self, bus: Bus, journal: Journal, settings: Settings) -> None:
        self._bus = bus
        self._journal = journal
        self._home = settings.home.absolute()
        self._frames = frames_folder(settings)
        self._waiting: queue.Queue[Message | None] = queue.Queue(WAITING)
        self._stop = threading.Event()
        self._faults = OwnFaults("buffer")
        self._intake = Intake(journal, self._frames)
        self._reconciliation = Reconciliation(
            bus,
            self._frames,
            self._reconcile,
            who="buffer",
            every_s=_RECONCILE_S,
        )
        self._consumer = Consumer(
            settings,
            "buffer",
            (*NOTED, *OF_A_MONTAGE),
            self._receive,
            is_known=lambda topic, tile_id: (
                bool(tile_id) and journal.has_note(topic, tile_id)
            ),
        )
        self._backlog: str | None = None
        acquisition = settings.acquisition
        self._client = client_of(settings)
        self._uploader = Uploader(
            journal, self._client, acquisition, frames=self._frames, stop=self._stop
        )
        self._freer = Freer(
            journal,
            acquisition.buffer,
            frames=self._frames,
            recorded=partial(_recorded, settings),
        )
        writer = threading.Thread(
            target=self._write, name="buffer journal", daemon=True
        )
        # Before anything comes, which may be more than waits in memory.
        writer.start()
        # first: what came during the look would else wait for the next one
        bus.subscribe_many(TOPICS, self._receive)
        self._reconciliation.look()
        self._consumer.resume(KEPT_ACQUISITIONS)
        chores = [
            # soonest: a frame just saved is in memory yet
            self._chore("reads", Reader(journal).tick, every_s=0.1),
            self._chore("uploads", self._uploader.tick, every_s=0.2),
            self._chore("frees", self._freer.tick, every_s=1.0),
        ]
        for thread in chores:
            thread.start()
        self._threads = [writer, *chores]

    def tick(self) -> None:
        """Say how much waits, and why; reconcile when it is due.

        Raises
        ------
        PlatformError
            A thread has ended by a fault of its own; the supervisor starts all anew.
        """
        for thread in self._threads:
            if not thread.is_alive():
                raise PlatformError(
                    f"buffer: the thread {thread.name!r} has ended, it was expected to "
                    "work; see the log before this line, and report it"
                )
        self._reconciliation.tick()
        self._consumer.tick()
        waiting = self._journal.queue_length()
        self._report_backlog()
        self._bus.publish(
            "buffer.status",
            queue_length=waiting,
            free_space=self._freer.free_bytes(),
            upload_rate=self._uploader.rate.bits_per_s(),
        )

    def _report_backlog(self) -> None:
        """Leave word of what is in the way, as far as it is not always the same."""
        # a copy: the uploads' thread changes it
        sentence = next(iter(list(self._uploader.backlog.values())), "")
        if sentence != self._backlog:
            write_backlog(self._home, sentence)
            self._backlog = sentence

    def close(self) -> None:
        """Write what has come, and end; what is being sent is sent again later."""
        self._stop.set()
        # behind all that waits: `_write` ends with it
        self._waiting.put(None)
        for thread in self._threads:
            thread.join(_END_S)
        self._client.close()
        self._consumer.close()

    def _receive(self, message: Any, headers: Mapping[str, str]) -> None:
        self._waiting.put(
            Message(headers["topic"], message.model_dump(mode="json"), headers)
        )

    def _write(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while len(batch) < _COMMIT_AT_MOST and not self._waiting.empty():
                batch.append(self._waiting.get())
            messages = [each for each in batch if each is not None]
            self._record_messages(messages)
            if None in batch:
                return

    def _record_messages(self, messages: list[Message]) -> None:
        """Write all, however long the journal cannot be written."""
        while messages:
            try:
                # frames first: the end gives each tile its acquisition
                self._intake.note([*self._missed_frames(messages), *messages])
            except Exception as error:
                if not is_own_fault(error):
                    raise
                if self._stop.wait(self._faults.pause_s(error)):
                    log.error("buffer: %d messages could not be noted", len(messages))
                    return
            else:
                self._faults.over()
                return

    def _missed_frames(self, messages: list[Message]) -> list[Message]:
        """Frames that the bus did not bring, of the montages that have ended."""
        ended = {s.body["montage_id"] for s in messages if s.topic == COMPLETE}
        # An id that is no name of a folder has no folder.
        return [
            found
            for montage_id in ended
            if safe_id(montage_id) == montage_id
            for found in self._on_disk(self._frames / montage_id)
            if found.topic != COMPLETE
        ]

    def _on_disk(self, folder: Path) -> list[Message]:
        return scan_folder(
            folder,
            recorded=self._journal.tile_ids(folder.name),
            is_complete=lambda key: self._journal.montage(safe_id(key)) is not None,
        )

    def _reconcile(self, folder: Path) -> int:
        found = self._on_disk(folder)
        self._intake.note(found)
        return len(found)

    def _chore(
        self, what: str, act: Callable[[], None], *, every_s: float
    ) -> threading.Thread:
        """Give a thread that does one thing again and again until the end."""

        def work() -> None:
            faults, pause_s = OwnFaults(f"buffer: what {what}"), every_s
            while not self._stop.wait(pause_s):
                pause_s = every_s
                try:
                    act()
                except Exception as error:  # the other chores and the next try go on
                    if isinstance(error, PlatformError) or is_own_fault(error):
                        pause_s = faults.pause_s(error)
                    else:
                        log.exception("buffer: what %s failed", what)
                        pause_s = _RETRY_S
                else:
                    faults.over()

        return threading.Thread(target=work, name=f"buffer {what}", daemon=True)


def client_of(settings: Settings) -> AlohaClient:
    """Speaks to the aloha that the settings name."""
    aloha, buffer = settings.aloha, settings.acquisition.buffer
    return AlohaClient(
        buffer.url or f"http://{aloha.host}:{aloha.port}",
        token_of(settings.home, "aloha", aloha.token.get_secret_value()),
        timeout_s=buffer.timeout_s,
        parallel=buffer.parallel,
    )


def _recorded(
    settings: Settings, montage_id: str, acquisition_id: str
) -> frozenset[str]:
    with ledger_of(settings) as recorder:
        if not recorder.is_complete(acquisition_id):
            return frozenset()
        return frozenset(recorder.tile_ids(montage_id))
