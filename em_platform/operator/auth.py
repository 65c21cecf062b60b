"""Who may see and use the page at all; stands before every route."""

import hashlib
import hmac
import ipaddress
import json
import math
import socket
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from em_platform.operator.tries import Tries
from em_platform.processes.web import is_bearer, is_token

COOKIE = "em_operator"
# Without a password: what the login page is made of, and the check by a supervisor.
_OPEN = ("/login", "/api/login", "/page/", "/health")
_SAFE_METHODS = ("GET", "HEAD")  # they change nothing: no origin is asked for

# On every answer: the page runs no script but its own, and in no other's frame.
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob: data:; object-src 'none'; "
        b"base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)


class Auth:
    """Checks host name, origin, content type and password of each request.

    `password` empty means that all users are admitted, as on this computer alone.
    `cookie` is what a browser that logged in shows; `tries` counts wrong passwords.
    """

    def __init__(
        self,
        app: Any,
        *,
        host: str,
        names: tuple[str, ...],
        password: str,
        cookie: str,
        tries: Tries,
    ) -> None:
        self._app = app
        self._names = known_names(host, names)
        self._may_be_address = not is_loopback(host)
        self._password = password
        self._cookie = cookie
        self._tries = tries

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let a request through, or answer it with one sentence."""
        # start and end of the server's life; it has no web sockets
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {
            k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]
        }
        status, sentence = self._refusal(scope, headers)
        # a person is led to the login, a program gets the sentence
        if status == 401 and scope["path"] == "/":
            await _answer(send, 303, [(b"location", b"/login")], b"")
        elif status:
            body = json.dumps({"error": sentence}).encode()
            kind = [(b"content-type", b"application/json")]
            await _answer(send, status, kind, body)
        else:
            await self._app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Any, headers: dict[str, str]) -> tuple[int, str]:
        host = headers.get("host", "")
        name = name_of(host)
        by_address = self._may_be_address and _is_address(name)
        # Against DNS rebinding: only names that are this page's own.
        if name not in self._names and not by_address:
            return 421, (
                f"page: it was asked for under the name {host!r}, expected one of "
                f"{', '.join(sorted(self._names))}; use that, or add the name to "
                "acquisition.operator.names"
            )
        if scope["method"] not in _SAFE_METHODS:
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != host:
                return 403, (
                    f"page: a command came from another page, {origin}, expected this "
                    "one; open the operator's page itself"
                )
            # a form of another page cannot send JSON without asking first (CORS)
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                return 415, (
                    f"page: a command came as {kind or 'nothing'}, expected "
                    "application/json; send JSON"
                )
        if (
            not self._password
            or scope["path"].startswith(_OPEN)
            or self._has_cookie(headers)
        ):
            return 0, ""
        return self._judge_bearer(scope, headers.get("authorization"))

    def _has_cookie(self, headers: dict[str, str]) -> bool:
        # Before the tries are counted: another's guesses must not keep from Stop now
        # who is logged in.
        shown = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        return shown is not None and is_token(shown.value, self._cookie)

    def _judge_bearer(self, scope: Any, shown: str | None) -> tuple[int, str]:
        # Another kind is that of a proxy in front of the page, and no guess.
        if shown and shown.lower().startswith("bearer "):
            address = address_of(scope)
            wait_s = self._tries.wait_s(address)
            if wait_s:
                return 429, too_many(wait_s)
            if is_bearer(shown, self._password):
                return 0, ""
            self._tries.add(address, shown)
        return 401, "page: it needs the operator's password; log in at /login"


def cookie_of(password: str, key: str) -> str:
    """What a browser shows after its login.

    `key` is a secret of the service, so that no cookie can be made from a guessed
    password, and no password be found from a cookie.
    """
    return hmac.new(key.encode(), password.encode(), hashlib.sha256).hexdigest()


def address_of(scope: Any) -> str:
    """Where a request comes from; empty where the server does not know it."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def too_many(wait_s: float) -> str:
    """The sentence for a try that was not even compared."""
    return (
        f"login: too many wrong passwords came from this address; "
        f"try again in {math.ceil(wait_s)} s"
    )


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach a service at `host`."""
    if host == "localhost":
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def known_names(host: str, names: tuple[str, ...]) -> frozenset[str]:
    """The host names under which the page may be asked for."""
    known = {"localhost", "127.0.0.1", "::1", host.lower(), *map(str.lower, names)}
    if not is_loopback(host):
        # reached from other computers it goes by this one's names
        known |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return frozenset(known - {"", "0.0.0.0", "::"})


def name_of(host: str) -> str:
    """The name in a `Host` header, without the port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _with_headers(send: Any) -> Any:
    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *_HEADERS]}
        await send(message)

    return sending


async def _answer(
    send: Any, status: int, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    start = {"type": "http.response.start", "status": status}
    await send({**start, "headers": [*headers, *_HEADERS]})
    await send({"type": "http.response.body", "body": body})
