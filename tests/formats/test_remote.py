"""Servers that never stop sending, never begin, or drip."""

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from em_platform.errors import FormatError, SourceUnavailable, StorageError
from em_platform.formats import remote
from em_platform.formats.chunked import store
from em_platform.formats.chunked.store import chunk_store
from em_platform.formats.source import list_folder, open_source

Answer = Callable[[socket.socket], None]


def endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
    while True:
        connection.sendall(b"x" * (1 << 20))


def endless_behind_a_length(connection: socket.socket) -> None:
    """As endless, but a HEAD gets a length."""
    if b"HEAD" in connection.recv(64):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    else:
        endless(connection)


def silent(connection: socket.socket) -> None:
    connection.recv(1 << 16)
    time.sleep(1.5)


def dripping(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(12):
        time.sleep(0.1)
        connection.sendall(b"x")


@pytest.fixture
def server() -> Iterator[Callable[[Answer], str]]:
    """The address of a server that answers every connection so."""
    listeners, threads = [], []

    def serve(answer: Answer) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def talk(connection: socket.socket) -> None:
            with connection:
                try:
                    answer(connection)
                except OSError:
                    return  # the other side has had enough

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threads.append(threading.Thread(target=talk, args=(connection,)))
                threads[-1].start()

        threads.append(threading.Thread(target=accept))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/a.tif"

    yield serve
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join(10)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that tests need not wait."""
    for name in ("_SILENT_S", "_LOOK_S"):
        monkeypatch.setattr(remote, name, 0.5)


def test_an_endless_answer_is_read_to_a_limit(
    server: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "MOST_BYTES", 5 << 20)
    uri = server(endless)
    with pytest.raises(StorageError, match="it sends more than 5242880 bytes"):
        open_source(uri)
    with pytest.raises(StorageError, match="it sends more than 5242880 bytes"):
        list_folder(uri)


def test_of_an_endless_answer_only_the_range_is_read(
    server: Callable[[Answer], str],
) -> None:
    source = open_source(server(endless_behind_a_length))
    assert source.length == 100_000
    assert source.read(90_000, 500) == b"x" * 500


@pytest.mark.parametrize("answer", [silent, dripping])
@pytest.mark.usefixtures("impatient")
def test_a_server_that_says_hardly_anything_is_not_waited_for(
    server: Callable[[Answer], str], answer: Answer
) -> None:
    started = time.monotonic()
    with pytest.raises(StorageError, match="could not be read"):
        open_source(server(answer))
    assert time.monotonic() - started < 2.5


def test_metadata_that_never_end_are_given_up(
    server: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_ANSWER_S", 0.3)
    started = time.monotonic()
    with pytest.raises(SourceUnavailable, match="no answer in time"):
        chunk_store(server(dripping).removesuffix("/a.tif")).read_json("info")
    assert time.monotonic() - started < 2.5


@pytest.mark.parametrize("uri", ["nonsense://a/b.tif", "gcs://a/b.tif", "zip://a.tif"])
def test_a_protocol_that_nobody_reads_is_one_sentence(uri: str) -> None:
    with pytest.raises((FormatError, StorageError)) as raised:
        open_source(uri)
    assert uri in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_name_with_a_nul_is_one_sentence() -> None:
    with pytest.raises(FormatError, match="embedded null byte"):
        open_source("a\0b.tif")
