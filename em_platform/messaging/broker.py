"""An embedded STOMP broker: one thread, no dependencies, nothing on disk.

Fan-out for `name` and `/topic/name`, competing consumers for `/queue/name`; STOMP 1.0
to 1.2. What is in it when it ends is gone: a service that must not miss a message
reconciles, as the recorder does.
"""

import asyncio
import ipaddress
import json
import logging
import os
import resource
import socket
import ssl
import threading
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Self

from em_platform.config import BrokerSettings
from em_platform.errors import BrokerUnavailable, ConfigError, PlatformError
from em_platform.messaging.frames import Rules
from em_platform.messaging.login import login_asked_for
from em_platform.messaging.session import BrokerState, Session

log = logging.getLogger(__name__)

STATISTICS = "broker.statistics"
"""A topic with what `Broker.statistics` gives, as JSON."""

_STATISTICS_S = 5.0  # a watcher sees a slow client soon, at next to no traffic
_WORK_QUEUE_LIMIT = 100_000  # messages of one queue: what waits is in memory only
_LOGIN_S = 10.0  # a port scan that never logs in does not hold its connection
_START_TIMEOUT_S = 10.0  # far more than to bind a port, also on a loaded machine
_CONNECTIONS = 1000  # ten times those of a large installation
_BACKLOG = 100  # asyncio's; so many connections are accepted in a turn of its loop
_WAITING = 1024  # that the kernel holds until they are accepted
_TURNS = 4  # of the loop from the accept to the session, which may close another
_OTHER_FILES = 40  # that the process has open beside its connections


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What has happened since the start; `waiting` and `connected` are now."""

    connected: int
    clients: int
    refused: int
    received: int
    delivered: int
    dropped: int
    waiting: int


class Broker:
    """A STOMP broker in a thread of its own.

    Its login is that of the settings, which may name a file with a token; settings
    without either, which no loader gives, let every program of this computer in.

    Raises
    ------
    ConfigError
        The token file cannot be read, or holds none.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        login_s: float = _LOGIN_S,
        connections: int = _CONNECTIONS,
    ) -> None:
        self.port = settings.port
        self._settings = settings
        files = _files()
        self._backlog = min(_BACKLOG, files // 16)
        # Without a free file asyncio accepts nobody for a second.
        free = files - _OTHER_FILES - _TURNS * self._backlog
        connections = min(connections, max(8, free))
        self._state = BrokerState(rules=_rules(settings, login_s, connections))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._started = threading.Event()
        self._failure: PlatformError | None = None
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve()), name="broker", daemon=True
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen; returns when clients can connect at `port`.

        Raises
        ------
        BrokerUnavailable
            The port is taken or not allowed.
        ConfigError
            The TLS certificate or key cannot be used, or other computers could connect
            without a login.
        """
        self._thread.start()
        if not self._started.wait(_START_TIMEOUT_S):
            self._failure = _unavailable(self._settings, "no answer in time")
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Close all connections and the port."""
        if self._loop is not None and self._stopping is not None:
            try:
                self._loop.call_soon_threadsafe(self._stopping.set)
            except RuntimeError:
                return  # the loop has ended before
        self._thread.join()

    def statistics(self) -> Statistics:
        """What has happened since the start."""
        counters, sessions = self._state.counters, list(self._state.sessions)
        return Statistics(
            connected=len(sessions),
            clients=counters.clients,
            refused=counters.refused,
            received=counters.received,
            # of those that have left, and of those that are here
            delivered=counters.delivered + sum(s.queue.delivered for s in sessions),
            dropped=counters.dropped + sum(s.queue.dropped for s in sessions),
            waiting=self._state.exchange.all_waiting()
            + sum(len(s.queue) for s in sessions),
        )

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        try:
            server = await self._listen(self._loop)
        except PlatformError as error:
            self._failure = error
            return
        finally:
            self._started.set()  # also after a failure, which `start` raises then
        log.info("broker: listens at %s:%d", self._settings.host, self.port)
        publishing = self._loop.create_task(self._publish_statistics())
        await self._stopping.wait()
        publishing.cancel()
        # no new clients while the present ones are let go
        server.close()
        await self._disconnect_all()
        log.info("broker: stopped; %s", self.statistics())

    async def _listen(self, loop: asyncio.AbstractEventLoop) -> asyncio.Server:
        settings = self._settings
        context = _tls_context(settings) if settings.tls else None
        try:
            server = await loop.create_server(
                lambda: Session(self._state),
                settings.host,
                settings.port,
                ssl=context,
                backlog=self._backlog,
                start_serving=False,  # not before it is known who could connect
            )
            await self._open(server)
        except OSError as error:
            raise _unavailable(settings, error.strerror or str(error)) from error
        return server

    async def _open(self, server: asyncio.Server) -> None:
        addresses = [each.getsockname() for each in server.sockets]
        try:
            _check_login(self._settings, [address[0] for address in addresses])
            await server.start_serving()
            for each in server.sockets:
                # asyncio accepts `backlog` at once; the kernel shall keep more waiting
                with socket.socket(fileno=os.dup(each.fileno())) as same:
                    same.listen(_WAITING)
        except (OSError, ConfigError):
            server.close()
            raise
        self.port = addresses[0][1]

    async def _publish_statistics(self) -> None:
        """Publish the statistics periodically, where they are subscribed to."""
        exchange = self._state.exchange
        while True:
            await asyncio.sleep(_STATISTICS_S)
            if exchange.has_listeners(STATISTICS):
                body = json.dumps(asdict(self.statistics())).encode()
                headers = {"content-type": "application/json"}
                exchange.publish(STATISTICS, exchange.message(headers, body))
                self._state.flush()

    async def _disconnect_all(self) -> None:
        for session in list(self._state.sessions):
            session.leave_now()
        # One turn of the loop per step of closing: flush, then connection_lost.
        for _ in range(50):
            if not self._state.sessions:
                return
            await asyncio.sleep(0.01)
        for session in list(self._state.sessions):
            session.abort()
        await asyncio.sleep(0)  # connection_lost comes a turn after an abort


def _rules(settings: BrokerSettings, login_s: float, connections: int) -> Rules:
    username, password = login_asked_for(settings)
    return Rules(
        username=username,
        password=password,
        heart_beat_s=settings.heart_beat_s,
        login_s=login_s,
        queue_limit=settings.client_queue_limit,
        work_queue_limit=_WORK_QUEUE_LIMIT,
        frame_limit_bytes=settings.frame_limit_mb * 1_000_000,
        connections=connections,
        server=f"em-platform/{version('em-platform')}",
    )


def _files() -> int:
    """How many files and connections this process may have open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _CONNECTIONS * 2 if files == resource.RLIM_INFINITY else files


def _check_login(settings: BrokerSettings, addresses: list[str]) -> None:
    """Refuse to listen where other computers reach a broker that asks for no login."""
    open_to_all = [a for a in addresses if not ipaddress.ip_address(a).is_loopback]
    if open_to_all and not (settings.username or settings.token_file):
        raise ConfigError(
            f"broker: other computers reach {settings.host} ({open_to_all[0]}), and no "
            "login is set, broker.username and broker.password were expected; set "
            "both, or broker.host to 127.0.0.1"
        )


def _tls_context(settings: BrokerSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key or None)
    except OSError as error:
        raise ConfigError(
            f"broker: certificate {settings.tls_certificate!r} with key "
            f"{settings.tls_key!r} cannot be used ({error}); set "
            "broker.tls_certificate and broker.tls_key to PEM files"
        ) from error
    return context


def _unavailable(settings: BrokerSettings, found: str) -> BrokerUnavailable:
    address = f"{settings.host}:{settings.port}"
    return BrokerUnavailable(
        f"broker: {address} cannot be listened at ({found}), a free port was expected; "
        "stop what is there or set broker.port",
        address=address,
    )
