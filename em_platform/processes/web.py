"""Serves an ASGI application from a service process, and checks who may call it."""

import hmac
import os
import secrets
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn

from em_platform.errors import ConfigError


def serve(app: Any, *, name: str, host: str, port: int) -> None:
    """Serve `app` until SIGTERM or SIGINT; prints `ready <name>` when it listens.

    Raises
    ------
    ConfigError
        The port is taken.
    """
    # Bound here and not by uvicorn, which would end the process without our sentence.
    listener = _listen(name, host, port)
    # 2 s: a page's event stream never ends by itself, and the supervisor kills after 8.
    config = uvicorn.Config(
        app, log_config=None, access_log=False, timeout_graceful_shutdown=2
    )
    # uvicorn raises the signal that ended it once more; the caller is to clean up.
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        _Server(config, name).run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Server(uvicorn.Server):
    """Reports to its parent process when it serves."""

    def __init__(self, config: uvicorn.Config, name: str) -> None:
        super().__init__(config)
        self._name = name

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        sys.stdout.write(f"ready {self._name}\n")
        sys.stdout.flush()


def token_of(home: Path, name: str, given: str) -> str:
    """The secret of the service `name`: as given, else one that is kept in `home`.

    A new one is made once, in a file that only its owner may read.

    Raises
    ------
    ConfigError
        The file holds no token: an empty one would let everyone in.
    """
    if given:
        return given
    path = Path(home).absolute() / "tokens" / name
    if not path.exists():
        _make_token(path)
    token = path.read_bytes().decode("utf-8", errors="replace").strip()
    # A power cut may also leave as many NULs as there were letters.
    if not token or not token.isprintable() or "\N{REPLACEMENT CHARACTER}" in token:
        raise ConfigError(
            f"{name}: the token file {path} is empty or damaged, expected one line of "
            "text; delete it, and the next start makes a new one"
        )
    return token


def _make_token(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Not the process's number: in containers that share the home it is the same.
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(fresh, "x", opener=lambda p, f: os.open(p, f, 0o600)) as file:
            file.write(secrets.token_urlsafe(24))
            file.flush()
            # Before the link: a power cut must not leave the name without the token.
            os.fsync(file.fileno())
        os.link(fresh, path)  # the first one wins, whole
    except FileExistsError:
        pass
    finally:
        fresh.unlink(missing_ok=True)


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
