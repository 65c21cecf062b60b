"""Who may see and use the page at all; stands before every route."""

import hashlib
import hmac
import ipaddress
import json
import socket
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from em_platform.processes.web import is_bearer

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
    """

    def __init__(
        self, app: Any, *, host: str, names: tuple[str, ...], password: str
    ) -> None:
        self._app = app
        self._names = known_names(host, names)
        self._may_be_address = not is_loopback(host)
        self._password = password
        self._cookie = cookie_of(password)

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
        if scope["path"].startswith(_OPEN) or self._is_let_in(headers):
            return 0, ""
        return 401, "page: it needs the operator's password; log in at /login"

    def _is_let_in(self, headers: dict[str, str]) -> bool:
        if not self._password:
            return True
        if is_bearer(headers.get("authorization"), self._password):
            return True
        # compared in a time that does not depend on how much of it is right
        shown = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        return shown is not None and hmac.compare_digest(
            shown.value.encode(), self._cookie.encode()
        )


def cookie_of(password: str) -> str:
    """What a browser that knows the password shows; reveals nothing of the password."""
    return hmac.new(password.encode(), b"operator's page", hashlib.sha256).hexdigest()


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
