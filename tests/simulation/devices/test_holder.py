"""The goniometer tilts at its speed, within its limit, and the image shows it."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from em_platform.config import Settings, SimulationSettings
from em_platform.messaging.bus import Bus
from em_platform.model import Size
from em_platform.simulation.devices.holder import STATIONS, Tilt, tilt
from em_platform.simulation.devices.optics import place, tilted
from em_platform.simulation.devices.stage import Stage

SIMULATION = SimulationSettings(tilt_speed_deg_s=10.0, tilt_limit_deg=60.0)
Serve = Callable[..., Any]
OpenBus = Callable[[str], Bus]


def test_it_tilts_at_its_speed() -> None:
    begun = tilt(Tilt(), (math.radians(20), None), now_s=5.0, settings=SIMULATION)
    assert begun.lasts_s == pytest.approx(2.0)
    assert begun.angles(6.0) == pytest.approx((math.radians(10), 0.0))
    assert begun.rests(7.001)
    assert begun.angles(8.0) == (math.radians(20), 0.0)


def test_beyond_its_limit_it_refuses() -> None:
    with pytest.raises(ValueError, match=r"angle_y = 61.0 degrees is beyond"):
        tilt(Tilt(), (None, math.radians(61)), now_s=0.0, settings=SIMULATION)


def test_a_tilted_specimen_is_foreshortened_about_the_middle() -> None:
    size = Size(height_px=101, width_px=201)
    flat = place("t", y_px=10, x_px=20, size=size)
    found = tilted(flat, size=size, angle_x=math.radians(60), angle_y=0.0)
    assert (found.yy, found.xx) == pytest.approx((2.0, 1.0))
    assert found.y_px + found.yy * 50 == pytest.approx(60)  # the middle stays
    assert found.x_px == pytest.approx(20)


def test_over_the_bus_it_says_the_angles_and_refusals(
    serve: Serve, open_bus: OpenBus, rig_settings: Settings
) -> None:
    client = open_bus("client")
    received: list[Any] = []
    client.subscribe("stage.rotation.status", lambda s, _: received.append(s))
    serve(Stage, rig_settings)
    client.publish("stage.rotation.command", angle_x=0.3, eucentric_height=500.0)
    client.wait_for(
        "stage.rotation.status",
        lambda s: s.angle_x == 0.3 and not s.in_motion and s.eucentric_height == 500,
        20.0,
    )
    moving = [s.angle_x for s in received if s.in_motion]
    assert len(moving) >= 5
    assert moving == sorted(moving)
    client.publish("stage.rotation.command", angle_x=2.0)
    status = client.wait_for("stage.rotation.status", lambda s: bool(s.error), 10.0)
    assert "beyond the limit of 70" in status.error
    assert status.angle_x == 0.3
    client.publish("stage.rotation.command", calibrate=True)
    client.wait_for(
        "stage.rotation.status", lambda s: s.angle_x == 0 and not s.in_motion, 20.0
    )


def test_a_sample_passes_the_stations_step_by_step(
    serve: Serve, open_bus: OpenBus, rig_settings: Settings
) -> None:
    client = open_bus("client")
    received: list[Any] = []
    client.subscribe("stage.transfer.status", lambda s, _: received.append(s))
    client.latest("stage.motion.status")
    serve(Stage, rig_settings)
    client.publish("stage.transfer.command", station="exchange")
    client.wait_for(
        "stage.transfer.status", lambda s: s.current_station == "exchange", 20.0
    )
    steps = [s.step for s in received if s.in_transit]
    assert steps == sorted(steps)
    assert len(set(steps)) >= 4
    assert {s.total_steps for s in received if s.in_transit} == {8}
    client.publish("stage.motion.command", x=100, y=0)
    status = client.wait_for("stage.motion.status", lambda s: bool(s.error), 10.0)
    assert "the sample is at exchange" in status.error
    client.publish("stage.transfer.command", station="moon")
    status = client.wait_for("stage.transfer.status", lambda s: bool(s.error), 10.0)
    assert all(station in status.error for station in STATIONS)
