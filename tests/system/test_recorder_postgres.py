"""The recorder on a PostgreSQL server of the test's own."""

import multiprocessing
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from em_platform.acquisition.recorder.events import Message
from em_platform.acquisition.recorder.ledger import Ledger
from em_platform.errors import StorageError
from em_platform.processes import listens
from tests.ports import reserve_port

pytestmark = [pytest.mark.system]
_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """URL and process of an empty server, which does not run as root."""
    if not _PROGRAMS:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    programs = _PROGRAMS[-1].parent
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    # Not under pytest's folder: only its owner may enter that.
    folder = Path(tempfile.mkdtemp(prefix="em-postgres-"))
    try:
        shutil.chown(folder, user)
        port = reserve_port()
        run_as = {"user": user} if os.getuid() == 0 else {}
        subprocess.run(
            [programs / "initdb", "-D", folder / "data", "-U", "em", "--no-sync"],
            **run_as,
            check=True,
            capture_output=True,
            cwd=folder,
        )
        process = subprocess.Popen(
            [
                *(programs / "postgres", "-D", folder / "data", "-p", str(port)),
                *("-k", folder, "-h", "127.0.0.1"),
            ],
            **run_as,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
        )
        deadline = time.monotonic() + 30
        while not listens("127.0.0.1", port):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield f"postgresql://em@127.0.0.1:{port}/postgres", process
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
