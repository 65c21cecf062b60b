"""Listens to a session of the microscope, and keeps what its report needs."""

import os
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from TEM_comms.roi import ROIStatus

from em_platform.acquisition.buffer.backlog import read_backlog
from em_platform.acquisition.frame_paths import acquisition_of
from em_platform.acquisition.recorder.events import is_preliminary
from em_platform.acquisition.session.montage_request import status_of
from em_platform.acquisition.session.report import (
    PER_TILE,
    LiveReport,
    MontageRun,
    TileRun,
    Wait,
    report_of,
    wait_of,
)
from em_platform.acquisition.session.run_files import RunFiles
from em_platform.config import Settings
from em_platform.messaging.bus import Bus
from em_platform.messaging.limits import sent_ms

_BLOCKED_S = 1.0  # a session that has just ended may be starting again

_TOPICS = (
    *PER_TILE,
    "montage.status",
    "montage.complete",
    "roi.status",
    "roi.queue.status",
    "qc.status",
    "ui.run",
    "state.current",
    "stage.motion.command",
    "camera.status",
    "buffer.status",
)


class SessionLog:
    """What was published of some montages since this was made; may be read at any time.

    `queue` are the entries of the coordinator's queue before a start: what had failed
    then is started again, and its failure is not news.
    """

    def __init__(
        self,
        bus: Bus,
        settings: Settings,
        montage_ids: Collection[str],
        *,
        queue: Mapping[str, ROIStatus] | None = None,
    ) -> None:
        self._failed_before = {
            (name, entry.timestamp)
            for name, entry in (queue or {}).items()
            if status_of(entry) == "failed"
        }
        self._blocked, self._blocked_s = "", 0.0
        self._failure_ahead = False
        self._was_imaging = False
        self._stop_reason = ""
        self.quiet_since_s = time.monotonic()
        self.frame_px = 0
        self._settings = settings
        self._files = RunFiles(settings)
        self._runs: dict[str, list[MontageRun]] = {m: [] for m in montage_ids}
        self._sent: set[tuple[str, str, str]] = set()
        # Of each topic and tile what came: a killed service publishes it once more.
        self._contents: set[tuple[str, str, int]] = set()
        self._stop_sent_ms: int | None = None
        self._stop_ms: float | None = None
        self._to_upload: int | None = None
        # taken again within: `_note_stop` asks for `runs`
        self._lock = threading.RLock()
        # last: a message may come before this returns
        bus.subscribe_many(_TOPICS, self._receive)

    @property
    def runs(self) -> list[MontageRun]:
        """The last run of each montage that has begun, in the order asked for."""
        with self._lock:
            return [runs[-1] for runs in self._runs.values() if runs]

    @property
    def is_settled(self) -> bool:
        """Whether every montage is imaged, judged and uploaded, or has ended.

        Those behind one that has failed do not begin before that is retried.
        """
        with self._lock:
            blocked_s = time.monotonic() - self._blocked_s if self._blocked else 0.0
            return all(
                runs[-1].is_settled if runs else blocked_s > _BLOCKED_S
                for runs in self._runs.values()
            )

    def waits_for(self) -> Wait:
        """What the first montage that is not settled waits for, and how long it may.

        Times are those after which a service itself would have given up, doubled.
        """
        with self._lock:
            name, run = next(
                (n, runs[-1] if runs else None)
                for n, runs in self._runs.items()
                if not (runs and runs[-1].is_settled)
            )
            return wait_of(name, run, self._settings.acquisition)

    def blocked(self) -> str:
        """The sentence of the buffer on what blocks the upload; empty where nothing."""
        return read_backlog(self._settings.home.absolute())

    def look(self) -> None:
        """See on disk and in the store what no message brings, or one was missed of."""
        for run in self.runs:
            if run.state != "completed" or not run.acquisition_id:
                continue
            if run.completed is None:
                run.completed = self._files.completed(run)
            if run.unjudged:
                self._take_verdicts(run)
            if not run.uploaded and self._is_uploaded(run):
                run.uploaded = True
                run.missing = self._files.missing(run)
                self.quiet_since_s = time.monotonic()

    def report(self) -> LiveReport:
        """Of all that came so far."""
        self.look()
        with self._lock:
            runs = [
                self._runs[name][-1]
                if self._runs[name]
                else MontageRun(montage_id=name, state="pending", reason=self._blocked)
                for name in self._runs
            ]
            return report_of(
                runs,
                there={
                    tile_id: is_there
                    for run in runs
                    for tile_id, is_there in self._files.there(run).items()
                },
                frame_px=self.frame_px,
                # those this process may use: in a container fewer than there are
                cores=len(os.sched_getaffinity(0)),
                stop_ms=self._stop_ms,
            )

    def _receive(self, message: Any, headers: Mapping[str, str]) -> None:
        topic = headers["topic"]
        with self._lock:
            # After an outage of the broker a message may come twice.
            if self._is_sent_again(topic, headers):
                return
            at_ms = sent_ms(headers)
            if at_ms is None:
                at_ms = time.time_ns() // 1_000_000
            if topic in PER_TILE:
                self._on_tile(topic, message, at_ms)
            elif topic == "camera.status":
                self.frame_px = message.width * message.height
            else:
                handle = getattr(self, f"_on_{topic.replace('.', '_')}")
                handle(message, at_ms)

    def _is_sent_again(self, topic: str, headers: Mapping[str, str]) -> bool:
        """Whether the same message came before: one delivered twice, not sent twice."""
        if not headers.get("sequence"):
            return False
        key = (topic, headers.get("source", ""), headers["sequence"])
        if key in self._sent:
            return True
        self._sent.add(key)
        return False

    def _on_tile(self, topic: str, message: Any, sent_ms: int) -> None:
        run = self._run_of(message.montage_id, acquisition_of(message.tile_id))
        if run is None:
            return
        self.quiet_since_s = time.monotonic()
        tile = run.tiles.setdefault(message.tile_id, TileRun())
        if topic == "qc.tile" and is_preliminary(message.model_dump(mode="json")):
            return  # another one comes with the figures
        content = (topic, message.tile_id, hash(message.model_dump_json()))
        if content in self._contents:
            tile.repeats += 1
        else:
            self._contents.add(content)
            tile.messages[topic] += 1
        if topic == "tile.raw" and tile.saved_ns is None:
            tile.saved_ns = _saved_ns(Path(message.path))
        elif topic == "qc.tile" and tile.passed is None:
            tile.verdict_ms, tile.passed = sent_ms, message.passed

    def _on_montage_status(self, message: Any, sent_ms: int) -> None:
        runs = self._runs.get(message.montage_id)
        if runs is None:
            return
        self.quiet_since_s = time.monotonic()
        state = str(getattr(message.state, "value", message.state))
        if state == "started" or not runs:
            runs.append(MontageRun(montage_id=message.montage_id, begun_ms=sent_ms))
        run = runs[-1]
        run.state, run.ended_ms = state, sent_ms
        run.imaged = message.current_tile or run.imaged
        run.total = message.total_tiles or run.total
        run.reason = message.error_message or ("" if state == "resumed" else run.reason)

    def _on_montage_complete(self, message: Any, _: int) -> None:
        run = self._run_of(message.montage_id, message.acquisition_id)
        if run is not None:
            run.completed = tuple(message.tiles)
            run.acquisition_id = message.acquisition_id

    def _on_roi_status(self, message: Any, sent_ms: int) -> None:
        """A region may fail before its montage starts."""
        runs = self._runs.get(message.montage_id)
        state = str(getattr(message.status, "value", message.status))
        if runs is None or state not in _ENDS:
            return
        if (message.montage_id, message.timestamp) in self._failed_before:
            return  # published before the start, or repeated since
        if not runs:
            runs.append(MontageRun(montage_id=message.montage_id, begun_ms=sent_ms))
        if not runs[-1].is_over:
            runs[-1].state, runs[-1].ended_ms = _ENDS[state], sent_ms
        runs[-1].reason = message.error_message or runs[-1].reason

    def _on_roi_queue_status(self, message: Any, _: int) -> None:
        before = self._failed_before
        failed = [
            (entry.montage_id, entry.timestamp)
            for entry in message.queue
            if status_of(entry) == "failed"
        ]
        news = [name for name, since in failed if (name, since) not in before]
        behind = f"it waits behind {news[0]}, which failed; retry that" if news else ""
        if bool(behind) != self._failure_ahead:
            self._failure_ahead = bool(behind)
            self._block(behind)

    def _on_state_current(self, message: Any, _: int) -> None:
        """A session that has ended without a failure was to stop at the end."""
        is_imaging = message.state.startswith("Acquisition")
        if self._was_imaging and message.state.startswith("Preview"):
            reason = self._stop_reason or "the session has ended"
            self._block(f"it was not begun: {reason}; start again when that is well")
        elif is_imaging and not self._was_imaging:
            self._block("")
        self._was_imaging = is_imaging

    def _block(self, reason: str) -> None:
        self._blocked, self._blocked_s = reason, time.monotonic()

    def _on_qc_status(self, message: Any, sent_ms: int) -> None:
        status = str(getattr(message.status, "value", message.status))
        self._stop_reason = "" if status == "GOOD" else message.reason or status
        self._note_stop(status == "STOP_NOW", sent_ms)

    def _on_ui_run(self, message: Any, sent_ms: int) -> None:
        if message.abort_now or message.abort_at_end:
            self._stop_reason = "the operator stopped the session"
        self._note_stop(message.abort_now, sent_ms)

    def _note_stop(self, is_stop: bool, sent_ms: int) -> None:
        imaging = any(not run.is_over for run in self.runs)
        if is_stop and imaging and self._stop_sent_ms is None:
            self._stop_sent_ms = sent_ms

    def _on_stage_motion_command(self, _: Any, sent_ms: int) -> None:
        stop_ms = self._stop_sent_ms
        # a command from before the stop is no halt
        if stop_ms is not None and self._stop_ms is None and sent_ms >= stop_ms:
            self._stop_ms = float(sent_ms - stop_ms)

    def _on_buffer_status(self, message: Any, _: int) -> None:
        if message.queue_length != self._to_upload:
            self.quiet_since_s = time.monotonic()
        self._to_upload = message.queue_length

    def _run_of(self, montage_id: str, acquisition_id: str) -> MontageRun | None:
        runs = self._runs.get(montage_id)
        if runs is None:
            return None
        for run in reversed(runs):
            if run.acquisition_id in (acquisition_id, ""):
                run.acquisition_id = acquisition_id
                return run
        # it ends in the second of its start: the larger one is the later run
        if acquisition_id > max(run.acquisition_id for run in runs or [_NONE]):
            runs.append(
                MontageRun(montage_id=montage_id, acquisition_id=acquisition_id)
            )
            return runs[-1]
        return None  # an earlier run of the same montage

    def _is_uploaded(self, run: MontageRun) -> bool:
        if self._settings.acquisition.buffer.url:  # an aloha with a store of its own
            return self._to_upload == 0
        return self._files.is_uploaded(run)

    def _take_verdicts(self, run: MontageRun) -> None:
        """Those that were published before this listened."""
        found = self._files.verdicts(run)
        with self._lock:
            for tile_id in run.unjudged:
                if tile_id in found:
                    tile = run.tiles.setdefault(tile_id, TileRun())
                    tile.passed = found[tile_id]


_ENDS = {"failed": "error", "aborted": "cancelled", "complete": "completed"}
"""`roi.status` -> the state of a montage that it means."""

_NONE = MontageRun(montage_id="")  # Older than any run: its id is empty


def _saved_ns(path: Path) -> int | None:
    """When a frame was saved, in nanoseconds since 1970; None where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
