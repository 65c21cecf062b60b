"""The bus over brokers of others: Debian's ActiveMQ and RabbitMQ.

Each runs with private folders and ports, as a child of the test.
"""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from em_platform.config import BrokerSettings
from em_platform.errors import BrokerUnavailable
from em_platform.messaging.bus import Bus
from em_platform.processes import listens

ACTIVEMQ = Path("/usr/share/activemq/bin/activemq.jar")
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

ACTIVEMQ_XML = """\
<beans xmlns="http://www.springframework.org/schema/beans"
  xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
  xsi:schemaLocation="http://www.springframework.org/schema/beans
  http://www.springframework.org/schema/beans/spring-beans.xsd
  http://activemq.apache.org/schema/core
  http://activemq.apache.org/schema/core/activemq-core.xsd">
  <broker xmlns="http://activemq.apache.org/schema/core" brokerName="em"
    useJmx="false" persistent="false" dataDirectory="${{activemq.base}}/data">
    <transportConnectors>
      <transportConnector name="stomp" uri="stomp://127.0.0.1:{port}"/>
    </transportConnectors>
  </broker>
</beans>
"""


@dataclass(frozen=True, kw_only=True)
class Server:
    """How one broker is started."""

    arguments: list[str]
    environment: dict[str, str]
    settings: BrokerSettings
    log: Path

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self.arguments,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + 90
            while not listens(self.settings.host, self.settings.port):
                assert process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.1)
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def activemq(tmp_path: Path, free_port: Callable[[], int]) -> Server:
    if not ACTIVEMQ.is_file() or shutil.which("java") is None:
        pytest.skip("ActiveMQ is not installed: apt-get install activemq")
    port = free_port()
    for name in ("conf", "data", "scratch"):
        (tmp_path / name).mkdir()
    (tmp_path / "conf/activemq.xml").write_text(ACTIVEMQ_XML.format(port=port))
    places = {
        "activemq.home": "/usr/share/activemq",
        "activemq.base": str(tmp_path),
        "activemq.conf": str(tmp_path / "conf"),
        "activemq.data": str(tmp_path / "data"),
        "activemq.classpath": str(tmp_path / "conf"),
        "java.io.tmpdir": str(tmp_path / "scratch"),
    }
    return Server(
        arguments=[
            *("java", "-Xms64M", "-Xmx256M"),
            *(f"-D{name}={place}" for name, place in places.items()),
            *("-jar", str(ACTIVEMQ), "start"),
            f"xbean:file:{tmp_path}/conf/activemq.xml",
        ],
        environment=dict(os.environ),
        settings=BrokerSettings(port=port, prefix="/topic/", embedded=False),
        log=tmp_path / "activemq.log",
    )


@pytest.fixture
def rabbitmq(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Server]:
    epmd = shutil.which("epmd")
    if not RABBITMQ.is_file() or epmd is None:
        pytest.skip("RabbitMQ is not installed: apt-get install rabbitmq-server")
    port, names_port = free_port(), free_port()
    (tmp_path / "enabled_plugins").write_text("[rabbitmq_stomp].\n")
    (tmp_path / "rabbitmq.conf").write_text(
        f"listeners.tcp = none\nstomp.listeners.tcp.1 = 127.0.0.1:{port}\n"
    )
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(names_port),
        "RABBITMQ_NODENAME": "em@localhost",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(tmp_path / "mnesia"),
        "RABBITMQ_LOG_BASE": str(tmp_path / "log"),
        "RABBITMQ_CONFIG_FILE": str(tmp_path / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": str(tmp_path / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(tmp_path / "enabled_plugins"),
    }
    # In the foreground: else Erlang leaves its name server behind.
    name_server = subprocess.Popen([epmd], env=environment)
    settings = BrokerSettings(
        port=port,
        prefix="/topic/",
        vhost="/",
        username="guest",
        password=SecretStr("guest"),
        embedded=False,
    )
    try:
        yield Server(
            arguments=[str(RABBITMQ)],
            environment=environment,
            settings=settings,
            log=tmp_path / "rabbitmq.log",
        )
    finally:
        name_server.kill()
        name_server.wait()


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def hear_all(settings: BrokerSettings, count: int) -> list[list[str]]:
    """What two subscribers hear of `count` messages."""
    received: list[list[str]] = [[], []]
    with ExitStack() as stack:
        buses = [stack.enter_context(Bus(settings, f"b{n}")) for n in range(3)]
        for bus in buses:
            bus.connect(30)
        for bus, kept in zip(buses, received, strict=False):

            def keep(message: Any, _: Any, kept: list[str] = kept) -> None:
                kept.append(message.reason)

            bus.subscribe("qc.status", keep)
        for number in range(count):
            buses[2].publish("qc.status", status="GOOD", reason=f"{number}:ü\\")
        buses[2].flush()
        wait_until(lambda: all(len(kept) >= count for kept in received))
    return received


def test_the_bus_fans_out_over_rabbitmq_and_tells_a_wrong_password(
    rabbitmq: Server,
) -> None:
    expected = [f"{number}:ü\\" for number in range(200)]
    wrong = rabbitmq.settings.model_copy(update={"password": SecretStr("guess")})
    with rabbitmq.running():
        assert hear_all(rabbitmq.settings, 200) == [expected, expected]
        with Bus(wrong, "b") as bus:
            with pytest.raises(BrokerUnavailable, match="refused: Bad CONNECT"):
                bus.connect(10)


def test_the_bus_fans_out_over_activemq_and_survives_its_restart(
    activemq: Server,
) -> None:
    expected = [f"{number}:ü\\" for number in range(200)]
    received: list[str] = []
    with ExitStack() as stack:
        sender, receiver = (
            stack.enter_context(Bus(activemq.settings, name, send_timeout_s=60))
            for name in ("sender", "receiver")
        )
        with activemq.running():
            assert hear_all(activemq.settings, 200) == [expected, expected]
            sender.connect(30)
            receiver.connect(30)
            receiver.subscribe("qc.status", lambda m, _: received.append(m.reason))
            sender.publish("qc.status", status="GOOD", reason="before")
            wait_until(lambda: received == ["before"])
        say = threading.Thread(
            target=lambda: sender.publish("qc.status", status="GOOD", reason="during")
        )
        say.start()
        with activemq.running():
            say.join()
            wait_until(lambda: received[1:] == ["during"])
