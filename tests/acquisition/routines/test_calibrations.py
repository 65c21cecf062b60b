"""Every calibration finds what the simulation hides, at several seeds and sizes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from em_platform.acquisition.routines.beam_search import beam_center, beam_spread
from em_platform.acquisition.routines.exposure import (
    autoexposure,
    brightfield,
    darkfield,
    factor,
)
from em_platform.acquisition.routines.find_aperture import find_aperture, is_light
from em_platform.acquisition.routines.focus_and_resolution import (
    autofocus,
    calibrate_resolution,
    resolution_of,
    sharpest,
)
from em_platform.acquisition.routines.steps import Frame
from em_platform.errors import DeviceError
from em_platform.simulation.devices.commanded import CommandedFault, Faults

Make = Callable[..., Any]

CASES = pytest.mark.parametrize(("seed", "tile_px"), [(1, 256), (4, 256), (6, 320)])


def on(**faults: float) -> Faults:
    return Faults(
        on={name: CommandedFault(value=v, since=0.0) for name, v in faults.items()}
    )


@CASES
def test_autofocus_finds_the_sharp_focus(
    microscope: Make, seed: int, tile_px: int
) -> None:
    scope = microscope(seed=seed, tile_px=tile_px)
    scope.run(autofocus)
    assert abs(scope.scope.focus - scope.misalignment.focus) <= 5
    assert scope.frames <= 25


def test_autofocus_goes_on_beyond_its_range(microscope: Make) -> None:
    scope = microscope(seed=1, routines={"focus_range": 150, "focus_step": 50})
    scope.run(autofocus)
    assert abs(scope.scope.focus - scope.misalignment.focus) <= 5


def test_autofocus_without_structure_says_so_and_goes_back(microscope: Make) -> None:
    scope = microscope(seed=1)
    scope.sensor.holds_sample = False
    with pytest.raises(DeviceError, match="no sharp image from focus"):
        scope.run(autofocus)
    assert scope.scope.focus == 0


def test_the_top_of_a_gaussian_is_found_between_its_samples() -> None:
    places = list(range(-40, 41, 10))
    powers = [float(np.exp(-(((place - 13) / 30) ** 2))) for place in places]
    assert sharpest(places, powers) == 13


@CASES
def test_autoexposure_brings_the_mean_into_range(
    microscope: Make, seed: int, tile_px: int
) -> None:
    scope = microscope(seed=seed, tile_px=tile_px)
    outcome = scope.run(autoexposure)
    assert "mean 1" in outcome.sentence
    again = scope.frames
    scope.run(autoexposure)
    assert scope.frames == again + 1  # nothing was left to do


def test_autoexposure_without_light_says_so_and_goes_back(microscope: Make) -> None:
    scope = microscope(seed=1, faults=on(beam_loss=1.0))
    with pytest.raises(DeviceError, match="see that the beam is on"):
        scope.run(autoexposure)
    assert scope.sensor.exposure_us == 20_000


@pytest.mark.parametrize(
    ("level", "expected"), [(70, 2.0), (140, 1.0), (0, 20.0), (255, 0.3)]
)
def test_the_exposure_follows_what_the_mean_lacks(level: int, expected: float) -> None:
    frame = np.full((64, 64), level, np.uint8)
    assert factor(frame, wanted_grey=140) == pytest.approx(expected)


@CASES
def test_the_beam_is_centred(microscope: Make, seed: int, tile_px: int) -> None:
    scope = microscope(seed=seed, tile_px=tile_px)
    scope.run(beam_center)
    off = np.subtract(scope.scope.beam_offset, scope.misalignment.beam_offset)
    assert np.hypot(*off) <= 8  # of 500 steps for a frame's width
    assert scope.scope.brightness == 1300
    assert scope.sensor.exposure_us == 20_000
    assert scope.frames <= 20


@CASES
def test_the_beam_is_spread_as_far_as_even_light_needs(
    microscope: Make, seed: int, tile_px: int
) -> None:
    scope = microscope(seed=seed, tile_px=tile_px)
    scope.run(beam_center)
    scope.run(beam_spread)
    assert abs(scope.scope.brightness - (1300 - scope.misalignment.spread)) <= 15


def test_a_beam_that_is_lost_is_reported(microscope: Make) -> None:
    scope = microscope(seed=1, faults=on(beam_loss=1.0))
    with pytest.raises(DeviceError, match="no edge of the beam was seen"):
        scope.run(beam_center)


@CASES
def test_the_aperture_is_found(microscope: Make, seed: int, tile_px: int) -> None:
    scope = microscope(seed=seed, tile_px=tile_px, rotation_deg=20.0 * seed)
    found = scope.run(find_aperture).messages["calibration.centroid"]
    x, y = scope.misalignment.aperture_nm
    assert max(abs(found["x"] - x), abs(found["y"] - y)) <= 1000
    assert found["semi_major_nm"] == pytest.approx(1_000_000, abs=2000)
    assert found["semi_minor_nm"] == pytest.approx(750_000, abs=2000)
    assert scope.stage == (found["x"], found["y"])
    assert (scope.scope.mag_mode, scope.scope.mag) == ("MAG", 2000)


def test_on_the_tape_there_is_no_aperture_to_find(microscope: Make) -> None:
    scope = microscope(seed=1, aperture_width_mm=0.01)
    with pytest.raises(DeviceError, match="there is tape and no aperture"):
        scope.run(find_aperture)


def test_only_the_middle_of_a_frame_says_light_or_tape() -> None:
    frame = np.full((80, 80), 200, np.uint8)
    frame[30:50, 30:50] = 10
    assert not is_light(frame, threshold=50)
    assert is_light(255 - frame, threshold=50)


@CASES
def test_pixel_size_and_rotation_are_measured(
    microscope: Make, seed: int, tile_px: int
) -> None:
    scope = microscope(seed=seed, tile_px=tile_px, rotation_deg=50.0 * seed)
    scope.run(autofocus)
    fields = scope.run(calibrate_resolution).messages["calibration.resolution"]
    found = fields["mag"][2000]
    pixel_nm = 4.0 * scope.misalignment.pixel
    assert found["nm_per_px"] == pytest.approx((pixel_nm, pixel_nm), rel=0.002)
    turn = np.degrees(found["rotation"]) - 50.0 * seed
    assert abs((turn + 180) % 360 - 180) <= 0.1
    assert scope.stage == (0, 0)


def test_the_resolution_of_pixels_that_are_not_square() -> None:
    angle = np.radians(30)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    ways = np.array([[1000.0, 0], [0, 1000.0], [-700.0, 0]])
    image_xy = (turn @ ways.T).T / [4.0, 5.0]
    found = resolution_of(ways, image_xy[:, ::-1])
    assert found.nm_per_px == pytest.approx((4.0, 5.0))
    assert found.rotation_rad == pytest.approx(angle, abs=0.02)


def test_a_stage_that_does_not_move_the_image_is_noticed(microscope: Make) -> None:
    scope = microscope(seed=1)
    scope.sensor.holds_sample = False
    with pytest.raises(DeviceError, match="px, about 64 px were expected"):
        scope.run(calibrate_resolution)


@pytest.mark.parametrize("bit_depth", [8, 16])
def test_dark_and_bright_frames_make_a_frame_even(
    microscope: Make, bit_depth: int
) -> None:
    scope = microscope(
        seed=2, misalignment=0.0, tile_px=512, bit_depth=bit_depth, vignette=0.3
    )
    dark = scope.run(darkfield).references["dark"]
    bright = scope.run(brightfield).references["bright"]
    assert scope.scope.screen == "up"
    assert (scope.scope.focus, scope.stage) == (0, (0, 0))
    assert dark.mean() < 0.01 * bright.mean()
    gain = scope.sensor._gain
    left = (bright - dark) / (bright - dark).mean() / gain
    # 16 frames with shot noise of 5 % leave 1.6 %
    assert left.std() < 0.03
    assert left.std() < 0.5 * gain.std()


def test_a_screen_that_stays_up_gives_no_dark_reference(microscope: Make) -> None:
    scope = microscope(seed=2)
    steps = darkfield(scope.settings)
    next(steps)  # the command to lower the screen is lost
    frames = (scope.do(Frame()) for _ in range(16))
    step = steps.send(scope.scope)
    while isinstance(step, Frame):
        step = steps.send(next(frames))
    with pytest.raises(DeviceError, match="see that the screen goes down"):
        steps.send(scope.scope)
