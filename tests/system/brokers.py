"""Brokers of others, each with private folders and ports: ActiveMQ and RabbitMQ."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from em_platform.config import BrokerSettings, RabbitmqSettings
from em_platform.cryoem.services.broker import connected
from em_platform.errors import BrokerUnavailable
from em_platform.messaging.bus import Bus
from em_platform.processes import listens
from tests.ports import reserve_port

ACTIVEMQ = Path("/usr/share/activemq/bin/activemq.jar")
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
# After a restart a queue on a single node can stay without a leader until an election
# is asked for (github.com/rabbitmq/rabbitmq-server, issue 10070; seen with 3.10.8).
ELECT = """\
[case catch ra:members(amqqueue:get_pid(Queue), 500) of
   {ok, _, _} -> ok;
   _ -> {waits, catch ra:trigger_election(amqqueue:get_pid(Queue))}
 end || Queue <- rabbit_amqqueue:list_by_type(rabbit_quorum_queue)].
"""
# A broker of a minute compiles quickly rather than well.
_QUICK_JAVA = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
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


@dataclass(kw_only=True)
class Server:
    """One broker: how it is started, killed and started again."""

    arguments: list[str]
    environment: dict[str, str]
    settings: BrokerSettings
    log: Path
    amqp_port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.arguments,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 90
        while not self._is_ready():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        if not listens(self.settings.host, self.settings.port):
            return False
        if not self.amqp_port:
            return True
        with suppress(BrokerUnavailable):
            # It listens before it lets anybody in.
            with connected(RabbitmqSettings(port=self.amqp_port)):
                return True
        return False

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def restart(self) -> None:
        """Kill it, and start it again; an administrator looks after its queues."""
        self.kill()
        self.start()
        while self.amqp_port and b"waits" in self._elect():
            time.sleep(1)

    def _elect(self) -> bytes:
        """Which queues have leaders; those without are to elect one."""
        node = self.environment["RABBITMQ_NODENAME"]
        control = str(RABBITMQ.with_name("rabbitmqctl"))
        call = (control, "--node", node, "eval", ELECT)
        return subprocess.run(
            call, env=self.environment, check=True, stdout=subprocess.PIPE, timeout=60
        ).stdout

    @contextmanager
    def running(self) -> Iterator[None]:
        try:
            self.start()
            yield
        finally:
            self.kill()


def activemq(folder: Path) -> Server:
    """Debian's ActiveMQ."""
    if not ACTIVEMQ.is_file() or shutil.which("java") is None:
        pytest.skip("ActiveMQ is not installed: apt-get install activemq")
    port = reserve_port()
    for name in ("conf", "data", "scratch"):
        (folder / name).mkdir()
    (folder / "conf/activemq.xml").write_text(ACTIVEMQ_XML.format(port=port))
    places = {
        "activemq.home": "/usr/share/activemq",
        "activemq.base": str(folder),
        "activemq.conf": str(folder / "conf"),
        "activemq.data": str(folder / "data"),
        "activemq.classpath": str(folder / "conf"),
        "java.io.tmpdir": str(folder / "scratch"),
    }
    return Server(
        arguments=[
            *("java", "-Xms64M", "-Xmx256M", *_QUICK_JAVA),
            *(f"-D{name}={place}" for name, place in places.items()),
            *("-jar", str(ACTIVEMQ), "start"),
            f"xbean:file:{folder}/conf/activemq.xml",
        ],
        environment=dict(os.environ),
        settings=BrokerSettings(port=port, prefix="/topic/", embedded=False),
        log=folder / "activemq.log",
    )


@contextmanager
def rabbitmq(folder: Path) -> Iterator[Server]:
    """Debian's RabbitMQ, running, with AMQP and STOMP."""
    epmd = shutil.which("epmd")
    if not RABBITMQ.is_file() or epmd is None:
        pytest.skip("RabbitMQ is not installed: apt-get install rabbitmq-server")
    port, names_port, amqp_port = (reserve_port() for _ in range(3))
    (folder / "enabled_plugins").write_text("[rabbitmq_stomp].\n")
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{amqp_port}\n"
        f"stomp.listeners.tcp.1 = 127.0.0.1:{port}\n"
    )
    environment = {
        **os.environ,
        "HOME": str(folder),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(names_port),
        "RABBITMQ_NODENAME": "em@localhost",
        "RABBITMQ_DIST_PORT": str(reserve_port()),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
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
    server = Server(
        arguments=[str(RABBITMQ)],
        environment=environment,
        settings=settings,
        log=folder / "rabbitmq.log",
        amqp_port=amqp_port,
    )
    try:
        with server.running():
            yield server
    finally:
        name_server.kill()
        name_server.wait()


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait for it; the test fails when it takes too long."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def hear_all(settings: BrokerSettings, count: int) -> list[list[str]]:
    """What two subscribers receive of `count` messages."""
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
