"""A movie whose motion is known: measured, taken out, written as RELION writes it."""

import json
from pathlib import Path
from typing import Any

import cv2
import mrcfile
import numpy as np
import pytest
import starfile
import tifffile
from numpy.typing import NDArray

from em_platform.config.cryoem import CryoemLimits
from em_platform.cryoem.methods import motion_align, motion_model
from em_platform.cryoem.methods.motion import Motion
from em_platform.cryoem.methods.motion_sum import DoseWeighted, critical_exposure
from em_platform.cryoem.motion_files import motion_statistics, polynomial_of
from em_platform.cryoem.sessions.checks import stage_checks
from em_platform.cryoem.stages.motion import Parameters, Result, run
from em_platform.errors import ConfigError, FormatError, ProcessingError

SIDE, FRAMES = 192, 6
WAY = np.array([(0, 0), (3, -1), (5, -2), (6.5, -2.5), (7, -3), (7.5, -3)])
"""Where features are in each frame, (y, x)."""


@pytest.fixture(scope="module")
def image() -> NDArray[np.float32]:
    noise = np.random.default_rng(1).normal(size=(SIDE + 40, SIDE + 40))
    return cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 2.5) * 2


@pytest.fixture
def movie(image: NDArray[np.float32], tmp_path: Path) -> dict[str, Any]:
    """A movie with a gain and two hot pixels, and its parameters."""
    rng = np.random.default_rng(2)
    gain = rng.uniform(0.8, 1.2, (SIDE, SIDE)).astype(np.float32)
    frames = np.empty((FRAMES, SIDE, SIDE), np.uint8)
    for index, (y, x) in enumerate(WAY):
        back = np.array([[1, 0, x], [0, 1, y]], np.float32)
        size = image.shape[::-1]
        moved = cv2.warpAffine(image, back, size, flags=cv2.INTER_CUBIC)
        rate = 8 * (1 + moved[20 : 20 + SIDE, 20 : 20 + SIDE]).clip(0.1) / gain
        frames[index] = rng.poisson(rate)
        frames[index, 50, 60] = frames[index, 51, 60] = 200
    with mrcfile.new(tmp_path / "grid_Fractions.mrcs") as file:
        file.set_data(frames)
        file.voxel_size = 1.5
    with mrcfile.new(tmp_path / "gain.mrc") as file:
        file.set_data(gain)
    return {
        "movie": tmp_path / "grid_Fractions.mrcs",
        "pix_size": 1.5,
        "fm_dose": 1.0,
        "gain_ref": tmp_path / "gain.mrc",
        "throw": 0,
    }


def result_of(folder: Path, movie: dict[str, Any], **more: Any) -> Result:
    folder.mkdir(exist_ok=True)
    return run(Parameters.model_validate(movie | more), folder)


def test_known_shifts_come_back_and_the_same_bytes_twice(
    movie: dict[str, Any], image: NDArray[np.float32], tmp_path: Path
) -> None:
    found = result_of(tmp_path / "one", movie)
    assert np.abs(np.array(found.shift_y_px) + WAY[:, 0]).max() < 0.15
    assert np.abs(np.array(found.shift_x_px) + WAY[:, 1]).max() < 0.15
    steps = np.hypot(*np.diff(WAY, axis=0).T) * 1.5
    assert found.total_motion_a == pytest.approx(steps.sum(), abs=1.0)
    assert found.early_motion_a == pytest.approx(steps[:3].sum(), abs=1.0)
    assert found.total_motion_a == pytest.approx(
        found.early_motion_a + found.late_motion_a
    )
    assert found.defects == 2
    result_of(tmp_path / "two", movie, threads=2)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    known = image[20 : 20 + SIDE, 20 : 20 + SIDE][12:-12, 12:-12].ravel()
    folder = tmp_path / "one"
    plain = mrcfile.read(folder / found.plain)
    assert (
        np.corrcoef(plain[12:-12, 12:-12].ravel(), known)[0, 1] > 0.82
    )  # of 0.84 by the counts
    assert plain.mean() == pytest.approx(8 * FRAMES, rel=0.02)  # electrons are kept
    halves = [mrcfile.read(folder / name) for name in (found.even, found.odd)]
    weighted = mrcfile.read(folder / found.micrograph)
    assert np.allclose(halves[0] + halves[1], weighted, atol=1e-3)
    rest = [half[12:-12, 12:-12].ravel() - known * 24 for half in halves]
    assert abs(np.corrcoef(rest[0], rest[1])[0, 1]) < 0.3  # their noise is their own
    with mrcfile.open(folder / found.micrograph) as file:
        assert file.voxel_size.x == 1.5
    assert (folder / found.picture).read_bytes()[:4] == b"\x89PNG"


def test_the_star_file_and_the_plot_are_those_of_the_field(
    movie: dict[str, Any], tmp_path: Path
) -> None:
    found = result_of(tmp_path / "out", movie, throw=1, mrc_out="x/job002/m.mrc")
    assert (found.star, found.micrograph) == ("m.star", "m.mrc")
    star = starfile.read(tmp_path / "out/m.star")
    assert star["general"]["rlnImageSizeX"] == SIDE
    assert star["general"]["rlnMicrographStartFrame"] == 2
    assert star["general"]["rlnMotionModelVersion"] == 0  # patches would be too small
    table = star["global_shift"]
    assert list(table["rlnMicrographFrameNumber"]) == [2, 3, 4, 5, 6]
    assert np.allclose(table["rlnMicrographShiftX"], found.shift_x_px, atol=1e-3)
    plot = json.loads((tmp_path / "out/m_drift_plot.json").read_text())
    assert plot["data"][0]["x"] == list(found.shift_x_px)
    assert {*plot} == {"data", "layout"}


def test_binning_keeps_the_field_of_view(movie: dict[str, Any], tmp_path: Path) -> None:
    found = result_of(tmp_path / "out", movie, ft_bin=2)
    with mrcfile.open(tmp_path / "out" / found.micrograph) as file:
        assert file.data.shape == (SIDE // 2, SIDE // 2)
        assert file.voxel_size.x == pytest.approx(3.0)
    plain = mrcfile.read(tmp_path / "out" / found.plain)
    assert plain.mean() == pytest.approx(8 * FRAMES, rel=0.02)


def test_names_of_today_and_of_2023() -> None:
    old = {
        "movie": "m.tif",
        "pix_size": 1,
        "kv": 200,
        "fm_dose": 2,
        "patch_size": "7 5",
    }
    new = {
        "movie": "m.tif",
        "pixel_size": "1",
        "voltage": "200",
        "dose_per_frame": "2",
        "patch_sizes": {"x": 7, "y": 5},
        "gain_ref": "",
    }
    assert Parameters.model_validate(old) == Parameters.model_validate(new)
    assert Parameters.model_validate(new).patch_sizes == (7, 5)


def broken_movies(movie: dict[str, Any]) -> dict[str, tuple[type[Exception], str]]:
    """What was done to the movie -> error and its sentence."""
    return {
        "truncated": (FormatError, "truncated MRC, found"),
        "gain": (
            FormatError,
            r"the gain has 8 x 4 px, the frames have",
        ),
        "flat": (ProcessingError, "all pixels of its sum are 42, expected an image"),
        "nan": (FormatError, "values that are not finite"),
        "throw": (FormatError, "found 6 frames, more were expected"),
        "missing": (FormatError, "missing.mrc"),
        "mag": (ConfigError, "mag was given, which only MotionCor2 knows"),
        "defects": (FormatError, "cannot be read as defects"),
        # round3 1.1.7: 64,666 of 65,536 pixels were masked; then none
        "-5 -5 3 3": (FormatError, "line 2 is `-5 -5 3 3`.*, whole pixels within"),
        "9000 0 1 1": (FormatError, "line 2 is `9000 0 1 1`"),
        "0 0 0 9": (FormatError, "line 2 is `0 0 0 9`"),
        "0 0 1.5 1": (FormatError, r"line 2 is `0 0 1\.5 1`"),
    }


@pytest.mark.parametrize("fault", broken_movies({}))
def test_what_cannot_be_used_is_one_sentence(
    movie: dict[str, Any], tmp_path: Path, fault: str
) -> None:
    path = movie["movie"]
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    elif fault == "gain":
        tifffile.imwrite(tmp_path / "g.tif", np.ones((4, 8), np.float32))
        movie["gain_ref"] = tmp_path / "g.tif"
    elif fault in ("flat", "nan"):
        frames = np.full((3, 64, 64), 14, np.float32)
        with mrcfile.new(path, overwrite=True) as file:
            file.set_data(frames)
            file.data[1, 5, 5] = np.nan if fault == "nan" else 14
        movie["gain_ref"] = None
    elif fault == "throw":
        movie |= {"throw": 3, "trunc": 3}
    elif fault == "missing":
        movie["movie"] = tmp_path / "missing.mrc"
    elif fault == "mag":
        movie["mag"] = {"major_scale": 1.01, "minor_scale": 1, "angle": 3}
    else:
        line = "1 2 three 4" if fault == "defects" else fault
        (tmp_path / "d.txt").write_text(f"# x y w h\n{line}\n")
        movie["defect_file"] = tmp_path / "d.txt"
    error, sentence = broken_movies(movie)[fault]
    with pytest.raises(error, match=sentence):
        result_of(tmp_path / "out", movie)
    assert not list((tmp_path / "out").iterdir())


def test_frames_with_nothing_in_common_are_no_good_movie(tmp_path: Path) -> None:
    """round3 1.1.4, of motion: noise passed with "the frames moved by 0 Å"."""
    noise = np.random.default_rng(5).poisson(2, (FRAMES, SIDE, SIDE)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "noise.tif", noise)
    found = result_of(
        tmp_path / "out", {"movie": tmp_path / "noise.tif", "pix_size": 1.5}
    )
    (check,) = stage_checks("motion", found, CryoemLimits())
    assert not (check.passed or found.is_aligned)
    assert check.sentence.startswith("nothing of the frames stands out of their noise")


@pytest.mark.parametrize(("signal", "moved"), [(0.07, True), (0.0, False)])
def test_weak_frames_help_each_other_and_noise_moves_nothing(
    signal: float, moved: bool
) -> None:
    rng = np.random.default_rng(7)
    shape, frames = (160, 160), 16
    specimen = np.fft.rfft2(cv2.GaussianBlur(rng.normal(size=shape), (0, 0), 1.5) * 5)
    way = np.stack([np.linspace(0, 6, frames), np.linspace(0, -4, frames)], 1)
    spectra = [
        # Moved back by what is minus the way is moved along it.
        motion_align.shifted(signal * specimen, -step, shape)
        + np.fft.rfft2(rng.normal(size=shape)).astype(np.complex64)
        for step in way
    ]
    found = motion_align.align_frames(
        [each.astype(np.complex64) for each in spectra], shape, b_factor=30, most=12
    )
    if not moved:
        assert found is None
        return
    assert found is not None
    wrong = (found - found.mean(0)) - (way - way.mean(0))
    # Without correction it is 2.2 px, and 5.5 px where each frame is on its own.
    assert np.sqrt((wrong**2).sum(1).mean()) < 1


def tracks_of(rng: np.random.Generator, noise: float) -> tuple[Any, ...]:
    """Tracks of 5 x 5 patches that move by a known field."""
    places = np.linspace(-0.4, 0.4, 5)
    y, x = (each.ravel() for each in np.meshgrid(places, places, indexing="ij"))
    time = (1 - np.exp(-3 * np.linspace(0, 1, 20)))[:, None]
    known = np.stack([time * 2 * np.sin(3 * x), time * 1.5 * np.cos(2 * y)], -1)
    tracks = known.transpose(1, 0, 2) + rng.normal(0, noise, (25, 20, 2))
    return known, tracks, y, x


def test_a_field_is_smoother_than_its_tracks_and_knows_its_error() -> None:
    known, tracks, y, x = tracks_of(np.random.default_rng(3), 0.5)
    tracks[7, 5:9] += 6  # a patch that lost its way
    field = motion_model.fit_field(tracks, y, x)
    wrong = field.at(y, x) - (known - known[:1])
    error = float(np.sqrt((wrong**2).sum(-1).mean()))
    assert error < 0.3
    assert error / 3 < field.error_px < 2 * error
    assert field.residual_px == pytest.approx(0.5 * np.sqrt(2), rel=0.2)
    still = motion_model.fit_field(
        np.random.default_rng(4).normal(size=(25, 20, 2)), y, x
    )
    assert still.signal_px < 0.35  # noise is hardly taken for motion


def test_relions_polynomial_stands_for_the_field() -> None:
    _, tracks, y, x = tracks_of(np.random.default_rng(5), 0.0)
    field = motion_model.fit_field(tracks, y, x)
    motion = Motion(global_px=np.zeros((20, 2)), local=field)
    numbers = polynomial_of(motion)
    assert len(numbers) == 36
    z = 11.0
    time = np.array([z, z**2, z**3])
    space = np.array([np.ones_like(x), x, x**2, y, y**2, x * y])
    # RELION's order: the three powers of time stand together for each term in space.
    shift_x = space.T @ numbers[:18].reshape(6, 3) @ time
    assert np.abs(shift_x + field.at(y, x)[11, :, 1]).max() < 0.2


# Of a movie alone, of the last tilt of a usual series, and of one of the demo.
@pytest.mark.parametrize("before", [0.0, 134.4, 510.0])
def test_dose_weights_are_those_of_the_literature(before: float) -> None:
    critical = critical_exposure((64, 64), pixel_size_a=1.0, voltage_kv=300)
    # Grant & Grigorieff 2015, figure 3: about 4.5 electrons per Å2 at 3.2 Å.
    place = round(64 / 3.2)
    assert critical[0, place] == pytest.approx(0.24499 * 3.2**1.6649 + 2.8141, rel=1e-3)
    total = DoseWeighted(critical=critical, shape=(64, 64))
    ones = np.ones((64, 33), np.complex64)
    doses = before + np.array([2.0, 4.0])
    for dose in doses:
        total.add(ones, dose=dose)
    weights = np.exp(-0.5 * doses / critical[0, place].astype(float))
    expected = weights.sum() / np.sqrt((weights**2).sum() / 2)
    assert total.spectrum()[0, place].real == pytest.approx(expected, rel=1e-4)
    assert total.spectrum()[0, 0].real == pytest.approx(2.0)


def test_statistics_are_counted_as_upstream_counts_them() -> None:
    shifts = np.array([[0, 0], [0, 3], [4, 3], [4, 3.5]])
    found = motion_statistics(shifts, early_frames=2)
    assert found == {
        "total_motion_a": 7.5,
        "early_motion_a": 3.0,
        "late_motion_a": 4.5,
        "average_motion_a": 1.875,
    }
