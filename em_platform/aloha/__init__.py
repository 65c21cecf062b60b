"""Takes tiles over HTTP into the store, and registers them in the TEM database."""

from em_platform.config import Settings


def run(settings: Settings, *, name: str) -> None:
    """Serve until SIGTERM."""
    from em_platform.aloha.service import run as run_aloha

    run_aloha(settings, name=name)


__all__ = ["run"]
