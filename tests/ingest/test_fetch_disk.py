"""What our own disk does, and names that must not get onto it."""

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from em_platform.errors import (
    ConfigError,
    FormatError,
    SourceUnavailable,
    StorageError,
)
from em_platform.ingest import fetch as fetching
from em_platform.ingest.manifest import Manifest
from em_platform.model.ingest import RawItem, RemoteFile
from em_platform.standins.faults import Fault
from tests.ingest.remote import CONTENT, SHA256, Remote, names


def test_an_empty_file_is_a_file(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    item = fetch(remote.put("a.txt", b""))
    assert (raw / "a.txt").read_bytes() == b""
    assert item.files[0].sha256 == hashlib.sha256().hexdigest()


def test_too_little_room_is_reported_before_anything_comes(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    with pytest.raises(StorageError, match=r"101.2 kB are needed and 1e\+06 GB are"):
        fetch(remote.put("a.dm3"), reserve_gb=1e6)
    assert remote.gets() == []


def test_a_block_that_the_disk_takes_in_pieces_is_written_whole(
    remote: Remote,
    fetch: Callable[..., RawItem],
    raw: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda f, block, at: real(f, block[:777], at))
    fetch(remote.put("a.dm3"))
    assert (raw / "a.dm3").read_bytes() == CONTENT


def test_a_disk_that_reserves_nothing_is_used_as_well(
    remote: Remote,
    fetch: Callable[..., RawItem],
    raw: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    fetch(remote.put("a.dm3"))
    assert (raw / "a.dm3").read_bytes() == CONTENT


def test_room_that_a_file_has_taken_already_is_not_needed_again(
    remote: Remote,
    fetch: Callable[..., RawItem],
    raw: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = remote.put("a.dm3")
    remote.faults.add(Fault("status", methods=("GET",), skip=4))
    with pytest.raises(SourceUnavailable):
        fetch(file, parts_at_once=1)
    remote.forget()
    full = shutil.disk_usage(raw)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    fetch(file)
    assert (raw / "a.dm3").read_bytes() == CONTENT


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_a_disk_that_fills_up_is_reported_and_what_came_is_kept(
    remote: Remote,
    fetch: Callable[..., RawItem],
    raw: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    file = remote.put("a.dm3")
    real = getattr(os, call)

    def full(descriptor: int, *given: Any) -> Any:
        if call == "pwrite" and given[1] < 50_000:
            return real(descriptor, *given)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(StorageError, match=r"No space left on device.*are kept"):
            fetch(file, parts_at_once=1)
    remote.forget()
    fetch(file)
    assert (raw / "a.dm3").read_bytes() == CONTENT
    assert len(remote.gets()) == (6 if call == "pwrite" else 11)


def test_an_item_above_the_limit_is_refused(
    remote: Remote, fetch: Callable[..., RawItem]
) -> None:
    known = remote.put("a.dm3", size_bytes=len(CONTENT))
    with pytest.raises(ConfigError, match=r"raise ingest\.transfer\.max_gb_per_item"):
        fetch(known, max_gb_per_item=1e-5)
    assert remote.heads() == 0
    with pytest.raises(ConfigError, match=r"101.2 kB, at most 1e-05 GB"):
        fetch(remote.put("b.dm3"), max_gb_per_item=1e-5)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("../a", "leads out"),
        ("/etc/a", "leads out"),
        ("a\\b", "leads out"),
        ("", "is no name"),
        ("a//b", "is no name"),
        ("a\n", "letters that are not seen"),
        ("a\u202egpj.b", "letters that are not seen"),
        ("é" * 121, "longer than 240 bytes"),
        ("manifest.sqlite-wal", "platform's own"),
        ("a.partial", "platform's own"),
    ],
)
def test_a_name_that_is_not_right_is_reported(
    fetch: Callable[..., RawItem], raw: Path, name: str, wrong: str
) -> None:
    with pytest.raises(FormatError, match=wrong):
        fetch(RemoteFile(name=name, url="http://localhost/a"))
    assert not raw.exists()


def test_two_names_of_one_file_are_reported(fetch: Callable[..., RawItem]) -> None:
    url = "http://localhost/a"
    files = [RemoteFile(name=name, url=url) for name in ("é.tif", "E\u0301.tif")]
    with pytest.raises(FormatError, match="is the same file as"):
        fetch(*files)


def test_a_name_with_letters_of_any_script_is_right(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    file = remote.put("Figure S3F+1F 網膜 50%.tif")
    fetch(
        file.model_copy(
            update={"url": f"{remote.server.url}/Figure%20S3F+1F%20網膜%2050%25.tif"}
        )
    )
    assert (raw / "Figure S3F+1F 網膜 50%.tif").read_bytes() == CONTENT


def test_a_killed_process_may_leave_the_file_in_place_and_unnoted(
    remote: Remote,
    fetch: Callable[..., RawItem],
    raw: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = remote.put("a.dm3")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Manifest, "end", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(file)
    assert names(raw) == ["a.dm3", "manifest.sqlite"]
    remote.forget()
    assert fetch(file).files[0].sha256 == SHA256
    assert remote.gets() == []
    assert names(raw) == ["a.dm3", "manifest.sqlite"]


def test_a_part_that_the_disk_has_lost_comes_again(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    file = remote.put("a.dm3")
    remote.faults.add(Fault("status", methods=("GET",), skip=4))
    with pytest.raises(SourceUnavailable):
        fetch(file, parts_at_once=1)
    with (raw / "a.dm3.partial").open("r+b") as partial:
        partial.seek(15_000)
        partial.write(bytes(100))
    remote.forget()
    fetch(file)
    assert (raw / "a.dm3").read_bytes() == CONTENT
    assert "bytes=10000-19999" in remote.gets()
    assert len(remote.gets()) == 8


def test_a_half_written_file_that_is_gone_starts_anew(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    file = remote.put("a.dm3")
    remote.faults.add(Fault("status", methods=("GET",), skip=4))
    with pytest.raises(SourceUnavailable):
        fetch(file, parts_at_once=1)
    (raw / "a.dm3.partial").unlink()
    remote.forget()
    fetch(file)
    assert (raw / "a.dm3").read_bytes() == CONTENT
    assert len(remote.gets()) == 11


def test_a_second_fetch_of_the_same_item_waits_for_the_first(
    remote: Remote,
    fetch: Callable[..., RawItem],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(fetching, "_LOOK_AGAIN_S", 0.02)
    remote.faults.add(Fault("slow", bytes_per_s=400_000.0))
    file = remote.put("a.dm3")
    done: list[RawItem] = []
    threads = [threading.Thread(target=lambda: done.append(fetch(file))) for _ in "12"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(remote.gets()) == 11
    assert sorted(item.fetched_bytes for item in done) == [0, len(CONTENT)]
    assert "another process fetches it; this one waits" in caplog.text


def test_a_folder_that_may_not_be_written_is_reported(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    raw.parent.mkdir()
    raw.write_bytes(b"")
    with pytest.raises(StorageError, match="could not be written"):
        fetch(remote.put("a.dm3"))
    shutil.rmtree(raw.parent)
