"""What the other side does wrong is answered, or an error; no wrong file stays."""

import gzip
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from em_platform.errors import (
    ChecksumError,
    SourceRefused,
    SourceUnavailable,
)
from em_platform.ingest.manifest import Manifest
from em_platform.model.ingest import RawItem
from em_platform.standins.faults import Fault
from em_platform.standins.messages import Response, as_file
from tests.ingest.remote import CONTENT, MD5, PART, SHA256, Remote, names


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
    assert remote.gets() == ["bytes=0-2999999", "bytes=2500000-2999999"]
    assert item.fetched_bytes == len(content)


def test_a_connection_that_is_always_cut_is_reported(
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


def test_a_promise_of_more_than_there_is_is_reported(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    remote.faults.add(Fault("wrong_length"))
    with pytest.raises(SourceUnavailable, match="did not serve"):
        fetch(remote.put("a.dm3"))
    assert not (raw / "a.dm3").exists()
    remote.forget()
    fetch(remote.put("a.dm3"))
    assert (raw / "a.dm3").read_bytes() == CONTENT


def test_another_length_than_the_entry_says_is_reported(
    remote: Remote, fetch: Callable[..., RawItem]
) -> None:
    stated = f"has {len(CONTENT)} bytes, its entry says 5; take the entry again"
    with pytest.raises(SourceUnavailable, match=stated):
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


def test_a_file_that_changes_all_the_time_is_reported(
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
    with pytest.raises(ChecksumError, match="is published; it was renamed"):
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
    file = remote.put("a.dm3", sha256="0" * 64)
    item = fetch(file, verify_checksums=False)
    assert item.files[0].checked_against == "length"
    remote.forget()
    fetch(file, verify_checksums=False)
    assert remote.server.requests.all() == []


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


def test_a_password_in_an_address_stands_in_no_sentence_and_no_record(
    remote: Remote, fetch: Callable[..., RawItem], raw: Path
) -> None:
    file = remote.put("a.dm3")
    secret = file.url.replace("//", "//me:word@") + "?token=secret"
    item = fetch(file.model_copy(update={"url": secret}))
    assert "word" not in item.model_dump_json()
    assert "secret" not in item.model_dump_json()
    assert b"word" not in (raw / "manifest.sqlite").read_bytes()
    remote.faults.add(Fault("changed_etag", skip=1, times=None), Fault("no_range"))
    with pytest.raises(SourceUnavailable) as caught:
        fetch(file.model_copy(update={"url": secret, "size_bytes": 5}))
    assert "word" not in str(caught.value)
    assert "secret" not in str(caught.value)
