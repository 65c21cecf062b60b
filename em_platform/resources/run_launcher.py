"""Dagster's default way to run, which also notices that a run's process has died."""

import json

import psutil
from dagster import DagsterEventType, DagsterRun
from dagster._core.launcher import (
    CheckRunHealthResult,
    DefaultRunLauncher,
    WorkerStatus,
)
from dagster._core.storage.tags import GRPC_INFO_TAG

# Event and process are timed by two clocks, so that a start may seem too late.
_CLOCK_SLACK_S = 2.0
# How Dagster names the code server of this computer.
_HERE = (None, "localhost", "127.0.0.1")


# Dagster does not promise to keep these classes (decision 8);
# tests/orchestration/test_run_launcher.py notices.
class WatchedRunLauncher(DefaultRunLauncher):
    """Runs are processes of the code server; run monitoring asks for their health.

    In Dagster 1.13 only the code server that started a run marks it as failed when its
    process dies. When that server is killed too, the run would stay STARTED for ever.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        if not _runs_here(run):
            return CheckRunHealthResult(WorkerStatus.RUNNING, "runs on another machine")
        # Only the newest counts: those before it have ended.
        for pid, started_at in self._processes(run):
            if _lives(pid, started_at):
                return CheckRunHealthResult(WorkerStatus.RUNNING)
            return CheckRunHealthResult(
                WorkerStatus.FAILED,
                f"the run's process {pid} is gone: killed, or the machine stopped",
            )
        # Better a run that is watched in vain than a living one called dead.
        return CheckRunHealthResult(WorkerStatus.RUNNING, "its process is unknown")

    def terminate(self, run_id: str) -> bool:
        """Ask the run to stop; also one that outlived the code server it came from."""
        if super().terminate(run_id):  # type: ignore[no-untyped-call]
            return True
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or not _runs_here(run):
            return False
        for pid, started_at in self._processes(run):
            if _lives(pid, started_at):
                psutil.Process(pid).terminate()
                return True
            break
        return False

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
