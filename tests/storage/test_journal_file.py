import threading
from pathlib import Path

import pytest

from em_platform.errors import StorageError
from em_platform.storage.journal_file import JournalFile

TABLES = "CREATE TABLE IF NOT EXISTS tiles (name TEXT PRIMARY KEY) WITHOUT ROWID"
INSERT = "INSERT INTO tiles VALUES (?)"


def opened(path: Path, synchronous: str = "FULL") -> JournalFile:
    remedy = "free space"
    return JournalFile(
        path,
        TABLES,
        who="pipeline",
        remedy=remedy,
        synchronous=synchronous,  # type: ignore[arg-type]
    )


def names(file: JournalFile) -> list[str]:
    return [row["name"] for row in file.ask("SELECT name FROM tiles")]


def test_a_block_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal.sqlite"
    file = opened(path)
    with file.writing() as cursor:
        cursor.executemany(INSERT, [("a",), ("b",)])
    with pytest.raises(StorageError, match="UNIQUE"), file.writing() as cursor:
        cursor.execute(INSERT, ("c",))
        cursor.execute(INSERT, ("a",))
    with pytest.raises(KeyError), file.writing() as cursor:
        cursor.execute(INSERT, ("d",))
        raise KeyError
    file.close()
    again = opened(path)
    assert names(again) == ["a", "b"]
    again.close()


def test_another_process_sees_what_is_committed_only(tmp_path: Path) -> None:
    one, other = opened(tmp_path / "j"), opened(tmp_path / "j")
    with one.writing() as cursor:
        cursor.execute(INSERT, ("a",))
        assert names(other) == []
    assert names(other) == ["a"]
    one.close()
    other.close()


@pytest.mark.parametrize(("synchronous", "level"), [("FULL", 2), ("NORMAL", 1)])
def test_a_journal_is_as_durable_as_asked(
    tmp_path: Path, synchronous: str, level: int
) -> None:
    file = opened(tmp_path / "j", synchronous)
    assert [tuple(row) for row in file.ask("PRAGMA synchronous")] == [(level,)]
    assert [tuple(row) for row in file.ask("PRAGMA journal_mode")] == [("wal",)]
    file.close()


def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "in the way").write_text("no folder")
    with pytest.raises(StorageError, match=r"^pipeline: its journal .*; free space$"):
        opened(tmp_path / "in the way" / "journal.sqlite")
    (tmp_path / "text").write_text("this is a file, and no database of any kind" * 50)
    with pytest.raises(
        StorageError, match=r"^pipeline: .*not a database.*backup.*lost$"
    ):
        opened(tmp_path / "text")


def test_a_new_journal_is_opened_by_several_at_once(tmp_path: Path) -> None:
    """Without a retry some of 40 rounds met "database is locked"."""
    for attempt in range(40):
        path = tmp_path / str(attempt)
        together = threading.Barrier(6)
        modes: list[int] = []

        def connect(path: Path, together: threading.Barrier, modes: list[int]) -> None:
            together.wait()
            journal = opened(path)
            modes.append(len(journal.ask("PRAGMA journal_mode")))
            journal.close()

        threads = [
            threading.Thread(target=connect, args=(path, together, modes))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert modes == [1] * 6
