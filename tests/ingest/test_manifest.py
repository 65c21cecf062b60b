"""The manifest of an item holds what has come, and outlives every end."""

import threading
from pathlib import Path

import pytest

from em_platform.errors import StorageError
from em_platform.ingest.local_file import read_back
from em_platform.ingest.manifest import NAME, Manifest, Part, SavedFile
from em_platform.ingest.remote_file import missing_ranges

BEGUN = SavedFile(name="a", url="http://localhost/a", size_bytes=30, etag='"1"')


def test_parts_are_there_when_it_is_opened_again(tmp_path: Path) -> None:
    with Manifest(tmp_path, who="ebi 1") as manifest:
        manifest.begin(BEGUN)
        manifest.add_part("a", Part(10, 20, 7))
        manifest.add_part("a", Part(0, 10, 8))
    with Manifest(tmp_path, who="ebi 1") as manifest:
        assert manifest.file("a") == BEGUN
        assert manifest.parts("a") == (Part(0, 10, 8), Part(10, 20, 7))
        assert manifest.file("b") is None
        assert manifest.parts("b") == ()


def test_a_file_that_begins_anew_has_no_parts(tmp_path: Path) -> None:
    with Manifest(tmp_path, who="ebi 1") as manifest:
        manifest.begin(BEGUN)
        manifest.add_part("a", Part(0, 10, 8))
        manifest.add_part("b", Part(0, 10, 8))
        manifest.begin(BEGUN)
        assert manifest.parts("a") == ()
        assert len(manifest.parts("b")) == 1


def test_a_whole_file_is_remembered_with_its_digest(tmp_path: Path) -> None:
    whole = SavedFile(
        name="a",
        url="http://localhost/a",
        size_bytes=30,
        etag='"1"',
        state="whole",
        sha256="00",
        checked_against="md5",
        mtime_ns=1_700_000_000_123_456_789,
    )
    with Manifest(tmp_path, who="ebi 1") as manifest:
        manifest.begin(BEGUN)
        manifest.add_part("a", Part(0, 30, 8))
        manifest.end(whole)
        assert manifest.files() == (whole,)
        assert manifest.parts("a") == ()


def test_what_is_no_manifest_is_reported(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"no database, whatever its name says" * 100)
    with pytest.raises(StorageError, match="the whole folder then, to fetch it anew"):
        Manifest(tmp_path, who="ebi 1")


def test_many_threads_note_their_parts(tmp_path: Path) -> None:
    with Manifest(tmp_path, who="ebi 1") as manifest:
        manifest.begin(BEGUN)
        threads = [
            threading.Thread(target=manifest.add_part, args=("a", Part(n, n + 1, n)))
            for n in range(30)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert manifest.parts("a") == tuple(Part(n, n + 1, n) for n in range(30))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], ((0, 10), (10, 20), (20, 25))),
        ([(0, 25)], ()),
        ([(10, 20)], ((0, 10), (20, 25))),
        ([(20, 25), (0, 3)], ((3, 13), (13, 20))),
        ([(0, 12), (12, 24)], ((24, 25),)),
    ],
)
def test_what_is_missing_lies_between_the_parts(
    parts: list[tuple[int, int]], expected: tuple[tuple[int, int], ...]
) -> None:
    there = [Part(start, stop, 0) for start, stop in parts]
    assert missing_ranges(25, there, part_bytes=10) == expected


def test_an_empty_file_misses_nothing() -> None:
    assert missing_ranges(0, [], part_bytes=10) == ()


def test_reading_back_tells_digests_and_broken_parts(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"123456789")
    right = 0xCBF43926  # the check value of CRC-32 for these digits
    with path.open("rb") as file:
        whole = read_back(file.fileno(), [Part(0, 9, right)], md5=True)
        other = read_back(file.fileno(), [Part(0, 9, 1)], md5=False)
    assert whole.md5 == "25f9e794323b453885f5181f1b624d0b"
    assert whole.sha256.startswith("15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65f")
    assert whole.broken == ()
    assert other.broken == (Part(0, 9, 1),)
