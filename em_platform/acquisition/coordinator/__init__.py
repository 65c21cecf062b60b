"""The microscope's state machine (pyTEM): drives the devices through all montages.

Its requests to devices, `MoveStage`, `Capture` and the like, are in
`acquisition.machines.requests`.
"""

from pathlib import Path

# Before anything imports TEM_comms, which imports Pigeon in the slow way.
import em_platform.messaging.pigeon  # noqa: F401
from em_platform.config import Settings


def run(settings: Settings, *, name: str) -> None:
    """Run the coordinator until SIGTERM or SIGINT."""
    from em_platform.acquisition.coordinator import service

    service.run(settings, name=name)


def draw(path: Path) -> None:
    """Draw the machine: `.dot` or `.mmd` as text, `.svg` or `.png` by graphviz.

    Raises
    ------
    ToolMissing
        There is no graphviz on this computer.
    ConfigError
        The file's name ends otherwise.
    """
    from em_platform.acquisition.coordinator import drawing

    drawing.draw(path)
