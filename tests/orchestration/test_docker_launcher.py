"""Runs in containers: their limits, and their end."""

import gc
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import pytest
from dagster._core.storage.dagster_run import DagsterRun, DagsterRunStatus
from dagster._core.test_utils import create_run_for_test, instance_for_test
from dagster_docker.docker_run_launcher import DOCKER_CONTAINER_ID_TAG

from em_platform.resources.docker_launcher import (
    LimitedDockerRunLauncher,
    end_cancelled_runs,
)


def limits_of(tags: dict[str, str]) -> dict[str, object]:
    launcher = LimitedDockerRunLauncher(
        image="em_platform", container_kwargs={"auto_remove": True}
    )
    with instance_for_test() as instance:
        run: DagsterRun = create_run_for_test(instance, tags=tags)
        return dict(launcher.get_container_context(run).container_kwargs)


def test_a_run_has_the_memory_and_cpus_that_its_tags_name() -> None:
    assert limits_of({"em/memory_mb": "10240", "em/cpus": "0.25"}) == {
        "auto_remove": True,
        "mem_limit": "10240m",
        "nano_cpus": 250_000_000,
    }


def test_a_run_without_such_tags_has_no_limits_of_its_own() -> None:
    assert limits_of({}) == {"auto_remove": True}


class Docker(ThreadingMixIn, UnixStreamServer):
    """What Docker's socket answers about one container, and what it was asked."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.asked: list[str] = []
        super().__init__(str(path), Answer)


class Answer(BaseHTTPRequestHandler):
    server: Docker

    def do_GET(self) -> None:
        version = {"ApiVersion": "1.45", "Version": "27"}
        container = {"Id": "c1", "State": {"Status": "running"}}
        found = {"version": version, "json": container}.get(self.path.split("/")[-1])
        self._send(200 if found else 404, json.dumps(found or {"message": "none"}))

    def do_POST(self) -> None:
        self.server.asked.append(self.path.partition("/containers")[2])
        self._send(204, "")

    def log_message(self, *_: Any) -> None: ...

    def _send(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def docker_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the socket of Docker would be; there is none yet."""
    with TemporaryDirectory() as short:  # a socket's path has 107 bytes at most
        path = Path(short) / "docker.sock"
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        yield path


LAUNCHER = {
    "run_launcher": {
        "module": "em_platform.resources.docker_launcher",
        "class": "LimitedDockerRunLauncher",
        "config": {"image": "em_platform"},
    }
}


# dagster_docker does not close its clients, whose sockets the collector closes.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_run_is_terminated_where_docker_is_not_and_ended_where_it_is(
    docker_at: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with instance_for_test(overrides=LAUNCHER) as instance:
        tags = {DOCKER_CONTAINER_ID_TAG: "c1"}
        started = DagsterRunStatus.STARTED
        run = create_run_for_test(instance, tags=tags, status=started)
        other = create_run_for_test(instance, tags=tags, status=started)
        # As the web server, which has no socket.
        assert instance.run_coordinator.cancel_run(run.run_id)
        marked = instance.get_run_by_id(run.run_id)
        assert marked is not None and marked.status == DagsterRunStatus.CANCELING
        end_cancelled_runs(instance)
        assert "cannot be ended yet" in caplog.text
        with Docker(docker_at) as docker:
            Thread(target=docker.serve_forever, daemon=True).start()
            end_cancelled_runs(instance)
            end_cancelled_runs(instance)
            docker.shutdown()
        assert docker.asked == ["/c1/stop"]
        ended = instance.get_run_by_id(run.run_id)
        assert ended is not None and ended.status == DagsterRunStatus.CANCELED
        untouched = instance.get_run_by_id(other.run_id)
        assert untouched is not None and untouched.status == started
    gc.collect()
