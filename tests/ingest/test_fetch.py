"""Files come in parts that never come twice, and are whole, checked, or absent."""

import errno
import gzip
import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from em_platform.config import Settings, SourceSettings
from em_platform.errors import (
    ChecksumError,
    ConfigError,
    FormatError,
    SourceRefused,
    SourceUnavailable,
    StorageError,
)
from em_platform.ingest import fetch as fetching
from em_platform.ingest.fetch import estimate_bytes, fetch_files
from em_platform.ingest.manifest import Manifest
from em_platform.ingest.pace import Waits
from em_platform.ingest.progress import Silent
from em_platform.ingest.web import Web
from em_platform.model.ingest import Entry, RawItem, RemoteFile
from em_platform.standins.faults import Fault
from em_platform.standins.http import Server
from em_platform.standins.messages import Request, Response, as_file, refuse_in_html

PART = 10_000
CONTENT = np.random.default_rng(11759).bytes(10 * PART + 1234)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


class Remote:
    """A file server with faults, and what was asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.server = Server("files", self.answer)
        self.faults = self.server.faults
        self.change: Callable[[Response], Response] = lambda response: response

    def answer(self, request: Request) -> Response:
        path = self.folder / request.path.lstrip("/")
        if not path.is_file():
            return refuse_in_html(404, "Not Found")
        return self.change(as_file(path))

    def put(self, name: str, content: bytes = CONTENT, **facts: Any) -> RemoteFile:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return RemoteFile(name=name, url=f"{self.server.url}/{name}", **facts)

    def gets(self) -> list[str]:
        """Ranges of all GETs so far, in the order of their places."""
        found = [r.range for r in self.server.requests.all() if r.method == "GET"]
        return sorted(found, key=lambda text: int(text[6:].split("-")[0] or 0))

    def heads(self) -> int:
        return self.server.requests.count(lambda r: r.method == "HEAD")

    def forget(self) -> None:
        self.faults.clear()
        self.server.requests.clear()


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Remote]:
    made = Remote(tmp_path / "remote")
    with made.server:
        yield made


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Remote]:
    made = Remote(tmp_path / "other")
    with made.server:
        yield made


def entry_of(*files: RemoteFile) -> Entry:
    return Entry(
        source="ebi",
        key="11759",
        source_id="EMPIAR-11759",
        title="Retina",
        url="http://localhost",
        files=files,
    )


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[..., RawItem]:
    def fetch(*files: RemoteFile, progress: Any = None, **transfer: Any) -> RawItem:
        given = {"part_mb": PART / 1e6, "reserve_gb": 0.0, "retries": 2} | transfer
        settings = Settings.model_validate({"ingest": {"transfer": given}})
        web = Web(
            "ebi",
            SourceSettings(requests_at_once=4, requests_per_second=1e6),
            settings.ingest.transfer,
            waits=Waits(sleep=lambda _: None),
        )
        return fetch_files(
            entry_of(*files),
            tmp_path / "raw/11759",
            web=web,
            settings=settings,
            progress=progress or Silent(),
        )

    return fetch


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "raw/11759"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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


def test_parts_of_another_length_go_on_as_well(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    file = remote.put("a.dm3")
    remote.faults.add(Fault("status", methods=("GET",), skip=3))
    with pytest.raises(SourceUnavailable):
        fetch(file, parts_at_once=1)
    remote.forget()
    fetch(file, part_mb=0.025)
    assert (raw / "a.dm3").read_bytes() == CONTENT
    assert remote.gets()[0] == "bytes=30000-54999"


def test_a_cut_part_goes_on_where_it_was(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    content = np.random.default_rng(1).bytes(3_000_000)
    remote.faults.add(Fault("cut", after_bytes=2_500_000, times=1))
    item = fetch(remote.put("a.dm3", content), part_mb=3)
    assert (raw / "a.dm3").read_bytes() == content
    assert remote.gets() == ["bytes=0-2999999", f"bytes={2 << 20}-2999999"]
    assert item.fetched_bytes == len(content)


def test_a_connection_that_is_always_cut_is_told(
    remote: Remote, fetch: Callable[..., RawItem]
) -> None:
    remote.faults.add(Fault("cut", after_bytes=0))
    with pytest.raises(SourceUnavailable, match="at the last of 3 tries"):
        fetch(remote.put("a.dm3"))


def test_a_server_without_ranges_sends_one_stream(
    remote: Remote,
    fetch: Callable[..., RawItem],
    raw: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    remote.faults.add(Fault("no_range"))
    item = fetch(remote.put("a.dm3"), parts_at_once=1)
    assert (raw / "a.dm3").read_bytes() == CONTENT
    assert item.files[0].sha256 == SHA256
    assert "does not send parts" in caplog.text
    remote.forget()
    fetch(remote.put("a.dm3"))
    assert remote.gets() == []


def test_a_stream_that_is_cut_starts_from_the_beginning(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    remote.faults.add(
        Fault("no_range"), Fault("cut", after_bytes=5000, skip=1, times=1)
    )
    fetch(remote.put("a.dm3"), parts_at_once=1)
    assert (raw / "a.dm3").read_bytes() == CONTENT
    assert len(remote.gets()) == 3


def test_a_file_of_unknown_length_comes_in_one_stream(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    def stream(response: Response) -> Response:
        pieces = (CONTENT[at : at + PART] for at in range(0, len(CONTENT), PART))
        return replace(response, stream=pieces, ranged=False)

    remote.change = stream
    item = fetch(remote.put("a.dm3"))
    assert (raw / "a.dm3").read_bytes() == CONTENT
    assert item.size_bytes == len(CONTENT)


def test_a_promise_of_more_than_there_is_is_told(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    remote.faults.add(Fault("wrong_length"))
    with pytest.raises(SourceUnavailable, match="did not serve"):
        fetch(remote.put("a.dm3"))
    assert not (raw / "a.dm3").exists()
    remote.forget()
    fetch(remote.put("a.dm3"))
    assert (raw / "a.dm3").read_bytes() == CONTENT


def test_another_length_than_the_entry_says_is_told(
    remote: Remote, fetch: Callable[..., RawItem]
) -> None:
    said = f"has {len(CONTENT)} bytes, its entry says 5; take the entry again"
    with pytest.raises(SourceUnavailable, match=said):
        fetch(remote.put("a.dm3", size_bytes=5))


def test_a_file_that_changes_once_is_fetched_anew(
    remote: Remote,
    fetch: Callable[..., RawItem],
    raw: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = remote.put("a.dm3")
    new = CONTENT[::-1] + b"more"
    asked = 0

    def change(response: Response) -> Response:
        nonlocal asked
        asked += 1
        if asked == 5:
            (remote.folder / "a.dm3").write_bytes(new)
            return as_file(remote.folder / "a.dm3")
        return response

    remote.change = change
    item = fetch(file, parts_at_once=1)
    assert (raw / "a.dm3").read_bytes() == new
    assert item.files[0].sha256 == hashlib.sha256(new).hexdigest()
    assert "it is fetched anew" in caplog.text


def test_a_file_that_becomes_shorter_is_fetched_anew(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    file = remote.put("a.dm3")
    remote.faults.add(Fault("truncate", after_bytes=35_000, skip=3))
    fetch(file, parts_at_once=1)
    assert (raw / "a.dm3").read_bytes() == CONTENT[:35_000]


def test_a_file_that_changes_all_the_time_is_told(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    asked = 0

    def change(response: Response) -> Response:
        nonlocal asked
        asked += 1
        return replace(response, etag=f'"{asked}"')

    remote.change = change
    with pytest.raises(SourceUnavailable, match="changed twice while it was fetched"):
        fetch(remote.put("a.dm3"))
    assert not (raw / "a.dm3").exists()


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


def test_a_weak_etag_is_compared_and_not_sent(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    remote.change = lambda response: replace(response, etag=f"W/{response.etag}")
    fetch(remote.put("a.dm3"))
    assert (raw / "a.dm3").read_bytes() == CONTENT
    assert len(remote.gets()) == 11


@pytest.mark.parametrize("digest", [{"sha256": SHA256.upper()}, {"md5": MD5}])
def test_a_published_checksum_is_compared(
    remote: Remote, fetch: Callable[..., RawItem], digest: dict[str, str]
) -> None:
    item = fetch(remote.put("a.dm3", **digest))
    assert [item.files[0].checked_against] == list(digest)
    remote.forget()
    fetch(remote.put("a.dm3", **digest))
    assert remote.gets() == []


@pytest.mark.parametrize("digest", [{"sha256": SHA256}, {"md5": MD5}])
def test_other_bytes_than_published_are_set_aside(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path, digest: dict[str, str]
) -> None:
    file = remote.put("a.dm3", **digest)
    remote.faults.add(Fault("corrupt"))
    with pytest.raises(ChecksumError, match="is published; it was set aside"):
        fetch(file)
    assert names(raw) == ["a.dm3.bad", "manifest.sqlite"]
    with Manifest(raw, who="test") as manifest:
        assert manifest.files()[0].state == "bad"
    remote.forget()
    fetch(file)
    assert (raw / "a.dm3").read_bytes() == CONTENT


def test_checksums_can_be_left_alone(
    remote: Remote, fetch: Callable[..., RawItem]
) -> None:
    item = fetch(remote.put("a.dm3", sha256="0" * 64), verify_checksums=False)
    assert item.files[0].checked_against == "length"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("missing"), SourceRefused),
        (Fault("status", status=401), SourceRefused),
        (Fault("status", status=500), SourceUnavailable),
    ],
)
def test_a_mirror_serves_what_the_source_does_not(
    remote: Remote,
    other: Remote,
    fetch: Callable[..., RawItem],
    raw: Path,
    fault: Fault,
    error: type[Exception],
) -> None:
    mirror = other.put("a.dm3").url
    remote.faults.add(fault)
    item = fetch(remote.put("a.dm3", mirrors=(mirror,)))
    assert (raw / "a.dm3").read_bytes() == CONTENT
    assert item.files[0].url == mirror
    other.faults.add(fault)
    with pytest.raises(error, match=r"none of 2 addresses served b\.dm3"):
        fetch(remote.put("b.dm3", mirrors=(other.put("b.dm3").url,)))


def test_a_mirror_goes_on_with_the_same_file(
    remote: Remote, other: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    file = remote.put("a.dm3", mirrors=(other.put("a.dm3").url,))
    for each in (remote, other):
        os.utime(each.folder / "a.dm3", (1e9, 1e9))
    other.change = lambda response: replace(response, etag='"its own"')
    remote.faults.add(Fault("status", methods=("GET",), skip=4))
    fetch(file, parts_at_once=1)
    assert (raw / "a.dm3").read_bytes() == CONTENT
    assert other.gets()[0] == "bytes=40000-49999"


def test_a_mirror_that_may_have_another_file_starts_anew(
    remote: Remote, other: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    file = remote.put("a.dm3", mirrors=(other.put("a.dm3", CONTENT[::-1]).url,))
    os.utime(other.folder / "a.dm3", (1e9, 1e9))
    remote.faults.add(Fault("status", methods=("GET",), skip=4))
    fetch(file, parts_at_once=1)
    assert (raw / "a.dm3").read_bytes() == CONTENT[::-1]


def test_a_mirror_of_another_size_does_not_serve(
    remote: Remote, other: Remote, fetch: Callable[..., RawItem]
) -> None:
    file = remote.put(
        "a.dm3",
        size_bytes=len(CONTENT),
        mirrors=(other.put("a.dm3", b"short").url,),
    )
    remote.faults.add(Fault("missing"))
    with pytest.raises(SourceUnavailable, match="has 5 bytes, its entry says"):
        fetch(file)


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
    assert len(remote.gets()) == 3


def test_a_gzip_on_the_way_is_unpacked(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    file = remote.put("a.tsv", gzip.compress(CONTENT, mtime=0), sha256=SHA256)
    remote.change = lambda r: replace(r, headers={"Content-Encoding": "gzip"})
    fetch(file, parts_at_once=1)
    assert (raw / "a.tsv").read_bytes() == CONTENT


def test_a_packed_file_stays_packed(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    packed = gzip.compress(CONTENT, mtime=0)
    remote.change = lambda r: replace(r, headers={"Content-Encoding": "x-gzip"})
    fetch(remote.put("a.xml.gz", packed))
    assert (raw / "a.xml.gz").read_bytes() == packed
    assert len(remote.gets()) == 11


def test_an_empty_file_is_a_file(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    item = fetch(remote.put("a.txt", b""))
    assert (raw / "a.txt").read_bytes() == b""
    assert item.files[0].sha256 == hashlib.sha256().hexdigest()


def test_too_little_room_is_told_before_anything_comes(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    with pytest.raises(StorageError, match=r"101.2 kB are to come and 1e\+06 GB are"):
        fetch(remote.put("a.dm3"), reserve_gb=1e6)
    assert remote.gets() == []


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_a_disk_that_fills_up_is_told_and_what_came_is_kept(
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
        with pytest.raises(StorageError, match=r"No space left on device.*is kept"):
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
def test_a_name_that_is_not_right_is_told(
    fetch: Callable[..., RawItem], raw: Path, name: str, wrong: str
) -> None:
    with pytest.raises(FormatError, match=wrong):
        fetch(RemoteFile(name=name, url="http://localhost/a"))
    assert not raw.exists()


def test_two_names_of_one_file_are_told(fetch: Callable[..., RawItem]) -> None:
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


def test_progress_hears_what_is_still_to_come(
    remote: Remote, fetch: Callable[..., RawItem]
) -> None:
    class Heard:
        def __init__(self) -> None:
            self.totals: list[int] = []
            self.size_bytes = 0

        def total(self, size_bytes: int) -> None:
            self.totals.append(size_bytes)

        def came(self, size_bytes: int) -> None:
            self.size_bytes += size_bytes

    file = remote.put("a.dm3")
    remote.faults.add(Fault("status", methods=("GET",), skip=4))
    first = Heard()
    with pytest.raises(SourceUnavailable):
        fetch(file, parts_at_once=1, progress=first)
    remote.forget()
    second = Heard()
    fetch(file, progress=second)
    assert first.totals == [len(CONTENT)]
    assert second.totals == [len(CONTENT) - 40_000] == [second.size_bytes]


def test_an_estimate_asks_only_for_what_is_not_known(remote: Remote) -> None:
    web = Web("ebi", SourceSettings(), Settings().ingest.transfer)
    files = [remote.put("a", b"123"), remote.put("b", b"", size_bytes=1000)]
    assert estimate_bytes(files, web=web) == 1003
    assert remote.heads() == 1
    remote.change = lambda r: replace(r, headers={"Content-Encoding": "gzip"})
    assert estimate_bytes(files, web=web) is None


def test_a_connection_is_used_for_many_parts(
    remote: Remote, fetch: Callable[..., RawItem], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="urllib3.connectionpool")
    fetch(remote.put("a.dm3"), parts_at_once=2)
    assert caplog.text.count("Starting new HTTP connection") <= 3


def test_a_folder_that_may_not_be_written_is_told(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    raw.parent.mkdir()
    raw.write_bytes(b"")
    with pytest.raises(StorageError, match="could not be written"):
        fetch(remote.put("a.dm3"))
    shutil.rmtree(raw.parent)
