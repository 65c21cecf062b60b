"""Tomograms of a specimen of known density; and align, reconstruct, compare."""

from pathlib import Path

import mrcfile
import numpy as np
import pytest
from pydantic import ValidationError

from benchmarks.tilt_data import Blobs, blobs, tilt_series, volume_of
from em_platform.cryoem.alignment_files import AlignedImage, write_aln, write_xf
from em_platform.cryoem.stages import tilt_align
from em_platform.cryoem.stages.reconstruct import Parameters, Result, run
from em_platform.errors import PlatformError

ANGLES = np.arange(-60, 61, 3.0)
SIDE = 96
SPECIMEN = Blobs(
    places=np.array([[0, 0, 0], [20, 12, 8], [-25, 20, -10], [10, -30, 12.0]]),
    sigma_px=np.array([3.0, 3.0, 3.5, 4.0]),
    weights=np.array([10.0, 20.0, 20.0, 20.0]),
)


def write_series(
    folder: Path, specimen: Blobs, *, axis_deg: float, images: int | None = None
) -> Path:
    rng = np.random.default_rng(3)
    made = tilt_series(
        specimen, rng, size=SIDE, angles_deg=ANGLES, axis_deg=axis_deg, shift_px=3
    )
    stack = folder / "TS_3.mrc"
    with mrcfile.new(stack, overwrite=True) as file:
        file.set_data(made.images + 100)
        file.voxel_size = 5.0
    aligned = [
        AlignedImage(
            section=i,
            angle_deg=float(angle),
            dx_px=float(made.shifts_px[i, 0]),
            dy_px=float(made.shifts_px[i, 1]),
            rotation_deg=axis_deg,
        )
        for i, angle in enumerate(ANGLES[:images])
    ]
    shape = len(ANGLES), SIDE, SIDE
    aln = folder / "TS_3.aln"
    write_aln(aln, aligned, shape=shape, excluded=[], offset_deg=0, thickness_px=30)
    write_xf(folder / "TS_3.xf", aligned, sections=shape[0])
    return stack


def volume_at(folder: Path, found: Result) -> np.ndarray:
    with mrcfile.open(folder / found.tomogram) as file:
        assert file.is_volume()
        assert file.voxel_size.x == pytest.approx(found.pixel_size_a)
        assert file.header.dmax == file.data.max()
        assert file.header.dmean == pytest.approx(file.data.mean(), abs=1e-4)
        return np.array(file.data)


@pytest.mark.parametrize("axis_deg", [4.0, 86.0])
def test_density_lies_where_it_was_with_its_height(
    tmp_path: Path, axis_deg: float
) -> None:
    stack = write_series(tmp_path, SPECIMEN, axis_deg=axis_deg)
    out = tmp_path / "out"
    out.mkdir()
    asked = Parameters(stack_file=stack, pixel_size=5.0, out_bin=1, vol_z=48)
    found = run(asked, out)
    volume = volume_at(out, found)
    assert volume.shape == (48, SIDE, SIDE)
    true = volume_of(SPECIMEN, (48, SIDE, SIDE))
    for x, y, z in SPECIMEN.places:
        at = round(z + 23.5), round(y + 47.5), round(x + 47.5)
        # The missing wedge takes a part of a round density.
        assert 0.5 < volume[at] / true[at] < 1.05
        around = volume[tuple(slice(i - 5, i + 6) for i in at)]
        peak = np.unravel_index(np.argmax(around), around.shape)
        assert np.abs(np.array(peak) - 5).max() <= 1
    assert np.corrcoef(volume.ravel(), true.ravel())[0, 1] > 0.7
    # Nothing but the tomogram; the same bytes again.
    assert [path.name for path in out.iterdir()] == [found.tomogram]
    before = (out / found.tomogram).read_bytes()
    run(asked, out)
    assert (out / found.tomogram).read_bytes() == before


def test_binned_and_inverted_with_the_height_of_the_thickness(tmp_path: Path) -> None:
    stack = write_series(tmp_path, SPECIMEN, axis_deg=86)
    asked = {"stack_file": stack, "pix_size": 5.0, "out_bin": 2, "flip_int": True}
    asked |= {"min_vol": 10, "extra_vol": 20, "align_file": tmp_path / "TS_3.aln"}
    found = run(Parameters.model_validate(asked), tmp_path)
    assert (found.size_z, found.size_y, found.size_x) == (25, 48, 48)
    assert (found.pixel_size_a, found.thickness_a) == (10, 150)
    assert found.size_reason == (
        "binned by 2: as asked; 50 px of the stack high: of a thickness of 30 px and "
        "20 px more"
    )
    volume = volume_at(tmp_path, found)
    assert volume.min() < -3 * volume.max()


def test_heights_without_end_are_refused() -> None:
    """round3 1.1.6, its neighbours: greatest 0 made nothing."""
    given = {"stack_file": "a.mrc", "pix_size": 5.0}
    for wrong, why in (
        ({"max_vol": 0}, "max_vol"),
        ({"vol_z": 10**9}, "vol_z"),
    ):
        with pytest.raises(ValidationError, match=why):
            Parameters.model_validate({**given, **wrong})


def test_halves_are_reconstructed_as_the_whole_is(tmp_path: Path) -> None:
    stack = write_series(tmp_path, SPECIMEN, axis_deg=4)
    out = tmp_path / "out"
    out.mkdir()
    asked = Parameters(
        stack_file=stack, pixel_size=5.0, out_bin=2, vol_z=24, halves=True
    )
    with pytest.raises(PlatformError, match=r"TS_3_EVN\.mrc is not beside it"):
        run(asked, out)
    with mrcfile.open(stack) as file:
        images = np.array(file.data)
    noise = np.random.default_rng(9).normal(0, 3, images.shape).astype(np.float32)
    for mark, half in (("EVN", images + noise), ("ODD", images[:5])):
        mrcfile.write(tmp_path / f"TS_3_{mark}.mrc", half)
    with pytest.raises(PlatformError, match=r"ODD\.mrc: found \(5, 96, 96\) pixels"):
        run(asked, out)
    mrcfile.write(tmp_path / "TS_3_ODD.mrc", images - noise, overwrite=True)
    assert not any(out.iterdir())
    found = run(asked, out)
    assert (found.even, found.odd) == ("TS_3_EVN_Vol.mrc", "TS_3_ODD_Vol.mrc")
    assert len(list(out.iterdir())) == 3
    whole, even, odd = (
        mrcfile.read(out / name) for name in (found.tomogram, found.even, found.odd)
    )
    # Back-projection is linear, and both have the alignment of the whole.
    assert np.abs((even + odd) / 2 - whole).max() < 1e-4 * whole.std()
    assert np.corrcoef((even - odd).ravel(), whole.ravel())[0, 1] < 0.2


def test_align_reconstruct_and_compare_with_the_specimen(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    specimen = blobs(rng, size=SIDE, thickness_px=20, density=0.02)
    stack = write_series(tmp_path, specimen, axis_deg=84)
    (tmp_path / "TS_3.rawtlt").write_text("\n".join(map(str, ANGLES)))
    aln = (tmp_path / "TS_3.aln").rename(tmp_path / "true.aln")
    aligned = tilt_align.run(
        tilt_align.Parameters(
            stack_file=stack, pixel_size=5, tilt_axis=87, axis_search=4, tilt_cor=-1
        ),
        tmp_path,
    )
    asked = {"stack_file": stack, "pixel_size": 5, "out_bin": 1, "vol_z": 32}
    asked["alignment"] = tmp_path / aligned.xf
    with pytest.raises(PlatformError, match=r"0 angles in|found 41 lines"):
        (tmp_path / aligned.tlt).rename(tmp_path / "away")
        (tmp_path / "TS_3.rawtlt").rename(tmp_path / "away2")
        run(Parameters.model_validate(asked), tmp_path)
    (tmp_path / "away").rename(tmp_path / aligned.tlt)
    volume = volume_at(tmp_path, run(Parameters.model_validate(asked), tmp_path))
    true = volume_of(specimen, volume.shape)
    best = volume_at(
        tmp_path,
        run(Parameters.model_validate(asked | {"alignment": aln}), tmp_path),
    )
    likeness = [peak_likeness(each, true) for each in (volume, best)]
    assert likeness[0] > 0.85 * likeness[1]
    assert likeness[1] > 0.7


def peak_likeness(volume: np.ndarray, true: np.ndarray) -> float:
    """Highest correlation: no series can say where the whole specimen was."""
    inner = (slice(4, -4), slice(16, -16), slice(16, -16))
    first, second = (each[inner] - each[inner].mean() for each in (volume, true))
    product = np.fft.rfftn(first) * np.fft.rfftn(second).conj()
    correlation = np.fft.irfftn(product, axes=(0, 1, 2))
    return float(correlation.max() / (np.linalg.norm(first) * np.linalg.norm(second)))


def test_what_cannot_be_reconstructed_is_one_sentence(tmp_path: Path) -> None:
    stack = write_series(tmp_path, SPECIMEN, axis_deg=0, images=2)
    out = tmp_path / "out"
    out.mkdir()

    def sentence(**changed: object) -> str:
        asked = {"stack_file": stack, "pixel_size": 5, "out_bin": 1, "vol_z": 8}
        with pytest.raises(PlatformError) as caught:
            run(Parameters.model_validate(asked | changed), out)
        assert not any(out.iterdir())
        return str(caught.value)

    assert "its alignment has 2 tilt(s), at least 3" in sentence()
    write_series(tmp_path, SPECIMEN, axis_deg=0)
    with mrcfile.mmap(stack, mode="r+") as file:
        file.data[7, 3, 3] = np.nan
    assert "image 7 has pixels that are no numbers" in sentence()
    short = tmp_path / "short.mrc"
    with mrcfile.new(short) as file:
        file.set_data(np.zeros((4, SIDE, SIDE), np.float32))
    assert "no alignment was found" in sentence(stack_file=short)
    wrong = sentence(stack_file=short, alignment=stack.with_suffix(".aln"))
    assert "found 4 images, its alignment has image 40" in wrong
    (tmp_path / "bad.aln").write_text("# AreTomo Alignment\n1 x 3 4 5 6 7 8 9 10\n")
    assert "cannot be read as an alignment" in sentence(alignment=tmp_path / "bad.aln")
