"""Dagster commands the scope over the real bus."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from em_platform.config import BrokerSettings
from em_platform.errors import DeviceError
from em_platform.messaging.broker import Broker
from em_platform.resources.acquisition import Microscope
from em_platform.resources.storage import Configuration


@pytest.fixture
def microscope(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Microscope]:
    with Broker(BrokerSettings(port=0)) as broker:
        monkeypatch.setenv("EM_BROKER__PORT", str(broker.port))
        yield Microscope(configuration=Configuration())


def test_the_scope_does_as_told_and_shows_it(microscope: Microscope) -> None:
    scope = subprocess.Popen(
        (sys.executable, "-m", "em_platform", "device", "scope"),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert scope.stdout is not None
        assert "ready" in scope.stdout.readline()
        status = microscope.command_scope(focus=1234, screen="up")
        assert (status.focus, status.screen) == (1234, "up")
    finally:
        scope.terminate()
        scope.communicate(timeout=20)


def test_a_scope_that_is_not_there_is_one_sentence(microscope: Microscope) -> None:
    with pytest.raises(DeviceError, match=r"scope: .*was not reached within 0.5 s"):
        microscope.command_scope(focus=1, timeout_s=0.5)
