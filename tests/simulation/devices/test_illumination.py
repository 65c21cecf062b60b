"""The beam is a disc that brightness widens and the beam offset shifts."""

from typing import Any

import numpy as np
import pytest

from em_platform.config import SimulationSettings
from em_platform.simulation.devices.illumination import (
    beam_of,
    illumination,
    misalignment_of,
)
from em_platform.simulation.devices.scope import start_status

ALIGNED = misalignment_of(SimulationSettings())


def beam(**changes: Any) -> Any:
    status = start_status(2000).model_copy(update=changes)
    return beam_of(status, ALIGNED, imaging_mag=2000)


def test_the_column_as_it_is_switched_on_gives_even_light() -> None:
    assert beam().is_standard
    assert beam().level == 1.0
    assert np.array_equal(illumination(64, 64, beam()), np.ones((64, 64), "f4"))


def test_a_narrow_beam_is_a_bright_disc_in_the_middle() -> None:
    narrow = beam(brightness=1100)
    assert narrow.radius == pytest.approx(0.5)
    assert narrow.level == pytest.approx((1.6 / 0.5) ** 2)
    light = illumination(200, 200, narrow)
    half = np.argwhere(light > 0.5)
    assert half.mean(axis=0) == pytest.approx([99.5, 99.5], abs=1)
    area_radius = np.sqrt(len(half) / np.pi) / np.hypot(100, 100)
    assert area_radius == pytest.approx(0.5, abs=0.01)
    assert light[0, 0] < 0.01


def test_the_beam_offset_moves_it_by_its_share_of_the_frame() -> None:
    light = illumination(200, 200, beam(brightness=1050, beam_offset=(50, -100)))
    y, x = np.argwhere(light > 0.5).mean(axis=0)
    assert (y, x) == pytest.approx((99.5 - 40, 99.5 + 20), abs=1)


def test_each_spot_size_halves_the_light() -> None:
    assert beam(spot_size=3).level == 0.25


def test_misalignment_is_drawn_from_the_seed_and_none_is_none() -> None:
    assert (ALIGNED.focus, ALIGNED.beam_offset, ALIGNED.spread) == (0, (0, 0), 0)
    assert (ALIGNED.current, ALIGNED.pixel, ALIGNED.aperture_nm) == (1.0, 1.0, (0, 0))
    one, other = (
        misalignment_of(SimulationSettings(seed=seed, misalignment=1))
        for seed in (1, 2)
    )
    assert one != other
    assert one == misalignment_of(SimulationSettings(seed=1, misalignment=1))
    assert one.focus != 0


def test_at_low_magnification_the_light_is_even() -> None:
    assert beam(mag_mode="LOWMAG", mag=100, brightness=1000).is_standard
