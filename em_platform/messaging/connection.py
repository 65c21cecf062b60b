"""One connection of a Pigeon client to a broker; it never reconnects by itself."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import stomp
from stomp.exception import StompException

from em_platform.config import BrokerSettings
from em_platform.errors import BrokerUnavailable, ConfigError
from em_platform.messaging.login import login_of, refuse_stranger
from em_platform.messaging.pigeon import Pigeon
from em_platform.messaging.topics import topics

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 5.0  # a broker that is up answers in milliseconds
_CLOSE_TIMEOUT_S = 2.0  # for the last receipt; a hung broker must not hold a SIGTERM
_LISTENING = "listening to "  # begins the receipts of subscriptions; others are numbers

# stomp.py reports each failed try with a traceback; the bus logs one sentence.
logging.getLogger("stomp.py").setLevel(logging.CRITICAL)
_pigeon_log = logging.getLogger("pigeon")
_pigeon_log.setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """What a connection calls on what it receives, in its receiver thread."""

    message: Callable[[str, str, Mapping[str, str]], None]
    receipt: Callable[[str], None]
    refused: Callable[[str, str], None]


class Connection(Pigeon):  # type: ignore[misc]
    """Pigeon's topics, headers and prefix over one connection that is opened once.

    A lost connection stays lost (`lost` is set); whoever owns it opens another.
    """

    def __init__(
        self, settings: BrokerSettings, service: str, *, events: Events
    ) -> None:
        super().__init__(
            service,
            settings.host,
            settings.port,
            logger=_pigeon_log,
            # they are loaded once for all connections, see topics
            load_topics=False,
            topic_prefix=settings.prefix,
        )
        self.register_topics(topics())
        self.lost = threading.Event()
        self._settings = settings
        self._events = events
        self._answered = threading.Event()
        self._refusal = ""
        self._listening: dict[str, threading.Event] = {}
        self._connection = self._make_transport(settings)
        self._connection.set_listener("listener", _Listener(self))

    @property
    def address(self) -> str:
        """Host and port, as a sentence names them."""
        return f"{self._settings.host}:{self._settings.port}"

    def open(self) -> None:
        """Connect and log in, or raise BrokerUnavailable with the reason."""
        credentials = self._credentials()
        try:
            # Not its own wait: `_answered` is also set by a refusal and by a loss.
            self._connection.connect(*credentials, wait=False)
        except (OSError, StompException) as error:
            raise self._unavailable("no broker answers there", retry=True) from error
        if not self._answered.wait(_CONNECT_TIMEOUT_S):
            self.close()
            raise self._unavailable("what listens there is no STOMP broker", retry=True)
        if self._refusal:
            self.close()
            raise self._unavailable(f"the broker refused: {self._refusal}", retry=False)
        if self.lost.is_set():
            raise self._unavailable("the broker closed the connection", retry=True)
        # Nagle's algorithm would hold back each second frame by 40 ms.
        socket_of_ours = self._connection.transport.socket
        socket_of_ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connected = True

    def _credentials(self) -> tuple[str | None, str | None]:
        # Read at each try: the broker may have made its token only now.
        try:
            refuse_stranger(self._settings)
            username, password = login_of(self._settings)
        except ConfigError as error:
            raise BrokerUnavailable(
                str(error), address=self.address, refused=True
            ) from error
        return username or None, password or None

    def transmit(self, topic: str, body: str, headers: Mapping[str, str]) -> None:
        """Send one body; BrokerUnavailable where the connection is gone."""
        try:
            self._connection.send(
                destination=self._topic_prefix + topic, body=body, headers=headers
            )
        except (OSError, StompException) as error:
            raise self._unavailable("the connection was lost", retry=True) from error

    def headers(self, topic: str) -> dict[str, str]:
        """The headers that Pigeon gives a message that is sent now."""
        return {
            "source": self._name,
            "service": self._service,
            "hostname": self._hostname,
            "pid": str(self._pid),
            "sent_at": str(time.time_ns() // 1_000_000),
            "version": self._topic_versions[topic],
        }

    def listen(self, topic: str) -> None:
        """Ask for `topic`; BrokerUnavailable where the connection is gone."""
        receipt = _LISTENING + topic
        self._listening.setdefault(receipt, threading.Event())
        try:
            self._connection.subscribe(
                destination=self._topic_prefix + topic, id=topic, receipt=receipt
            )
        except (OSError, StompException) as error:
            raise self._unavailable("the connection was lost", retry=True) from error

    def wait_until_listening(self) -> bool:
        """Whether the broker has taken all that was asked for with `listen`."""
        deadline = time.monotonic() + _CONNECT_TIMEOUT_S
        for taken in list(self._listening.values()):
            while not taken.wait(0.05):  # in steps: a loss ends the wait
                if self.lost.is_set() or time.monotonic() > deadline:
                    return False
        return True

    def close(self) -> None:
        """Disconnect after everything sent has been taken; nothing reconnects."""
        # the usual listener would take the end for a loss
        disconnect = _DisconnectListener()
        self._connection.set_listener("listener", disconnect)
        transport = self._connection.transport
        try:
            self.disconnect()
            if transport.is_connected():
                disconnect.disconnected.wait(_CLOSE_TIMEOUT_S)
            if transport.socket is not None:
                transport.disconnect_socket()
        except (OSError, StompException, AttributeError) as error:
            # stomp.py's own thread may take the socket away at any moment.
            log.debug("closing %s: %s", self.address, error)
        self.lost.set()

    def _make_transport(self, settings: BrokerSettings) -> Any:
        address = [(settings.host, settings.port)]
        period_ms = round(settings.heart_beat_s * 1000)
        connection = stomp.Connection12(
            address,
            heartbeats=(period_ms, period_ms),
            reconnect_attempts_max=1,  # the link reconnects, and subscribes anew
            timeout=_CONNECT_TIMEOUT_S,
            vhost=settings.vhost or None,
        )
        if settings.tls:
            connection.set_ssl(address, ca_certs=settings.tls_ca or None)
            _end_at_eof(connection.transport)
        return connection

    def _handle_message(self, message_frame: Any) -> None:
        """Pigeon's hook for a received frame."""
        headers = message_frame.headers
        topic = headers.get("destination", "").removeprefix(self._topic_prefix)
        # one name, whatever prefix this broker needs
        headers["topic"] = topic
        self._events.message(topic, message_frame.body, headers)

    def _handle_reconnect(self) -> None:
        """Pigeon's hook for a lost connection, which would connect again."""
        self._connected = False
        self.lost.set()
        self._answered.set()  # `open` need not wait for it any more

    def received_connected(self) -> None:
        """The broker took the login."""
        self._answered.set()

    def received_error(self, frame: Any) -> None:
        """The broker refused the login or one frame."""
        sentence = frame.headers.get("message") or frame.body or "no reason given"
        if self._answered.is_set():
            receipt = frame.headers.get("receipt-id", "")
            self._events.refused(receipt, sentence.strip())
        else:
            self._refusal = sentence.strip()
            self._answered.set()

    def received_receipt(self, frame: Any) -> None:
        """The broker has one frame, and all that were sent before it."""
        receipt = frame.headers["receipt-id"]
        if receipt in self._listening:
            self._listening[receipt].set()
        else:
            self._events.receipt(receipt)

    def received_message(self, frame: Any) -> None:
        """A message arrived."""
        # ms, like Pigeon's sent_at
        frame.headers["received_at"] = str(time.time_ns() // 1_000_000)
        try:
            self._handle_message(frame)
        except Exception:  # it would end stomp.py's thread, and the connection with it
            topic = frame.headers.get("destination", "")
            log.exception("bus: a message on %.80r was dropped", topic)

    def received_disconnected(self) -> None:
        """The connection is gone."""
        self._handle_reconnect()

    def _unavailable(self, found: str, *, retry: bool) -> BrokerUnavailable:
        if retry:
            cure = (
                "start it with 'em-platform broker' or correct broker.host and "
                "broker.port"
            )
        elif self._settings.token_file and not self._settings.username:
            cure = (
                f"its token was expected in {self._settings.token_file}: start in the "
                "home of that broker (EM_HOME), or name its file by broker.token_file; "
                "for a broker of others set broker.embedded to false"
            )
        else:
            cure = (
                "correct broker.username, broker.password or broker.vhost; a broker of "
                "em-platform takes broker.token_file, too"
            )
        return BrokerUnavailable(
            f"bus: {self.address}: {found}, a STOMP broker was expected; {cure}",
            address=self.address,
            refused=not retry,
        )


class _Listener(stomp.ConnectionListener):  # type: ignore[misc]
    """Passes what stomp.py receives on to the connection."""

    def __init__(self, connection: Connection) -> None:
        self.on_error = connection.received_error
        self.on_receipt = connection.received_receipt
        self.on_message = connection.received_message
        self.on_disconnected = connection.received_disconnected
        self._connection = connection

    def on_connected(self, frame: Any) -> None:
        self._connection.received_connected()


class _DisconnectListener(stomp.ConnectionListener):  # type: ignore[misc]
    """Receives only the end of a connection that is being closed."""

    def __init__(self) -> None:
        self.disconnected = threading.Event()

    def on_disconnected(self) -> None:
        self.disconnected.set()


def _end_at_eof(transport: Any) -> None:
    """Make stomp.py notice the end of an encrypted connection.

    stomp.py 9.0.0 reads b"" from a closed TLS socket as "nothing yet" and spins until
    its heart-beat times out (transport.py, `__read`).
    """
    receive = transport.receive

    def receive_or_end() -> bytes | None:
        received: bytes | None = receive()
        if received == b"" and not transport.blocking:
            transport.running = False
        return received

    transport.receive = receive_or_end
