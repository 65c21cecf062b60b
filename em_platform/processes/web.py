"""Serves an ASGI application from a service process, and checks who may call it."""

import hmac
import signal
import socket
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import uvicorn

from em_platform.errors import ConfigError


def serve(
    app: Any, *, name: str, host: str, port: int, trusted_proxies: Sequence[str] = ()
) -> None:
    """Serve `app` until SIGTERM or SIGINT; prints `ready <name>` when it listens.

    Raises
    ------
    ConfigError
        The port is taken.
    """
    # Bound here and not by uvicorn, which would end the process without our sentence.
    listener = _listen(name, host, port)
    config = server_config(app, trusted_proxies=trusted_proxies)
    # uvicorn raises the signal that ended it once more; the caller is to clean up.
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        _Server(config, name).run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def server_config(app: Any, *, trusted_proxies: Sequence[str] = ()) -> uvicorn.Config:
    """How an application is served; what proxies say is read from these alone."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        # A page's event stream never ends by itself; the supervisor kills after 8 s.
        timeout_graceful_shutdown=2,
        # Else it believes X-Forwarded-For of every program on this computer.
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=[*trusted_proxies],
    )


class _Server(uvicorn.Server):
    """Reports to its parent process when it serves."""

    def __init__(self, config: uvicorn.Config, name: str) -> None:
        super().__init__(config)
        self._name = name

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        sys.stdout.write(f"ready {self._name}\n")
        sys.stdout.flush()


# By which proxies say for whom they ask, beside X-Forwarded-...
_OF_PROXIES = (
    *("forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip"),
    *("x-original-forwarded-for", "true-client-ip", "cf-connecting-ip"),
)


def is_forwarded(headers: Iterable[str]) -> bool:
    """Whether names of headers, in small letters, are those that proxies add."""
    return any(n in _OF_PROXIES or n.startswith("x-forwarded") for n in headers)


def is_bearer(authorization: str | None, token: str) -> bool:
    """Whether an `Authorization` header shows the token."""
    kind, _, shown = (authorization or "").partition(" ")
    return kind.lower() == "bearer" and is_token(shown.strip(), token)


def is_token(shown: str, token: str) -> bool:
    """Whether `shown` is the token; nothing is, where there is none."""
    # In constant time, so that the answer's delay tells nothing of the token.
    given, wanted = (text.encode(errors="surrogatepass") for text in (shown, token))
    return bool(token) and hmac.compare_digest(given, wanted)


def _listen(name: str, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"{name}: port {port} on {host} cannot be had ({error.strerror}); choose "
            f"another by {name}.port"
        ) from error
    return listener
