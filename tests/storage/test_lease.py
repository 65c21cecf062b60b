"""One writer for an output, on a disk and in a bucket, whatever happens to it."""

import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from em_platform.errors import OutputBusy, StorageError
from em_platform.storage.lease import EXPIRY_S, Owner, one_writer, release_of_killed
from em_platform.storage.lease_places import FolderPlace, place_at

ELSEWHERE = Owner(
    host="microscope-7",
    machine="another computer",
    process=4711,
    started=1,
    work="stitch of grid-1",
    since="2026-11-22 10:00:00 UTC",
    expires_after_s=2.0,
)

HOLD = textwrap.dedent(
    """
    import sys, time
    from em_platform.storage.lease import one_writer
    with one_writer(sys.argv[1], work="a test"):
        print("holds", flush=True)
        time.sleep(60)
    """
)


@pytest.fixture(params=["disk", "bucket"])
def output(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The URL of an output and the options of its file system."""
    if request.param == "disk":
        yield str(tmp_path / "a.zarr"), {}
    else:
        bucket = request.getfixturevalue("bucket")
        yield f"s3://bucket/{tmp_path.name}/a.zarr", bucket


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start a process that writes `tmp_path/a.zarr`."""
    started = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, str(tmp_path / "a.zarr")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_second_writer_is_reported_who_writes(
    output: tuple[str, dict[str, Any]],
) -> None:
    url, options = output
    with one_writer(url, work="stitch of m", options=options):
        with pytest.raises(OutputBusy) as raised:
            with one_writer(url, work="another", options=options):
                pass
        assert "is being written by stitch of m (process " in str(raised.value)
        assert raised.value.retryable
    with one_writer(url, work="another", options=options) as lease:
        lease.check()


def test_of_many_that_begin_at_once_one_writes(
    output: tuple[str, dict[str, Any]],
) -> None:
    url, options = output
    inside, most, won = [], [], []

    def write(number: int) -> None:
        try:
            with one_writer(url, work=f"writer {number}", options=options):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.01)
                inside.remove(number)
                won.append(number)
        except OutputBusy:
            pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    assert won
    assert max(most) == 1


def test_nothing_is_left_beside_an_output(tmp_path: Path) -> None:
    with one_writer(str(tmp_path / "a.zarr"), work="w"):
        assert [path.name for path in tmp_path.iterdir()] == [".a.zarr.lease"]
    assert list(tmp_path.iterdir()) == []


def test_the_lease_of_a_process_that_was_killed_is_taken_over_at_once(
    tmp_path: Path, holder: Callable[[], subprocess.Popen[str]]
) -> None:
    process = holder()
    with pytest.raises(OutputBusy, match=f"process {process.pid} on "):
        with one_writer(str(tmp_path / "a.zarr"), work="w"):
            pass
    process.kill()
    process.wait()
    started = time.monotonic()
    with one_writer(str(tmp_path / "a.zarr"), work="w"):
        # Long before the lease itself would expire.
        assert time.monotonic() - started < EXPIRY_S / 2


def test_the_lease_of_a_killed_process_is_removed_and_that_of_a_living_one_is_not(
    tmp_path: Path, holder: Callable[[], subprocess.Popen[str]]
) -> None:
    process, output = holder(), str(tmp_path / "a.zarr")
    release_of_killed(output)
    with pytest.raises(OutputBusy), one_writer(output, work="w"):
        pass
    process.kill()
    process.wait()
    release_of_killed(output)
    assert list(tmp_path.iterdir()) == []
    release_of_killed(output)


def test_a_process_that_stands_still_keeps_its_lease(
    tmp_path: Path, holder: Callable[[], subprocess.Popen[str]]
) -> None:
    process = holder()
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(OutputBusy), one_writer(str(tmp_path / "a.zarr"), work="w"):
        pass


def test_the_lease_of_another_computer_is_taken_over_when_it_is_not_renewed(
    output: tuple[str, dict[str, Any]],
) -> None:
    url, options = output
    place = place_at(url, options)
    version = place.create(json.dumps(asdict(ELSEWHERE)).encode())
    assert version is not None
    with one_writer(url, work="w", options=options):
        assert place.replace(version, b"") is None  # the other one has lost it


def test_the_lease_of_another_computer_that_is_renewed_is_kept(
    output: tuple[str, dict[str, Any]],
) -> None:
    url, options = output
    place, note = place_at(url, options), json.dumps(asdict(ELSEWHERE)).encode()
    version, ended = place.create(note), threading.Event()

    def renew() -> None:
        held = version
        while held and not ended.wait(0.3):
            held = place.replace(held, note)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(OutputBusy, match=r"stitch of grid-1 .* on microscope-7"):
            with one_writer(url, work="w", options=options):
                pass
    finally:
        ended.set()
        thread.join()


def test_who_lost_its_lease_does_not_publish(
    output: tuple[str, dict[str, Any]],
) -> None:
    url, options = output
    with one_writer(url, work="w", options=options) as lease:
        place = place_at(url, options)
        seen = place.read()
        assert seen is not None
        assert place.replace(seen.version, json.dumps(asdict(ELSEWHERE)).encode())
        with pytest.raises(OutputBusy, match="was taken over by another process"):
            lease.check()
    left = place.read()
    assert left is not None  # it is another one's now
    assert b"microscope-7" in left.note


def test_one_that_waits_writes_when_the_first_has_ended(tmp_path: Path) -> None:
    url, order = str(tmp_path / "a.zarr"), []
    with ThreadPoolExecutor(1) as pool:
        with one_writer(url, work="first"):

            def second() -> None:
                with one_writer(url, work="second", patience_s=20):
                    order.append("second")

            waiting = pool.submit(second)
            time.sleep(0.2)
            order.append("first")
        waiting.result(20)
    assert order == ["first", "second"]


def test_a_lease_that_nobody_can_read_is_taken_over_when_it_does_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("em_platform.storage.lease.EXPIRY_S", 1.5)
    place = FolderPlace(tmp_path / ".a.zarr.lease")
    assert place.create(b"half a no") is not None
    with one_writer(str(tmp_path / "a.zarr"), work="w"):
        pass


def test_a_place_without_access_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match=r"the lease .* could not be written"):
        with one_writer(str(tmp_path / "file/a.zarr"), work="w"):
            pass
