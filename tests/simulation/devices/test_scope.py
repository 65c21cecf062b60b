"""The column takes what it can, says so at once, and keeps the rest."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from TEM_comms.scope import Command
from TEM_comms.scope.image_shift import Calibrate
from TEM_comms.scope.image_shift import Command as ShiftCommand

from em_platform.config import Settings
from em_platform.messaging.bus import Bus
from em_platform.simulation.devices.scope import (
    Scope,
    calibrated,
    changed,
    shifted,
    start_shift,
    start_status,
)


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
    took_s = []
    for number in range(4):
        begun = time.monotonic()
        offset = (number, -6)
        client.publish("scope.command", screen="down", beam_offset=offset)
        client.wait_for("scope.status", lambda s, at=offset: s.beam_offset == at, 20.0)
        took_s.append(time.monotonic() - begun)
    assert client.latest("scope.status").screen == "down"
    # Not with its next heartbeat, a second later; a busy machine may delay some.
    assert min(took_s) < 0.5


def test_it_says_its_state_each_second(
    serve: Callable[..., Any], open_bus: Callable[[str], Bus], rig_settings: Settings
) -> None:
    client = open_bus("client")
    received: list[Any] = []
    client.subscribe("scope.status", lambda status, _: received.append(status))
    serve(Scope, rig_settings)
    time.sleep(2.5)
    assert 2 <= len(received) <= 4


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"brightness": -1}, "brightness = -1 is beyond the limits, 0 to 65535"),
        ({"focus": 200_000}, "focus = 200000 is beyond"),
        ({"beam_offset": (0, 40_000)}, "beam_offset"),
        ({"spot_size": 9}, "spot_size = 9 is beyond the limits, 1 to 8"),
    ],
)
def test_values_beyond_the_limits_are_refused(
    fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        changed(start_status(2000), Command(**fields), allowed=2000)


def test_the_image_shift_goes_to_calibrated_positions_only() -> None:
    known = calibrated(start_shift(), Calibrate(position=3, image_shift=(500, -70)))
    on = shifted(known, ShiftCommand(enable=True, position=3))
    assert (on.enabled, on.current_position, on.image_shift) == (True, 3, (500, -70))
    off = shifted(on, ShiftCommand(enable=False))
    assert (off.enabled, off.current_position, off.image_shift) == (False, None, (0, 0))
    with pytest.raises(ValueError, match="no position 4, only 0, 3; calibrate it"):
        shifted(known, ShiftCommand(enable=True, position=4))
    with pytest.raises(ValueError, match="beyond the limit of 20000 nm"):
        calibrated(known, Calibrate(position=1, image_shift=(30_000, 0)))


def test_the_image_shift_is_said_after_each_command(
    serve: Callable[..., Any], open_bus: Callable[[str], Bus], rig_settings: Settings
) -> None:
    client = open_bus("client")
    client.latest("scope.image_shift.status")
    serve(Scope, rig_settings)
    client.publish("scope.image_shift.calibrate", position=1, image_shift=(40, 50))
    client.publish("scope.image_shift.command", enable=True, position=1)
    status = client.wait_for("scope.image_shift.status", lambda s: s.enabled, 10.0)
    assert status.image_shift == (40, 50)
    assert status.calibration == {0: (0, 0), 1: (40, 50)}
