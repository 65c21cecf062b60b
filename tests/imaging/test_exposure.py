"""A frame holds what the light, the gain and the electrons say."""

import numpy as np
import pytest

from em_platform.imaging.exposure import beam_level, camera_gain, defocused, expose

EVEN = np.full((256, 256), 150.0, np.float32)


def test_shot_noise_has_the_variance_of_the_electrons() -> None:
    frame = expose(EVEN, noise_key=[1, 2], electrons=400.0)
    assert frame.mean() == pytest.approx(150.0, abs=0.2)
    assert frame.std() == pytest.approx(np.sqrt(150 * 255 / 400), rel=0.02)


def test_the_same_key_gives_the_same_frame_and_another_key_another() -> None:
    frames = [expose(EVEN, noise_key=[1, key]) for key in (1, 1, 2)]
    assert np.array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[0], frames[2])


def test_sixteen_bits_hold_the_same_light() -> None:
    frame = expose(EVEN, noise_key=[3], bit_depth=16, electrons=0)
    assert frame.dtype == np.uint16
    assert (frame == 150 * 128).all()


def test_without_noise_a_frame_is_light_times_gain_times_beam() -> None:
    gain = camera_gain(256, 256, seed=1)
    frame = expose(EVEN, noise_key=[], gain=gain, beam=0.9, electrons=0)
    assert np.abs(frame - EVEN * gain * 0.9).max() <= 0.5001


def test_gain_falls_to_the_corners_and_has_mean_one() -> None:
    gain = camera_gain(400, 300, seed=2, pattern=0, dust=0)
    assert gain.mean() == pytest.approx(1.0, abs=1e-5)
    assert gain[150:250, 100:200].mean() > 1.1 * gain[:20, :20].mean()


def test_the_beam_drifts_by_a_few_percent() -> None:
    levels = np.array([beam_level(n, seed=4, drift=0.03) for n in range(200)])
    assert 0.005 < levels.std() < 0.03
    assert levels[7] == beam_level(7, seed=4, drift=0.03)


def test_a_defocused_image_loses_contrast_and_keeps_its_mean() -> None:
    light = np.random.default_rng(0).normal(150, 30, (256, 256)).astype(np.float32)
    blurred = defocused(light, 3.0)
    assert blurred.std() < 0.2 * light.std()
    assert blurred.mean() == pytest.approx(light.mean(), abs=0.5)
