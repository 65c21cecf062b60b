"""The buffer: sends finished montages to aloha, and frees the microscope's disk."""

from em_platform.config import Settings


def run(settings: Settings, *, name: str) -> None:
    """Serve until SIGTERM."""
    from em_platform.acquisition.buffer.service import run as run_buffer

    run_buffer(settings, name=name)


__all__ = ["run"]
