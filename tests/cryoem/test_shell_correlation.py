"""Fourier shells of two volumes, one of which is moved and lacks what no tilt saw."""

import numpy as np
import pytest
import scipy.fft
from scipy.ndimage import fourier_shift, gaussian_filter

from em_platform.cryoem.methods.shell_correlation import (
    ShellCorrelation,
    correlate_shells,
)

SHAPE = (32, 40, 48)
TILTS = np.arange(-50.0, 51, 10)
SHIFT = (1.3, -2.6, 0.4)


def sample(seed: int = 0) -> np.ndarray:
    """Density in the middle of a volume, on scales from two voxels on."""
    rng = np.random.default_rng(seed)
    inner = np.zeros(SHAPE, np.float32)
    inner[6:-6, 8:-8, 8:-8] = rng.normal(size=(20, 24, 32))
    return gaussian_filter(inner, 1.5)


def seen(true: np.ndarray) -> np.ndarray:
    """A volume without its missing wedge, moved by `SHIFT`."""
    spectrum = scipy.fft.fftn(true)
    z, _, x = np.meshgrid(*map(scipy.fft.fftfreq, SHAPE), indexing="ij")
    spectrum[np.abs(z) > np.abs(x) * np.tan(np.deg2rad(50))] = 0
    moved = scipy.fft.ifftn(fourier_shift(spectrum, SHIFT)).real
    return np.asarray(moved, np.float32)


def compared(volume: np.ndarray, true: np.ndarray) -> ShellCorrelation:
    return correlate_shells(
        volume, true, tilts_deg=TILTS, voxel_a=10, finest_a=40, most_shift_px=6
    )


def test_what_was_measured_is_alike_wherever_it_was_moved() -> None:
    true = sample()
    found = compared(seen(true), true)
    assert found.mean > 0.95
    assert found.shift_px == pytest.approx(SHIFT, abs=0.3)
    assert np.all(np.diff(found.distances_a) < 0)
    assert found.finest_a(0.5) == pytest.approx(40, rel=0.1)


@pytest.mark.parametrize("wrong", ["mirrored", "another", "inverted", "noise"])
def test_another_sample_is_not_alike(wrong: str) -> None:
    true = sample()
    noise = np.random.default_rng(2).normal(0, 5 * true.std(), SHAPE)
    volume = {
        "mirrored": lambda: seen(true)[::-1],
        "another": lambda: seen(sample(1)),
        "inverted": lambda: -seen(true),
        "noise": lambda: seen(true) + noise.astype(np.float32),
    }[wrong]()
    found = compared(volume, true)
    assert found.mean < 0.5
