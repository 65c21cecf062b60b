import logging
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from em_platform.config import BrokerSettings
from em_platform.errors import BrokerUnavailable, ConfigError
from em_platform.messaging.broker import STATISTICS, Broker

SETTINGS = BrokerSettings(port=0, heart_beat_s=0)
Connect = Callable[[Broker], Any]


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
    quiet_broker: Broker,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
    garbage: bytes,
) -> None:
    witness = connect(quiet_broker)
    witness.login()
    witness.subscribe("a")
    intruder = connect(quiet_broker)
    intruder.send_bytes(garbage)
    assert intruder.read()[0] == "ERROR"
    assert intruder.is_closed()
    (headers,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "was refused" in headers.getMessage()
    assert "\n" not in headers.getMessage()
    witness.send("SEND", destination="a", body=b"still here")
    assert witness.read()[2] == b"still here"
    assert quiet_broker.statistics().refused == 1


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
    login = {"username": "scope", "password": SecretStr("s:e\\c")}
    with Broker(SETTINGS.model_copy(update=login)) as broker:
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
        client.socket.settimeout(2)
        assert client.socket.recv(1) == b"\n"
        assert client.socket.recv(1) == b"\n"


def test_statistics_are_reported_to_who_listens(
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


def test_a_taken_port_is_reported_in_one_sentence(quiet_broker: Broker) -> None:
    with pytest.raises(BrokerUnavailable, match=r"cannot be listened at \(.*in use"):
        Broker(SETTINGS.model_copy(update={"port": quiet_broker.port})).start()


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
    assert time.monotonic() - began < 20


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
        client.socket = context.wrap_socket(client.socket, server_hostname="127.0.0.1")
        client.login()
        client.subscribe("a")
        client.send("SEND", destination="a", body=b"x" * 300_000)
        assert client.read()[2] == b"x" * 300_000
        plain = connect(broker)
        plain.send_bytes(b"CONNECT\n\n\0")
        assert plain.is_closed()


def test_a_missing_certificate_is_reported_in_one_sentence() -> None:
    update = {"tls": True, "tls_certificate": "/no/such.pem"}
    with pytest.raises(ConfigError, match=r"certificate '/no/such\.pem'"):
        Broker(SETTINGS.model_copy(update=update)).start()


def test_other_computers_are_served_only_with_a_login(connect: Connect) -> None:
    everywhere = SETTINGS.model_copy(update={"host": "0.0.0.0"})
    with pytest.raises(ConfigError, match=r"no login is set, broker\.username and"):
        Broker(everywhere).start()
    login = {"username": "scope", "password": SecretStr("secret")}
    with Broker(everywhere.model_copy(update=login)) as broker:
        connect(broker).login(login="scope", passcode="secret")


def test_before_the_login_a_client_may_send_a_few_kilobytes(connect: Connect) -> None:
    with Broker(SETTINGS) as broker:
        stranger = connect(broker)
        stranger.send_bytes(b"CONNECT\ncontent-length:60000000\n\n" + b"x" * 9000)
        assert (
            "at most 8192 are taken before the login" in stranger.read()[1]["message"]
        )
        client = connect(broker)
        client.login()
        client.subscribe("a")
        client.send("SEND", body=b"x" * 100_000, destination="a")
        assert len(client.read()[2]) == 100_000


def test_connections_that_never_log_in_leave_for_those_that_do(
    connect: Connect,
) -> None:
    with Broker(SETTINGS, connections=5) as broker:
        first = connect(broker)
        first.login()
        strangers = [connect(broker) for _ in range(20)]
        good = [connect(broker) for _ in range(4)]
        for client in good:
            client.login()
        assert all(stranger.is_closed() for stranger in strangers)
        late = connect(broker)
        assert "5 clients are connected" in late.read()[1]["message"]
        assert late.is_closed()
        assert first.is_quiet()
        good[0].close()
        while broker.statistics().connected > 4:
            time.sleep(0.01)
        connect(broker).login()


def test_no_flood_of_connections_uses_up_the_files(tmp_path: Path) -> None:
    program = """if True:
        import logging, resource, socket
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
        from em_platform.config import BrokerSettings
        from em_platform.messaging.broker import Broker
        logging.basicConfig(level=logging.ERROR)
        with Broker(BrokerSettings(port=0)) as broker:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            all = [socket.create_connection(("127.0.0.1", broker.port), 5)
                   for _ in range(300)]
            all[-1].sendall(b"CONNECT\\naccept-version:1.2\\n\\n\\0")
            print(all[-1].recv(9), broker.statistics().connected < 128)
            for each in all:
                each.close()
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("b'CONNECTED' True\n", "")


def test_unfinished_frames_of_all_clients_are_bounded(connect: Connect) -> None:
    with Broker(SETTINGS.model_copy(update={"frame_limit_mb": 1})) as broker:
        hoarders = [connect(broker) for _ in range(8)]
        start = b"SEND\ndestination:a\ncontent-length:1000000\n\n"
        for size, client in zip(range(900_000, 0, -50_000), hoarders, strict=False):
            client.login()
            client.send_bytes(start + b"x" * size)
        # the largest were refused, the latest is whole
        assert "send it again later" in hoarders[0].read()[1]["message"]
        hoarders[-1].send_bytes(b"x" * 450_000 + b"\0")
        assert hoarders[-1].is_quiet()
        assert broker.statistics().refused == 3


def test_messages_that_wait_in_queues_are_bounded(connect: Connect) -> None:
    with Broker(SETTINGS.model_copy(update={"frame_limit_mb": 1})) as broker:
        sender, consumer = connect(broker), connect(broker)
        sender.login()
        consumer.login()
        for number in range(4):
            body = b"x" * 450_000
            sender.send("SEND", destination=f"/queue/{number}", body=body)
        assert sender.is_quiet()
        # what was handed out counts until it is acknowledged
        consumer.subscribe("/queue/0", ack="client-individual")
        ack = consumer.read()[1]["ack"]
        connect_again = connect(broker)
        connect_again.login()
        connect_again.send("SEND", destination="/queue/9", body=b"x" * 450_000)
        assert "wait in queues already" in connect_again.read()[1]["message"]
        consumer.send("ACK", id=ack)
        assert consumer.is_quiet()
        for _ in range(20):
            sender.send("SEND", destination="/queue/0", body=b"x" * 400_000)
            consumer.send("ACK", id=consumer.read()[1]["ack"])
            assert consumer.is_quiet()
        consumer.close()
        while broker.statistics().connected > 2:
            time.sleep(0.01)
        assert sender.is_quiet()
        assert broker.statistics().waiting == 3


@pytest.mark.parametrize(
    ("frames", "sentence"),
    [
        (
            [f"SUBSCRIBE\nid:{n}\ndestination:a" for n in range(201)],
            "this client has 200 subscriptions already",
        ),
        (
            [f"SEND\ndestination:/queue/{n}" for n in range(1001)],
            "there are 1000 queues already",
        ),
        (
            [f"BEGIN\ntransaction:{n}" for n in range(101)],
            "100 transactions of this client are open already",
        ),
        (["SEND\ndestination:" + "a" * 1001], "destination has 1001 characters"),
        (["SUBSCRIBE\ndestination:a\nid:" + "1" * 1001], "id has 1001 characters"),
        (["SEND\ndestination:a\nreceipt:" + "1" * 1001], "receipt has 1001 char"),
    ],
)
def test_what_the_broker_keeps_for_clients_is_bounded(
    quiet_broker: Broker, connect: Connect, frames: list[str], sentence: str
) -> None:
    client = connect(quiet_broker)
    client.login()
    client.send_bytes("".join(f"{frame}\n\n\0" for frame in frames[:-1]).encode())
    client.send("SEND", destination="b", receipt="taken")
    assert client.read()[1]["receipt-id"] == "taken"
    client.send_bytes(f"{frames[-1]}\n\n\0".encode())
    command, headers, _ = client.read()
    assert (command, sentence in headers["message"]) == ("ERROR", True)


def test_frames_of_a_transaction_are_bounded(
    connect: Connect,
) -> None:
    with Broker(SETTINGS.model_copy(update={"frame_limit_mb": 1})) as broker:
        heavy, many = connect(broker), connect(broker)
        headers = "x:" + "y" * 60_000
        for client in (heavy, many):
            client.login()
            client.send("BEGIN", transaction="t")
        frame = f"SEND\ndestination:a\ntransaction:t\n{headers}\n\n\0".encode()
        heavy.send_bytes(frame * 17)
        assert "transaction t became too large" in heavy.read()[1]["message"]
        # those of a client that left count no more, nor those that were sent
        for _ in range(20):
            many.send_bytes(frame * 10)
            many.send("COMMIT", transaction="t")
            many.send("BEGIN", transaction="t")
        assert many.is_quiet()
