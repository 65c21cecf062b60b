"""Fits the montage while it grows: map, focus map, doubts, and the lens."""

from em_platform.acquisition.montage_fit.service import TICK_S, MontageFitService
from em_platform.config import Settings
from em_platform.messaging.service import run_service

__all__ = ["run"]


def run(settings: Settings, *, name: str = "montage_fit") -> None:
    """Serve until SIGTERM or SIGINT."""
    run_service(
        name,
        settings.broker,
        setup=lambda bus: MontageFitService(bus, settings, name=name),
        tick_s=TICK_S,
    )
