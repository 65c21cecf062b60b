"""The server against `requests`: ranges, conditions, and a quick end."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from em_platform.errors import ConfigError
from em_platform.standins.http import Server
from em_platform.standins.messages import Response, Router, as_file, as_json

CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    path = tmp_path / "a file.bin"
    path.write_bytes(CONTENT)
    router = Router()
    router.add("/a file.bin", lambda _: as_file(path))
    router.add("/pieces", lambda _: Response(stream=iter([b"one", b"two", b"three"])))
    router.add("/echo", lambda r: as_json(r.json), methods=("POST",))
    router.add("/broken", lambda r: as_json(r.json["no such key"]))
    with Server("files", router) as server:
        yield server


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def url_of(server: Server) -> str:
    return f"{server.url}/a%20file.bin"


@pytest.mark.parametrize(
    ("asked", "status", "start", "stop"),
    [
        ("bytes=10-19", 206, 10, 20),
        ("bytes=255990-", 206, 255990, 256000),
        ("bytes=-7", 206, 255993, 256000),
        ("bytes=-9999999", 206, 0, 256000),
        ("bytes=255990-9999999", 206, 255990, 256000),
        ("bytes=0-1,5-6", 200, 0, 256000),
        ("pages=1-2", 200, 0, 256000),
    ],
)
def test_a_range_is_served_as_asked(
    server: Server,
    session: requests.Session,
    asked: str,
    status: int,
    start: int,
    stop: int,
) -> None:
    found = session.get(url_of(server), headers={"Range": asked})
    assert found.status_code == status
    assert found.content == CONTENT[start:stop]
    if status == 206:
        stated = f"bytes {start}-{stop - 1}/{len(CONTENT)}"
        assert found.headers["Content-Range"] == stated


def test_a_range_behind_the_end_is_refused(
    server: Server, session: requests.Session
) -> None:
    found = session.get(url_of(server), headers={"Range": "bytes=256000-"})
    assert found.status_code == 416
    assert found.headers["Content-Range"] == "bytes */256000"


def test_head_says_all_but_the_body(server: Server, session: requests.Session) -> None:
    head = session.head(url_of(server))
    got = session.get(url_of(server))
    assert head.content == b""
    for name in ("Content-Length", "ETag", "Last-Modified", "Accept-Ranges"):
        assert head.headers[name] == got.headers[name]


def test_a_part_of_another_version_is_not_served(
    server: Server, session: requests.Session
) -> None:
    url = url_of(server)
    etag = session.head(url).headers["ETag"]
    part = {"Range": "bytes=0-9"}
    same = session.get(url, headers={**part, "If-Range": etag})
    other = session.get(url, headers={**part, "If-Range": '"old"'})
    assert (same.status_code, len(same.content)) == (206, 10)
    assert (other.status_code, len(other.content)) == (200, len(CONTENT))
    assert session.get(url, headers={"If-Match": '"old"'}).status_code == 412
    assert session.get(url, headers={"If-Match": etag}).status_code == 200
    assert session.get(url, headers={"If-None-Match": etag}).status_code == 304


def test_a_stream_comes_in_chunks(server: Server, session: requests.Session) -> None:
    found = session.get(f"{server.url}/pieces")
    assert found.headers["Transfer-Encoding"] == "chunked"
    assert found.content == b"onetwothree"


def test_a_body_is_read(server: Server, session: requests.Session) -> None:
    assert session.post(f"{server.url}/echo", json={"a": 1}).json() == {"a": 1}


def test_what_is_not_there_is_refused(
    server: Server, session: requests.Session
) -> None:
    assert session.get(f"{server.url}/nothing").status_code == 404
    assert session.delete(f"{server.url}/echo").status_code == 405


def test_a_broken_handler_is_reported_and_breaks_nothing_else(
    server: Server, session: requests.Session
) -> None:
    found = session.get(f"{server.url}/broken")
    assert found.status_code == 500
    assert "stand-in broke" in found.text
    assert session.get(url_of(server)).content == CONTENT


def test_a_connection_is_kept(server: Server, session: requests.Session) -> None:
    for _ in range(5):
        session.get(url_of(server))
    adapter = session.get_adapter(server.url)
    pools = adapter.poolmanager.pools  # type: ignore[attr-defined]
    assert [pools[key].num_connections for key in pools.keys()] == [1]


def asked_plainly(server: Server, text: str) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        raw.sendall(text.encode())
        raw.shutdown(socket.SHUT_WR)
        with raw.makefile("rb") as answer:
            return answer.read()


def test_who_wants_the_connection_closed_has_it_closed(server: Server) -> None:
    path = "/a%20file.bin"
    old = asked_plainly(server, f"HEAD {path} HTTP/1.0\r\n\r\n")
    new = asked_plainly(server, f"HEAD {path} HTTP/1.1\r\nconnection: Close\r\n\r\n")
    assert old.startswith(b"HTTP/1.1 200 OK\r\n")
    assert new.endswith(b"\r\n\r\n")


def test_who_waits_to_send_a_body_is_reported_to_go_on(server: Server) -> None:
    head = "POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    answer = asked_plainly(server, head + "[7]")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
    assert answer.endswith(b"[7]")


def test_nonsense_ends_its_connection_and_no_other(
    server: Server, session: requests.Session
) -> None:
    assert asked_plainly(server, "what is this\r\n\r\n" * 2) == b""
    assert session.get(url_of(server)).content == CONTENT


def test_every_request_is_logged_with_the_bytes_sent(
    server: Server, session: requests.Session
) -> None:
    url = url_of(server)
    session.get(url, headers={"Range": "bytes=10-19"})
    session.head(f"{url}?why=not")
    part, head = server.requests.all()
    assert (part.method, part.path, part.status) == ("GET", "/a file.bin", 206)
    assert (part.range, part.bytes_sent, part.whole) == ("bytes=10-19", 10, True)
    assert (head.method, head.query, head.bytes_sent) == ("HEAD", "why=not", 0)
    assert server.requests.count(lambda r: r.method == "GET") == 1
    server.requests.clear()
    assert server.requests.count() == 0


def test_it_ends_at_once_though_connections_are_open(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    before = threading.active_count()
    with requests.Session() as session:
        with Server("files", lambda _: as_file(path)) as server:
            session.get(server.url)
            started = time.monotonic()
        assert time.monotonic() - started < 20
        with pytest.raises(requests.ConnectionError):
            session.get(server.url)
    assert threading.active_count() == before


def test_a_taken_port_is_reported_in_one_sentence(server: Server) -> None:
    with pytest.raises(ConfigError, match=f"port {server.port}.*choose another"):
        Server("second", lambda _: as_json(1), port=server.port)
