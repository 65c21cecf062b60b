import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest
import yaml
from dagster._core.events import EngineEventData
from dagster._core.launcher import WorkerStatus
from dagster._core.test_utils import create_run_for_test

from em_platform.resources.run_launcher import WatchedRunLauncher


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen((sys.executable, "-c", "import time; time.sleep(60)"))
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def instance(tmp_path: Path, repository: Path) -> Iterator[dg.DagsterInstance]:
    shipped = yaml.safe_load((repository / "dagster.yaml").read_text())
    (tmp_path / "dagster.yaml").write_text(
        yaml.safe_dump({"run_launcher": shipped["run_launcher"]})
    )
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def started_run(
    instance: dg.DagsterInstance, pid: int, *, host: str = "127.0.0.1"
) -> dg.DagsterRun:
    tags = {".dagster/grpc_info": json.dumps({"host": host, "port": 1})}
    run = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED, tags=tags)
    data = EngineEventData.in_process(pid)
    instance.report_engine_event(f"Started process for run (pid: {pid}).", run, data)
    return run


def health(instance: dg.DagsterInstance, run: dg.DagsterRun) -> WorkerStatus:
    assert isinstance(instance.run_launcher, WatchedRunLauncher)
    assert instance.run_launcher.supports_check_run_worker_health
    return instance.run_launcher.check_run_worker_health(run).status


def test_a_run_whose_process_lives_is_running(
    instance: dg.DagsterInstance, worker: subprocess.Popen[bytes]
) -> None:
    run = started_run(instance, worker.pid)
    assert health(instance, run) is WorkerStatus.RUNNING


def test_a_run_whose_process_was_killed_has_failed(
    instance: dg.DagsterInstance, worker: subprocess.Popen[bytes]
) -> None:
    run = started_run(instance, worker.pid)
    worker.kill()
    assert health(instance, run) in (WorkerStatus.RUNNING, WorkerStatus.FAILED)
    worker.wait()
    assert health(instance, run) is WorkerStatus.FAILED


def test_a_later_process_with_the_same_number_is_not_the_run(
    instance: dg.DagsterInstance,
    worker: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("em_platform.resources.run_launcher._CLOCK_SLACK_S", -3600.0)
    run = started_run(instance, worker.pid)
    assert health(instance, run) is WorkerStatus.FAILED


def test_a_run_of_another_machine_is_left_alone(
    instance: dg.DagsterInstance, worker: subprocess.Popen[bytes]
) -> None:
    run = started_run(instance, worker.pid, host="user_code")
    worker.kill()
    worker.wait()
    assert health(instance, run) is WorkerStatus.RUNNING


def test_a_run_that_has_not_said_its_process_is_waited_for(
    instance: dg.DagsterInstance,
) -> None:
    run = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED)
    assert health(instance, run) is WorkerStatus.RUNNING


def stopped_at(worker: subprocess.Popen[bytes]) -> None:
    """As one hangs: it is there and does nothing."""
    worker.send_signal(signal.SIGSTOP)


def test_a_process_that_hangs_is_killed_and_its_run_has_failed(
    instance: dg.DagsterInstance, worker: subprocess.Popen[bytes]
) -> None:
    launcher = instance.run_launcher
    assert isinstance(launcher, WatchedRunLauncher)
    assert launcher.stalled_s == 600
    launcher.stalled_s = 1.0
    run = started_run(instance, worker.pid)
    stopped_at(worker)
    assert health(instance, run) is WorkerStatus.RUNNING, "it may be at its first look"
    time.sleep(1.2)
    found = launcher.check_run_worker_health(run)
    assert found.status is WorkerStatus.FAILED
    assert found.msg == (
        f"the run's process {worker.pid} neither computed nor logged anything for "
        "1 s: it hung, and was killed"
    )
    assert worker.wait(5) == -signal.SIGKILL


def test_a_run_that_logs_or_computes_does_not_hang(
    instance: dg.DagsterInstance, worker: subprocess.Popen[bytes]
) -> None:
    launcher = instance.run_launcher
    assert isinstance(launcher, WatchedRunLauncher)
    launcher.stalled_s = 1.0
    run = started_run(instance, worker.pid)
    stopped_at(worker)
    assert health(instance, run) is WorkerStatus.RUNNING
    time.sleep(1.2)
    instance.report_engine_event("10 of 20 MB fetched", run)
    assert health(instance, run) is WorkerStatus.RUNNING
    busy = subprocess.Popen((sys.executable, "-c", "while True: pass"))
    try:
        run = started_run(instance, busy.pid)
        assert health(instance, run) is WorkerStatus.RUNNING
        computes = psutil.Process(busy.pid)
        until_s = computes.cpu_times().user + 0.5
        time.sleep(1.2)
        while computes.cpu_times().user < until_s:  # others may have the cores
            time.sleep(0.05)
        assert health(instance, run) is WorkerStatus.RUNNING
    finally:
        busy.kill()
        busy.wait()


def test_a_run_that_ignores_that_it_shall_end_is_killed(
    instance: dg.DagsterInstance,
    worker: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("em_platform.resources.run_launcher._GRACE_S", 0.5)
    run = started_run(instance, worker.pid)
    stopped_at(worker)  # a stopped process gets no SIGTERM
    assert instance.run_launcher.terminate(run.run_id)
    assert worker.wait(5) == -signal.SIGKILL
