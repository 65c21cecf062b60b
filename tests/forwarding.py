"""Every route of our pages, and all that a proxy may say of a request."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.second_user import as_another_user

Route = tuple[str, str, dict[str, str]]

_NAMES = (
    *("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port"),
    *("X-Forwarded-Prefix", "X-Forwarded-Server", "Forwarded", "Via", "X-Real-IP"),
    *("X-Client-IP", "X-Cluster-Client-IP", "X-Original-Forwarded-For"),
    *("True-Client-IP", "CF-Connecting-IP"),
)
_SOCKET = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version":
           "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}  # fmt: skip

WEB_UI: list[Route] = [
    *(("GET", path, {}) for path in ("/", "/runs", "/server_info", "/dagit_info")),
    *(("GET", path, {}) for path in ("/graphql", "/logs/x.out", "/download_debug/x")),
    *(("GET", path, {}) for path in ("/notebook", "/favicon.png", "/loginx")),
    ("GET", "/graphql", _SOCKET),
    ("GET", "/login", _SOCKET),
    ("POST", "/graphql", {}),
    *(("POST", f"/report_asset_{kind}/tiles", {})
      for kind in ("materialization", "check", "observation")),
]  # fmt: skip

# Asked without a cookie; what of it is answered otherwise than by a refusal is found.
_KNOCK = """
import http.client
launch = "mutation { launchRun(executionParams: {}) { __typename } }"
body = json.dumps({"query": launch})
found = {"asked": 0, "let in": []}
for more in given["headers"]:
    for method, path, own in given["routes"]:
        page = http.client.HTTPConnection("127.0.0.1", given["port"], timeout=20)
        headers = {"Content-Type": "application/json", **own, **more}
        page.request(method, path, None if method == "GET" else body, headers)
        answer = page.getresponse()
        led = answer.status == 303 and answer.headers["location"] == "/login"
        if answer.status != (403 if own else 401) and not led:
            found["let in"].append([method, path, more, answer.status])
        found["asked"] += 1
        page.close()
"""


def routes_of(app: Any, *, open_paths: set[str]) -> list[Route]:
    """Each route of an application of FastAPI that needs a password or token."""
    return [
        (method.upper(), path.replace("{", "").replace("}", ""), {})
        for path, methods in app.openapi()["paths"].items()
        for method in methods
        if path not in open_paths
    ]


def let_in(port: int, routes: list[Route]) -> list[Any]:
    """What another account is answered while this one is connected to the page."""
    with connected(port) as own:
        headers = [{}, *_headers(own)]
        found = as_another_user(_KNOCK, port=port, routes=routes, headers=headers)
    assert found["asked"] == len(headers) * len(routes) > 0
    return list(found["let in"])


@contextmanager
def connected(port: int) -> Iterator[int]:
    """The port from which this account holds a connection to a page."""
    with socket.create_connection(("127.0.0.1", port)) as own:
        yield own.getsockname()[1]


def _headers(port: int) -> list[dict[str, str]]:
    here = f"127.0.0.1:{port}"
    lists = (f"192.0.2.7, {here}", f"{here}, 127.0.0.1", f"[::ffff:127.0.0.1]:{port}")
    every = dict.fromkeys(_NAMES, here)
    return [
        *({name: here} for name in _NAMES),
        *({"X-Forwarded-For": value} for value in lists),
        {"Forwarded": f'for="{here}";proto=https', "X-Forwarded-Proto": "https"},
        {**every, "X-Forwarded-Proto": "https", "X-Forwarded-Port": str(port)},
    ]
