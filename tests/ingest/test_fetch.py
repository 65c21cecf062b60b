"""Files come in parts that never come twice, and again only where they changed."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from em_platform.errors import (
    SourceRefused,
    SourceUnavailable,
)
from em_platform.model.ingest import RawItem, RemoteFile
from em_platform.standins.faults import Fault
from tests.ingest.remote import CONTENT, SHA256, Remote, names


def test_a_file_comes_in_parts_and_is_whole(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    item = fetch(remote.put("a.dm3"))
    assert (raw / "a.dm3").read_bytes() == CONTENT
    assert names(raw) == ["a.dm3", "manifest.sqlite"]
    assert len(remote.gets()) == 11
    assert remote.gets()[-1] == f"bytes=100000-{len(CONTENT) - 1}"
    (file,) = item.files
    assert (file.sha256, file.checked_against) == (SHA256, "length")
    assert file.etag
    assert item.size_bytes == item.fetched_bytes == len(CONTENT)


def test_again_it_costs_no_request(
    remote: Remote, fetch: Callable[..., RawItem]
) -> None:
    file = remote.put("a.dm3")
    first = fetch(file)
    remote.forget()
    again = fetch(file)
    assert remote.server.requests.all() == []
    assert again.files == first.files
    assert again.fetched_bytes == 0


def test_many_small_files_come_at_once_and_in_order(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    contents = {f"data/slice_{n:04}.dm3": bytes([n]) * (n * 100) for n in range(16)}
    item = fetch(*(remote.put(name, content) for name, content in contents.items()))
    assert [file.name for file in item.files] == list(contents)
    assert all((raw / name).read_bytes() == c for name, c in contents.items())


def test_a_file_that_was_touched_comes_again(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    file = remote.put("a.dm3")
    fetch(file)
    (raw / "a.dm3").write_bytes(b"broken")
    fetch(file)
    assert (raw / "a.dm3").read_bytes() == CONTENT


def test_a_file_of_which_the_entry_says_another_size_now_comes_again(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    fetch(remote.put("a.dm3", size_bytes=len(CONTENT)))
    fetch(remote.put("a.dm3", b"new", size_bytes=3))
    assert (raw / "a.dm3").read_bytes() == b"new"


def test_a_file_of_which_the_entry_says_another_etag_now_comes_again(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    first = fetch(remote.put("a.dm3")).files[0]
    remote.forget()
    fetch(remote.put("a.dm3", etag=first.etag))
    assert remote.server.requests.all() == []
    fetch(remote.put("a.dm3", CONTENT[::-1], etag='"new"'))
    assert (raw / "a.dm3").read_bytes() == CONTENT[::-1]


def test_what_came_before_a_failure_is_not_asked_for_again(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    file = remote.put("a.dm3")
    remote.faults.add(Fault("status", methods=("GET",), skip=4))
    with pytest.raises(SourceUnavailable, match=r"ebi: http.*a.dm3 answered 503"):
        fetch(file, parts_at_once=1)
    remote.forget()
    item = fetch(file)
    assert (raw / "a.dm3").read_bytes() == CONTENT
    assert remote.gets()[0] == "bytes=40000-49999"
    assert len(remote.gets()) == 7
    assert item.fetched_bytes == len(CONTENT) - 40_000
    assert item.files[0].sha256 == SHA256


def test_a_file_that_changed_between_two_runs_starts_anew(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    remote.faults.add(Fault("status", methods=("GET",), skip=4))
    with pytest.raises(SourceUnavailable):
        fetch(remote.put("a.dm3"), parts_at_once=1)
    remote.forget()
    os.utime(remote.folder / "a.dm3", (1, 1))  # and so another ETag
    fetch(RemoteFile(name="a.dm3", url=f"{remote.server.url}/a.dm3"))
    assert len(remote.gets()) == 11


def test_the_first_file_that_fails_stops_the_others_and_they_are_kept(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    files = [remote.put(f"{n}.dm3", bytes([n]) * 100) for n in range(8)]
    remote.faults.add(Fault("missing", path="/5.dm3", methods=("GET",)))
    with pytest.raises(SourceRefused, match=r"5.dm3 answered 404"):
        fetch(*files, parts_at_once=1)
    assert (raw / "0.dm3").read_bytes() == bytes(100)
    remote.forget()
    fetch(*files)
    # 5.dm3 and 7.dm3; 6.dm3 may have been under way when the failure came.
    assert len(remote.gets()) in (2, 3)


def test_progress_hears_what_is_still_to_come(
    remote: Remote, fetch: Callable[..., RawItem]
) -> None:
    class Counted:
        def __init__(self) -> None:
            self.totals: list[int] = []
            self.size_bytes = 0

        def total(self, size_bytes: int) -> None:
            self.totals.append(size_bytes)

        def came(self, size_bytes: int) -> None:
            self.size_bytes += size_bytes

    file = remote.put("a.dm3")
    remote.faults.add(Fault("status", methods=("GET",), skip=4))
    first = Counted()
    with pytest.raises(SourceUnavailable):
        fetch(file, parts_at_once=1, progress=first)
    remote.forget()
    second = Counted()
    fetch(file, progress=second)
    assert first.totals == [len(CONTENT)]
    assert second.totals == [len(CONTENT) - 40_000] == [second.size_bytes]


def test_a_connection_is_used_for_many_parts(
    remote: Remote, fetch: Callable[..., RawItem], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="urllib3.connectionpool")
    fetch(remote.put("a.dm3"), parts_at_once=2)
    assert caplog.text.count("Starting new HTTP connection") <= 3
