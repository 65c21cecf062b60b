"""Denoised volumes are nearer to the clean one, by slabs as in one piece."""

import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from em_platform.cryoem.methods.denoising import noise_of, total_variation
from em_platform.cryoem.stages import denoise
from em_platform.cryoem.stages.denoise import Parameters, run
from em_platform.errors import PlatformError

NOISE = 3.0


@pytest.fixture
def clean() -> np.ndarray:
    z, y, x = np.mgrid[:40, :48, :56]
    balls = ((z - 20) ** 2 + (y - 20) ** 2 + (x - 24) ** 2) < 100
    return np.where(balls, 6.0, 0.0).astype(np.float32)


@pytest.fixture
def noisy(clean: np.ndarray, tmp_path: Path) -> Path:
    rng = np.random.default_rng(5)
    path = tmp_path / "tomo_Vol.mrc"
    with mrcfile.new(path) as file:
        file.set_data(clean + rng.normal(0, NOISE, clean.shape).astype(np.float32))
        file.voxel_size = 10.0
    return path


@pytest.mark.parametrize("method", ["tv", "gaussian"])
def test_the_clean_volume_is_nearer_and_slabs_change_nothing(
    method: str,
    clean: np.ndarray,
    noisy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = Parameters(volume=noisy, pixel_size=10, method=method, iterations=12)
    found = run(asked, tmp_path)
    path = tmp_path / found.denoised
    assert found.noise == pytest.approx(NOISE, rel=0.1)
    with mrcfile.open(path) as file:
        result = np.array(file.data)
        assert file.is_volume()
        assert file.voxel_size.x == 10
    assert np.std(result - clean) < 0.4 * NOISE
    whole = path.read_bytes()
    monkeypatch.setattr(denoise, "_SLAB_BYTES", 1)
    run(asked, tmp_path)
    with mrcfile.open(path) as file:
        assert np.abs(file.data - result).max() < 1e-3
    assert len(path.read_bytes()) == len(whole)


def test_total_variation_keeps_edges_and_the_mean(clean: np.ndarray) -> None:
    kept = total_variation(clean, weight=0.5, iterations=40)
    assert kept.mean() == pytest.approx(clean.mean(), rel=1e-3)
    assert kept[20, 20, 24] == pytest.approx(6, abs=0.3)
    assert kept[2, 2, 2] == pytest.approx(0, abs=0.1)
    assert noise_of(clean) == 0


def test_what_cannot_be_denoised_is_one_sentence(noisy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()

    def sentence(value: float) -> str:
        with mrcfile.mmap(noisy, mode="r+") as file:
            file.data[:] = value
        with pytest.raises(PlatformError) as caught:
            run(Parameters(volume=noisy, pixel_size=10), out)
        assert not any(out.iterdir())
        return str(caught.value)

    assert "all voxels of its middle slice are equal" in sentence(4)
    assert "voxels that are no numbers" in sentence(np.nan)


def test_a_network_needs_halves_and_torch(
    noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sentence(**given: Path) -> str:
        asked = Parameters(volume=noisy, pixel_size=10, method="n2n", **given)
        with pytest.raises(PlatformError) as caught:
            run(asked, tmp_path)
        return str(caught.value)

    # Looked for beside the tomogram, by the names that `reconstruct` gives them.
    assert "tomo_ODD_Vol.mrc is not there" in sentence(even=noisy)
    # As where the extra is not installed; `python -m benchmarks denoise` trains.
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "the extra torch" in sentence(even=noisy, odd=noisy)
    assert not list(tmp_path.glob("*denoised*"))
