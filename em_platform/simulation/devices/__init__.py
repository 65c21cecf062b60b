"""Simulated hardware; it uses the real topics, so real services can take its place.

Each device is a process of its own: `em-platform device scope|stage|camera`.
"""

import importlib

from em_platform.config import Settings

DEVICES = {"scope": "Scope", "stage": "Stage", "camera": "Camera"}
"""Device -> its class in the module of the same name."""


def run_device(name: str, settings: Settings) -> None:
    """Run one device until SIGTERM or SIGINT."""
    from em_platform.messaging.service import run_service

    module = importlib.import_module(f"em_platform.simulation.devices.{name}")
    device = getattr(module, DEVICES[name])
    run_service(
        name,
        settings.broker,
        setup=lambda bus: device(bus, settings),
        tick_s=module.TICK_S,
    )
