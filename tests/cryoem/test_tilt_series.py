"""Tilt series put together from mdocs and lists, as microscopes write them."""

import shutil
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from em_platform.cryoem.alignment_files import read_alignment
from em_platform.cryoem.headers import read_header
from em_platform.cryoem.stages import assemble
from em_platform.cryoem.stages.tilt_align import Parameters, run
from em_platform.cryoem.tilt_series import find_series, read_angles, with_dose
from em_platform.errors import DataError, FormatError


def write_images(path: Path, count: int) -> Path:
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(np.zeros((count, 8, 8), np.int16))
    return path


def test_serialems_mdoc_of_a_stack(shared_data: Path, tmp_path: Path) -> None:
    shutil.copy(shared_data / "cryoem/cryocat/TS_017/017.mdoc", tmp_path)
    write_images(tmp_path / "TS_017.mrc", 60)
    series = with_dose(find_series(tmp_path / "017.mdoc"), dose_per_tilt=None)
    stated = read_angles(shared_data / "cryoem/cryocat/TS_017/017.tlt")
    assert series.angles_deg == pytest.approx(stated, abs=0.02)
    assert (series.axis_deg, series.pixel_size_a, series.voltage_kv) == (
        82.9, 1.971, 300,
    )  # fmt: skip
    first = series.images[0]
    assert (first.section, first.dose, first.pre_exposure) == (0, 2.23843, 134.379)
    assert sorted(image.order or 0 for image in series.images) == [*range(60)]
    assert min(series.images, key=lambda i: i.pre_exposure or 0).order == 0


def test_micrographs_become_a_stack_by_the_mdoc_that_names_their_movies(
    tmp_path: Path,
) -> None:
    """As after `motion Movies/*.mrc`: sums of halves beside each micrograph."""
    angles = {"017_01": 0.01, "017_02": 3.02, "017_03": -2.98}
    mdoc = "".join(
        f"[ZValue = {i}]\nTiltAngle = {angle}\nSubFramePath = X:\\d\\{name}.tif\n\n"
        for i, (name, angle) in enumerate(angles.items())
    )
    (tmp_path / "TS_017.mrc.mdoc").write_text(mdoc)
    for level, name in enumerate(angles):
        for end, share in (("", 4), ("_noDW", 4), ("_EVN", 1), ("_ODD", 3)):
            image = np.full((8, 8), share * (level + 1), np.float32)
            mrcfile.write(tmp_path / f"{name}{end}.mrc", image)
    given = {
        "images": tuple(sorted(tmp_path.glob("*.mrc"))),
        **{"pixel_size": 2, "tilts": tmp_path / "TS_017.mrc.mdoc", "halves": True},
    }
    out = tmp_path / "out"
    out.mkdir()
    found = assemble.run(assemble.Parameters.model_validate(given), out)
    assert (found.stack, found.even) == ("TS_017.mrc", "TS_017_EVN.mrc")
    assert read_angles(out / found.tilts) == [-2.98, 0.01, 3.02]
    levels = [mrcfile.read(out / f"TS_017{end}.mrc")[:, 0, 0] for end in ("", "_ODD")]
    assert [list(each) for each in levels] == [[12, 4, 8], [9, 3, 6]]
    # Beside the images it need not be named; without it nothing states an angle.
    given["tilts"] = None
    again = assemble.run(assemble.Parameters.model_validate(given), out)
    assert again.tilts_deg == found.tilts_deg
    (tmp_path / "TS_017.mrc.mdoc").unlink()
    with pytest.raises(DataError, match=r"017_01\.mrc: no tilt angle .* by --tilts"):
        assemble.run(assemble.Parameters.model_validate(given), out)
    named = tmp_path / "TS_2_001_3.00_fractions.mrc"
    mrcfile.write(named, np.ones((8, 8), np.float32))
    alone = assemble.Parameters(images=(named,), pixel_size=2)
    assert assemble.run(alone, out).tilts == "TS_2.rawtlt"


def test_serialems_mdocs_of_single_images(shared_data: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_data / "cryoem/cryocat/frames_mdoc", tmp_path / "TS_019")
    folder = tmp_path / "TS_019"
    # What the command line takes for its options.
    header = read_header(folder)
    assert (header.axis_deg, header.pre_exposure) == (82.9, None)
    assert header == read_header(next(iter(sorted(folder.glob("*.mdoc")))))
    with pytest.raises(FormatError, match=r"the image at 7\.97.* is missing"):
        find_series(folder)
    for mdoc in sorted(folder.glob("*.mdoc")):
        write_images(mdoc.with_suffix(""), 1)
    series = find_series(folder)
    assert (series.name, len(series.images), series.axis_deg) == (
        "TS_019", 12, pytest.approx(82.9),
    )  # fmt: skip
    assert series.images[0].file.name == "TS_019_0011_-2.0.mrc"
    assert [image.order for image in series.images][:3] == [11, 8, 7]


def test_of_one_angle_the_newest_image_counts(tmp_path: Path) -> None:
    write_images(tmp_path / "a.mrc", 4)
    sections = [(0, -3.0, "10:00:00"), (1, 0.0, "10:01:00"), (2, 3.0, "10:02:00")]
    sections += [(3, -3.01, "10:05:00")]
    text = "PixelSpacing = 2\nImageFile = a.mrc\n"
    for number, angle, time in sections:
        text += f"\n[ZValue = {number}]\nTiltAngle = {angle}\n"
        text += f"DateTime = 06-Jun-23  {time}\n"
    (tmp_path / "a.mrc.mdoc").write_text(text)
    series = find_series(tmp_path / "a.mrc")
    assert [image.section for image in series.images] == [3, 1, 2]
    assert [image.section for image in series.replaced] == [0]
    dosed = with_dose(series, dose_per_tilt=2.5)
    assert [image.pre_exposure for image in dosed.images] == [5, 0, 2.5]


def test_an_mdoc_without_angles_and_a_short_stack_are_refused(tmp_path: Path) -> None:
    stack = write_images(tmp_path / "b.mrc", 2)
    mdoc = tmp_path / "b.mrc.mdoc"
    mdoc.write_text("ImageFile = b.mrc\n\n[ZValue = 0]\nDefocus = 1\n")
    with pytest.raises(FormatError, match="1 of them without a TiltAngle"):
        find_series(stack)
    three = "".join(f"\n[ZValue = {i}]\nTiltAngle = {3 * i}\n" for i in range(3))
    mdoc.write_text("ImageFile = b.mrc\n" + three)
    with pytest.raises(FormatError, match="has image 2 at 6 degrees, the stack has 2"):
        find_series(stack)
    mdoc.write_text("ImageFile = b.mrc\n\n[ZValue = 0]\nTiltAngle = 3\n")
    with pytest.raises(FormatError, match="found 2 images, its mdoc has 1"):
        find_series(stack)


def test_imods_angles_and_excluded_views_are_read(
    shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / "cryoem/cryocat/TS_017"
    shutil.copy(folder / "017.tlt", tmp_path)
    com = (folder / "tilt.com").read_text()
    (tmp_path / "tilt.com").write_text(f"{com}\nEXCLUDELIST2 1,3-4\n")
    (tmp_path / "017.xf").write_text("0 1 -1 0 2.0 -3.0\n" * 60)
    found = read_alignment(tmp_path / "017.xf")
    assert [image.section for image in found.images[:3]] == [1, 4, 5]
    first = found.images[0]
    assert (first.rotation_deg, first.angle_deg) == (90, -50.01)
    # The raw image's point that goes to the middle.
    assert (first.dx_px, first.dy_px) == pytest.approx((-3, -2))


def test_a_real_needle_is_aligned_as_what_it_is(
    shared_data: Path, tmp_path: Path
) -> None:
    """HAADF series of a needle that turns about the image's x axis."""
    stack = shared_data / "cryoem/etspy/HAADF.mrc.gz"
    found = run(Parameters(stack_file=stack, pixel_size=33.6, tilt_axis=90), tmp_path)
    assert found.specimen == "rod"
    assert len(found.tilts) == 77
    assert found.alignment_quality > 0.99
    # It is about 70 of 256 px wide, and none of its images lies perfectly.
    assert found.thickness_px is not None and 50 < found.thickness_px < 80
    assert found.residual_px is not None and 0.05 < found.residual_px < 2
    # Bright layers of the needle begin where the eye sees them: 88, 88 and 83 px from
    # the left in these images, and the whole needle is 11 and 22 px lower than first.
    dy = [tilt.dy_px for tilt in found.tilts[:3]]
    assert dy[1] - dy[0] == pytest.approx(11.5, abs=2.5)
    assert dy[2] - dy[0] == pytest.approx(22, abs=3)


ALN = """\
# AreTomo Alignment / Priims bprmMn
# RawSize = 96 96 3
# NumPatches = 1
# DarkFrame =     2    {dark}    60.00
# AlphaOffset =     1.75
# BetaOffset =     0.00
# Thickness = 348
# SEC     ROT         GMAG       TX          TY      SMEAN     SFIT    SCALE     TILT
    {first}    84.9000    1.00000     -3.500      7.250  1 1 1 0    -60.00
    {second}    84.9000    1.00000      0.500      0.000  1 1 1 0      0.00
# Local Alignment
   0   0     1.00      2.00      3.00      4.00   1.0
"""


@pytest.mark.parametrize("base", [0, 1])  # AreTomo2 and 3
def test_an_alignment_of_aretomo_is_read(tmp_path: Path, base: int) -> None:
    path = tmp_path / "s.aln"
    path.write_text(ALN.format(dark=base + 2, first=base, second=base + 1))
    found = read_alignment(path)
    assert (found.thickness_px, found.offset_deg) == (348, 1.75)
    assert found.excluded == ((2, 60.0),)
    assert [image.section for image in found.images] == [0, 1]
    first = found.images[0]
    assert (first.rotation_deg, first.angle_deg) == (84.9, -60.0)
    assert (first.dx_px, first.dy_px) == (-3.5, 7.25)
