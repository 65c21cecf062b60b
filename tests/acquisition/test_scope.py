"""The column takes what it can, says so at once, and keeps the rest."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from TEM_comms.scope import Command

from em_platform.acquisition.devices.scope import Scope, changed, start_status
from em_platform.config import Settings
from em_platform.messaging.bus import Bus


def test_a_command_changes_what_it_names_and_nothing_else() -> None:
    before = start_status(2000)
    after = changed(before, Command(focus=17, spot_size=3), allowed=2000)
    assert after.model_dump() == {**before.model_dump(), "focus": 17, "spot_size": 3}


def test_a_magnification_that_the_mode_lacks_is_refused() -> None:
    command = Command(mag_mode="LOWMAG", mag=2000)
    with pytest.raises(ValueError, match="LOWMAG has no magnification 2000"):
        changed(start_status(3000), command, allowed=3000)


def test_the_configured_magnification_is_always_there() -> None:
    command = Command(mag_mode="MAG", mag=2345)
    assert changed(start_status(2000), command, allowed=2345).mag == 2345


def test_it_answers_a_command_with_its_new_state(
    serve: Callable[..., Any], open_bus: Callable[[str], Bus], rig_settings: Settings
) -> None:
    client = open_bus("client")
    client.latest("scope.status")
    serve(Scope, rig_settings)
    begun = time.monotonic()
    client.publish("scope.command", screen="down", beam_offset=(5, -6))
    status = client.wait_for("scope.status", lambda s: s.screen == "down", 5.0)
    assert status.beam_offset == (5, -6)
    assert time.monotonic() - begun < 0.5


def test_it_says_its_state_each_second(
    serve: Callable[..., Any], open_bus: Callable[[str], Bus], rig_settings: Settings
) -> None:
    client = open_bus("client")
    heard: list[Any] = []
    client.subscribe("scope.status", lambda status, _: heard.append(status))
    serve(Scope, rig_settings)
    time.sleep(2.5)
    assert 2 <= len(heard) <= 4
