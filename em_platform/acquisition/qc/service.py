"""Live quality control: judges every tile once, and says what the scope is to do."""

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from em_platform.acquisition.frame_paths import acquisition_of, frames_folder
from em_platform.acquisition.qc import parts
from em_platform.acquisition.qc.centroids import Centroids
from em_platform.acquisition.qc.journal import (
    State,
    line_of,
    lines_of,
    read_state,
    replay,
    write_state,
)
from em_platform.acquisition.qc.unheard import measure_frame, tiles_on_disk
from em_platform.acquisition.qc.verdict import GOOD, Status, Verdict
from em_platform.acquisition.qc.watch import Judgement, Watch
from em_platform.acquisition.recorder.events import safe_id
from em_platform.config import Settings
from em_platform.errors import BrokerUnavailable, MessageRejected
from em_platform.messaging.bus import Bus

log = logging.getLogger(__name__)

TICK_S = 0.1
_WATCHES = 3
_HEARD = 50
_SILENT_WAITS = 4.0  # times the wait for a tile: then the pipeline is missed
_TOPICS = (
    "tile.raw",
    *parts.TOPICS,
    "montage.complete",
    "qc.status",
    "ui.run",
    "roi.current",
    "calibration.centroid",
)


class QcService:
    """Feeds the watches from the bus; one handler, so that nothing overtakes."""

    def __init__(self, bus: Bus, settings: Settings, *, name: str = "qc") -> None:
        self._bus, self._name = bus, name
        self._settings = settings
        self._folder = Path(settings.home).absolute() / "qc"
        self._lock = threading.RLock()
        self._journal = lines_of(self._folder)
        self._state = read_state(self._folder)
        self._watches: dict[str, Watch] = {}
        self._centroids = Centroids(settings.stitching.quality)
        self._unsaid: deque[tuple[str, dict[str, Any]]] = deque()
        self._told_s = 0.0
        self._reconnects = bus.reconnects
        self._frames = frames_folder(settings)
        self._measured: set[str] = set()
        with self._lock:
            for acquisition_id in self._journal.acquisitions():
                self._resume(acquisition_id)
        bus.subscribe_many(_TOPICS, self._on_message)
        self._expect_from_disk()

    def tick(self) -> None:
        """Say the verdict when it is due; judge what waits in vain for its parts."""
        now_s = time.monotonic()
        self._measure_unheard(now_s)
        with self._lock:
            if self._reconnects != self._bus.reconnects:
                self._reconnects = self._bus.reconnects
                for watch in self._watches.values():
                    watch.deafened()
                self._expect_from_disk()
            for watch in self._watches.values():
                for tile_id in watch.overdue(now_s):
                    heard = watch.pending[tile_id].heard_from_start
                    if heard or tile_id in self._measured:
                        self._judge(watch, tile_id)
            if now_s - self._told_s >= self._settings.acquisition.qc.period_s - TICK_S:
                self._tell()
            self._say()

    def close(self) -> None:
        """Close the journal."""
        with self._lock:
            self._journal.close()

    def _on_message(self, message: Any, headers: Mapping[str, str]) -> None:
        topic = headers["topic"]
        with self._lock:
            if topic in parts.TOPICS or topic == "tile.raw":
                if message.montage_id:  # else a frame for the operator's screen
                    self._on_tile(topic, message)
            elif topic == "montage.complete":
                self._on_complete(message)
            elif topic == "qc.status":
                self._on_status(message, headers)
            elif topic == "ui.run":
                self._on_run(message)
            else:
                self._worsen(self._centroids.hear(topic, message), by=self._name)
            self._say()

    def _on_tile(self, topic: str, message: Any) -> None:
        fields = parts.fields_of(message)
        watch = self._watch_of(fields["tile_id"], fields["montage_id"])
        if topic == "tile.raw":
            if watch.announce(fields, time.monotonic()):
                self._journal.note(watch.acquisition_id, "raw", fields)
            return
        self._add(watch, fields, parts.TOPICS[topic](message))

    def _add(self, watch: Watch, fields: dict[str, Any], part: parts.Part) -> None:
        pending = watch.take(fields, part, time.monotonic())
        if pending is None:
            return
        self._journal.note(watch.acquisition_id, "part", fields, part)
        if pending.is_whole:
            self._judge(watch, fields["tile_id"])

    def _expect_from_disk(self) -> None:
        """Tiles of the present montage that were imaged while we were away."""
        with self._lock:
            for watch in self._watches.values():
                if watch.is_complete:
                    continue
                for fields in tiles_on_disk(self._frames, watch):
                    watch.expect(fields, time.monotonic())
                    self._journal.note(watch.acquisition_id, "expected", fields)

    def _measure_unheard(self, now_s: float) -> None:
        """One tile a tick, outside of the lock: what comes meanwhile goes before."""
        with self._lock:
            found = [
                (watch, pending.fields)
                for watch in self._watches.values()
                for pending in watch.unheard(now_s)
                if pending.fields["tile_id"] not in self._measured
            ][:1]
        for watch, fields in found:
            self._measured.add(fields["tile_id"])
            part = measure_frame(self._frames, fields)
            with self._lock:
                if part is not None and fields["tile_id"] in watch.pending:
                    self._add(watch, fields, part)

    def _on_complete(self, message: Any) -> None:
        """Every tile of the list gets a verdict, heard of or not."""
        now_s = time.monotonic()
        for tile_id, tile in message.tiles.items():
            watch = self._watch_of(tile_id, message.montage_id)
            column, row = tile.raster_position
            fields = {
                "tile_id": tile_id,
                "montage_id": message.montage_id,
                "row": row,
                "column": column,
                "overlap": 0,
                "stage_position": list(tile.stage_position),
            }
            if watch.expect(fields, now_s):
                self._journal.note(watch.acquisition_id, "expected", fields)
            if not watch.is_complete:
                watch.is_complete = True
                self._journal.note(watch.acquisition_id, "complete")
        self._worsen(self._centroids.hear_complete(message), by=self._name)

    def _on_status(self, message: Any, headers: Mapping[str, str]) -> None:
        """Adopt a stop that another service asks for, once."""
        service = headers.get("service", "")
        if service == self._name or message.status == Status.GOOD:
            return
        word = f"{headers.get('source', '')} {headers.get('sequence', '')}"
        if word.strip() and word in self._state.heard:
            return  # sent twice; it may have been lifted in between
        heard = (*self._state.heard, word)[-_HEARD:]
        self._state = self._state.model_copy(update={"heard": heard})
        reason = message.reason or f"{service or 'another service'} gave no reason."
        self._worsen(
            Verdict(status=Status(message.status), reason=reason),
            by=service or "unknown",
        )

    def _on_run(self, message: Any) -> None:
        """The operator goes on: what was said before does not count any more."""
        if not (message.start or message.resume or message.retry):
            return
        for watch in self._watches.values():
            watch.forgive()
            self._journal.note(watch.acquisition_id, "forgiven")
        if message.start:
            self._centroids.forget()
        if self._state.verdict.status is not Status.GOOD:
            log.info("qc: the stop was lifted by the operator")
        self._state = State(verdict=GOOD, heard=self._state.heard)
        write_state(self._folder, self._state)
        self._tell()

    def _watch_of(self, tile_id: str, montage_id: str) -> Watch:
        acquisition_id = acquisition_of(tile_id)
        # A tile that another system has named: all of its montage go together.
        own = acquisition_id if acquisition_id != tile_id else montage_id
        return self._watches.get(safe_id(own)) or self._resume(safe_id(own))

    def _resume(self, acquisition_id: str) -> Watch:
        """A watch that knows what the journal knows."""
        watch = Watch(
            acquisition_id,
            settings=self._settings.acquisition.qc,
            limits=self._settings.stitching.quality,
        )
        replay(self._journal, watch, time.monotonic())
        self._watches[acquisition_id] = watch
        for old in list(self._watches)[:-_WATCHES]:
            del self._watches[old]
        for tile_id in [t for t, p in watch.pending.items() if p.is_whole]:
            self._judge(watch, tile_id)
        return watch

    def _judge(self, watch: Watch, tile_id: str) -> None:
        judgement = watch.judge(tile_id)
        if judgement.faults:
            log.info("qc: tile %s: %s", tile_id, ", ".join(judgement.faults))
        self._unsaid.append(("qc.tile", judgement.fields))
        self._say()
        self._note(watch, judgement)
        self._worsen(judgement.verdict, by=self._name)

    def _note(self, watch: Watch, judgement: Judgement) -> None:
        judged = watch.judged[judgement.tile_id]
        self._journal.note(watch.acquisition_id, *line_of(judged))

    def _worsen(self, verdict: Verdict, *, by: str) -> None:
        worse = self._state.verdict.worse(verdict)
        if worse == self._state.verdict:
            return
        log.warning("qc: %s by %s: %s", worse.status, by, worse.reason)
        self._state = self._state.model_copy(update={"verdict": worse, "by": by})
        write_state(self._folder, self._state)
        self._tell()

    def _tell(self) -> None:
        """Put the verdict into the queue of what is to be said."""
        self._told_s = time.monotonic()
        verdict = self._state.verdict
        reason = verdict.reason or self._silence()
        # An older verdict that could not be said does not matter any more.
        self._unsaid = deque(said for said in self._unsaid if said[0] != "qc.status")
        self._unsaid.append(
            ("qc.status", {"status": verdict.status.value, "reason": reason or None})
        )

    def _silence(self) -> str:
        """A hint where frames are announced and the pipeline says nothing of them."""
        limit_s = _SILENT_WAITS * self._settings.acquisition.qc.tile_wait_s
        now_s = time.monotonic()
        silent = [
            pending
            for watch in self._watches.values()
            for pending in watch.pending.values()
            if pending.heard_from_start and pending.is_silent
            if now_s - pending.since_s > limit_s
        ]
        if not silent:
            return ""
        return (
            f"Nothing was heard of {len(silent)} tiles for {limit_s:.0f} s, so that "
            "they are not judged; see that the pipeline runs."
        )

    def _say(self) -> None:
        """Publish what waits; what the broker's absence stops is said later."""
        while self._unsaid:
            topic, fields = self._unsaid[0]
            if not self._bus.connected:
                return
            try:
                self._bus.publish(topic, **fields)
            except BrokerUnavailable as error:
                log.warning("%s", error)
                return
            except MessageRejected as error:
                log.error("%s", error)
            self._unsaid.popleft()
