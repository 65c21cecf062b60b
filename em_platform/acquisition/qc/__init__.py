"""Live quality control: judges every tile, and stops the scope."""

from em_platform.acquisition.qc.service import TICK_S, QcService
from em_platform.config import Settings
from em_platform.messaging.service import run_service

__all__ = ["run"]


def run(settings: Settings, *, name: str = "qc") -> None:
    """Serve until SIGTERM or SIGINT."""
    run_service(
        name,
        settings.broker,
        setup=lambda bus: QcService(bus, settings, name=name),
        tick_s=min(TICK_S, settings.acquisition.qc.period_s / 2),
    )
