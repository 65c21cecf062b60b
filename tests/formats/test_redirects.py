"""A redirect is followed to named hosts only, and never inwards or to http."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from em_platform.errors import SourceRefused
from em_platform.formats import remote
from em_platform.formats.chunked.store import tensorstore
from em_platform.formats.remote import check_redirect

PLACES = {
    "archive.example": ("8.8.8.8",),
    "files.archive.example": ("8.8.4.4",),
    "inner.archive.example": ("8.8.4.4", "10.0.0.7"),
    "institute.example": ("10.0.0.8",),
    "10.0.0.8": ("10.0.0.8",),
    "169.254.169.254": ("169.254.169.254",),
    "::1": ("::1",),
}
HOSTS = ("archive.example", "10.0.0.8", "169.254.169.254", "[::1]")


def resolve(host: str) -> tuple[str, ...]:
    return PLACES.get(host, ())


@pytest.mark.parametrize(
    ("at", "to"),
    [
        ("https://other.example/a", "https://other.example/b"),
        ("http://other.example/a", "https://other.example/b"),
        ("http://other.example/a", "https://other.example:443/b"),
        ("https://other.example/a", "https://files.archive.example/b"),
        ("https://other.example/a", "https://ARCHIVE.example/b"),
        ("https://institute.example/a", "https://10.0.0.8/b"),
        ("http://127.0.0.1:80/a", "http://127.0.0.1/b"),
    ],
)
def test_the_same_host_and_listed_ones_are_followed(at: str, to: str) -> None:
    check_redirect(at, to, who="ebi", hosts=HOSTS, resolve=resolve)


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("https://evil.example/b", "the same host or one that is listed"),
        ("https://notarchive.example/b", "the same host or one that is listed"),
        ("https://archive.example.evil.example/", "the same host or one that is list"),
        ("https://archive.example@evil.example/", "the same host or one that is list"),
        ("https://evil.example\\@archive.example/", "an address of http or https"),
        ("http://archive.example/b", "expected https as before"),
        ("https://archive.example:99999/b", "an address of http or https"),
        ("file:///etc/passwd", "an address of http or https"),
        ("ftp://archive.example/b", "an address of http or https"),
        ("https://127.0.0.1:8401/", "the same host or one that is listed"),
        ("https://10.0.0.8/b", "no address inside of this network"),
        ("https://169.254.169.254/latest", "no address inside of this network"),
        ("https://[::1]/b", "no address inside of this network"),
        ("https://inner.archive.example/b", "no address inside of this network"),
    ],
)
def test_other_places_are_refused_in_one_sentence(to: str, why: str) -> None:
    with pytest.raises(SourceRefused, match=why) as caught:
        check_redirect(
            "https://archive.example/a",
            to,
            who="ebi",
            hosts=HOSTS,
            cure="correct it",
            resolve=resolve,
        )
    sentence = str(caught.value)
    assert sentence.startswith("ebi: archive.example sent us on to ")
    assert sentence.endswith("; correct it")


def test_another_port_of_the_same_host_is_another_service() -> None:
    with pytest.raises(SourceRefused, match="the same host or one that is listed"):
        check_redirect("http://127.0.0.1:8000/a", "http://127.0.0.1:8401/", who="ebi")


class _Answer(BaseHTTPRequestHandler):
    """Sends on what is asked for below `/on/`, to where the server is set to."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        is_sent_on = self.path.startswith("/on/")
        body = b"" if is_sent_on else b"secret"
        self.send_response(302 if is_sent_on else 200)
        if is_sent_on:
            place = self.server.place  # type: ignore[attr-defined]
            self.send_header("Location", f"{place}/{self.path.removeprefix('/on/')}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        server.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("act", ["look", "read", "read_each"])
def test_files_behind_urls_are_followed_outwards_only(
    server: Any, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(uri: str) -> Any:
        if act == "look":
            return remote.look(uri, {}, whole=True)[1]
        if act == "read":
            return remote.read(uri, 0, 6, {})
        return remote.read_each(uri, [0], 6, {})[0]

    here = f"http://127.0.0.1:{server.server_port}"
    server.place = f"http://localhost:{server.server_port}"
    assert answer(f"{here}/on/a") == b"secret"
    # As if the first server were outside: what it sends us on to is this computer.
    outside = {"127.0.0.1": "8.8.8.8", "localhost": "127.0.0.1"}

    def known(name: str, *_: Any, **__: Any) -> list[Any]:
        return [(0, 0, 0, "", (outside[name], 0))]

    monkeypatch.setattr("socket.getaddrinfo", known)
    server.asked.clear()
    with pytest.raises(SourceRefused, match="no address inside of this network"):
        answer(f"{here}/on/b")
    assert "/b" not in server.asked


def test_chunks_are_not_looked_for_where_a_redirect_leads(server: Any) -> None:
    server.place = f"http://127.0.0.1:{server.server_port}"
    opened = tensorstore().KvStore.open(
        {"driver": "http", "base_url": f"{server.place}/on/"}
    )
    with pytest.raises(ValueError, match="302"):
        opened.result().read("a").result()
    assert server.asked == ["/on/a"]
