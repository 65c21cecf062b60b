"""Faults of this computer: real ones, and those of what is worked on."""

import errno
import logging
import os
import resource
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from em_platform.errors import FormatError, StorageError, is_own_fault
from em_platform.formats import read_image
from em_platform.storage.atomic import write_bytes
from em_platform.storage.database import engine_of
from em_platform.storage.journal_file import JournalFile
from em_platform.storage.own_faults import (
    TROUBLES,
    OwnFaults,
    Troubles,
    read_troubles,
    troubles_folder,
)

Act = Callable[[Path], object]


def without_descriptors(act: Act) -> Act:
    """The act in a process that may open no more files."""

    def run(folder: Path) -> object:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Those that are open stay so.
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
        try:
            return act(folder)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    return run


def fill(_: Path) -> object:
    with open("/dev/full", "wb", buffering=0) as file:  # full(4): always ENOSPC
        return file.write(b"x")


def read_bad_sector(_: Path) -> object:
    """Address 0 of a process is never mapped, and its read gives EIO (proc(5))."""
    with open("/proc/self/mem", "rb", buffering=0) as file:
        return file.read(1)


def locked(act: Act) -> Act:
    """The act while another connection holds the lock of its database."""

    def run(folder: Path) -> object:
        other = sqlite3.connect(folder / "a.sqlite", isolation_level=None)
        try:
            other.execute("BEGIN EXCLUSIVE")
            return act(folder)
        finally:
            other.close()

    return run


def write_plainly(folder: Path) -> object:
    connection = sqlite3.connect(folder / "a.sqlite", timeout=0)
    try:
        return connection.execute("CREATE TABLE b (c)")
    finally:
        connection.close()


def write_by_sqlalchemy(folder: Path) -> object:
    engine = engine_of(f"sqlite:///{folder / 'a.sqlite'}", setting="x")
    try:
        with engine.connect() as connection:
            # The first makes the write-ahead log, which a lock does not keep back.
            connection.execute(text("PRAGMA busy_timeout=0"))
            return connection.execute(text("CREATE TABLE b (c)"))
    finally:
        engine.dispose()


def read_frame(folder: Path) -> object:
    return read_image(str(folder / "frame.tiff"))


def open_journal(folder: Path) -> object:
    return JournalFile(folder / "journal.sqlite", "", who="qc", remedy="free space")


def write_file(folder: Path) -> object:
    return write_bytes(folder / "file", b"x")


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(fill, id="ENOSPC"),
        pytest.param(read_bad_sector, id="EIO"),
        pytest.param(without_descriptors(lambda f: (f / "x").open()), id="EMFILE"),
        pytest.param(without_descriptors(read_frame), id="EMFILE of a frame"),
        pytest.param(without_descriptors(open_journal), id="EMFILE of a journal"),
        pytest.param(without_descriptors(write_file), id="EMFILE of a whole file"),
        pytest.param(locked(write_plainly), id="locked"),
    ],
)
def test_what_this_computer_fails_at_is_its_own_fault(act: Act, tmp_path: Path) -> None:
    """round3 1.3.1, 1.3.2: they were taken for faults of the tile, and given up."""
    (tmp_path / "frame.tiff").write_bytes(b"II*\0" + bytes(100))
    with sqlite3.connect(tmp_path / "a.sqlite") as connection:
        connection.execute("CREATE TABLE a (c)")
    connection.close()
    with pytest.raises(Exception) as caught:
        act(tmp_path)
    assert is_own_fault(caught.value), repr(caught.value)


def test_a_lock_is_known_in_the_words_of_sqlalchemy(tmp_path: Path) -> None:
    write_plainly(tmp_path)
    engine = engine_of(f"sqlite:///{tmp_path / 'a.sqlite'}", setting="x")
    with engine.connect() as connection:
        connection.execute(text("PRAGMA busy_timeout=0"))
        other = sqlite3.connect(tmp_path / "a.sqlite", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Exception, match="database is locked") as caught:
            connection.execute(text("CREATE TABLE d (e)"))
        other.close()
    engine.dispose()
    assert is_own_fault(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        FormatError("a.tiff: found text, expected a frame"),
        FileNotFoundError(errno.ENOENT, "no such file"),
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        ValueError("no"),
    ],
)
def test_what_is_worked_on_is_not(error: Exception) -> None:
    assert not is_own_fault(error)


def test_a_damaged_database_does_not_mend_itself(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(sqlite3.DatabaseError) as caught:
        write_plainly(tmp_path)
    assert not is_own_fault(caught.value)


def test_pauses_grow_and_each_kind_of_fault_is_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    faults = OwnFaults("qc")
    errors = [OSError(errno.EMFILE, "Too many open files", str(n)) for n in range(7)]
    pauses = [faults.pause_s(error) for error in errors]
    assert pauses == sorted(pauses)
    assert pauses[0] < 1 <= pauses[-1] <= 10
    faults.pause_s(StorageError("qc: its journal is locked"))
    faults.over()
    faults.over()
    assert faults.pause_s(errors[0]) == pauses[0]
    faults.over()
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(" after")[0] for line in lines] == [
        "qc: [Errno 24] Too many open files: '0'; it is tried again",
        "qc: its journal is locked; it is tried again",
        "qc: goes on",
        "qc: [Errno 24] Too many open files: '0'; it is tried again",
        "qc: goes on",
    ]


def test_what_a_service_cannot_do_is_read_by_others_while_it_lasts(
    tmp_path: Path,
) -> None:
    troubles = Troubles()
    troubles.put("qc", "qc: nobody listens")  # in no folder
    troubles.keep_in(troubles_folder(tmp_path), "qc")
    troubles.put("bus", "bus: no room")
    assert read_troubles(tmp_path) == {"qc": ("qc: nobody listens", "bus: no room")}
    troubles.put("bus", "")
    assert read_troubles(tmp_path) == {"qc": ("qc: nobody listens",)}
    file = troubles_folder(tmp_path) / "qc.json"
    os.utime(file, (1, 1))  # of a process that was killed
    assert read_troubles(tmp_path) == {}
    troubles.put("qc", "")
    assert not file.exists()
    file.write_bytes(b"{")
    assert read_troubles(tmp_path) == {}
    assert TROUBLES is not troubles
