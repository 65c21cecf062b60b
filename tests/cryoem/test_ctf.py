"""Micrographs whose contrast transfer is known, synthetic and real."""

import json
import re
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from numpy.typing import NDArray

from em_platform.cli import main
from em_platform.config.cryoem import CryoemLimits
from em_platform.cryoem.methods import ctf_profile
from em_platform.cryoem.methods.ctf import (
    Fit,
    Lens,
    Search,
    phase,
    power_spectrum,
    rings_of,
)
from em_platform.cryoem.methods.ctf_tilt import Tilt, find_tilt
from em_platform.cryoem.sessions.checks import stage_checks
from em_platform.cryoem.stages.ctf import Parameters, Result, run
from em_platform.errors import ConfigError, FormatError, ProcessingError

PIXEL_A = 1.4
WAVE_A = 0.0197  # at 300 kV, from tables


def micrograph(
    side: int = 640,
    *,
    seed: int = 1,
    u: float = 15000,
    v: float = 14000,
    azimuth: float = 30,
    shift: float = 0,
    signal: float = 0.7,
    thickness: float = 0,
) -> NDArray[np.float32]:
    """White noise seen through a lens, in white noise; 300 kV, 2.7 mm, 0.07."""
    rng = np.random.default_rng(seed)
    fy = np.fft.fftfreq(side, PIXEL_A)[:, None]
    fx = np.fft.rfftfreq(side, PIXEL_A)[None]
    k2 = fy**2 + fx**2
    angle = np.arctan2(fy, fx) - np.deg2rad(azimuth)
    defocus = (u + v) / 2 + (u - v) / 2 * np.cos(2 * angle)
    # Layers of a thick specimen have nothing in common but the lens.
    layers = (np.arange(12) - 5.5) / 12 * thickness if thickness else np.zeros(1)
    seen = np.zeros(k2.shape, complex)
    for height in layers:
        chi = np.pi * WAVE_A * (defocus + height) * k2
        chi -= np.pi / 2 * 2.7e7 * WAVE_A**3 * k2**2
        transfer = -np.sin(chi + np.arcsin(0.07) + np.deg2rad(shift))
        seen += np.fft.rfft2(rng.normal(size=(side, side))) * transfer
    seen *= signal * np.exp(-20 * k2) / np.sqrt(len(layers))
    image = np.fft.irfft2(seen, s=(side, side))
    return (image + rng.normal(size=image.shape)).astype(np.float32)


def tilted_micrograph(angle: float, axis: float) -> NDArray[np.float32]:
    """The same of a specimen whose defocus grows across its axis, towards +x at 0."""
    levels = np.linspace(-1400, 1400, 29)
    turn, side = np.deg2rad(axis), 640
    y, x = (np.mgrid[:side, :side] - (side - 1) / 2) * PIXEL_A
    offset = (np.cos(turn) * x + np.sin(turn) * y) * np.tan(np.deg2rad(angle))
    image = np.zeros((side, side), np.float32)
    for level in levels:
        # The same seed: one specimen, one noise, seen with many a defocus.
        there = micrograph(u=20000 + level, v=20000 + level, signal=1.5)
        image += np.clip(1 - np.abs(offset - level) / 100, 0, 1) * there
    return image


def result_of(folder: Path, image: NDArray[Any], **more: Any) -> Result:
    path = folder / "m.mrc"
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(image)
    (folder / "out").mkdir(exist_ok=True)
    given = {"input_image": path, "pix_size": PIXEL_A, "ampl_contrast": 0.07}
    given |= {"max_defocus": 30000, "ampl_spectrum": 256, "max_res": 4}
    return run(Parameters.model_validate(given | more), folder / "out")


def test_defocus_and_astigmatism_come_back_and_the_same_bytes_twice(
    tmp_path: Path,
) -> None:
    found = result_of(tmp_path, micrograph())
    assert found.defocus_u_a == pytest.approx(15000, abs=120)
    assert found.defocus_v_a == pytest.approx(14000, abs=120)
    assert found.astigmatism_deg == pytest.approx(30, abs=4)
    assert (found.phase_shift_deg, found.astigmatism_a > 700) == (0, True)
    # Its own account of its error is neither idle nor a boast.
    assert 10 < (found.defocus_error_a or 0) < 100
    assert found.score > 0.3
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert result_of(tmp_path, micrograph()) == found
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}


def test_a_phase_plate_is_found_where_it_is_looked_for(tmp_path: Path) -> None:
    image = micrograph(u=9000, v=9000, shift=70, signal=1.5)
    found = result_of(tmp_path, image, additional_phase_shift="yes")
    assert found.phase_shift_deg == pytest.approx(70, abs=8)
    middle = (found.defocus_u_a + found.defocus_v_a) / 2
    assert middle == pytest.approx(9000, abs=4 * (found.defocus_error_a or 0))
    # Without a plate in the model defocus makes up for it, and the rings fit worse.
    assert result_of(tmp_path, image).score < found.score


def test_a_thick_specimen_has_its_thickness_and_a_thin_one_none(
    tmp_path: Path,
) -> None:
    image = micrograph(u=20000, v=19500, signal=3, thickness=2000)
    thick = result_of(tmp_path, image, determine_thickness="yes")
    assert thick.thickness_a == pytest.approx(2000, rel=0.08)
    asked = {"determine_thickness": "yes", "node_high_res": 4}
    assert result_of(tmp_path, micrograph(signal=2), **asked).thickness_a is None


def test_a_tilted_specimen_has_the_rings_of_its_middle(tmp_path: Path) -> None:
    image = tilted_micrograph(65, 30)
    found = result_of(tmp_path, image, tilt_deg=65, axis_deg=30)
    assert found.defocus_u_a == pytest.approx(20000, abs=100)
    assert found.defocus_v_a == pytest.approx(20000, abs=100)
    assert (found.tilt_deg, found.tilt_axis_deg, found.defocus_hand) == (65, 30, -1)
    # With one defocus for all the rings blur, and end early.
    plain = result_of(tmp_path, image)
    assert found.fit_resolution_a < 0.9 * plain.fit_resolution_a
    assert plain.tilt_deg is None


@pytest.mark.parametrize("tilt", [-48, 48])
def test_the_defocus_of_an_image_below_the_box_is_that_of_its_middle(
    tmp_path: Path, tilt: float
) -> None:
    """round3 1.1.1: half the image's side times the tangent of the tilt was added."""
    image = micrograph(256, u=20000, v=20000, signal=1.5)
    given = {"ampl_spectrum": 512, "tilt_deg": tilt, "axis_deg": 0}
    found, flat = result_of(tmp_path, image, **given), result_of(tmp_path, image)
    assert found.box_px == 256
    assert (found.defocus_u_a, found.defocus_v_a) == (
        flat.defocus_u_a,
        flat.defocus_v_a,
    )
    middle = (found.defocus_u_a + found.defocus_v_a) / 2
    assert middle == pytest.approx(20000, abs=4 * (found.defocus_error_a or 0))


@pytest.mark.parametrize("side", [512, 1024])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_noise_is_no_good_ctf(tmp_path: Path, side: int, seed: int) -> None:
    """round3 1.1.4: eight of these twelve passed."""
    rng = np.random.default_rng(seed)
    for noise in (rng.poisson(20, (side, side)), rng.normal(size=(side, side))):
        path = tmp_path / "noise.mrc"
        with mrcfile.new(path, overwrite=True) as file:
            file.set_data(noise.astype(np.float32))
        given = {"input_image": path, "pixel_size": 1.06}
        found = run(Parameters.model_validate(given), tmp_path)
        checks = stage_checks("ctf", found, CryoemLimits())
        assert [check.passed for check in checks] == [False, False]
        assert (found.score, found.fit_resolution_a) == (0, 30)


def test_the_command_prints_a_table_and_the_verdict_of_the_checks(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """round3 1.1.5: good and bad fits looked alike, in a line of 20 values."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(1).normal(size=(512, 512)).astype(np.float32)
    for name, image in (("grid", micrograph()), ("noise", noise)):
        with mrcfile.new(tmp_path / f"{name}.mrc") as file:
            file.set_data(image)
    asked = ["cryoem", "ctf", "--pixel-size-a", str(PIXEL_A), "--output", "out"]

    def printed(*words: str) -> list[str]:
        with pytest.raises(SystemExit) as end:
            main([*asked, *words])
        assert not end.value.code
        return capsys.readouterr().out.splitlines()

    lines = printed("grid.mrc")
    assert lines[0].startswith("out: good: rings are fitted to ")
    assert any(re.fullmatch(r"defocus u +1\d{4}(\.\d+)? +Å", line) for line in lines)
    [good] = printed("grid.mrc", "--json")
    assert json.loads(good)["is_good"] is True
    bad = printed("noise.mrc", "--overwrite")[0]
    assert bad.startswith("out: not good: no rings stand out from noise: the defocus")
    [bad] = printed("noise.mrc", "--json")
    assert json.loads(bad)["is_good"] is False
    # The limit is that of the check in Dagster.
    monkeypatch.setenv("EM_CRYOEM__LIMITS__CTF_SCORE", "0.9")
    [strict] = printed("grid.mrc", "--overwrite", "--json")
    assert json.loads(strict) == json.loads(good) | {"is_good": False}


def test_a_tilt_is_sought_as_far_as_it_is_not_given() -> None:
    lens = Lens(pixel_size_a=PIXEL_A, amplitude_contrast=0.07)
    search = Search(max_res_a=4, max_defocus_a=30000)

    def tilt(
        image: NDArray[np.float32], angle: float | None, axis: float | None
    ) -> Tilt | None:
        return find_tilt(image, 256, lens, search, angle_deg=angle, axis_deg=axis)

    image = tilted_micrograph(65, 30)
    # The other way round is the same specimen under the other hand.
    assert tilt(image, -65, 30) == Tilt(angle_deg=-65, axis_deg=30, hand=1)
    for given in (65, None):
        sought = tilt(image, given, None)
        assert sought is not None
        assert sought.angle_deg == pytest.approx(65, abs=8)
        assert sought.axis_deg == pytest.approx(30, abs=8)
        assert sought.hand == -1
    # Where nothing is tilted, a tilt that is given in vain does no harm.
    assert tilt(micrograph(signal=1.5), 50, 30) is None


def test_known_astigmatism_is_kept(tmp_path: Path) -> None:
    known = {"known_astigmatism": 1000, "known_astigmatism_angle": 30}
    found = result_of(tmp_path, micrograph(), astigmatism_known="yes", **known)
    assert found.astigmatism_a == pytest.approx(1000, abs=1)
    assert found.astigmatism_deg == pytest.approx(30, abs=0.1)
    assert found.defocus_u_a == pytest.approx(15000, abs=100)


def test_the_tables_are_those_of_ctffind(tmp_path: Path) -> None:
    found = result_of(tmp_path, micrograph(), output_image="job003/grid.ctf")
    lines = (tmp_path / "out/grid_ctf.txt").read_text().splitlines()
    numbers = [float(word) for word in lines[-1].split()]
    assert numbers[0] == 1
    expected = [found.defocus_u_a, found.defocus_v_a, found.astigmatism_deg, 0]
    assert numbers[1:5] == pytest.approx(expected, abs=0.01)
    assert numbers[6] == pytest.approx(found.fit_resolution_a, abs=0.001)
    rows = np.loadtxt(tmp_path / "out" / found.profile)
    assert rows.shape[0] == 6
    # What chance has: rings are above it where they are seen.
    assert 0 < rows[5].max() < rows[4].max()
    # As cryoem-services reads it: the first two lines behind five of comment.
    inside = (rows[0] > 0.25) & (rows[0] < 0.28)
    assert np.abs(rows[1][inside]).sum() == pytest.approx(
        found.ice_ring_density, abs=1e-4
    )
    shown = mrcfile.read(tmp_path / "out" / found.diagnostic)
    assert shown.shape == (256, 256)
    # The fit at the right follows what was measured at the left, through the middle.
    k = np.hypot(*np.mgrid[-128:128, -128:128])
    ring = (k > 20) & (k < 256 * PIXEL_A / max(found.fit_resolution_a, 6))
    mirrored = shown[(256 - np.arange(256)) % 256][:, (256 - np.arange(256)) % 256]
    right = ring & (np.arange(256)[None] > 130)
    assert np.corrcoef(shown[right], mirrored[right])[0, 1] > 0.2


@pytest.mark.parametrize("decay", [40.0, 160.0])
def test_the_fit_resolution_is_where_the_rings_are_lost(decay: float) -> None:
    rng = np.random.default_rng(5)
    lens = Lens(pixel_size_a=1.0, amplitude_contrast=0.07)
    fit = Fit(
        defocus_u_a=12000,
        defocus_v_a=12000,
        azimuth_deg=0,
        phase_shift_deg=0,
        score=1,
    )
    rings = rings_of(power_spectrum(rng.normal(size=(512, 512)).astype("f4"), 512), 1)
    k = rings.frequency
    contrast = np.sin(phase(k, 12000.0, lens, 0)) ** 2
    strength = 1.5 * np.exp(-decay * k**2)
    noise = 0.25 * rng.normal(size=rings.log_power.shape)
    rings.log_power[:] = np.log1p(strength * contrast) + noise
    # Rings have variance s^2 / 8, the mean of 60 directions that of noise / 60.
    known = 1 / k[np.argmin(np.abs(strength**2 / 8 * 3 - 0.25**2 / 60))]
    profile = ctf_profile.profile_of(rings, lens, fit)
    found = ctf_profile.fit_resolution_a(profile, fit, min_res_a=30)
    assert found == pytest.approx(known, rel=0.2)


def test_rings_of_ice_are_measured(tmp_path: Path) -> None:
    image = micrograph(signal=0.4)
    plain = result_of(tmp_path, image).ice_ring_density
    k = np.hypot(
        np.fft.fftfreq(640, PIXEL_A)[:, None], np.fft.rfftfreq(640, PIXEL_A)[None]
    )
    spectrum = np.fft.rfft2(image)
    spectrum[np.abs(k - 0.268) < 0.008] *= 3
    iced = np.fft.irfft2(spectrum, s=image.shape).astype(np.float32)
    icy = result_of(tmp_path, iced).ice_ring_density
    assert plain is not None
    assert icy is not None
    assert icy > 3 * plain
    coarse = result_of(tmp_path, image, pix_size=2.5, max_res=6)
    assert coarse.ice_ring_density is None


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    flat = np.full((300, 300), 7, np.float32)
    with pytest.raises(ProcessingError, match=r"m\.mrc: all pixels are 7, expected an"):
        result_of(tmp_path, flat)
    # round3 1.1.4: both had a defocus.
    for shape in ((3, 3), (1, 500)):
        small = np.arange(float(np.prod(shape)), dtype=np.float32).reshape(shape)
        size = f"{shape[1]} x {shape[0]} px, expected 64 px or more"
        with pytest.raises(ProcessingError, match=rf"m\.mrc: found an image of {size}"):
            result_of(tmp_path, small)
    image = micrograph(300)
    with pytest.raises(ConfigError, match=r"the range is 30 to 29 Å, pixels of 1\.4 Å"):
        result_of(tmp_path, image, max_res=29)
    with pytest.raises(ConfigError, match="the defocus range is 9000 to 8000 Å"):
        result_of(tmp_path, image, min_defocus=9000, max_defocus=8000)
    with pytest.raises(FormatError, match="found 3 images, expected one"):
        result_of(tmp_path, np.stack([image] * 3))


def test_the_real_micrograph_has_the_defocus_of_its_truth(
    shared_data: Path, tmp_path: Path
) -> None:
    given = {"input_image": shared_data / "cryoem/mrcfile/fei-extended.mrc.gz"}
    found = run(Parameters.model_validate(given | {"pix_size": 0.8538}), tmp_path)
    mean = (found.defocus_u_a + found.defocus_v_a) / 2
    assert mean == pytest.approx(10600, rel=0.1)  # truth.json
    assert 4 < found.fit_resolution_a < 6
