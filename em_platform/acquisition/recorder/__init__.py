"""The recorder: the durable log of the microscope's messages, and who reads it."""

from typing import TYPE_CHECKING

from em_platform.config import Settings

if TYPE_CHECKING:
    from em_platform.acquisition.recorder.ledger import Ledger


WITHOUT = (
    "frames and ends of montages beside them are recorded again, earlier verdicts, "
    "figures and statuses are lost"
)
"""What becomes of it when the events' table is moved away."""


def recorder_url(settings: Settings) -> str:
    """Where the events are recorded: by URL, else an SQLite file in the home."""
    given = settings.acquisition.recorder_url
    return given or f"sqlite:///{(settings.home / 'recorder.sqlite').absolute()}"


def ledger_of(settings: Settings) -> "Ledger":
    """The ledger that the settings name."""
    # SQLAlchemy takes 0.15 s to import, and many name an event without reading one.
    from em_platform.acquisition.frame_paths import frames_folder
    from em_platform.acquisition.recorder.ledger import Ledger

    return Ledger(
        recorder_url(settings),
        microscope=settings.acquisition.microscope,
        magnification=settings.acquisition.magnification,
        frames=frames_folder(settings),
    )


def run(settings: Settings, *, reconcile_s: float) -> None:
    """Record until SIGTERM or SIGINT; the frames are scanned every `reconcile_s`."""
    from em_platform.acquisition.frame_paths import frames_folder
    from em_platform.acquisition.recorder.service import RecorderService
    from em_platform.messaging.service import run_service
    from em_platform.storage.database import refuse_damaged_at

    refuse_damaged_at(recorder_url(settings), who="recorder", without=WITHOUT)
    frames = frames_folder(settings)
    with ledger_of(settings) as ledger:
        run_service(
            "recorder",
            settings.broker,
            setup=lambda bus: RecorderService(
                bus, ledger, frames=frames, reconcile_s=reconcile_s
            ),
        )
