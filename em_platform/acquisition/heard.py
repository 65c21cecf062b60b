"""Listens to a session of the microscope, and keeps what its report needs."""

import json
import os
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from em_platform.acquisition.frame_paths import (
    acquisition_of,
    complete_body_path,
    frame_path,
    frames_folder,
)
from em_platform.acquisition.report import (
    PER_TILE,
    LiveReport,
    MontageHeard,
    TileHeard,
    report_of,
)
from em_platform.config import Settings
from em_platform.messaging.bus import Bus
from em_platform.storage import layout, store_of

_TOPICS = (
    *PER_TILE,
    "montage.status",
    "montage.complete",
    "roi.status",
    "qc.status",
    "ui.run",
    "stage.motion.command",
    "camera.status",
    "buffer.status",
)


class Heard:
    """What was said of some montages since this was made; may be read at any time."""

    def __init__(
        self, bus: Bus, settings: Settings, montage_ids: Collection[str]
    ) -> None:
        self.quiet_since_s = time.monotonic()
        self.frame_px = 0
        self._settings = settings
        self._frames = frames_folder(settings)
        self._runs: dict[str, list[MontageHeard]] = {m: [] for m in montage_ids}
        self._sent: set[tuple[str, str, str]] = set()
        self._stop_said_ms: int | None = None
        self._stop_ms: float | None = None
        self._to_upload: int | None = None
        self._lock = threading.RLock()
        bus.subscribe_many(_TOPICS, self._hear)

    @property
    def runs(self) -> list[MontageHeard]:
        """The last run of each montage that has begun, in the order asked for."""
        with self._lock:
            return [runs[-1] for runs in self._runs.values() if runs]

    @property
    def is_settled(self) -> bool:
        """Whether every montage is imaged, judged and uploaded, or has ended."""
        with self._lock:
            return all(runs and runs[-1].is_settled for runs in self._runs.values())

    def look(self) -> None:
        """See on disk and in the store what no message tells, or one was missed of."""
        for run in self.runs:
            if run.state != "completed" or not run.acquisition_id:
                continue
            if run.completed is None:
                run.completed = self._completed_on_disk(run)
            if not run.uploaded and self._is_uploaded(run):
                run.uploaded = True
                self.quiet_since_s = time.monotonic()

    def report(self) -> LiveReport:
        """Of all that was heard so far."""
        self.look()
        with self._lock:
            runs = self.runs
            return report_of(
                runs,
                there={t: self._is_there(r, t) for r in runs for t in r.tiles},
                frame_px=self.frame_px,
                cores=len(os.sched_getaffinity(0)),
                stop_ms=self._stop_ms,
            )

    def _hear(self, message: Any, headers: Mapping[str, str]) -> None:
        topic = headers["topic"]
        with self._lock:
            if self._is_sent_again(topic, headers):
                return
            sent_ms = int(headers.get("sent_at") or time.time_ns() // 1_000_000)
            if topic in PER_TILE:
                self._hear_tile(topic, message, sent_ms)
            elif topic == "camera.status":
                self.frame_px = message.width * message.height
            else:
                handle = getattr(self, f"_hear_{topic.replace('.', '_')}")
                handle(message, sent_ms)

    def _is_sent_again(self, topic: str, headers: Mapping[str, str]) -> bool:
        """Whether the same message came before: one delivered twice, not said twice."""
        if not headers.get("sequence"):
            return False
        key = (topic, headers.get("source", ""), headers["sequence"])
        if key in self._sent:
            return True
        self._sent.add(key)
        return False

    def _hear_tile(self, topic: str, message: Any, sent_ms: int) -> None:
        run = self._run_of(message.montage_id, acquisition_of(message.tile_id))
        if run is None:
            return
        self.quiet_since_s = time.monotonic()
        tile = run.tiles.setdefault(message.tile_id, TileHeard())
        tile.said[topic] += 1
        if topic == "tile.raw" and tile.saved_ns is None:
            tile.saved_ns = _saved_ns(Path(message.path))
        elif topic == "qc.tile" and tile.passed is None:
            tile.verdict_ms, tile.passed = sent_ms, message.passed

    def _hear_montage_status(self, message: Any, sent_ms: int) -> None:
        runs = self._runs.get(message.montage_id)
        if runs is None:
            return
        self.quiet_since_s = time.monotonic()
        state = str(getattr(message.state, "value", message.state))
        if state == "started" or not runs:
            runs.append(MontageHeard(montage_id=message.montage_id, begun_ms=sent_ms))
        run = runs[-1]
        run.state, run.ended_ms = state, sent_ms
        run.total = message.total_tiles or run.total
        run.reason = message.error_message or run.reason

    def _hear_montage_complete(self, message: Any, _: int) -> None:
        run = self._run_of(message.montage_id, message.acquisition_id)
        if run is not None:
            run.completed = tuple(message.tiles)
            run.acquisition_id = message.acquisition_id

    def _hear_roi_status(self, message: Any, sent_ms: int) -> None:
        """A region may fail before its montage starts."""
        runs = self._runs.get(message.montage_id)
        state = str(getattr(message.status, "value", message.status))
        if runs is None or state not in _ENDS:
            return
        if not runs:
            runs.append(MontageHeard(montage_id=message.montage_id, begun_ms=sent_ms))
        if not runs[-1].is_over:
            runs[-1].state, runs[-1].ended_ms = _ENDS[state], sent_ms
        runs[-1].reason = message.error_message or runs[-1].reason

    def _hear_qc_status(self, message: Any, sent_ms: int) -> None:
        status = str(getattr(message.status, "value", message.status))
        self._note_stop(status == "STOP_NOW", sent_ms)

    def _hear_ui_run(self, message: Any, sent_ms: int) -> None:
        self._note_stop(message.abort_now, sent_ms)

    def _note_stop(self, is_stop: bool, sent_ms: int) -> None:
        imaging = any(not run.is_over for run in self.runs)
        if is_stop and imaging and self._stop_said_ms is None:
            self._stop_said_ms = sent_ms

    def _hear_stage_motion_command(self, _: Any, sent_ms: int) -> None:
        said = self._stop_said_ms
        if said is not None and self._stop_ms is None and sent_ms >= said:
            self._stop_ms = float(sent_ms - said)

    def _hear_buffer_status(self, message: Any, _: int) -> None:
        if message.queue_length != self._to_upload:
            self.quiet_since_s = time.monotonic()
        self._to_upload = message.queue_length

    def _run_of(self, montage_id: str, acquisition_id: str) -> MontageHeard | None:
        runs = self._runs.get(montage_id)
        if runs is None:
            return None
        for run in reversed(runs):
            if run.acquisition_id in (acquisition_id, ""):
                run.acquisition_id = acquisition_id
                return run
        if acquisition_id > max(run.acquisition_id for run in runs or [_NONE]):
            runs.append(
                MontageHeard(montage_id=montage_id, acquisition_id=acquisition_id)
            )
            return runs[-1]
        return None  # an earlier run of the same montage

    def _is_uploaded(self, run: MontageHeard) -> bool:
        if self._settings.acquisition.buffer.url:  # an aloha with a store of its own
            return self._to_upload == 0
        return store_of(self._settings).exists(layout.upload(run.acquisition_id))

    def _is_there(self, run: MontageHeard, tile_id: str) -> bool:
        frame = frame_path(self._frames, run.montage_id, tile_id)
        return run.uploaded or frame.is_file()

    def _completed_on_disk(self, run: MontageHeard) -> tuple[str, ...] | None:
        path = complete_body_path(self._frames, run.montage_id, run.acquisition_id)
        try:
            return tuple(json.loads(path.read_bytes())["tiles"])
        except OSError:
            return None


_ENDS = {"failed": "error", "aborted": "cancelled", "complete": "completed"}
"""`roi.status` -> the state of a montage that it means."""

_NONE = MontageHeard(montage_id="")


def _saved_ns(path: Path) -> int | None:
    """When a frame was saved, in nanoseconds since 1970; None where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
