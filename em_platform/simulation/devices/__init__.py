"""Simulated hardware; it uses the real topics, so real services can take its place.

Each device is a process of its own: `em-platform device NAME`. Which there are stands
in one table, `acquisition.session.rig.DEVICE_STATUS`.
"""

import importlib
from collections.abc import Callable
from typing import NamedTuple

from em_platform.acquisition.session.rig import DEVICES
from em_platform.config import Settings
from em_platform.messaging.bus import Bus
from em_platform.messaging.service import Service, run_service

__all__ = ["DEVICES", "Device", "device_of", "run_device"]


class Device(NamedTuple):
    """What makes a device of a bus and the settings, and how often it ticks."""

    make: Callable[[Bus, Settings], Service]
    tick_s: float


def device_of(name: str) -> Device:
    """The simulated device: class `Name` and `TICK_S` of the module `name`."""
    # By name: a new device is one file and one line of that table.
    module = importlib.import_module(f"em_platform.simulation.devices.{name}")
    return Device(make=getattr(module, name.title()), tick_s=module.TICK_S)


def run_device(name: str, settings: Settings) -> None:
    """Run one device until SIGTERM or SIGINT."""
    device = device_of(name)
    run_service(
        name,
        settings.broker,
        setup=lambda bus: device.make(bus, settings),
        tick_s=device.tick_s,
    )
