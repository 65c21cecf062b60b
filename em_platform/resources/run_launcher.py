"""Dagster's default way to run, which notices that a run's process died or hangs."""

import json
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, Self

import psutil
from dagster import (
    DagsterError,
    DagsterEventType,
    DagsterRun,
    DefaultRunLauncher,
    Field,
    Float,
)
from dagster._core.launcher import (
    CheckRunHealthResult,
    WorkerStatus,
)
from dagster._core.storage.tags import GRPC_INFO_TAG

log = logging.getLogger(__name__)

# Event and process are timed by two clocks, so that a start may seem too late.
_CLOCK_SLACK_S = 2.0
# A process that waits for a pool, a source or remote workers uses more than this in ten
# minutes; one that hangs has at most a thread that renews a lease.
_IDLE_CPU_S = 0.3
# So long a run may take to end what it has begun, when it is asked to.
_GRACE_S = 30.0
# How Dagster names the code server of this computer.
_HERE = (None, "localhost", "127.0.0.1")


# Dagster does not promise to keep these classes (decision 8);
# tests/orchestration/test_run_launcher.py notices.
class WatchedRunLauncher(DefaultRunLauncher):
    """Runs are processes of the code server; run monitoring asks for their health.

    In Dagster 1.13 only the code server that started a run marks it as failed when its
    process dies. When that server is killed too, the run would stay STARTED for ever.

    A process that neither computes nor writes an event for `stalled_s` hangs: it is
    killed, and Dagster starts the run again. A run that does not end when it is asked
    to is killed as well.
    """

    stalled_s = 600.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Run -> CPU-seconds of its process when it last did something, and when.
        self._last: dict[str, tuple[float, float]] = {}

    @classmethod
    def config_type(cls) -> Any:
        own: Mapping[str, Any] = super().config_type()  # type: ignore[assignment]
        return {**own, "stalled_s": Field(Float, is_required=False)}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Mapping[str, Any]) -> Self:
        rest = dict(config_value)
        stalled_s = rest.pop("stalled_s", cls.stalled_s)
        made: Self = super().from_config_value(inst_data, rest)
        made.stalled_s = stalled_s
        return made

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        if not _runs_here(run):
            return CheckRunHealthResult(WorkerStatus.RUNNING, "runs on another machine")
        # Only the newest counts: those before it have ended.
        for pid, started_at in self._processes(run):
            if _lives(pid, started_at):
                if not self._hangs(run.run_id, pid):
                    return CheckRunHealthResult(WorkerStatus.RUNNING)
                # It holds the lease of its output: the next run would be refused.
                _kill(pid)
                return CheckRunHealthResult(
                    WorkerStatus.FAILED,
                    f"the run's process {pid} neither computed nor logged anything for "
                    f"{self.stalled_s:g} s: it hung, and was killed",
                )
            return CheckRunHealthResult(
                WorkerStatus.FAILED,
                f"the run's process {pid} is gone: killed, or the machine stopped",
            )
        # Better a run that is watched in vain than a living one called dead.
        return CheckRunHealthResult(WorkerStatus.RUNNING, "its process is unknown")

    def terminate(self, run_id: str) -> bool:
        """Ask the run to stop; also one that outlived the code server it came from.

        One that goes on for half a minute is killed.
        """
        run = self._instance.get_run_by_id(run_id)
        living = self._living(run) if run is not None else None
        if living is not None:
            timer = threading.Timer(_GRACE_S, _kill_if_there, living)
            timer.daemon = True
            timer.start()
        try:
            if super().terminate(run_id):  # type: ignore[no-untyped-call]
                return True
        except DagsterError:
            log.warning("run %s: no code server to end it; it is ended here", run_id)
        if living is None or run is None or run.is_finished:
            return False
        psutil.Process(living[0]).terminate()
        return True

    def _living(self, run: DagsterRun) -> tuple[int, float] | None:
        """Process and start of a run on this computer, while it lives."""
        newest = self._processes(run)[:1] if _runs_here(run) else []
        return next((each for each in newest if _lives(*each)), None)

    def _hangs(self, run_id: str, pid: int) -> bool:
        """Whether the process has done nothing for `stalled_s`."""
        try:
            cpu_s, now = _cpu_seconds(pid), time.time()
        except psutil.Error:
            return False  # the next look finds it gone
        before = self._last.get(run_id)
        if before is None or cpu_s - before[0] > _IDLE_CPU_S or cpu_s < before[0]:
            self._last[run_id] = (cpu_s, now)
            return False
        if now - before[1] < self.stalled_s:
            return False
        newest = self._instance.get_records_for_run(run_id, limit=1, ascending=False)
        wrote = max((r.event_log_entry.timestamp for r in newest.records), default=0.0)
        if now - wrote < self.stalled_s:
            return False
        del self._last[run_id]
        return True

    def _processes(self, run: DagsterRun) -> list[tuple[int, float]]:
        """Process id and start of each process that the run has had, newest first."""
        kind = DagsterEventType.ENGINE_EVENT
        logs = self._instance.all_logs(run.run_id, of_type=kind)
        found = []
        for entry in reversed(list(logs)):
            event = entry.dagster_event
            if event is None or not (event.message or "").startswith("Started process"):
                continue
            pid = event.engine_event_data.metadata["pid"].value
            found.append((int(str(pid)), entry.timestamp))
        return found


def _runs_here(run: DagsterRun) -> bool:
    server = json.loads(run.tags.get(GRPC_INFO_TAG, "{}"))
    return server.get("host") in _HERE


def _lives(pid: int, started_at: float) -> bool:
    """Whether the process is there, and is not a later one that got the same id."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.create_time() <= started_at + _CLOCK_SLACK_S
    except psutil.NoSuchProcess:
        return False


def _cpu_seconds(pid: int) -> float:
    """Of the process and of all that it has started and that live."""
    process = psutil.Process(pid)
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return float(total)


def _kill_if_there(pid: int, started_at: float) -> None:
    if _lives(pid, started_at):
        _kill(pid)


def _kill(pid: int) -> None:
    """End the process and its workers; SIGKILL also ends one that was stopped."""
    try:
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            each.kill()
    except psutil.NoSuchProcess:
        pass
