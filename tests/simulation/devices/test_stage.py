"""The stage goes where it is commanded, in its time, and reports its limits."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from em_platform.config import Settings, SimulationSettings
from em_platform.messaging.bus import Bus
from em_platform.simulation.devices.stage import Stage, move, resting

SIMULATION = SimulationSettings(stage_speed_um_s=100.0, stage_settle_ms=50.0)


def test_it_travels_at_its_speed_and_settles() -> None:
    motion = move(resting(), (30_000, 40_000, None), now_s=10.0, settings=SIMULATION)
    assert motion.travel_s == pytest.approx(0.5)  # 50 um at 100 um/s
    assert motion.position(10.25) == (15_000, 20_000, 0)
    assert motion.position(10.5) == (30_000, 40_000, 0)
    assert not motion.rests(10.54)
    assert motion.rests(10.56)


def test_an_axis_without_a_value_keeps_its_target() -> None:
    first = move(resting(), (1000, 2000, 3000), now_s=0.0, settings=SIMULATION)
    second = move(first, (None, 5000, None), now_s=1.0, settings=SIMULATION)
    assert second.position(9.0) == (1000, 5000, 3000)


def test_a_command_under_way_starts_from_where_the_stage_is() -> None:
    first = move(resting(), (10_000, 0, 0), now_s=0.0, settings=SIMULATION)
    second = move(first, (0, 0, 0), now_s=0.05, settings=SIMULATION)
    assert second.position(0.05) == (5000, 0, 0)
    assert second.travel_s == pytest.approx(0.05)


def test_a_command_to_where_it_stands_does_not_move_it() -> None:
    motion = move(resting(5, 6, 7), (5, 6, 7), now_s=3.0, settings=SIMULATION)
    assert motion.rests(3.0)


def test_a_target_beyond_the_limits_is_refused() -> None:
    with pytest.raises(ValueError, match="y = 2000000 nm is beyond the limit"):
        move(resting(), (0, 2_000_000, 0), now_s=0.0, settings=SIMULATION)


def rests_at(x: int, y: int) -> Callable[[Any], bool]:
    return lambda s: (s.x, s.y, s.in_motion) == (x, y, False)


def test_it_says_each_second_where_it_is(
    serve: Callable[..., Any], open_bus: Callable[[str], Bus], rig_settings: Settings
) -> None:
    client = open_bus("client")
    received: list[float] = []
    client.subscribe(
        "stage.motion.status", lambda *_: received.append(time.monotonic())
    )
    serve(Stage, rig_settings)
    time.sleep(2.5)
    assert 2 <= len(received) <= 4


def test_it_says_fifty_times_a_second_where_it_moves_and_at_once_when_it_rests(
    serve: Callable[..., Any], open_bus: Callable[[str], Bus], rig_settings: Settings
) -> None:
    client = open_bus("client")
    received: list[tuple[float, Any]] = []
    client.subscribe(
        "stage.motion.status", lambda s, _: received.append((time.monotonic(), s))
    )
    serve(Stage, rig_settings)
    begun = time.monotonic()
    client.publish("stage.motion.command", x=300_000, y=0)
    client.wait_for("stage.motion.status", rests_at(300_000, 0), 20.0)
    # 300 um at 500 um/s and 5 ms to settle
    assert time.monotonic() - begun == pytest.approx(0.605, abs=0.15)
    moving = [status.x for _, status in received if status.in_motion]
    assert 15 <= len(moving) <= 45
    assert moving == sorted(moving)


def test_a_refused_move_is_reported_in_the_status(
    serve: Callable[..., Any], open_bus: Callable[[str], Bus], rig_settings: Settings
) -> None:
    client = open_bus("client")
    client.latest("stage.motion.status")
    serve(Stage, rig_settings)
    client.publish("stage.motion.command", x=9_000_000, y=0)
    status = client.wait_for("stage.motion.status", lambda s: bool(s.error), 20.0)
    assert "beyond the limit" in status.error
    assert (status.x, status.in_motion) == (0, False)


def test_apertures_change_and_unknown_ones_are_refused(
    serve: Callable[..., Any], open_bus: Callable[[str], Bus], rig_settings: Settings
) -> None:
    client = open_bus("client")
    client.latest("stage.aperture.status")
    serve(Stage, rig_settings)
    client.publish("stage.aperture.command", aperture_id=7)
    client.wait_for("stage.aperture.status", lambda s: s.current_aperture == 7, 20.0)
    client.publish("stage.aperture.command", aperture_id=100)
    status = client.wait_for("stage.aperture.status", lambda s: bool(s.error), 20.0)
    assert "no aperture 100" in status.error
    assert status.current_aperture == 7


def test_a_command_to_where_it_is_under_way_stops_it_there() -> None:
    under_way = move(resting(), (10_000, 0, 0), now_s=0.0, settings=SIMULATION)
    here = under_way.position(0.05)
    halted = move(under_way, (here[0], here[1], None), now_s=0.05, settings=SIMULATION)
    assert halted.rests(0.05)
    assert halted.position(9.0) == (5000, 0, 0)


def test_a_halt_over_the_bus_stops_it_near_there(
    serve: Callable[..., Any], open_bus: Callable[[str], Bus], rig_settings: Settings
) -> None:
    client = open_bus("client")
    client.latest("stage.motion.status")
    serve(Stage, rig_settings)
    client.publish("stage.motion.command", x=1_000_000, y=0)
    under_way = client.wait_for("stage.motion.status", lambda s: s.x > 20_000, 10.0)
    client.publish("stage.motion.command", x=under_way.x, y=under_way.y)
    client.wait_for("stage.motion.status", rests_at(under_way.x, 0), 10.0)
    time.sleep(0.2)
    assert client.latest("stage.motion.status").x == under_way.x  # type: ignore[union-attr]


def test_while_an_aperture_changes_there_is_none_and_it_says_so_often(
    serve: Callable[..., Any], open_bus: Callable[[str], Bus], rig_settings: Settings
) -> None:
    simulation = rig_settings.acquisition.simulation.model_copy(
        update={"aperture_change_s": 1.0}
    )
    acquisition = rig_settings.acquisition.model_copy(update={"simulation": simulation})
    client = open_bus("client")
    received: list[tuple[float, int | None]] = []
    client.subscribe(
        "stage.aperture.status",
        lambda s, _: received.append((time.monotonic(), s.current_aperture)),
    )
    serve(Stage, rig_settings.model_copy(update={"acquisition": acquisition}))
    begun = time.monotonic()
    client.publish("stage.aperture.command", aperture_id=7)
    client.publish("stage.aperture.command", aperture_id=7)  # the same again: no harm
    client.wait_for("stage.aperture.status", lambda s: s.current_aperture == 7, 20.0)
    assert time.monotonic() - begun >= 0.9
    changing = [when for when, aperture in received if aperture is None]
    assert len(changing) >= 8  # 20 Hz for a second, on a computer that is busy


def test_it_says_the_place_of_each_axis(
    serve: Callable[..., Any], open_bus: Callable[[str], Bus], rig_settings: Settings
) -> None:
    client = open_bus("client")
    client.latest("stage.absolute")
    serve(Stage, rig_settings)
    client.publish("stage.motion.command", x=1000, y=-2000, z=30)
    found = client.wait_for("stage.absolute", lambda s: s.linear["x"] == 1000, 10.0)
    assert found.linear == {"x": 1000, "y": -2000, "z": 30}
