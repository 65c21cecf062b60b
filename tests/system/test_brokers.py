"""The bus over a broker of others: Debian's ActiveMQ; RabbitMQ: `test_rabbitmq.py`."""

import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from em_platform.messaging.bus import Bus
from tests.system.brokers import activemq, hear_all, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]


def test_the_bus_fans_out_over_activemq_and_survives_its_restart(
    tmp_path: Path,
) -> None:
    broker = activemq(tmp_path)
    expected = [f"{number}:ü\\" for number in range(200)]
    received: list[str] = []
    with ExitStack() as stack:
        sender, receiver = (
            stack.enter_context(Bus(broker.settings, name, send_timeout_s=60))
            for name in ("sender", "receiver")
        )
        with broker.running():
            assert hear_all(broker.settings, 200) == [expected, expected]
            sender.connect(30)
            receiver.connect(30)
            receiver.subscribe("qc.status", lambda m, _: received.append(m.reason))
            sender.publish("qc.status", status="GOOD", reason="before")
            wait_until(lambda: received == ["before"])
        say = threading.Thread(
            target=lambda: sender.publish("qc.status", status="GOOD", reason="during")
        )
        say.start()
        with broker.running():
            say.join()
            wait_until(lambda: received[1:] == ["during"])
