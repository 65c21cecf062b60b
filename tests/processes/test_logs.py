"""Log lines as a program reads them, on stderr and in Loki; Loki may be away."""

import json
import logging
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from em_platform.config import LoggingSettings
from em_platform.errors import ConfigError
from em_platform.processes.logs import JsonFormatter
from em_platform.processes.loki import LokiHandler, push_url, tags_of

PROGRAM = """
import logging, sys, threading
from em_platform.config import load_settings
from em_platform.processes.logs import setup_logging
setup_logging("camera", load_settings())
log = logging.getLogger("em_platform.example")
log.debug("too small to see")
log.info("saved %s", "a\\nb", extra={"tile_id": "m-1_000_001", "montage_id": "m-1"})
log.warning("µm")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("sum failed")
print("ready camera", flush=True)
worker = threading.Thread(target=lambda: [][1], name="worker")
worker.start()
worker.join()
raise RuntimeError("nobody caught this")
"""


def run_program(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-c", PROGRAM),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_each_line_is_a_json_object_with_what_was_given() -> None:
    begun = datetime.now(UTC)
    done = run_program()
    assert done.stdout == "ready camera\n"
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    saved, unit, failed, worker, last = lines
    assert begun <= datetime.fromisoformat(saved.pop("time")) <= datetime.now(UTC)
    assert saved == {
        "level": "INFO",
        "service": "camera",
        "logger": "em_platform.example",
        "message": "saved a\nb",
        "tile_id": "m-1_000_001",
        "montage_id": "m-1",
    }
    assert unit["message"] == "µm"
    assert "ZeroDivisionError: division by zero" in failed["exception"]
    ours = "this is a fault of em-platform, not of your input: found"
    assert f"worker ended: {ours} IndexError (list index" in worker["message"]
    assert last["level"] == "CRITICAL"
    assert f"ended by: {ours} RuntimeError (nobody caught" in last["message"]
    assert "RuntimeError" in last["exception"]
    assert done.returncode == 1


def test_the_level_and_the_form_can_be_chosen() -> None:
    done = run_program(EM_LOGGING__FORMAT="text", EM_LOGGING__LEVEL="ERROR")
    assert "ERROR sum failed\nTraceback" in done.stderr
    assert "saved" not in done.stderr


def test_a_person_at_a_terminal_reads_text() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        (sys.executable, "-c", PROGRAM), stderr=theirs, stdout=subprocess.DEVNULL
    ) as process:
        process.wait(timeout=60)
    output = os.read(ours, 20_000).decode()
    os.close(ours)
    os.close(theirs)
    assert " WARNING µm" in output
    assert "{" not in output


def test_an_object_that_json_does_not_know_is_written_as_text() -> None:
    record = logging.makeLogRecord({"msg": "x", "place": {1, 2}, "level": "mine"})
    line = json.loads(JsonFormatter("stage").format(record))
    assert line["place"] == "{1, 2}"
    assert line["level"] != "mine"


class Loki:
    """A server on 127.0.0.1 that speaks Loki's push API."""

    def __init__(self, port: int, *, status: int = 204, wait_s: float = 0.0) -> None:
        self.status = status
        self.pushed: list[tuple[dict[str, str], str, str]] = []
        self.paths: set[str] = set()
        self.logins: set[str | None] = set()
        self.asked = threading.Semaphore(0)
        self._wait_s = wait_s
        self._ended = threading.Event()
        loki = self

        class Answering(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                loki.take(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Answering)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def take(self, request: BaseHTTPRequestHandler) -> None:
        self._ended.wait(self._wait_s)
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        self.asked.release()
        self.paths.add(request.path)
        self.logins.add(request.headers["Authorization"])
        if self.status == 204:
            for stream in body["streams"]:
                for time_ns, text in stream["values"]:
                    self.pushed.append((stream["stream"], time_ns, text))
        request.send_response(self.status)
        request.send_header("Content-Length", "0")
        request.end_headers()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def texts(self) -> list[str]:
        return [text for _, _, text in self.pushed]

    def close(self) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[..., Loki]]:
    servers: list[Loki] = []

    def begin(port: int = 0, **kinds: Any) -> Loki:
        servers.append(Loki(port, **kinds))
        return servers[-1]

    yield begin
    for server in servers:
        server.close()


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    made = logging.getLogger("test.loki")
    made.propagate = False
    made.setLevel("INFO")
    yield made
    for handler in list(made.handlers):
        made.removeHandler(handler)
        handler.close()


def until(truth: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not truth():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_service_sends_its_lines_to_loki_before_it_ends(
    serve: Callable[..., Loki],
) -> None:
    loki = serve()
    done = run_program(
        LOKI_URL=loki.url,
        LOKI_TAGS="scope: T1,room:3",
        LOKI_USERNAME="em",
        LOKI_PASSWORD="secret",
    )
    assert loki.texts() == done.stderr.splitlines()
    assert loki.paths == {"/loki/api/v1/push"}
    assert loki.logins == {"Basic ZW06c2VjcmV0"}
    labels, time_ns, text = loki.pushed[0]
    assert labels == {
        "service": "camera",
        "scope": "T1",
        "room": "3",
        "severity": "info",
        "logger": "em_platform.example",
    }
    output = datetime.fromisoformat(json.loads(text)["time"]).timestamp()
    assert abs(int(time_ns) / 1e9 - output) < 0.001


def test_a_service_without_its_loki_ends_as_it_would_with_it(
    free_port: Callable[[], int],
) -> None:
    done = run_program(LOKI_URL=f"http://127.0.0.1:{free_port()}")
    messages = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert any("Loki at" in each and "does not answer" in each for each in messages)
    assert any("RuntimeError (nobody caught this)" in each for each in messages)
    assert done.returncode == 1


def test_what_was_said_while_loki_was_away_comes_in_order_when_it_is_back(
    serve: Callable[..., Loki], free_port: Callable[[], int], logger: logging.Logger
) -> None:
    port = free_port()
    handler = LokiHandler(
        push_url(f"http://127.0.0.1:{port}"), labels={"service": "qc"}
    )
    logger.addHandler(handler)
    for number in range(700):
        logger.info("line %d", number)
    time.sleep(1)
    loki = serve(port)
    until(lambda: len(loki.pushed) == 700)
    assert loki.texts() == [f"line {number}" for number in range(700)]


def test_the_oldest_lines_are_lost_when_loki_stays_away(
    serve: Callable[..., Loki], logger: logging.Logger
) -> None:
    loki = serve(status=503)
    handler = LokiHandler(push_url(loki.url), labels={"service": "qc"})
    logger.addHandler(handler)
    for number in range(10_700):
        logger.info("line %d", number)
    loki.asked.acquire(timeout=30)
    loki.status = 204
    until(lambda: "line 10699" in loki.texts())
    assert len(loki.pushed) <= 10_500
    assert loki.texts() == [f"line {n}" for n in range(10_700)][-len(loki.pushed) :]


def test_a_line_that_loki_refuses_does_not_stop_the_next(
    serve: Callable[..., Loki], logger: logging.Logger
) -> None:
    loki = serve(status=400)
    logger.addHandler(LokiHandler(push_url(loki.url), labels={"service": "qc"}))
    logger.info("bad")
    loki.asked.acquire(timeout=30)
    loki.status = 204
    logger.info("good")
    until(lambda: "good" in loki.texts())


def test_a_loki_that_hangs_holds_nobody_up(
    serve: Callable[..., Loki], logger: logging.Logger
) -> None:
    loki = serve(wait_s=60.0)
    handler = LokiHandler(push_url(loki.url), labels={"service": "qc"})
    logger.addHandler(handler)
    begun = time.monotonic()
    for number in range(2000):
        logger.info("line %d", number)
    logger.removeHandler(handler)
    handler.close()
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("url", ["loki:3100", "ftp://loki", "http://"])
def test_an_address_that_is_none_is_one_sentence(url: str) -> None:
    with pytest.raises(ConfigError, match=r"loki_url: found .* expected an address"):
        LokiHandler.of(LoggingSettings(loki_url=url), service="qc")


def test_tags_that_are_none_are_one_sentence() -> None:
    with pytest.raises(ConfigError, match="loki_tags: found 'T1', expected key:value"):
        tags_of("scope:T1, T1")


def test_a_path_that_was_given_stays() -> None:
    assert push_url("https://l:1/push") == "https://l:1/push"


SECRETS = """
import logging
from em_platform.config import load_settings
from em_platform.errors import StorageError
from em_platform.processes.logs import setup_logging
setup_logging("camera", load_settings())
url = "https://em:hunter2@store:9000/em"
logging.getLogger("s3fs").warning("no answer of %s", url, extra={"store": [url]})
raise StorageError(f"storage: {url} did not answer", url=url)
"""


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_line_shows_the_password_of_a_url(
    serve: Callable[..., Loki], form: str
) -> None:
    loki = serve()
    address = loki.url.replace("://", "://loki:hunter3@")
    done = subprocess.run(
        (sys.executable, "-c", SECRETS),
        env={**os.environ, "LOKI_URL": address, "EM_LOGGING__FORMAT": form},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr.count("https://em:***@store:9000/em") >= 3
    assert "hunter" not in done.stderr + "".join(loki.texts())
    assert len(loki.texts()) == 2
    assert loki.logins == {"Basic bG9raTpodW50ZXIz"}  # it is still used


def test_a_loki_that_is_away_is_named_without_its_password(
    free_port: Callable[[], int],
    logger: logging.Logger,
    caplog: pytest.LogCaptureFixture,
) -> None:
    address = f"http://loki:hunter2@127.0.0.1:{free_port()}"
    handler = LokiHandler(push_url(address), labels={"service": "qc"})
    logger.addHandler(handler)
    logger.info("a line")
    until(lambda: "does not answer" in caplog.text)
    assert "http://loki:***@127.0.0.1" in caplog.text
    assert "hunter2" not in caplog.text


def test_an_address_that_is_none_is_shown_without_its_password() -> None:
    with pytest.raises(ConfigError, match=r"found 'ftp://loki:\*\*\*@loki'"):
        push_url("ftp://loki:hunter2@loki")
