"""What proxies say of a request, over uvicorn as it really runs for each page.

Asked by this account without its password, so that a header that is missed lets the
request in. Two of each of our servers: one that trusts no proxy, one that trusts all.
"""

import atexit
import http.client
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from em_platform.errors import SourceRefused
from em_platform.processes import free_port, listens

_HOST = "127.0.0.1"
_READY_S = 60.0
_NAMES = (
    *("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port"),
    *("X-Forwarded-Prefix", "Forwarded", "X-Real-IP", "Via", "X-Client-IP"),
)
_PLACES = {
    "web": ("/", "/graphql", "/server_info", "/logs/x", "/loginx", "/login/..%2Fruns"),
    "operator": ("/", "/api/state", "/api/stop", "/page/live.js", "/healthy"),
    "aloha": ("/api/v1/acquisitions/a", "/api/v1/health/", "/openapi.json"),
    "temdb": ("/api/v2/rois/1", "/api/v2/", "/docs", "/healthx", "/health/.."),
}
_HOSTS = ("127.0.0.1", "::1", "[::1]", "::ffff:127.0.0.1", "192.0.2.7", "localhost",
          "unknown", "unix:", "_hidden", "", "127.1", "0", "fe80::1%lo")  # fmt: skip
_PORTS = ("", ":0", ":-1", ":65536", ":x", "::", ":" + "9" * 5000)
_BARE = (b"", b" ", b",", b"https", b"wss", b"HTTPS, http", b"\xff\xfe", "é١".encode(),
         b"a\tb", b"%00", b"\x01", b"[", b'for="', b"1" * 70_000,
         b"127.0.0.1, " * 3000)  # fmt: skip
# Ends with its parent, however that ends.
_WEB = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
from em_platform.resources.web_server import main
main(sys.argv[1:])
"""


def ask_by_proxy(draw: random.Random, seeds: Path, folder: Path) -> None:
    """A request with headers of proxies; SourceRefused with the page's sentence."""
    name, port = draw.choice(_pages())
    path = draw.choice(_PLACES[name])
    method = draw.choice((b"GET", b"GET", b"POST"))
    with socket.create_connection((_HOST, port), timeout=20) as page:
        own = f"{_HOST}:{page.getsockname()[1]}"
        lines = [
            b"%s %s HTTP/1.1" % (method, path.encode()),
            b"Host: localhost",
            b"Connection: close",
            b"Content-Type: application/json",
            b"Content-Length: 2",
        ]
        if draw.random() < 0.3:  # then the address is counted
            lines.append(b"Authorization: Bearer guess")
        for _ in range(draw.choice((1, 1, 2, 3))):
            header = draw.choice((str.lower, str.upper, str))(draw.choice(_NAMES))
            lines.append(header.encode() + b": " + _value(draw, own))
        page.sendall(b"\r\n".join((*lines, b"", b"{}")))
        status, location, text = _answer(page)
    led = status == 303 and location == "/login"
    # 404 and the like are answers of the page behind the gate.
    refused = status in (401, 429) or text == "Invalid HTTP request received."
    assert led or refused, (name, method, path, status)
    if status != 303:
        raise SourceRefused(text)


def _value(draw: random.Random, own: str) -> bytes:
    """An address that may be ours, a list of such, or anything."""
    if draw.random() < 0.3:
        return draw.choice(_BARE)
    many = [
        draw.choice((own, draw.choice(_HOSTS) + draw.choice(_PORTS)))
        for _ in range(draw.choice((1, 1, 2, 5)))
    ]
    form = draw.choice(("{}", "{}", "for={};proto=https", 'for="{}"'))
    return ", ".join(form.format(each) for each in many).encode()


def _answer(page: socket.socket) -> tuple[int, str, str]:
    """Status, where it leads, and its sentence."""
    with closing(http.client.HTTPResponse(page)) as answer:
        answer.begin()
        text = answer.read(1000).decode("utf-8", "replace")
        location = answer.headers.get("location", "")
    try:
        refusal = json.loads(text)
        text = str(refusal.get("error") or refusal.get("detail"))
    except ValueError:  # uvicorn's own refusal
        pass
    return answer.status, location, text


@cache
def _pages() -> tuple[tuple[str, int], ...]:
    """Name and port of each server; they run as long as this process."""
    home = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    served = [("web", _web_ui(home))]
    for name, app in _apps(home).items():
        served += [(name, _serve(app, proxies)) for proxies in ((), ("0.0.0.0/1",))]
    for name, port in served:
        end = time.monotonic() + _READY_S
        while not listens(_HOST, port):
            assert time.monotonic() < end, f"{name} does not serve"
            time.sleep(0.05)
    return tuple(served)


def _apps(home: Path) -> dict[str, Any]:
    """Our pages without what is behind them: nobody is to reach it."""
    from em_platform.aloha.app import make_app
    from em_platform.config import AlohaSettings, Settings
    from em_platform.operator.api import application
    from em_platform.temdb.app import create_app

    nothing: Any = None
    settings = Settings(home=home)
    return {
        "operator": application(nothing, settings, about={}),
        "aloha": make_app(nothing, token="secret", settings=AlohaSettings(),
                          waiters=nothing, workers=nothing),
        "temdb": create_app(nothing, "secret"),
    }  # fmt: skip


def _serve(app: Any, proxies: tuple[str, ...]) -> int:
    import uvicorn

    from em_platform.processes.web import server_config

    listener = socket.create_server((_HOST, 0))
    server = uvicorn.Server(server_config(app, trusted_proxies=proxies))
    threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, daemon=True
    ).start()
    return int(listener.getsockname()[1])


def _web_ui(home: Path) -> int:
    (home / "dagster").mkdir()
    port = free_port(_HOST)
    server = subprocess.Popen(
        (sys.executable, "-c", _WEB, "--empty-workspace", "-p", str(port)),
        env=os.environ
        | {"EM_HOME": str(home), "DAGSTER_HOME": str(home / "dagster")}
        | {"FORWARDED_ALLOW_IPS": "*"},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert server.stdin is not None
    atexit.register(server.stdin.close)
    return port
