"""The bus over brokers of others: Debian's ActiveMQ and RabbitMQ.

Each runs with private folders and ports, as a child of the test.
"""

import json
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
from sqlalchemy import text
from workflows.recipe import RecipeWrapper

from em_platform.config import BrokerSettings, RabbitmqSettings
from em_platform.cryoem.ispyb import register_collection
from em_platform.cryoem.services import SERVICES, load_service
from em_platform.cryoem.services.broker import connected, publish
from em_platform.cryoem.services.live import Service, dead_letters, reinject, serve
from em_platform.cryoem.services.step import Outbox, Outgoing, Place
from em_platform.errors import BrokerUnavailable, MessageRejected
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


LIVE = ("ProcessRecipe", "EMISPyB")
_EMISPYB = {"service": "EMISPyB", "queue": "ispyb_connector"}
RECIPE = {
    "1": {
        **_EMISPYB,
        "parameters": {
            "ispyb_command": "insert_movie",
            "dcid": "{dcid}",
            "movie_path": "{movie}",
            "store_result": "movie_id",
        },
        "output": 2,
    },
    "2": {
        **_EMISPYB,
        "parameters": {
            "ispyb_command": "buffer",
            "program_id": "{program}",
            "movie_id": "$movie_id",
            "store_result": "motion_id",
            "buffer_command": {"ispyb_command": "insert_motion_correction"},
            "buffer_store": 7,
        },
        "output": 3,
    },
    "3": {"service": "Murfey", "queue": "feedback"},
    # It comes first, and has to wait until the number is stored.
    "4": {
        **_EMISPYB,
        "parameters": {
            "ispyb_command": "buffer",
            "program_id": "{program}",
            "buffer_command": {"ispyb_command": "insert_ctf"},
            "buffer_lookup": {"motion_correction_id": 7},
        },
        "output": 3,
    },
    "start": [[4, []], [1, []]],
}


@dataclass(frozen=True, kw_only=True)
class Server:
    """How one broker is started."""

    arguments: list[str]
    environment: dict[str, str]
    settings: BrokerSettings
    log: Path
    amqp_port: int = 0

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
    port, names_port, amqp_port = free_port(), free_port(), free_port()
    (tmp_path / "enabled_plugins").write_text("[rabbitmq_stomp].\n")
    (tmp_path / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{amqp_port}\n"
        f"stomp.listeners.tcp.1 = 127.0.0.1:{port}\n"
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
            amqp_port=amqp_port,
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


def test_rabbitmq_carries_the_bus_and_a_recipe(
    rabbitmq: Server, tmp_path: Path
) -> None:
    """One start for both: the bus, and live services of cryo-EM."""
    expected = [f"{number}:ü\\" for number in range(200)]
    wrong = rabbitmq.settings.model_copy(update={"password": SecretStr("guess")})
    with rabbitmq.running():
        assert hear_all(rabbitmq.settings, 200) == [expected, expected]
        with Bus(wrong, "b") as bus:
            with pytest.raises(BrokerUnavailable, match="refused: Bad CONNECT"):
                bus.connect(10)
        settings = RabbitmqSettings(port=rabbitmq.amqp_port, tries=3, retry_s=0.2)
        a_recipe_becomes_rows_whatever_comes_between(settings, tmp_path)
    with pytest.raises(BrokerUnavailable, match="does not take the connection"):
        with connected(settings):
            pass


def a_recipe_becomes_rows_whatever_comes_between(
    settings: RabbitmqSettings, folder: Path
) -> None:
    """A request, and between it messages that no service can handle."""
    place = Place(ispyb_url=f"sqlite:///{folder / 'ispyb.sqlite'}")
    with place.ispyb.write() as writer:
        known = register_collection(
            writer, image_directory="/d", image_prefix="p", recipe="r"
        )
    with ExitStack() as stack:
        for name, queue in {k: SERVICES[k] for k in LIVE}.items():
            stack.enter_context(in_a_thread(name, queue, place, settings))
        channel = stack.enter_context(connected(settings))
        channel.queue_declare("feedback", durable=True)
        request = {
            "custom_recipe": RECIPE,
            "parameters": {
                "dcid": known.dcid,
                "program": known.program_id,
                "movie": "/d/a.tif",
                "guid": "g",
            },
        }
        for body in (b"{", b"[]", b'{"recipes": ["nothing"]}'):
            channel.basic_publish("", "processing_recipe", body)
        publish(channel, Outgoing(queue="processing_recipe", body=request))
        answers = list(received(channel, "feedback", 2))
        with pytest.raises(MessageRejected, match="nowhere does not exist"):
            publish(channel, Outgoing(queue="nowhere", body={}))
    # As upstream's services read it.
    wrapper = RecipeWrapper(message=answers[0][1], transport=Outbox())
    assert answers[0][0]["workflows-recipe"] is True
    assert wrapper.recipe_path == [1, 2]
    assert wrapper.environment == {"ID": "g", "movie_id": 1, "motion_id": 1}
    assert wrapper.payload == {"result": 1}
    with place.ispyb.engine.connect() as connection:
        found = connection.execute(text('SELECT "movieId" FROM "MotionCorrection"'))
        assert [row[0] for row in found] == [1]
        looked_up = connection.execute(text('SELECT "motionCorrectionId" FROM "CTF"'))
        assert [row[0] for row in looked_up] == [1]
    place.close()
    dead = dead_letters(settings, "processing_recipe")
    assert [each["error"].partition(",")[0] for each in dead] == [
        "message: b'{' is no JSON (Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1))",
        "message: '[]' was found",
        "recipe: there is no 'nothing'",
    ]
    assert reinject(settings, "processing_recipe") == 3
    assert dead_letters(settings, "processing_recipe") == []


@contextmanager
def in_a_thread(
    name: str, queue: str, place: Place, settings: RabbitmqSettings
) -> Iterator[None]:
    stop, ready = threading.Event(), threading.Event()
    service = Service(name=name, queue=queue, handler=load_service(name), place=place)
    thread = threading.Thread(
        target=serve, args=(service, settings, stop), kwargs={"ready": ready.set}
    )
    thread.start()
    try:
        assert ready.wait(30)
        yield
    finally:
        stop.set()
        thread.join(30)


def received(channel: Any, queue: str, count: int) -> Iterator[tuple[Any, Any]]:
    """Headers and body of so many messages; a generous time is waited for each."""
    for _ in range(count):
        for method, properties, body in channel.consume(queue, inactivity_timeout=30):
            assert method is not None, f"nothing came to {queue}"
            channel.basic_ack(method.delivery_tag)
            yield properties.headers, json.loads(body)
            break
    channel.cancel()


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
