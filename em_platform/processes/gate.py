"""Who may use a service's web page at all; stands before every route."""

import asyncio
import ipaddress
import json
import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr

from em_platform.processes import login
from em_platform.processes.login_attempts import LoginAttempts
from em_platform.processes.web import is_bearer, is_forwarded, is_token
from em_platform.storage.owners import owner_of_client
from em_platform.storage.tokens import token_of

log = logging.getLogger(__name__)

Header = tuple[bytes, bytes]

_SAFE_METHODS = ("GET", "HEAD")  # they change nothing: no JSON is asked for
_GUESS_S = 0.5  # a wrong password waits: guessing one after the other is slow
_LONGEST_LOGIN_BYTES = 4096

# On every answer: a page in no other's frame, and nothing of it to other servers.
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSettings:
    """What a gate has to know of the page behind it.

    `name` names its cookies and secrets, `title` is for people. It is served at `host`,
    and asked for under that name, this computer's own, and `names` (which are set by
    `names_setting`). `password_setting` may choose the password. `open_paths` need
    none, `queries` take no query by GET, and `policy` is the page's content security
    policy, where it has none of its own.
    """

    name: str
    title: str
    host: str
    names: tuple[str, ...]
    names_setting: str
    password: str
    password_setting: str
    cookie: str
    open_paths: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    policy: bytes = b""


def secrets_of(home: Path, name: str, chosen: SecretStr) -> tuple[str, str]:
    """Password and cookie of an `AuthSettings`: as chosen, else kept in the home."""
    password = token_of(home, name, chosen.get_secret_value())
    # Kept in the home: browsers stay logged in when the service starts again.
    key = token_of(home, f"{name}-cookie", "")
    return password, login.cookie_of(password, key)


class AuthMiddleware:
    """Checks host name, origin, content type and account or password of each request.

    Programs of this account on this computer, and root's, need no password.
    """

    def __init__(self, app: Any, door: AuthSettings) -> None:
        self._app = app
        self._door = door
        self._names = known_names(door.host, door.names)
        self._may_be_address = not is_loopback(door.host)
        self._tries = LoginAttempts()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let a request through, or answer it with one sentence."""
        if scope["type"] not in ("http", "websocket"):  # start and end of the server
            await self._app(scope, receive, send)
            return
        headers = {
            k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]
        }
        status, sentence = self._refusal(scope, headers)
        if scope["type"] == "websocket":
            if status:
                await receive()
                # Before it is accepted, so that the browser gets 403.
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self._app(scope, receive, send)
        elif status == 401 and _is_page(scope, headers):
            # a person is led to the login, a program gets the sentence
            await _answer(send, 303, [(b"location", login.PATH.encode())], b"")
        elif status:
            await _sentence(send, status, sentence)
        elif scope["path"] == login.PATH:
            await self._show_login(send)
        elif scope["path"] == login.ANSWER_PATH:
            await self._log_in(scope, receive, send)
        else:
            await self._app(scope, receive, self._with_headers(send))

    def _refusal(self, scope: Any, headers: dict[str, str]) -> tuple[int, str]:
        host = headers.get("host", "")
        name = name_of(host)
        by_address = self._may_be_address and _is_address(name)
        # Against DNS rebinding: only names that are this page's own.
        if name not in self._names and not by_address:
            return 421, (
                f"page: it was asked for under the name {host!r}, expected one of "
                f"{', '.join(sorted(self._names))}; use that, or add the name to "
                f"{self._door.names_setting}"
            )
        # Also of what changes nothing: another page is to read nothing here either.
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in _origins_of(host):
            return 403, (
                f"page: a request came from another page, {origin}, expected this "
                f"one; open {self._door.title} itself"
            )
        if scope["type"] == "http":
            refusal = self._judge_kind(scope, headers)
            if refusal[0]:
                return refusal
        open_paths = (login.PATH, login.ANSWER_PATH, *self._door.open_paths)
        if scope["type"] == "http" and scope["path"] in open_paths:
            return 0, ""
        # Before the tries are counted: another's guesses must not keep from Stop now
        # who is logged in.
        shown = login.shown_cookie(headers, f"em_{self._door.name}")
        if is_token(shown, self._door.cookie) or _is_own(scope, headers):
            return 0, ""
        return self._judge_bearer(scope, headers.get("authorization"))

    def _judge_kind(self, scope: Any, headers: dict[str, str]) -> tuple[int, str]:
        path, query = scope["path"], scope["query_string"].decode("latin-1")
        if scope["method"] in _SAFE_METHODS:
            # It may hold a command, and any page can have a browser send a GET.
            if path in self._door.queries and "query" in parse_qs(query):
                return 405, "page: a query came by GET, expected POST; send JSON by it"
            return 0, ""
        # a form of another page cannot send JSON without asking first (CORS)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            return 0, ""
        return 415, (
            f"page: a command came as {kind or 'nothing'}, expected "
            "application/json; send JSON"
        )

    def _judge_bearer(self, scope: Any, shown: str | None) -> tuple[int, str]:
        # Another kind is that of a proxy in front of the page, and no guess.
        if shown and shown.lower().startswith("bearer "):
            address = address_of(scope)
            wait_s = self._tries.wait_s(address)
            if wait_s:
                return 429, login.too_many(wait_s)
            if is_bearer(shown, self._door.password):
                return 0, ""
            self._tries.add(address, shown)
        return 401, (
            f"page: it needs the password of {self._door.title}, as the request is of "
            f"another account or computer; log in at {login.PATH}"
        )

    async def _show_login(self, send: Any) -> None:
        page, policy = login.login_page(self._door.title)
        kind = (b"content-type", b"text/html; charset=utf-8")
        await _answer(send, 200, [kind, (b"content-security-policy", policy)], page)

    async def _log_in(self, scope: Any, receive: Any, send: Any) -> None:
        door, address = self._door, address_of(scope)
        given = await _password_in(receive)
        wait_s = self._tries.wait_s(address)
        if given is None:
            expected = 'page: no password came, expected {"password": TEXT}; send it'
            await _sentence(send, 422, expected)
        elif wait_s:
            await _sentence(send, 429, login.too_many(wait_s))
        elif is_token(given, door.password):
            cookie = login.set_cookie(
                f"em_{door.name}", door.cookie, scheme=scope["scheme"]
            )
            kind = (b"content-type", b"application/json")
            body = b'{"welcome":true}'
            await _answer(send, 200, [kind, (b"set-cookie", cookie)], body)
        else:
            self._tries.add(address, given)
            await asyncio.sleep(_GUESS_S)
            log.warning("%s: a wrong password was given from %s", door.name, address)
            await _sentence(
                send,
                401,
                f"login: the password is not that of {door.title}; it is "
                f"{door.password_setting}, or stands in tokens/{door.name} in the home",
            )

    def _with_headers(self, send: Any) -> Any:
        own = [*_HEADERS]
        if self._door.policy:
            own.append((b"content-security-policy", self._door.policy))

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        return sending


def _is_own(scope: Any, headers: dict[str, str]) -> bool:
    """Whether a program of this account sent the request, or root's, who may all."""
    # What a proxy passes on comes from someone else, whosever the proxy is.
    if is_forwarded(headers):
        return False
    client, server = scope.get("client"), scope.get("server")
    if not client or not server or server[1] is None:
        return False
    owner = owner_of_client((client[0], client[1]), (server[0], server[1]))
    return owner in (os.geteuid(), 0)


def _is_page(scope: Any, headers: dict[str, str]) -> bool:
    wants_page = "text/html" in headers.get("accept", "")
    return scope["method"] in _SAFE_METHODS and (wants_page or scope["path"] == "/")


async def _password_in(receive: Any) -> str | None:
    """The password in a request's body, None where there is none."""
    body, more = b"", True
    while more and len(body) <= _LONGEST_LOGIN_BYTES:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    try:
        given = json.loads(body[:_LONGEST_LOGIN_BYTES])["password"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return given if isinstance(given, str) else None


def address_of(scope: Any) -> str:
    """Where a request comes from; empty where the server does not know it."""
    client = scope.get("client")
    return str(client[0]) if client else ""


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


def _origins_of(host: str) -> tuple[str, str]:
    """What browsers say of a page at a `Host`."""
    return f"http://{host.lower()}", f"https://{host.lower()}"


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


async def _sentence(send: Any, status: int, sentence: str) -> None:
    body = json.dumps({"error": sentence}).encode()
    await _answer(send, status, [(b"content-type", b"application/json")], body)


async def _answer(send: Any, status: int, headers: list[Header], body: bytes) -> None:
    start = {"type": "http.response.start", "status": status}
    await send({**start, "headers": [*headers, *_HEADERS]})
    await send({"type": "http.response.body", "body": body})
