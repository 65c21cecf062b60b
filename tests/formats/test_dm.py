"""DM3 and DM4: written here by the stand-ins' writer, which knows nothing of us."""

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from em_platform.errors import FormatError
from em_platform.formats import dm
from em_platform.formats.dm import open_dm
from em_platform.formats.dm_images import imaging_date_of
from em_platform.formats.open import open_volume
from em_platform.formats.source import open_source
from em_platform.standins import image_files

TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


def stack(dtype: str = "uint16", shape: tuple[int, ...] = (3, 40, 50)) -> Any:
    values = np.random.default_rng(7).integers(0, 100, shape)
    return values.astype(dtype)


def written(path: Path, image: Any, *, tags: Any = None, version: int = 3) -> str:
    image_files.write_dm(
        path, image, pixel_um=0.008, name="section 1", tags=tags or {}, version=version
    )
    return str(path)


def tree(path: Path, images: list[dict[str, Any]], *, version: int = 3) -> str:
    """A DM file of exactly these images, with nothing else in it."""
    root = {"ImageList": images}
    body = image_files._Writer(version).group(root) + bytes(8)
    count = ">iii" if version == 3 else ">iqi"
    path.write_bytes(struct.pack(count, version, len(body) - 4, 1) + body)
    return str(path)


def image_of(
    pixels: Any, *, kind: int = 10, units: tuple[str, ...] = (), scale: float = 2.0
) -> dict[str, Any]:
    units = units or ("nm",) * pixels.ndim
    dimension = [{"Scale": np.float32(scale), "Units": unit} for unit in units]
    return {
        "ImageData": {
            "Calibrations": {"Dimension": dimension},
            "Data": pixels.ravel(),
            "DataType": np.uint32(kind),
            "Dimensions": [np.uint32(size) for size in pixels.shape[::-1]],
        },
        "Name": f"image of type {kind}",
    }


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_of_pixel_is_read_as_written(
    tmp_path: Path, dtype: str, version: int
) -> None:
    image = stack(dtype)
    volume = open_volume(written(tmp_path / "a.dm3", image, version=version))
    assert volume.info.format == f"DM{version}"
    assert (volume.info.shape, volume.info.dtype) == (image.shape, dtype)
    assert volume.info.voxel_size_nm == (0.0, 8.0, 8.0)
    assert np.array_equal(volume.read((slice(None),) * 3), image)
    part = (slice(1, 3), slice(5, 33), slice(20, 21))
    assert np.array_equal(volume.read(part), image[part])


def test_a_single_section_is_a_volume_of_one_plane(tmp_path: Path) -> None:
    image = stack("uint8")[0]
    volume = open_volume(written(tmp_path / "a.dm3", image))
    assert volume.info.shape == (1, 40, 50)
    assert np.array_equal(volume.read((slice(None),) * 3)[0], image)


def test_a_section_of_a_microtome_knows_its_thickness(tmp_path: Path) -> None:
    tags = {"SBFSEM": {"Record": {"Slice thickness": 50.0}}}
    info = open_volume(written(tmp_path / "a.dm3", stack()[0], tags=tags)).info
    assert info.voxel_size_nm == (50.0, 8.0, 8.0)


def test_more_than_127_unnamed_tags_do_not_overflow(tmp_path: Path) -> None:
    # Real tilt series have more than an eight-bit counter holds.
    tags = {"Positions": [{"x": n} for n in range(300)]}
    path = written(tmp_path / "a.dm3", stack("uint8")[0], tags=tags)
    _, found = dm.read_tags(open_source(path))
    assert found[".ImageList.2.ImageTags.Positions.300.x"] == 299


@pytest.mark.parametrize(
    ("unit", "nm"),
    [
        ("nm", 2.0),
        ("\u00b5m", 2000.0),
        ("\u03bcm", 2000.0),
        ("um", 2000.0),
        ("A", 0.2),
        ("\u00c5", 0.2),
        ("\u212b", 0.2),
        ("pm", 0.002),
        ("mm", 2e6),
    ],
)
def test_units_of_length_become_nm(tmp_path: Path, unit: str, nm: float) -> None:
    path = tree(tmp_path / "a.dm3", [image_of(stack()[0], units=(unit, unit))])
    assert open_volume(path).info.voxel_size_nm == (0.0, nm, nm)


@pytest.mark.parametrize("unit", ["", "1/nm", "deg", "rad", "furlong"])
def test_other_units_give_no_voxel_size(tmp_path: Path, unit: str) -> None:
    path = tree(tmp_path / "a.dm3", [image_of(stack()[0], units=(unit, unit))])
    info = open_volume(path).info
    assert info.voxel_size_nm is None
    assert info.tags["axis_units"] == (unit or "none",) * 2


def test_an_axis_of_angles_has_no_length_but_is_reported(tmp_path: Path) -> None:
    image = image_of(stack(), units=("nm", "nm", "deg"))
    info = open_volume(tree(tmp_path / "a.dm3", [image])).info
    assert info.voxel_size_nm == (0.0, 2.0, 2.0)
    assert info.tags["z_axis"] == "2 deg"


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (3, "complex pixels"),
        (13, "complex pixels"),
        (23, "RGBA, 4 samples a pixel"),
        (27, "packed complex"),
        (99, "pixels of type 99"),
    ],
)
def test_what_is_no_grey_level_is_refused(tmp_path: Path, kind: int, why: str) -> None:
    path = tree(tmp_path / "a.dm3", [image_of(stack()[0], kind=kind)])
    with pytest.raises(FormatError, match=why):
        open_volume(path)


@pytest.mark.parametrize(
    ("shape", "unit"),
    [((2048,), "eV"), ((1, 2048), "eV"), ((60, 2048), "eV"), ((2048,), "")],
)
def test_a_spectrum_is_refused(
    tmp_path: Path, shape: tuple[int, ...], unit: str
) -> None:
    image = image_of(stack(shape=shape), units=(unit, "nm")[: len(shape)])
    with pytest.raises(FormatError, match="found a spectrum of 2048"):
        open_volume(tree(tmp_path / "a.dm3", [image]))


def test_four_axes_are_refused(tmp_path: Path) -> None:
    path = tree(tmp_path / "a.dm4", [image_of(stack(shape=(2, 3, 4, 5)))], version=4)
    with pytest.raises(FormatError, match=r"4 axes \(2 x 3 x 4 x 5\)"):
        open_volume(path)


def test_a_lone_image_is_no_thumbnail(tmp_path: Path) -> None:
    # ncempy's own index means another image where there is only one.
    image = stack()[1]
    volume = open_volume(tree(tmp_path / "a.dm3", [image_of(image)]))
    assert np.array_equal(volume.read((slice(None),) * 3)[0], image)


def test_of_several_images_the_first_is_taken_and_others_are_named(
    tmp_path: Path,
) -> None:
    small = np.zeros((4, 4), np.uint32)
    first, second = stack()[0], stack(shape=(6, 7))
    images = [image_of(small, kind=23), image_of(first), image_of(second)]
    volume = open_volume(tree(tmp_path / "a.dm3", images))
    assert np.array_equal(volume.read((slice(None),) * 3)[0], first)
    assert volume.info.tags["other_images"] == ("image of type 10 (6 x 7)",)


def test_a_file_of_tags_alone_has_no_image(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="found no image in this DM3 file"):
        open_volume(tree(tmp_path / "a.dm3", []))


@pytest.mark.parametrize(
    ("text", "clock", "day"),
    [
        ("11.06.2018", 131732222436078180.0, "2018-06-11"),
        ("6/11/2018", 131732222436078180.0, "2018-06-11"),
        ("11/6/2018", 131732222436078180.0, "2018-06-11"),
        ("8/29/2017", 0.0, "2017-08-29"),
        ("29/8/2017", 0.0, "2017-08-29"),
        ("2017-08-29", 0.0, "2017-08-29"),
        ("yesterday", 131732222436078180.0, "2018-06-11"),
        ("yesterday", 0.0, None),
    ],
)
def test_the_day_is_found_however_the_computer_wrote_it(
    text: str, clock: float, day: str | None
) -> None:
    tags = {
        "DataBar.Acquisition Date": text,
        "DataBar.Acquisition Time (OS)": clock,
    }
    found = imaging_date_of(tags)
    assert (found.isoformat() if found else None) == day


def test_a_volume_goes_to_another_process(tmp_path: Path) -> None:
    image = stack()
    volume = open_volume(written(tmp_path / "a.dm3", image))
    copy = pickle.loads(pickle.dumps(volume))
    assert len(pickle.dumps(volume)) < 8000
    assert np.array_equal(copy.read((slice(None),) * 3), image)


@pytest.mark.parametrize("version", [3, 4])
def test_a_file_cut_anywhere_is_reported_to_be_cut(
    tmp_path: Path, version: int
) -> None:
    content = Path(written(tmp_path / "a.dm3", stack(), version=version)).read_bytes()
    cut = tmp_path / "cut.dm3"
    # The last eight bytes are padding, of which the header's size leaves out some.
    steps = np.linspace(17, len(content) - 9, 200).astype(int)
    for length in steps:
        cut.write_bytes(content[:length])
        with pytest.raises(FormatError, match="truncated DM"):
            open_volume(str(cut))


def test_pixels_that_the_tags_promise_in_vain_are_missed(tmp_path: Path) -> None:
    image = image_of(stack()[0])
    image["ImageData"]["Dimensions"] = [np.uint32(5000), np.uint32(4000)]
    path = tree(tmp_path / "a.dm3", [image])
    with pytest.raises(FormatError, match="found 4000 bytes of pixels"):
        open_volume(path)


def test_a_file_that_shrinks_after_it_was_opened_is_no_crash(tmp_path: Path) -> None:
    path = Path(written(tmp_path / "a.dm3", stack()))
    volume = open_volume(str(path))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(FormatError, match="truncated, found an end before"):
        volume.read((slice(None),) * 3)


def test_big_endian_files_are_refused(tmp_path: Path) -> None:
    path = Path(written(tmp_path / "a.dm3", stack()))
    content = bytearray(path.read_bytes())
    content[8:12] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(FormatError, match="byte order of old Macintoshes"):
        open_volume(str(path))


@pytest.mark.parametrize("version", [3, 4])
def test_damaged_bytes_never_raise_anything_else(tmp_path: Path, version: int) -> None:
    path = Path(written(tmp_path / "a.dm3", stack("uint8"), version=version))
    content = np.frombuffer(path.read_bytes(), np.uint8)
    random = np.random.default_rng(20)
    for _ in range(150):
        damaged = content.copy()
        places = random.integers(16, min(content.size, 9000), random.integers(1, 9))
        damaged[places] = random.integers(0, 256, places.size)
        path.write_bytes(damaged.tobytes())
        try:
            volume = open_dm(open_source(str(path)))
            volume.read((slice(0, 1),) * 3)
        except FormatError as error:
            assert "\n" not in str(error)
