"""Tilt series with known shifts and axis are aligned; their files say the same."""

import json
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from benchmarks.tilt_data import Blobs, TiltSeries, blobs, tilt_series
from em_platform.config.cryoem import CryoemLimits
from em_platform.cryoem.alignment_files import read_alignment
from em_platform.cryoem.sessions.checks import stage_checks
from em_platform.cryoem.stages.tilt_align import Parameters, Result, run
from em_platform.errors import PlatformError

ANGLES = np.arange(-54, 55, 6.0)
AXIS = 82.0
DARK = 4


@pytest.fixture(scope="module")
def series() -> TiltSeries:
    rng = np.random.default_rng(11)
    specimen = blobs(rng, size=160, thickness_px=24, density=8e-3)
    made = tilt_series(
        specimen, rng, size=160, angles_deg=ANGLES, axis_deg=AXIS, shift_px=3, snr=0.5
    )
    made.images[...] = made.images * 10 + 1000
    return made


def write_stack(path: Path, images: np.ndarray, angles: np.ndarray = ANGLES) -> Path:
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(images.astype(np.float32))
        file.voxel_size = 8.0
    lines = [f"{angle:7.2f}" for angle in angles[: len(images)]]
    path.with_suffix(".rawtlt").write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def aligned(
    series: TiltSeries, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("aligned")
    images = series.images.copy()
    images[DARK] *= 0.2
    images[7] = 12
    stack = write_stack(folder / "TS_1.mrc", images)
    found = run(
        Parameters(
            stack_file=stack,
            pixel_size=8.0,
            tilt_axis=AXIS + 5,
            dose_per_frame=0.5,
            frame_count=6,
        ),
        folder,
    )
    return folder, found


def errors_of(series: TiltSeries, found: Result) -> tuple[float, float]:
    """Across and along the axis, px, without what no series can say."""
    turn = np.deg2rad(AXIS)
    sections = [tilt.section for tilt in found.tilts]
    apart = np.array([(t.dx_px, t.dy_px) for t in found.tilts])
    apart -= series.shifts_px[sections]
    across = np.cos(turn) * apart[:, 0] + np.sin(turn) * apart[:, 1]
    along = np.cos(turn) * apart[:, 1] - np.sin(turn) * apart[:, 0]
    angles = np.deg2rad(ANGLES[sections])
    free = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    across -= free @ np.linalg.lstsq(free, across, rcond=None)[0]
    return float(across.std()), float(along.std())


def test_shifts_axis_and_thickness_are_found(
    series: TiltSeries, aligned: tuple[Path, Result]
) -> None:
    _, found = aligned
    across, along = errors_of(series, found)
    assert across < 0.4
    assert along < 0.15
    assert abs(found.rotation_deg - AXIS) < 0.5
    assert found.thickness_px is not None
    assert 15 < found.thickness_px < 36
    assert found.thickness_a == pytest.approx(found.thickness_px * 8, abs=0.5)
    assert found.specimen == "film"
    assert found.residual_px is not None
    assert found.residual_px < 1


def test_what_was_not_measured_does_not_pass(aligned: tuple[Path, Result]) -> None:
    _, found = aligned
    limits = CryoemLimits()
    assert [c.passed for c in stage_checks("tilt-align", found, limits)] == [
        False,
        True,
        True,
    ]
    unknown = found.model_copy(update={"residual_px": None, "thickness_a": None})
    assert not any(c.passed for c in stage_checks("tilt-align", unknown, limits))


def heavy_beads(rng: np.random.Generator) -> Blobs:
    """Ten beads that outweigh all else, at random heights."""
    light = blobs(rng, size=128, thickness_px=40, density=1e-3)
    half = np.array([45, 45, 20])
    return Blobs(
        places=np.r_[light.places, rng.uniform(-half, half, (10, 3))],
        sigma_px=np.r_[light.sigma_px, np.full(10, 3.0)],
        weights=np.r_[light.weights, np.full(10, 20.0)],
    )


@pytest.mark.parametrize("tilted_deg", [9.0, 0.0])
def test_the_specimens_tilt_is_used_where_the_images_show_it(
    tilted_deg: float, tmp_path: Path
) -> None:
    rng = np.random.default_rng(5 if tilted_deg else 3)
    specimen = (
        blobs(rng, size=128, thickness_px=30, density=8e-3)
        if tilted_deg
        else heavy_beads(rng)
    )
    angles = np.arange(-54, 55, 9.0)
    # A slab tilted by so much is one that is level at angles that are so much more.
    made = tilt_series(
        specimen,
        rng,
        size=128,
        angles_deg=angles + tilted_deg,
        shift_px=3,
        snr=0.5 if tilted_deg else np.inf,
    )
    stack = write_stack(tmp_path / "TS_3.mrc", made.images, angles)
    found = run(Parameters(stack_file=stack, tilt_axis=2, axis_search=4), tmp_path)
    # Round beads look the same from all sides, which alone makes no needle of them.
    assert found.specimen == "film"
    assert found.residual_px is not None
    if tilted_deg:
        error = found.tilt_offset_deg - tilted_deg
        assert abs(error) < 2.5
        assert found.tilt_offset.startswith("measured")
        assert found.tilts[0].angle_deg == pytest.approx(
            angles[0] + found.tilt_offset_deg, abs=1e-3
        )
    else:
        # A few beads lie in a plane of their own by chance, however well it fits.
        assert found.tilt_offset_deg == 0
        assert found.tilt_offset.startswith("0: ")


def test_dark_and_blank_images_do_not_count(aligned: tuple[Path, Result]) -> None:
    folder, found = aligned
    reasons = {each.section: each.reason.split(":")[0] for each in found.excluded}
    assert reasons == {DARK: "dark", 7: "blank"}
    assert len(found.tilts) == len(ANGLES) - 2
    assert "EXCLUDELIST 5,8" in (folder / "tilt.com").read_text()


def test_the_files_of_imod_and_aretomo_say_what_the_result_says(
    aligned: tuple[Path, Result],
) -> None:
    folder, found = aligned
    aln, xf = (read_alignment(folder / name) for name in (found.aln, found.xf))
    assert aln.thickness_px == round(found.thickness_px)
    for from_aln, from_xf, tilt in zip(aln.images, xf.images, found.tilts, strict=True):
        assert from_aln.section == from_xf.section == tilt.section
        for each in (from_aln, from_xf):
            assert each.dx_px == pytest.approx(tilt.dx_px, abs=0.003)
            assert each.dy_px == pytest.approx(tilt.dy_px, abs=0.003)
            assert each.rotation_deg == pytest.approx(tilt.rotation_deg, abs=0.001)
            assert each.angle_deg == pytest.approx(tilt.angle_deg, abs=0.006)
    # IMOD's transform takes the specimen's middle to that of the aligned image.
    row = np.loadtxt(folder / found.xf)[found.tilts[0].section]
    middle = found.tilts[0].dx_px, found.tilts[0].dy_px
    assert row[:4].reshape(2, 2) @ middle + row[4:] == pytest.approx(0, abs=0.002)


def test_relions_columns_are_in_the_star(aligned: tuple[Path, Result]) -> None:
    import starfile

    folder, found = aligned
    table = starfile.read(folder / found.star)
    assert list(table["rlnTomoYTilt"]) == [t.angle_deg for t in found.tilts]
    assert list(table["rlnTomoXShiftAngst"]) == [t.x_shift_a for t in found.tilts]
    assert table["rlnMicrographName"][0] == f"000001@{found.stack}"
    plot = json.loads((folder / found.plot).read_text())
    assert plot["data"][0]["y"] == [t.dx_px for t in found.tilts]


def test_images_in_files_of_their_own_become_a_stack(
    series: TiltSeries, tmp_path: Path
) -> None:
    listed = []
    # In the order in which they were taken, one of them twice.
    for number, i in enumerate([4, 3, 5, 2, 6, 6]):
        path = tmp_path / f"TS_2_{number:03d}_{ANGLES[i]:g}.mrc"
        with mrcfile.new(path) as file:
            file.set_data(series.images[i])
        listed.append([str(path), float(ANGLES[i])])
    # Names and units of 2023's recipes.
    message = {"stack_file": tmp_path / "TS_2_stack.mrc", "pix_size": 8e-10}
    message |= {"input_file_list": str(listed), "tilt_axis": AXIS, "axis_search": 0}
    for name in ("out", "again"):
        (tmp_path / name).mkdir()
        found = run(Parameters.model_validate(message), tmp_path / name)
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    assert found.stack == "TS_2_stack.mrc"
    with mrcfile.open(tmp_path / "out" / found.stack) as file:
        assert np.array_equal(file.data, series.images[2:7])
        assert file.voxel_size.x == 8
    text = (tmp_path / "out/TS_2_stack_TLT.txt").read_text()
    assert text.splitlines()[0] == f"{ANGLES[2]:g}  4"


def sentence_of(parameters: Parameters, folder: Path) -> str:
    with pytest.raises(PlatformError) as caught:
        run(parameters, folder)
    return str(caught.value)


def test_what_cannot_be_aligned_is_one_sentence(
    series: TiltSeries, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()

    def answer(name: str, images: np.ndarray) -> str:
        stack = write_stack(tmp_path / name, images)
        return sentence_of(Parameters(stack_file=stack), out)

    images = series.images[:5].copy()
    stack = write_stack(tmp_path / "nan.mrc", images)
    with mrcfile.mmap(stack, mode="r+") as file:
        file.data[2, 8, 9] = np.nan
    wrong = sentence_of(Parameters(stack_file=stack), out)
    assert "at -42 degrees has 1 pixels that are no numbers" in wrong
    assert "found 1 tilt(s), at least 3" in answer("one.mrc", images[:1])
    assert "0 of 5 images can be used (5 are blank)" in answer(
        "blank.mrc", np.ones((5, 32, 32))
    )
    short = write_stack(tmp_path / "short.mrc", series.images[:5])
    short.with_suffix(".rawtlt").write_text("-3\n0\n")
    assert "found 2 angles" in sentence_of(Parameters(stack_file=short), out)
    short.with_suffix(".rawtlt").write_text("-3\n0\n3\n6\n9\n")
    for section in (99, 0, -1):  # round3 1.1.7: it was ignored
        wrong = sentence_of(Parameters(stack_file=short, exclude=(2, section)), out)
        assert f"section {section} was to be left out, found 5 from 1 to 5" in wrong
    short.with_suffix(".rawtlt").unlink()
    assert "no angles were found" in sentence_of(Parameters(stack_file=short), out)
    gone = Parameters(stack_file=short, input_file_list=[["a.mrc", 3.0]])
    assert "the image at 3 degrees is missing" in sentence_of(gone, out)
    assert not any(out.iterdir())
