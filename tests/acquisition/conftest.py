"""A recorder beside the services that resume from its ledger."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager

import pytest

from em_platform.acquisition.frame_paths import frames_folder
from em_platform.acquisition.recorder import ledger_of
from em_platform.acquisition.recorder.service import RecorderService
from em_platform.config import Settings
from em_platform.messaging.bus import Bus


@pytest.fixture
def live_recorder() -> Callable[[Settings], AbstractContextManager[None]]:
    """Run a recorder for a block."""

    @contextmanager
    def run(settings: Settings) -> Iterator[None]:
        with ledger_of(settings) as ledger, Bus(settings.broker, "recorder") as bus:
            bus.connect(5.0)
            frames = frames_folder(settings)
            with closing(RecorderService(bus, ledger, frames=frames)):
                yield

    return run
