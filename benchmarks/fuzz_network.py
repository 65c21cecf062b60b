"""What comes over a network: STOMP frames, bodies of requests, answers of servers."""

import json
import random
import shutil
import socket
import threading
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.fuzz_mutations import VALUES, mutated_bytes, mutated_json
from em_platform.errors import SourceRefused

_FRAMES = (
    b"CONNECT\naccept-version:1.2\nhost:a\nlogin:a\npasscode:b\nheart-beat:0,0\n\n\0",
    b"SUBSCRIBE\nid:1\ndestination:/topic/tile.raw\nack:auto\n\n\0",
    b"SEND\ndestination:/topic/tile.raw\nversion:1.0\nreceipt:7\n"
    b"content-length:2\n\n{}\0",
    b"BEGIN\ntransaction:t\n\n\0\n\nCOMMIT\ntransaction:t\n\n\0",
    b"DISCONNECT\nreceipt:8\n\n\0",
)


def read_frames(draw: random.Random, seeds: Path, folder: Path) -> None:
    """A client's bytes, in pieces, as the broker takes them apart."""
    from em_platform.messaging.frames import FrameReader

    sent = b"".join(draw.sample(_FRAMES, 3))
    content = mutated_bytes(sent, draw)
    reader = FrameReader(1 << 20, logged_in=draw.random() < 0.5)
    reader.version = draw.choice(("1.0", "1.1", "1.2"))
    while content:
        cut = draw.randrange(1, len(content) + 1)
        reader.feed(content[:cut])
        content = content[cut:]
        while reader.next() is not None:
            continue


class _Answers(threading.Thread):
    """A server that gives each connection the same bytes and closes it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.answer = b""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.start()

    def run(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            with connection:
                try:
                    connection.settimeout(2)
                    connection.recv(1 << 16)
                    connection.sendall(self.answer)
                except OSError:
                    continue


@cache
def _server() -> _Answers:
    return _Answers()


def _answer(body: bytes, draw: random.Random) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: %d\r\nConnection: close\r\n\r\n"
    if draw.random() < 0.6:
        return head % len(changed := mutated_json(body, draw)) + changed
    return mutated_bytes(head % len(body) + body, draw)


def ask_aloha(draw: random.Random, seeds: Path, folder: Path) -> None:
    """An aloha, or what listens in its place, answers the buffer."""
    from em_platform.acquisition.buffer.aloha_client import AlohaClient
    from em_platform.model import AcquisitionUpload

    stored = {"sha256": "0" * 64, "bytes": 4, "uri": "s3://a/b"}
    known = {"stored": ["a"], "tiles": 3, "detail": "x", **stored}
    server = _server()
    server.answer = _answer(json.dumps(known).encode(), draw)
    client = AlohaClient(server.url, "token", timeout_s=2)
    kind = draw.randrange(3)
    try:
        if kind == 0:
            frame = folder / "a.tif"
            frame.write_bytes(b"II*\0")
            client.send("a", "b", frame, sent=lambda _: None)
        elif kind == 1:
            client.complete("a")
        else:
            upload = AcquisitionUpload.model_construct(acquisition_id="a", tiles=())
            client.announce(upload)
    finally:
        client.close()


def ask_chimera(draw: random.Random, seeds: Path, folder: Path) -> None:
    """A ChimeraX, or what listens in its place, answers a command."""
    from em_platform.config.simulators import ChimeraSettings
    from em_platform.simulation.tilt_series.assemblers.chimera.server import (
        AttachedServer,
    )

    known = {"error": None, "log messages": {"note": ["opened"], "error": []},
             "json values": [{"a": 1}], "python values": [None]}  # fmt: skip
    server = _server()
    server.answer = _answer(json.dumps(known).encode(), draw)
    flavour = draw.choice(("chimera", "chimerax"))
    attached = AttachedServer(ChimeraSettings(flavour=flavour, timeout_s=2), server.url)
    try:
        attached.run("close all")
    finally:
        attached.close()


def write_temdb(folder: Path) -> None:
    """An empty TEM DB."""
    from em_platform.temdb.database import Database, migrate

    url = f"sqlite:///{folder / 'temdb.sqlite'}"
    migrate(url)
    Database(url).close()


def send_to_temdb(draw: random.Random, seeds: Path, folder: Path) -> None:
    """A body that one of the routes takes, changed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # httpx2 is not out
        from starlette.testclient import TestClient

    from em_platform.temdb.database import Database

    path = folder / "temdb.sqlite"
    shutil.copy(seeds / "temdb" / "temdb.sqlite", path)
    database = Database(f"sqlite:///{path}")
    try:
        app = _temdb()
        app.state.database = database
        method, place, body = draw.choice(_routes())
        while "{" in place:
            value = draw.choice(("a", "1", "..%2Fa", "%00", "x" * 300, "é"))
            before, _, after = place.partition("{")
            place = before + value + after.partition("}")[2]
        content = mutated_json(body, draw)
        if draw.random() < 0.1:
            content = json.dumps(draw.choice(VALUES)).encode()
        client = TestClient(app, headers={"Authorization": "Bearer token"})
        answer = client.request(
            method, place, content=content, headers={"Content-Type": "application/json"}
        )
    finally:
        database.close()
    assert answer.status_code < 500, (method, place, answer.text[:300])
    if answer.status_code >= 400:
        raise SourceRefused(answer.text[:300].replace("\n", " "))


@cache
def _temdb() -> Any:
    """The application; its making takes a second, so each case gives it a database."""
    from em_platform.temdb.app import create_app

    return create_app(None, "token")  # type: ignore[arg-type]


@cache
def _routes() -> list[tuple[str, str, bytes]]:
    """Method, path and a valid body of each route that takes one."""
    from benchmarks.fuzz_seeds import example_of

    described = _temdb().openapi()
    known = described["components"]["schemas"]
    found = []
    for path, methods in described["paths"].items():
        for method, what in methods.items():
            schema: Any = what.get("requestBody", {}).get("content", {})
            schema = schema.get("application/json", {}).get("schema")
            if schema is not None:
                body = json.dumps(example_of(schema, known)).encode()
                found.append((method.upper(), path, body))
    return found
