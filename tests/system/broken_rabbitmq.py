"""Who asks cryo-EM services, and how they and their broker are killed meanwhile."""

import importlib.resources
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pika.adapters.blocking_connection import BlockingChannel

from em_platform.config import RabbitmqSettings
from em_platform.cryoem.services import SERVICES, load_service
from em_platform.cryoem.services.broker import connected, publish
from em_platform.cryoem.services.live import Service, serve
from em_platform.cryoem.services.retries import Retries
from em_platform.cryoem.services.step import Outgoing, ServiceContext
from em_platform.errors import BrokerUnavailable
from tests.system.brokers import Server, wait_until
from tests.system.live_services import LiveServices


class Murfey:
    """Asks for a recipe for each movie, and for the tomogram when all tilts came.

    The broker may be killed at any time: what is not confirmed is sent once more.
    """

    def __init__(
        self,
        settings: RabbitmqSettings,
        requests: list[dict[str, Any]],
        align: dict[str, Any],
    ) -> None:
        self._settings = settings
        self._left = list(requests)
        self._align: dict[str, Any] | None = align
        self._tilts = sum("TS_" in each["parameters"]["movie"] for each in requests)
        self.payloads: set[str] = set()

    def has_asked_for_all(self) -> bool:
        """Whether the tomogram is asked for, too; it is when its tilts are there."""
        time.sleep(0.3)
        self.ask()
        return self._align is None

    def ask(self) -> None:
        """Send the next request that is due."""
        with suppress(BrokerUnavailable), connected(self._settings) as channel:
            self._take(channel)
            if self._left:
                publish(channel, _request(self._left[0]))
                del self._left[0]
            elif self._align and self._corrected() == self._tilts:
                publish(channel, _request(self._align))
                self._align = None

    def _take(self, channel: BlockingChannel) -> None:
        while (got := channel.basic_get("murfey_feedback"))[0] is not None:
            self.payloads.add(json.dumps(json.loads(got[2])["payload"]))
            channel.basic_ack(got[0].delivery_tag)

    def _corrected(self) -> int:
        return sum("motion_corrected" in each for each in self.payloads)


def _request(body: dict[str, Any]) -> Outgoing:
    return Outgoing(queue="processing_recipe", body=body)


WORKING = (
    *("ProcessRecipe", "EMISPyB", "MotionCorr", "CTFFind", "CrYOLO", "Images"),
    *("NodeCreator", "AreTomoAlign", "Denoise"),
)
BROKER = "RabbitMQ"


def kill_at_random(
    murfey: Murfey,
    services: LiveServices,
    broker: Server,
    *,
    dice: random.Random,
    kills: int,
) -> dict[str, int]:
    """Kill services and broker while movies, and then the series, are processed."""
    killed: dict[str, int] = {}
    # A broker takes long to start; a few kills are of services only.
    of_broker = range(20, kills, 20)
    for number in range(kills):
        if number == kills // 2:
            # The second half of the kills is for the tomogram.
            wait_until(murfey.has_asked_for_all, 600)
        murfey.ask()
        time.sleep(dice.uniform(0, 0.5))
        name = BROKER if number in of_broker else dice.choice(WORKING)
        killed[name] = killed.get(name, 0) + 1
        if name == BROKER:
            broker.restart()
        else:
            services.kill(name)
            services.start(name)
    return killed


def pass_on(settings: RabbitmqSettings) -> None:
    with suppress(BrokerUnavailable), connected(settings) as channel:
        Retries(channel, "images", retry_s=settings.retry_s).pass_on()


def taken(settings: RabbitmqSettings, found: set[bytes]) -> set[bytes]:
    """What was found before, and what lies in the queue, which is empty then."""
    pass_on(settings)
    # A queue of a broker that has just begun may not answer yet.
    with suppress(BrokerUnavailable), connected(settings) as channel:
        while (got := channel.basic_get("images"))[0] is not None:
            found.add(got[2])
            channel.basic_ack(got[0].delivery_tag)
    return found


@contextmanager
def in_a_thread(
    name: str, place: ServiceContext, settings: RabbitmqSettings
) -> Iterator[None]:
    stop, ready = threading.Event(), threading.Event()
    service = Service(
        name=name, queue=SERVICES[name], handler=load_service(name), place=place
    )
    thread = threading.Thread(
        target=serve, args=(service, settings, stop), kwargs={"ready": ready.set}
    )
    thread.start()
    try:
        assert ready.wait(60)
        yield
    finally:
        stop.set()
        thread.join(60)


def received(channel: Any, queue: str, count: int) -> Iterator[tuple[Any, Any]]:
    """Headers and body of so many messages; a generous time is waited for each."""
    for _ in range(count):
        for method, properties, body in channel.consume(queue, inactivity_timeout=60):
            assert method is not None, f"nothing came to {queue}"
            channel.basic_ack(method.delivery_tag)
            yield properties.headers, json.loads(body)
            break
    channel.cancel()


@contextmanager
def zocalo_dispatcher(settings: RabbitmqSettings, folder: Path) -> Iterator[None]:
    """The service of PyPI's zocalo, with our recipes."""
    recipes = Path(str(importlib.resources.files("em_platform.cryoem") / "recipes"))
    (folder / "zocalo.yml").write_text(
        "version: 1\nenvironments:\n  live:\n    plugins: [rabbit, recipes]\n"
        f"rabbit: {{plugin: pika, host: 127.0.0.1, port: {settings.port}, "
        "username: guest, password: guest, vhost: /}\n"
        f"recipes: {{plugin: storage, zocalo.recipe_directory: {recipes}, "
        "zocalo.default_transport: PikaTransport}\n"
    )
    with connected(settings) as channel:
        # Its services end without them.
        for exchange in ("command", "transient.status"):
            channel.exchange_declare(exchange, "fanout", durable=True)
    begin = "from zocalo.service import start_service; start_service()"
    with (folder / "zocalo.log").open("wb") as log:
        process = subprocess.Popen(
            (sys.executable, "-c", begin, "-s", "Dispatcher", "-e", "live"),
            env={**os.environ, "ZOCALO_CONFIG": str(folder / "zocalo.yml")},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        # It has a process for its service.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
