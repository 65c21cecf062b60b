"""Each fault as a client sees it."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from em_platform.errors import ConfigError
from em_platform.standins.faults import Fault, Faults, fault_of
from em_platform.standins.http import Server
from em_platform.standins.messages import as_file

CONTENT = bytes(range(251)) * 1000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    with Server("files", lambda _: as_file(path)) as server:
        yield server


@pytest.fixture
def get(server: Server) -> Iterator[Callable[..., requests.Response]]:
    with requests.Session() as session:

        def ask(path: str = "/f", asked: str = "") -> requests.Response:
            headers = {"Range": asked} if asked else {}
            return session.get(server.url + path, headers=headers, timeout=10)

        yield ask


Get = Callable[..., requests.Response]


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_a_status_is_shown_as_often_as_reported(
    server: Server, get: Get, status: int
) -> None:
    server.faults.add(Fault("status", "/f", times=2, status=status))
    seen = [get().status_code for _ in range(3)]
    assert seen == [status, status, 200]


def test_a_busy_server_says_when_to_come_again(server: Server, get: Get) -> None:
    server.faults.add(Fault("status", status=429, retry_after_s=1.5))
    assert get().headers["Retry-After"] == "1.5"


def test_only_paths_that_fit_are_met(server: Server, get: Get) -> None:
    server.faults.add(Fault("status", "*_0003.dm3"), Fault("missing", "/g"))
    assert get("/slice_0002.dm3").status_code == 200
    assert get("/a/slice_0003.dm3").status_code == 503
    assert get("/g").status_code == 404


def test_a_fault_of_another_site_or_method_is_not_shown(
    server: Server, get: Get
) -> None:
    server.faults.add(Fault("status", site="mirror"), Fault("status", methods=("PUT",)))
    assert get().status_code == 200


def test_a_cut_connection_breaks_after_the_bytes_reported(
    server: Server, get: Get
) -> None:
    server.faults.add(Fault("cut", after_bytes=1000, times=1))
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        get()
    [entry] = server.requests.all()
    assert (entry.bytes_sent, entry.promised_bytes) == (1000, len(CONTENT))
    assert not entry.whole
    assert get().content == CONTENT


def test_a_wrong_length_promises_what_never_comes(server: Server, get: Get) -> None:
    server.faults.add(Fault("wrong_length", extra_bytes=10))
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="10 more"):
        get()
    part = get(asked="bytes=0-9")
    assert part.headers["Content-Range"] == f"bytes 0-9/{len(CONTENT) + 10}"


def test_without_ranges_the_whole_comes(server: Server, get: Get) -> None:
    server.faults.add(Fault("no_range"))
    found = get(asked="bytes=0-9")
    assert (found.status_code, found.content) == (200, CONTENT)
    assert "Accept-Ranges" not in found.headers


def test_corrupt_bytes_have_the_same_length_and_etag(server: Server, get: Get) -> None:
    good = get()
    server.faults.add(Fault("corrupt"))
    bad = get()
    assert bad.content != CONTENT
    assert len(bad.content) == len(CONTENT)
    assert bad.headers["ETag"] == good.headers["ETag"]
    middle = len(CONTENT) // 2
    part = get(asked=f"bytes={middle - 5}-{middle + 5}").content
    assert part == bad.content[middle - 5 : middle + 6]


def test_a_truncated_file_is_shorter_in_all_it_says(server: Server, get: Get) -> None:
    server.faults.add(Fault("truncate", after_bytes=700))
    assert get().content == CONTENT[:700]
    assert get(asked="bytes=690-").headers["Content-Range"] == "bytes 690-699/700"


def test_a_file_that_changes_has_other_bytes_and_another_etag(
    server: Server, get: Get
) -> None:
    server.faults.add(Fault("changed_etag", skip=2))
    found = [get(asked="bytes=0-5000") for _ in range(4)]
    assert len({each.headers["ETag"] for each in found[:2]}) == 1
    assert len({each.headers["ETag"] for each in found}) == 2
    assert found[1].content == CONTENT[:5001]
    assert found[2].content == found[3].content != CONTENT[:5001]


def test_a_packed_file_is_unpacked_by_who_knows(server: Server, get: Get) -> None:
    server.faults.add(Fault("packed"))
    found = get(asked="bytes=0-9")
    assert (found.status_code, found.content) == (200, CONTENT)
    assert found.headers["Content-Encoding"] == "gzip"
    assert int(found.headers["Content-Length"]) < len(CONTENT)


def test_a_slow_server_takes_its_time(server: Server, get: Get) -> None:
    server.faults.add(Fault("slow", bytes_per_s=len(CONTENT) * 4))
    started = time.monotonic()
    assert get().content == CONTENT
    assert 0.1 < time.monotonic() - started < 20


def test_a_hanging_server_ends_with_the_world(server: Server) -> None:
    server.faults.add(Fault("hang"))
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.get(f"{server.url}/f", timeout=0.1)
    started = time.monotonic()
    server.close()
    assert time.monotonic() - started < 20


def test_a_look_at_the_head_does_not_use_up_a_fault_of_the_body(
    server: Server, get: Get
) -> None:
    server.faults.add(Fault("corrupt", times=1))
    requests.head(f"{server.url}/f", timeout=10)
    assert get().content != CONTENT
    assert get().content == CONTENT
    server.faults.clear()
    assert server.faults.all() == []


def test_an_unknown_fault_is_reported() -> None:
    with pytest.raises(ConfigError, match="no fault 'flood'"):
        fault_of({"kind": "flood"})
    with pytest.raises(ConfigError, match="colour"):
        fault_of({"kind": "cut", "colour": "red"})


def test_what_is_missing_is_hidden_from_listings() -> None:
    faults = Faults()
    faults.add(Fault("missing", "/b/chunk/1", times=1))
    assert faults.hidden("/b/chunk/1", site="s3")
    assert not faults.hidden("/b/chunk/2", site="s3")
    assert faults.due(site="s3", method="GET", path="/b/chunk/1").keys() == {"missing"}
    assert not faults.hidden("/b/chunk/1", site="s3")
