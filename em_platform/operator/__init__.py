"""The operator's page: the live microscope in a browser, and its controls."""

from em_platform.config import Settings


def run(settings: Settings, *, name: str) -> None:
    """Serve the page until SIGTERM; prints `ready <name>` when it listens."""
    from em_platform.operator.service import serve_page

    serve_page(settings, name=name)
