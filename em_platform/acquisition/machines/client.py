"""The state machine's messages over our bus: one ordered stream, one thread."""

import logging
import math
import threading
import time
from collections.abc import Mapping
from typing import Any

from pigeon_transitions.client import BaseClient

from em_platform.acquisition.machines.loop import Loop
from em_platform.errors import BrokerUnavailable
from em_platform.messaging.bus import Bus

log = logging.getLogger(__name__)


class BusClient(BaseClient):  # type: ignore[misc]
    """Hands every message to the loop, in the order in which it came.

    While the broker is away `send` waits for it: nothing can be done without. Only the
    end of the service (`closing`) ends the wait; the message is then given up.
    """

    def __init__(self, bus: Bus, loop: Loop) -> None:
        super().__init__()
        self.closing = threading.Event()
        self._bus = bus
        self._loop = loop
        self._topics: list[str] = []
        self._received_s: dict[str, float] = {}

    def subscribe(self, topic: str) -> None:
        """Note a topic; `listen` subscribes to all of them at once."""
        self._topics.append(topic)

    def listen(self) -> None:
        """Subscribe: all topics in one order."""
        self._bus.subscribe_many(tuple(dict.fromkeys(self._topics)), self._receive)

    def send(self, topic: str, **fields: Any) -> None:
        """Publish a message; MessageRejected where its fields do not fit."""
        waited_from_s = time.monotonic()
        while True:
            try:
                self._bus.publish(topic, **fields)
            except BrokerUnavailable as error:
                if self.closing.is_set():
                    log.warning("%s", error)
                    return
                waited_s = time.monotonic() - waited_from_s
                log.warning("the broker is away; %s waits %.0f s", topic, waited_s)
            else:
                return

    def latest(self, topic: str) -> Any | None:
        """The newest message of a topic that is subscribed to, if one came."""
        return self._collected.get(topic)

    def age_s(self, topic: str) -> float:
        """How long ago the newest message of a topic came; infinite if none did."""
        return time.monotonic() - self._received_s.get(topic, -math.inf)

    def run_callback(
        self, subscription: Any, topic: str, msg: Any, extra: Mapping[str, str]
    ) -> None:
        """Call a subscribed method; with the headers where it asks for them."""
        if subscription.options.get("include_headers"):
            subscription(msg, extra)
        else:
            subscription(msg)

    def _receive(self, message: Any, headers: Mapping[str, str]) -> None:
        topic = headers["topic"]
        self._received_s[topic] = time.monotonic()
        self._loop.put(lambda: self.on_msg(topic, message, headers))
