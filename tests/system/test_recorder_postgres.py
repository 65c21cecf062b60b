"""The recorder on a PostgreSQL server of the test's own."""

import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from em_platform.acquisition.recorder.events import Message
from em_platform.acquisition.recorder.ledger import Ledger
from em_platform.errors import StorageError
from tests.postgres import serving_postgres

pytestmark = [pytest.mark.system]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """URL and process of an empty server."""
    with serving_postgres() as served:
        yield served


def append_many(url: str, name: str, count: int) -> None:
    with Ledger(url) as recorder:
        for number in range(count):
            headers = {"source": name, "sent_at": str(number)}
            recorder.append("qc.status", {"status": "GOOD"}, headers)


def test_a_cursor_misses_nothing_while_several_processes_write(
    server: tuple[str, subprocess.Popen[bytes]],
) -> None:
    url, _ = server
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=append_many, args=(url, f"w{n}", 40)) for n in range(3)
    ]
    for writer in writers:
        writer.start()
    seen: list[int] = []
    deadline = time.monotonic() + 60
    with Ledger(url) as recorder:
        while len(seen) < 120 and time.monotonic() < deadline:
            seen += [event.seq for event in recorder.events(seen[-1] if seen else 0)]
            time.sleep(0.002)
        assert seen == [event.seq for event in recorder.events(limit=1000)]
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert len(seen) == 120


def test_a_row_that_the_server_never_takes_holds_up_no_other(
    server: tuple[str, subprocess.Popen[bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    url, _ = server
    ids = ("a", "b\0c", "x" * 201, "d")
    messages = [Message("tile.raw", {"montage_id": name}, {}) for name in ids]
    with Ledger(url) as recorder:
        numbers = recorder.append_all(messages)
        assert [number is None for number in numbers] == [False, True, True, False]
        found = recorder.events(topics=["tile.raw"])
    assert [event.body["montage_id"] for event in found] == ["a", "d"]
    assert "montage 'b\\x00c') is left out" in caplog.text


def test_the_same_thing_said_by_two_at_once_is_one_event(
    server: tuple[str, subprocess.Popen[bytes]],
) -> None:
    url, _ = server
    messages = [Message("tile.raw", {"tile_id": f"t{n}"}, {}) for n in range(50)]
    numbers: list[int | None] = []

    def append() -> None:
        with Ledger(url) as recorder:
            numbers.extend(recorder.append_all(messages))

    threads = [threading.Thread(target=append) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([number for number in numbers if number is not None]) == 50


def test_a_server_that_comes_back_is_written_to_again(
    server: tuple[str, subprocess.Popen[bytes]],
) -> None:
    url, process = server
    with Ledger(url) as recorder:
        assert recorder.append("tile.raw", {"tile_id": "before"}, {}) is not None
        # A crash of one backend makes PostgreSQL drop all connections and recover.
        backend = _backends(process.pid)[0]
        os.kill(backend, signal.SIGKILL)
        wait_until(lambda: _appended(recorder))
        assert recorder.append("tile.raw", {"tile_id": "before"}, {}) is None


def _backends(server_pid: int) -> list[int]:
    children = psutil.Process(server_pid).children()
    return [c.pid for c in children if "em postgres" in " ".join(c.cmdline())]


def _appended(recorder: Ledger) -> bool:
    try:
        recorder.append("tile.raw", {"tile_id": "after"}, {})
    except StorageError:
        return False
    return True


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
