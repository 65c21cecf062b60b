"""Which devices and services say on the bus that they are there, real or ours."""

import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

from em_platform.config import Settings
from em_platform.errors import BrokerUnavailable
from em_platform.messaging.bus import Bus
from em_platform.processes import listens

SAYS = {
    "scope": "scope.status",
    "stage": "stage.motion.status",
    "camera": "camera.status",
    "coordinator": "state.current",
    "qc": "qc.status",
    "buffer": "buffer.status",
}
"""Who says something regularly, and on which topic."""

_PROBE_S = 2.5  # the slowest say their state each two seconds
_ALSO_SAY = {"qc.status": ("montage_fit", "dagster")}
"""Topic -> services that speak up on it without being the one it is the sign of."""


def answering(
    settings: Settings,
    *,
    wanted: frozenset[str] = frozenset(SAYS),
    timeout_s: float = _PROBE_S,
) -> set[str]:
    """Those of `wanted` that are heard within `timeout_s`."""
    if not listens(settings.broker.host, settings.broker.port):
        return set()
    names = {topic: name for name, topic in SAYS.items() if name in wanted}
    heard: set[str] = set()
    all_heard = threading.Event()

    def hear(topic: str, _: Any, headers: Mapping[str, str]) -> None:
        if headers.get("service", "") in _ALSO_SAY.get(topic, ()):
            return
        heard.add(names[topic])
        if heard == wanted:
            all_heard.set()

    with Bus(settings.broker, "probe") as bus:
        try:
            bus.connect(timeout_s=5.0)
        except BrokerUnavailable:
            return set()
        for topic in names:
            bus.subscribe(topic, partial(hear, topic))
        all_heard.wait(timeout_s)
    return heard
