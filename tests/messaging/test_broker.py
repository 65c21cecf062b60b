from collections.abc import Callable
from typing import Any

import pytest

from em_platform.messaging.broker import Broker

Connect = Callable[[Broker], Any]


@pytest.mark.parametrize(
    ("offered", "spoken"),
    [("1.2", "1.2"), ("1.0,1.1", "1.1"), ("1.0,1.1,1.2,2.0", "1.2"), ("1.0", "1.0")],
)
def test_the_newest_common_version_is_spoken(
    quiet_broker: Broker, connect: Connect, offered: str, spoken: str
) -> None:
    assert connect(quiet_broker).login(offered)["version"] == spoken


def test_a_client_that_names_no_version_speaks_1_0(
    quiet_broker: Broker, connect: Connect
) -> None:
    client = connect(quiet_broker)
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


def test_without_a_common_version_the_client_is_reported_those_there_are(
    quiet_broker: Broker, connect: Connect
) -> None:
    client = connect(quiet_broker)
    client.send("CONNECT", accept_version="3.0")
    command, headers, _ = client.read()
    assert (command, headers["version"]) == ("ERROR", "1.0,1.1,1.2")
    assert client.is_closed()


@pytest.mark.parametrize("sent", ["tile.raw", "/topic/tile.raw"])
def test_a_topic_fans_out_with_and_without_a_prefix(
    quiet_broker: Broker, connect: Connect, sent: str
) -> None:
    bare, prefixed, sender = (connect(quiet_broker) for _ in range(3))
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
    quiet_broker: Broker, connect: Connect
) -> None:
    new, old, sender = (
        connect(quiet_broker),
        connect(quiet_broker),
        connect(quiet_broker),
    )
    new.login("1.2")
    old.login("1.1")
    sender.login("1.2")
    new.subscribe("a")
    old.subscribe("a")
    sender.send("SEND", destination="a", odd="1\\c2\\n3\\r4\\\\")
    assert new.read()[1]["odd"] == "1\\c2\\n3\\r4\\\\"
    assert old.read()[1]["odd"] == "1\\c2\\n3 4\\\\"


def test_a_counted_body_with_nul_arrives_whole(
    quiet_broker: Broker, connect: Connect
) -> None:
    client = connect(quiet_broker)
    client.login()
    client.subscribe("a")
    client.send("SEND", body=b"\0\n\n\0", destination="a", content_length="4")
    assert client.read()[2] == b"\0\n\n\0"


def test_every_frame_can_ask_for_a_receipt(
    quiet_broker: Broker, connect: Connect
) -> None:
    client = connect(quiet_broker)
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
    quiet_broker: Broker, connect: Connect
) -> None:
    one, other, sender = (
        connect(quiet_broker),
        connect(quiet_broker),
        connect(quiet_broker),
    )
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
    quiet_broker: Broker,
    connect: Connect,
    version: str,
    ack: str,
    acknowledged: int,
    left: list[bytes],
) -> None:
    dying, heir, sender = (
        connect(quiet_broker),
        connect(quiet_broker),
        connect(quiet_broker),
    )
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
        _, headers, got = heir.read()
        assert (got, headers["redelivered"]) == (body, "true")
    assert heir.is_quiet()


def test_a_message_that_is_not_wanted_goes_to_the_next(
    quiet_broker: Broker, connect: Connect
) -> None:
    client = connect(quiet_broker)
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
    quiet_broker: Broker, connect: Connect
) -> None:
    client = connect(quiet_broker)
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
    quiet_broker: Broker,
    connect: Connect,
    command: str,
    headers: dict[str, str],
    sentence: str,
) -> None:
    client = connect(quiet_broker)
    client.login()
    client.send(command, receipt="r1", **headers)
    answer, headers, _ = client.read()
    assert answer == "ERROR"
    assert sentence in headers["message"]
    assert headers["receipt-id"] == "r1"
    assert client.is_closed()
