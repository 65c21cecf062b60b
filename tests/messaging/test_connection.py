import time
from typing import Any

import pytest

from em_platform.config import BrokerSettings
from em_platform.messaging.broker import Broker
from em_platform.messaging.connection import Connection, Events


def test_what_fails_in_the_receiver_does_not_end_the_connection(
    quiet_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    received: list[str] = []

    def fail_once(topic: str, body: str, headers: Any) -> None:
        received.append(body)
        if len(received) == 1:
            raise ValueError("no")

    events = Events(
        message=fail_once, receipt=lambda _: None, refused=lambda _, __: None
    )
    settings = BrokerSettings(port=quiet_broker.port)
    connection = Connection(settings, "one", events=events)
    connection.open()
    connection.listen("qc.status")
    assert connection.wait_until_listening()
    for body in ("first", "second"):
        connection.transmit("qc.status", body, {})
    deadline = time.monotonic() + 10
    while len(received) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not connection.lost.is_set()
    connection.close()
    assert "a message on 'qc.status' was dropped" in caplog.text
