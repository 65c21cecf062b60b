import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from em_platform.config import BrokerSettings
from em_platform.errors import BrokerUnavailable, ConfigError
from em_platform.messaging.broker import STATISTICS, Broker

SETTINGS = BrokerSettings(port=0, heart_beat_s=0)


class Client:
    """Speaks STOMP byte by byte."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._buffer = b""

    def send(self, command: str, body: bytes = b"", **headers: str) -> None:
        lines = [command, *(f"{k.replace('_', '-')}:{v}" for k, v in headers.items())]
        self.send_bytes("\n".join(lines).encode() + b"\n\n" + body + b"\0")

    def send_bytes(self, content: bytes) -> None:
        self._socket.sendall(content)

    def login(self, version: str = "1.2", **headers: str) -> dict[str, str]:
        self.send("CONNECT", accept_version=version, host="x", **headers)
        command, answer, _ = self.read()
        assert command == "CONNECTED", answer
        return answer

    def subscribe(self, destination: str, name: str = "0", **headers: str) -> None:
        self.send(
            "SUBSCRIBE", id=name, destination=destination, receipt="sub", **headers
        )
        assert self.read()[0] == "RECEIPT"

    def read(self) -> tuple[str, dict[str, str], bytes]:
        """The next frame that the broker sent."""
        self._buffer = self._buffer.lstrip(b"\r\n")
        while b"\n\n" not in self._buffer:
            self._receive()
        head, _, rest = self._buffer.partition(b"\n\n")
        command, *lines = head.decode().split("\n")
        headers = dict(reversed([tuple(x.split(":", 1)) for x in lines]))
        self._buffer = rest
        length = int(headers["content-length"])
        while len(self._buffer) <= length:
            self._receive()
        body, self._buffer = self._buffer[:length], self._buffer[length + 1 :]
        return command, headers, body

    def bodies(self, count: int) -> list[bytes]:
        return [self.read()[2] for _ in range(count)]

    def is_quiet(self) -> bool:
        """Whether nothing more comes: a receipt overtakes nothing."""
        self.send("BEGIN", transaction="quiet", receipt="quiet")
        self.send("ABORT", transaction="quiet")
        return self.read()[1].get("receipt-id") == "quiet"

    def is_closed(self, timeout_s: float = 5.0) -> bool:
        self._socket.settimeout(timeout_s)
        try:
            return self._socket.recv(65536) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._socket.close()

    def _receive(self) -> None:
        received = self._socket.recv(65536)
        assert received, f"the broker closed; unread: {self._buffer!r}"
        self._buffer += received


@pytest.fixture
def connect() -> Iterator[Callable[[Broker], Client]]:
    with ExitStack() as stack:

        def open_client(broker: Broker) -> Client:
            client = Client(broker.port)
            stack.callback(client.close)
            return client

        yield open_client


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker(SETTINGS) as broker:
        yield broker


Connect = Callable[[Broker], Client]


@pytest.mark.parametrize(
    ("offered", "spoken"),
    [("1.2", "1.2"), ("1.0,1.1", "1.1"), ("1.0,1.1,1.2,2.0", "1.2"), ("1.0", "1.0")],
)
def test_the_newest_common_version_is_spoken(
    broker: Broker, connect: Connect, offered: str, spoken: str
) -> None:
    assert connect(broker).login(offered)["version"] == spoken


def test_a_client_that_names_no_version_speaks_1_0(
    broker: Broker, connect: Connect
) -> None:
    client = connect(broker)
    client.send("CONNECT")
    command, headers, _ = client.read()
    assert (command, headers["version"]) == ("CONNECTED", "1.0")
    client.send("SUBSCRIBE", destination="a")
    client.send("SEND", destination="a", body=b"hello")
    command, headers, body = client.read()
    assert (command, headers["destination"], body) == ("MESSAGE", "a", b"hello")
    client.send("UNSUBSCRIBE", destination="a")
    client.send("SEND", destination="a", body=b"hello")
    assert client.is_quiet()


def test_without_a_common_version_the_client_is_told_those_there_are(
    broker: Broker, connect: Connect
) -> None:
    client = connect(broker)
    client.send("CONNECT", accept_version="3.0")
    command, headers, _ = client.read()
    assert (command, headers["version"]) == ("ERROR", "1.0,1.1,1.2")
    assert client.is_closed()


@pytest.mark.parametrize("sent", ["tile.raw", "/topic/tile.raw"])
def test_a_topic_fans_out_with_and_without_a_prefix(
    broker: Broker, connect: Connect, sent: str
) -> None:
    bare, prefixed, sender = (connect(broker) for _ in range(3))
    for client in (bare, prefixed, sender):
        client.login()
    bare.subscribe("tile.raw")
    prefixed.subscribe("/topic/tile.raw")
    sender.send("SEND", destination=sent, body=b"x", service="camera")
    for client, seen in ((bare, "tile.raw"), (prefixed, "/topic/tile.raw")):
        command, headers, body = client.read()
        assert (command, headers["destination"], body) == ("MESSAGE", seen, b"x")
        assert headers["subscription"] == "0"
        assert headers["service"] == "camera"
    assert sender.is_quiet()


def test_headers_arrive_as_the_receivers_version_writes_them(
    broker: Broker, connect: Connect
) -> None:
    new, old, sender = connect(broker), connect(broker), connect(broker)
    new.login("1.2")
    old.login("1.1")
    sender.login("1.2")
    new.subscribe("a")
    old.subscribe("a")
    sender.send("SEND", destination="a", odd="1\\c2\\n3\\r4\\\\")
    assert new.read()[1]["odd"] == "1\\c2\\n3\\r4\\\\"
    assert old.read()[1]["odd"] == "1\\c2\\n3 4\\\\"


def test_a_counted_body_with_nul_arrives_whole(
    broker: Broker, connect: Connect
) -> None:
    client = connect(broker)
    client.login()
    client.subscribe("a")
    client.send("SEND", body=b"\0\n\n\0", destination="a", content_length="4")
    assert client.read()[2] == b"\0\n\n\0"


def test_every_frame_can_ask_for_a_receipt(broker: Broker, connect: Connect) -> None:
    client = connect(broker)
    client.login()
    client.send("SUBSCRIBE", id="0", destination="a", receipt="1")
    client.send("BEGIN", transaction="t", receipt="2")
    client.send("SEND", destination="b", transaction="t", receipt="3")
    client.send("COMMIT", transaction="t", receipt="4")
    client.send("UNSUBSCRIBE", id="0", receipt="5")
    client.send("DISCONNECT", receipt="6")
    receipts = [client.read() for _ in range(6)]
    assert [headers["receipt-id"] for _, headers, _ in receipts] == list("123456")
    assert client.is_closed()


def test_consumers_of_a_queue_share_its_messages(
    broker: Broker, connect: Connect
) -> None:
    one, other, sender = connect(broker), connect(broker), connect(broker)
    for client in (one, other, sender):
        client.login()
    for number in range(4):
        sender.send("SEND", destination="/queue/q", body=b"%d" % number)
    assert sender.is_quiet()
    one.subscribe("/queue/never")
    one.send("SUBSCRIBE", id="1", destination="/queue/q", ack="client", receipt="s")
    got = one.bodies(5)
    assert sorted(got) == [b"", b"0", b"1", b"2", b"3"]
    other.subscribe("/queue/q", ack="auto")
    for number in range(4, 8):
        sender.send("SEND", destination="/queue/q", body=b"%d" % number)
    assert sorted(one.bodies(2) + other.bodies(2)) == [b"4", b"5", b"6", b"7"]


@pytest.mark.parametrize(
    ("version", "ack", "acknowledged", "left"),
    [
        ("1.2", "client-individual", 1, [b"0", b"2"]),
        ("1.2", "client", 1, [b"2"]),
        ("1.1", "client-individual", 1, [b"0", b"2"]),
        ("1.0", "client", 0, [b"1", b"2"]),
        ("1.2", "auto", 1, []),
    ],
)
def test_what_a_dead_consumer_did_not_acknowledge_goes_to_another(
    broker: Broker,
    connect: Connect,
    version: str,
    ack: str,
    acknowledged: int,
    left: list[bytes],
) -> None:
    dying, heir, sender = connect(broker), connect(broker), connect(broker)
    dying.login(version)
    heir.login()
    sender.login()
    dying.subscribe("/queue/q", ack=ack)
    for number in range(3):
        sender.send("SEND", destination="/queue/q", body=b"%d" % number)
    headers = [dying.read()[1] for _ in range(3)][acknowledged]
    if version == "1.2" and ack != "auto":
        dying.send("ACK", id=headers["ack"])
    elif ack != "auto":
        dying.send("ACK", message_id=headers["message-id"], subscription="0")
    assert dying.is_quiet()
    dying.close()
    heir.send("SUBSCRIBE", id="0", destination="/queue/q", receipt="r")
    assert heir.read()[0] == "RECEIPT"
    for body in left:
        _, told, got = heir.read()
        assert (got, told["redelivered"]) == (body, "true")
    assert heir.is_quiet()


def test_a_message_that_is_not_wanted_goes_to_the_next(
    broker: Broker, connect: Connect
) -> None:
    client = connect(broker)
    client.login()
    client.subscribe("/queue/q", ack="client-individual", prefetch_count="1")
    client.send("SEND", destination="/queue/q", body=b"x")
    _, headers, _ = client.read()
    client.send("NACK", id=headers["ack"])
    _, headers, body = client.read()
    assert (body, headers["redelivered"]) == (b"x", "true")
    client.send("ACK", id=headers["ack"])
    client.send("SEND", destination="/queue/q", body=b"y")
    assert client.read()[2] == b"y"


def test_a_transaction_is_sent_as_a_whole_or_not_at_all(
    broker: Broker, connect: Connect
) -> None:
    client = connect(broker)
    client.login()
    client.subscribe("a")
    for name in ("kept", "dropped"):
        client.send("BEGIN", transaction=name)
        for number in range(2):
            body = f"{name}{number}".encode()
            client.send("SEND", destination="a", body=body, transaction=name)
    assert client.is_quiet()
    client.send("ABORT", transaction="dropped")
    client.send("COMMIT", transaction="kept")
    assert client.bodies(2) == [b"kept0", b"kept1"]
    assert client.is_quiet()


@pytest.mark.parametrize(
    ("command", "headers", "sentence"),
    [
        ("SEND", {}, "SEND needs a header destination"),
        ("SUBSCRIBE", {"destination": "a"}, "SUBSCRIBE needs an id"),
        (
            "SUBSCRIBE",
            {"destination": "a", "id": "1", "ack": "never"},
            "ack 'never' is none of auto, client, client-individual",
        ),
        ("UNSUBSCRIBE", {"id": "7"}, "there is no subscription 7"),
        ("COMMIT", {"transaction": "7"}, "transaction 7 has not begun"),
        ("SEND", {"destination": "a", "transaction": "7"}, "has not begun"),
        ("CONNECT", {}, "a client connects only once"),
    ],
)
def test_a_frame_that_cannot_be_done_is_answered_by_one_sentence(
    broker: Broker,
    connect: Connect,
    command: str,
    headers: dict[str, str],
    sentence: str,
) -> None:
    client = connect(broker)
    client.login()
    client.send(command, receipt="r1", **headers)
    answer, told, _ = client.read()
    assert answer == "ERROR"
    assert sentence in told["message"]
    assert told["receipt-id"] == "r1"
    assert client.is_closed()


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        bytes(range(256)) * 40,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SEND\nendless:" + b"x" * 300_000,
        b"CONNECT\naccept-version:1.2\ncontent-length:99999999999\n\n",
        b"SUBSCRIBE\ndestination:a\n\n\0",
    ],
)
def test_garbage_gets_one_sentence_and_others_are_unharmed(
    broker: Broker,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
    garbage: bytes,
) -> None:
    witness = connect(broker)
    witness.login()
    witness.subscribe("a")
    intruder = connect(broker)
    intruder.send_bytes(garbage)
    assert intruder.read()[0] == "ERROR"
    assert intruder.is_closed()
    (told,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "was refused" in told.getMessage()
    assert "\n" not in told.getMessage()
    witness.send("SEND", destination="a", body=b"still here")
    assert witness.read()[2] == b"still here"
    assert broker.statistics().refused == 1


def test_a_client_that_never_logs_in_is_dropped(connect: Connect) -> None:
    with Broker(SETTINGS, login_s=0.2) as broker:
        client = connect(broker)
        client.send_bytes(b"CONN")
        assert "no whole CONNECT" in client.read()[1]["message"]
        assert client.is_closed()


def test_a_frame_above_the_limit_is_refused(connect: Connect) -> None:
    with Broker(SETTINGS.model_copy(update={"frame_limit_mb": 1})) as broker:
        client = connect(broker)
        client.login()
        client.send("SEND", destination="a", receipt="big", content_length="1000001")
        _, headers, _ = client.read()
        assert "at most 1000000 are taken" in headers["message"]
        assert headers["receipt-id"] == "big"


def test_login_is_asked_for_where_a_username_is_set(connect: Connect) -> None:
    update = {
        "username": "scope",
        "password": BrokerSettings(password="s:e\\c").password,
    }
    with Broker(SETTINGS.model_copy(update=update)) as broker:
        connect(broker).login(login="scope", passcode="s:e\\c")
        for credentials in ({}, {"login": "scope", "passcode": "wrong"}):
            client = connect(broker)
            client.send("CONNECT", accept_version="1.2", **credentials)
            command, headers, _ = client.read()
            assert (command, client.is_closed()) == ("ERROR", True)
            assert "its passcode is wrong" in headers["message"]


def test_a_slow_reader_loses_its_oldest_messages_and_stalls_nobody(
    connect: Connect,
) -> None:
    settings = SETTINGS.model_copy(update={"client_queue_limit": 50})
    with Broker(settings) as broker:
        slow, quick, sender = connect(broker), connect(broker), connect(broker)
        for client in (slow, quick, sender):
            client.login()
        slow.subscribe("a")
        quick.subscribe("a")
        count, body = 400, b"x" * 100_000
        began = time.monotonic()
        for number in range(count):
            sender.send("SEND", destination="a", body=b"%06d" % number + body)
            assert quick.read()[2][:6] == b"%06d" % number
        assert time.monotonic() - began < 20
        dropped = broker.statistics().dropped
        assert 0 < dropped < count
        numbers = [int(slow.read()[2][:6]) for _ in range(count - dropped)]
        assert numbers == sorted(numbers)
        assert numbers[-1] == count - 1


def test_a_client_that_falls_silent_is_dropped_and_a_live_one_is_not(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    settings = SETTINGS.model_copy(update={"heart_beat_s": 0.2})
    with Broker(settings) as broker:
        silent, alive = connect(broker), connect(broker)
        assert silent.login(heart_beat="100,0")["heart-beat"] == "200,200"
        alive.login(heart_beat="100,0")
        for _ in range(8):
            time.sleep(0.1)
            alive.send_bytes(b"\n")
        assert silent.is_closed()
        assert alive.is_quiet()
        assert "a heart-beat every 0.2 s was promised" in caplog.text


def test_the_broker_beats_for_a_client_that_wants_it(connect: Connect) -> None:
    settings = SETTINGS.model_copy(update={"heart_beat_s": 0.1})
    with Broker(settings) as broker:
        client = connect(broker)
        client.login(heart_beat="0,150")
        client._socket.settimeout(2)
        assert client._socket.recv(1) == b"\n"
        assert client._socket.recv(1) == b"\n"


def test_statistics_are_told_to_who_listens(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("em_platform.messaging.broker._STATISTICS_S", 0.1)
    with Broker(SETTINGS) as broker:
        client = connect(broker)
        client.login()
        client.subscribe(f"/topic/{STATISTICS}")
        _, headers, body = client.read()
        assert headers["content-type"] == "application/json"
        assert b'"connected": 1' in body


def test_a_taken_port_is_told_in_one_sentence(broker: Broker) -> None:
    with pytest.raises(BrokerUnavailable, match=r"cannot be listened at \(.*in use"):
        Broker(SETTINGS.model_copy(update={"port": broker.port})).start()


def test_a_broker_ends_while_a_client_does_not_read(connect: Connect) -> None:
    broker = Broker(SETTINGS)
    broker.start()
    client = connect(broker)
    client.login()
    client.subscribe("a")
    for _ in range(100):
        client.send("SEND", destination="a", body=b"x" * 100_000)
    began = time.monotonic()
    broker.stop()
    assert time.monotonic() - began < 5


def test_traffic_is_encrypted_where_tls_is_set(
    connect: Connect, certificate: tuple[Path, Path]
) -> None:
    update = {
        "tls": True,
        "tls_certificate": str(certificate[0]),
        "tls_key": str(certificate[1]),
    }
    with Broker(SETTINGS.model_copy(update=update)) as broker:
        context = ssl.create_default_context(cafile=str(certificate[0]))
        client = connect(broker)
        client._socket = context.wrap_socket(
            client._socket, server_hostname="127.0.0.1"
        )
        client.login()
        client.subscribe("a")
        client.send("SEND", destination="a", body=b"x" * 300_000)
        assert client.read()[2] == b"x" * 300_000
        plain = connect(broker)
        plain.send_bytes(b"CONNECT\n\n\0")
        assert plain.is_closed()


def test_a_missing_certificate_is_told_in_one_sentence() -> None:
    update = {"tls": True, "tls_certificate": "/no/such.pem"}
    with pytest.raises(ConfigError, match=r"certificate '/no/such\.pem'"):
        Broker(SETTINGS.model_copy(update=update)).start()
