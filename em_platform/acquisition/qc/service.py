"""Live quality control: judges every tile once, and publishes what the scope is to do.

The bus brings what is to be judged, at once; the ledger the same again, with what the
bus did not bring. What is known of a montage after a restart is what the ledger has.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from em_platform.acquisition.frame_paths import frames_folder, owner_of
from em_platform.acquisition.qc import parts
from em_platform.acquisition.qc.judge import Centroids
from em_platform.acquisition.qc.verdict import (
    GOOD,
    State,
    Status,
    Verdict,
    read_state,
    write_state,
)
from em_platform.acquisition.qc.watch import MontageJudge
from em_platform.acquisition.recorder.consumer import SEQUENCE, Consumer
from em_platform.acquisition.recorder.events import (
    CENTROID,
    COMPLETE,
    RAW,
    REGION,
    RUN,
    STATUS,
    VERDICT,
    safe_id,
)
from em_platform.config import Settings
from em_platform.errors import BrokerUnavailable, MessageRejected, StorageError
from em_platform.messaging.bus import Bus
from em_platform.messaging.topics import Body
from em_platform.storage.own_faults import OwnFaults

log = logging.getLogger(__name__)

TICK_S = 0.1  # Small against the second in which qc.status is repeated
_WATCHES = 3  # late messages of the acquisitions before still find theirs
_ADOPTED = 50  # stops of others that are recognised after a restart
_RECEIVED = 1000  # messages that are recognised when they come again by the ledger
_SILENT_WAITS = 4.0  # times the wait for a tile: then the pipeline is missed
_TOPICS = (RAW, *parts.TOPICS, COMPLETE, STATUS, RUN, REGION, CENTROID)


class QcService:
    """Feeds the watches from the bus; one handler, so that nothing overtakes."""

    def __init__(self, bus: Bus, settings: Settings, *, name: str = "qc") -> None:
        self._bus, self._name = bus, name
        self._settings = settings
        self._folder = Path(settings.home).absolute() / "qc"
        # Reentrant: `_resume` holds it while the ledger calls `_on_message`.
        self._lock = threading.RLock()
        self._state = read_state(self._folder)
        self._watches: dict[str, MontageJudge] = {}
        self._centroids = Centroids(settings.stitching.quality)
        self._unsent: deque[tuple[str, Body]] = deque()
        self._sent_s = 0.0
        self._is_resuming = False
        self._resumed = GOOD  # the worst since the operator's last start
        self._received: deque[str] = deque(maxlen=_RECEIVED)
        self._reconnects = bus.reconnects
        self._frames = frames_folder(settings)
        self._measured: set[str] = set()
        self._faults, self._save_due_s = OwnFaults("qc"), math.inf
        self._consumer = Consumer(
            settings,
            name,
            (*_TOPICS, VERDICT),
            self._on_message,
            is_known=self._is_known,
        )
        # The bus before the ledger: nothing falls in between.
        bus.subscribe_many(_TOPICS, self._on_message)
        self._resume()

    def tick(self) -> None:
        """Publish the verdict when it is due; judge what waits in vain for parts."""
        now_s = time.monotonic()
        self._consumer.tick()
        self._measure_missed(now_s)
        with self._lock:
            if self._reconnects != self._bus.reconnects:
                self._reconnects = self._bus.reconnects
                for watch in self._watches.values():
                    # What was published meanwhile was published to nobody.
                    watch.doubt_all()
            for watch in self._watches.values():
                for tile_id in watch.overdue(now_s):
                    announced = watch.pending[tile_id].is_announced
                    if announced or tile_id in self._measured:
                        self._judge(watch, tile_id)
                self._judge_ready(watch)
            if now_s >= self._save_due_s:
                self._save()
            if now_s - self._sent_s >= self._settings.acquisition.qc.period_s - TICK_S:
                self._queue_verdict()
            self._publish()

    def close(self) -> None:
        """Close the ledger."""
        self._consumer.close()

    def _on_message(self, message: Any, headers: Mapping[str, str]) -> None:
        topic = headers["topic"]
        with self._lock:
            if topic in parts.TOPICS or topic in (RAW, VERDICT):
                if message.montage_id:  # else a frame for the operator's screen
                    self._on_tile(topic, message, headers)
            elif self._is_new(headers):
                self._on_session(topic, message, headers)
            self._publish()

    def _is_new(self, headers: Mapping[str, str]) -> bool:
        """Whether it came the first time: a stop may have been lifted since."""
        sending = _sending(headers)
        if sending and sending in self._received:
            return False
        if sending:
            self._received.append(sending)
        return True

    def _on_session(self, topic: str, message: Any, headers: Mapping[str, str]) -> None:
        if topic == COMPLETE:
            self._on_complete(message)
        elif topic == STATUS:
            self._on_status(message, headers)
        elif topic == RUN:
            self._on_run(message)
        else:
            self._worsen(self._centroids.take(topic, message), by=self._name)

    def _resume(self) -> None:
        """Read the last acquisitions; judge what is complete and has no verdict."""
        with self._lock:
            self._is_resuming = True
            self._consumer.resume(_WATCHES)
            self._is_resuming = False
            for watch in self._watches.values():
                watch.doubt_all()
                self._judge_ready(watch)
            self._worsen(self._resumed, by=self._name)

    def _is_known(self, topic: str, tile_id: str) -> bool:
        """Whether a tile has its last verdict; of other topics each message is read."""
        if not tile_id:
            return False
        return any(watch.is_settled(tile_id) for watch in self._watches.values())

    def _on_tile(self, topic: str, message: Any, headers: Mapping[str, str]) -> None:
        fields = parts.fields_of(message)
        watch = self._watch_of(fields["tile_id"], fields["montage_id"])
        if topic == VERDICT:
            self._on_verdict(watch, fields, message)
        elif topic == RAW and SEQUENCE in headers:
            # What has been published of it since may be missed.
            watch.expect(fields, time.monotonic())
        elif topic == RAW:
            watch.announce(fields, time.monotonic())
        else:
            self._add(watch, fields, parts.TOPICS[topic](message))

    def _on_verdict(self, watch: MontageJudge, fields: Body, message: Any) -> None:
        """Our own, published before a restart: it stands."""
        watch.expect(fields, time.monotonic())
        if watch.is_settled(fields["tile_id"]):
            return
        faults = {
            fault.fault_type: {
                "severity": fault.severity,
                "confidence": fault.confidence,
                "metrics": dict(fault.metrics),
            }
            for fault in message.faults
        }
        verdict = watch.adopt(fields["tile_id"], faults)
        self._worsen(verdict, by=self._name)

    def _add(self, watch: MontageJudge, fields: Body, part: parts.Part) -> None:
        pending = watch.take(fields, part, time.monotonic())
        if pending is None or self._is_resuming:
            return
        if pending.is_whole or pending.is_unreadable:
            self._judge_ready(watch)

    def _measure_missed(self, now_s: float) -> None:
        """One tile a tick, outside of the lock: what comes meanwhile goes before."""
        with self._lock:
            found = [
                (watch, pending.fields)
                for watch in self._watches.values()
                for pending in watch.missed(now_s)
                if pending.fields["tile_id"] not in self._measured
            ][:1]
        for watch, fields in found:
            part = parts.measure_frame(self._frames, fields)
            # Also where there is no frame: it is looked for once.
            self._measured.add(fields["tile_id"])
            with self._lock:
                if part is not None and fields["tile_id"] in watch.pending:
                    self._add(watch, fields, part)

    def _on_complete(self, message: Any) -> None:
        """Every tile of the list gets a verdict, announced or not."""
        now_s = time.monotonic()
        for tile_id, tile in message.tiles.items():
            watch = self._watch_of(tile_id, message.montage_id)
            column, row = tile.raster_position
            fields = {
                "tile_id": tile_id,
                "montage_id": message.montage_id,
                "row": row,
                "column": column,
                "overlap": 0,  # montage.complete does not have it
                "stage_position": list(tile.stage_position),
            }
            watch.expect(fields, now_s)
            watch.is_complete = True
        self._worsen(self._centroids.take_complete(message), by=self._name)

    def _on_status(self, message: Any, headers: Mapping[str, str]) -> None:
        """Adopt a stop that another service asks for, once."""
        service = headers.get("service", "")
        if service == self._name or message.status == Status.GOOD:
            return
        sending = _sending(headers)
        if sending and sending in self._state.adopted:
            return  # sent twice; it may have been lifted in between
        adopted = (*self._state.adopted, sending)[-_ADOPTED:]
        self._state = self._state.model_copy(update={"adopted": adopted})
        reason = message.reason or f"{service or 'another service'} gave no reason."
        self._worsen(
            Verdict(status=Status(message.status), reason=reason),
            by=service or "unknown",
        )

    def _on_run(self, message: Any) -> None:
        """The operator resumes: verdicts from before do not count any more."""
        if not (message.start or message.resume or message.retry):
            return
        for watch in self._watches.values():
            watch.forgive()
        if self._is_resuming:  # whether it lifted the stop that stands is not known
            self._resumed = GOOD
            return
        if message.start:
            self._centroids.forget()
        if self._state.verdict.status is not Status.GOOD:
            log.info("qc: the stop was lifted by the operator")
        self._state = State(verdict=GOOD, adopted=self._state.adopted)
        self._save()
        self._queue_verdict()

    def _watch_of(self, tile_id: str, montage_id: str) -> MontageJudge:
        own = safe_id(owner_of(tile_id, montage_id))
        if own not in self._watches:
            self._watches[own] = MontageJudge(
                own,
                settings=self._settings.acquisition.qc,
                limits=self._settings.stitching.quality,
            )
            for old in list(self._watches)[:-_WATCHES]:
                del self._watches[old]
        return self._watches[own]

    def _judge_ready(self, watch: MontageJudge) -> None:
        for tile_id in watch.ready(time.monotonic()):
            self._judge(watch, tile_id)

    def _judge(self, watch: MontageJudge, tile_id: str) -> None:
        judgement = watch.judge(tile_id)
        if judgement.faults:
            log.info("qc: tile %s: %s", tile_id, ", ".join(judgement.faults))
        self._unsent.append((VERDICT, judgement.fields))
        # A stop is kept before the verdict on the tile is out: with that in the ledger
        # the tile is not judged again after a kill.
        self._worsen(judgement.verdict, by=self._name)
        self._publish()

    def _worsen(self, verdict: Verdict, *, by: str) -> None:
        if self._is_resuming:
            self._resumed = self._resumed.worse(verdict)
            return
        worse = self._state.verdict.worse(verdict)
        if worse == self._state.verdict:
            return
        log.warning("qc: %s by %s: %s", worse.status, by, worse.reason)
        self._state = self._state.model_copy(update={"verdict": worse, "by": by})
        self._save()
        self._queue_verdict()

    def _save(self) -> None:
        """Keep the verdict, which is published whether the disk takes it or not."""
        try:
            write_state(self._folder, self._state)
        except StorageError as error:
            self._save_due_s = time.monotonic() + self._faults.pause_s(error)
        else:
            self._save_due_s = math.inf
            self._faults.over()

    def _queue_verdict(self) -> None:
        """Put the verdict into the queue of what is to be published."""
        self._sent_s = time.monotonic()
        verdict = self._state.verdict
        reason = verdict.reason or self._silence()
        # An older verdict that could not be sent does not matter any more.
        self._unsent = deque(each for each in self._unsent if each[0] != STATUS)
        self._unsent.append(
            (STATUS, {"status": verdict.status.value, "reason": reason or None})
        )

    def _silence(self) -> str:
        """A hint where frames are announced and nothing comes of the pipeline."""
        limit_s = _SILENT_WAITS * self._settings.acquisition.qc.tile_wait_s
        now_s = time.monotonic()
        silent = sum(
            pending.is_announced
            and pending.is_silent
            and now_s - pending.since_s > limit_s
            for watch in self._watches.values()
            for pending in watch.pending.values()
        )
        if silent:
            return (
                f"Nothing came about {silent} tiles for {limit_s:.0f} s, so that they "
                "are not judged; see that the pipeline runs."
            )
        late = sum(len(watch.late) for watch in self._watches.values())
        if not late:
            return ""
        return (
            f"The figures of {late} tiles have not come; they are judged again when "
            "they do. See that the pipeline runs."
        )

    def _publish(self) -> None:
        """Publish what waits; what the broker's absence stops is sent later."""
        while self._unsent:
            topic, fields = self._unsent[0]
            # `publish` would wait for the broker, and all handlers for the lock.
            if not self._bus.connected:
                return
            try:
                self._bus.publish(topic, **fields)
            except BrokerUnavailable as error:
                log.warning("%s", error)
                return
            # It would be rejected for ever, and hold up what follows.
            except MessageRejected as error:
                log.error("%s", error)
            self._unsent.popleft()


def _sending(headers: Mapping[str, str]) -> str:
    """Equal for a message that comes twice, by the bus and by the ledger."""
    sequence = headers.get("sequence", "")
    return f"{headers.get('source', '')} {sequence}" if sequence else ""
