"""TIFF volumes; tifffile writes the files, and reads them a second time."""

import pickle
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from em_platform.errors import FormatError
from em_platform.formats.open import left_out, open_volume
from em_platform.formats.source import RangedFile, Source, open_source
from em_platform.formats.tiff import CodedVolume, open_tiff

WHOLE = (slice(None),) * 3
PART = (slice(2, 5), slice(17, 140), slice(30, 31))


def stack(dtype: str = "uint8", shape: tuple[int, ...] = (7, 150, 120)) -> Any:
    random = np.random.default_rng(5)
    return random.integers(0, 100, shape).astype(dtype)


def plain_pages(path: Path, image: Any, **how: Any) -> Path:
    """One directory a page, as libtiff and most other programs write."""
    with tifffile.TiffWriter(path, **how) as writer:
        for plane in image:
            writer.write(plane, photometric="minisblack", metadata=None, rowsperstrip=4)
    return path


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32"]
)
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"imagej": True},
        {"ome": True},
        {"rowsperstrip": 4, "metadata": None},
        {"compression": "zlib", "rowsperstrip": 16},
        {"compression": "lzw", "predictor": True},
        {"compression": "zstd", "tile": (64, 32)},
        {"compression": "packbits"},
        {"tile": (64, 64)},
        {"tile": (64, 64), "byteorder": ">", "compression": "lzw", "predictor": True},
    ],
    ids=lambda how: "-".join(how) or "plain",
)
def test_any_way_of_writing_gives_the_same_voxels(
    tmp_path: Path, how: dict[str, Any], dtype: str
) -> None:
    image = stack(dtype)
    if how.get("imagej") and dtype in ("int8", "uint32", "int32", "int16"):
        image = image.astype("uint16")
    if how.get("predictor") and dtype == "float32":
        how = how | {"compression": "zlib"}
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack", **how)
    volume = open_volume(str(tmp_path / "a.tif"))
    assert (volume.info.shape, volume.info.dtype) == (image.shape, image.dtype.name)
    assert np.array_equal(volume.read(WHOLE), image)
    assert np.array_equal(volume.read(PART), image[PART])
    assert volume.read(PART).dtype.isnative


def test_pages_at_equal_distances_are_not_looked_at_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = stack(shape=(200, 64, 48))
    path = plain_pages(tmp_path / "a.tif", image)
    reads: list[int] = []
    read = Source.read

    def counted(self: Source, offset: int, count: int) -> bytes:
        reads.append(offset)
        return read(self, offset, count)

    monkeypatch.setattr(Source, "read", counted)
    volume = open_tiff(open_source(str(path)))
    assert len(reads) < 30
    monkeypatch.undo()
    assert volume.info.shape == image.shape
    assert np.array_equal(volume.read(WHOLE), image)


def test_pages_at_odd_distances_are_found_all(tmp_path: Path) -> None:
    image = stack(shape=(9, 64, 48))
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for number, plane in enumerate(image):
            writer.write(plane, metadata=None, description="x" * (100 * number))
    volume = open_volume(str(tmp_path / "a.tif"))
    assert np.array_equal(volume.read(WHOLE), image)


def test_an_imagej_stack_of_one_directory_is_read_behind_it(tmp_path: Path) -> None:
    image = stack("uint16")
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        image,
        imagej=True,
        resolution=(50, 50),
        metadata={"spacing": 0.02, "unit": "um", "axes": "ZYX"},
    )
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        # Cut the chain behind the first page: so ImageJ writes above 4 GB.
        first = file.pages[0]
        (at,) = struct.unpack("<I", content[4:8])
        end = at + 2 + 12 * len(first.tags)
        behind = first.dataoffsets[0] + image.nbytes
    content[end : end + 4] = bytes(4)
    path.write_bytes(content)
    volume = open_volume(str(path))
    assert volume.info.shape == image.shape
    assert volume.info.voxel_size_nm == (20.0, 20.0, 20.0)
    assert np.array_equal(volume.read(WHOLE), image)
    path.write_bytes(content[: behind - 5])
    with pytest.raises(FormatError, match="truncated TIFF"):
        open_volume(str(path))


@pytest.mark.parametrize(
    ("unit", "nm"),
    [("um", 20.0), ("µm", 20.0), ("micron", 20.0), ("nm", 0.02), ("mm", 20000.0)],
)
def test_imagejs_unit_spacing_and_resolution_give_nm(
    tmp_path: Path, unit: str, nm: float
) -> None:
    metadata = {"spacing": 0.04, "unit": unit.replace("µ", "\\u00B5"), "axes": "ZYX"}
    tifffile.imwrite(
        tmp_path / "a.tif", stack(), imagej=True, resolution=(50, 50), metadata=metadata
    )
    info = open_volume(str(tmp_path / "a.tif")).info
    assert info.format == "TIFF (ImageJ)"
    assert info.voxel_size_nm == (2 * nm, nm, nm)


def test_imagejs_pixels_are_no_length(tmp_path: Path) -> None:
    metadata = {"spacing": 3, "unit": "pixel", "axes": "ZYX"}
    tifffile.imwrite(
        tmp_path / "a.tif", stack(), imagej=True, resolution=(1, 1), metadata=metadata
    )
    assert open_volume(str(tmp_path / "a.tif")).info.voxel_size_nm is None


@pytest.mark.parametrize(("unit", "nm"), [("µm", 4.0), ("nm", 0.004), ("Å", 0.0004)])
def test_ome_lengths_become_nm(tmp_path: Path, unit: str, nm: float) -> None:
    metadata = {"axes": "ZYX"}
    for axis, factor in (("X", 1), ("Y", 2), ("Z", 3)):
        metadata |= {f"PhysicalSize{axis}": 0.004 * factor}
        metadata |= {f"PhysicalSize{axis}Unit": unit}
    tifffile.imwrite(tmp_path / "a.ome.tif", stack(), metadata=metadata)
    info = open_volume(str(tmp_path / "a.ome.tif")).info
    assert info.format == "TIFF (OME)"
    assert info.voxel_size_nm == pytest.approx((3 * nm, 2 * nm, nm))


@pytest.mark.parametrize(
    ("resolution", "unit", "nm"),
    [
        ((1, 1), "INCH", None),
        ((72, 72), "INCH", None),
        ((300, 300), "INCH", None),
        ((2e6, 1e6), "CENTIMETER", (0.0, 10.0, 5.0)),
        ((2.54e6, 2.54e6), "INCH", (0.0, 10.0, 10.0)),
        ((1e6, 1e6), "NONE", None),
    ],
)
def test_a_resolution_is_a_size_only_where_it_says_one(
    tmp_path: Path, resolution: Any, unit: str, nm: Any
) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        stack()[0],
        metadata=None,
        resolution=resolution,
        resolutionunit=unit,
    )
    assert open_volume(str(tmp_path / "a.tif")).info.voxel_size_nm == nm


@pytest.mark.parametrize(
    ("shape", "photometric", "why"),
    [
        ((40, 50, 3), "rgb", "found 3 samples a pixel"),
        ((40, 50, 4), "rgb", "found 4 samples a pixel"),
        ((5, 40, 50, 3), "rgb", "found 3 samples a pixel"),
    ],
)
def test_colours_are_reported_and_refused(
    tmp_path: Path, shape: Any, photometric: Any, why: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", stack(shape=shape), photometric=photometric)
    with pytest.raises(FormatError, match=why):
        open_volume(str(tmp_path / "a.tif"))


def test_channels_beside_planes_are_refused(tmp_path: Path) -> None:
    image = stack("uint16", (4, 2, 30, 40))
    tifffile.imwrite(tmp_path / "a.tif", image, imagej=True, metadata={"axes": "ZCYX"})
    with pytest.raises(FormatError, match="found 2 channels, 4 planes and 1 points"):
        open_volume(str(tmp_path / "a.tif"))


def test_a_series_in_time_alone_is_a_stack(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", stack(), imagej=True, metadata={"axes": "TYX"})
    info = open_volume(str(tmp_path / "a.tif")).info
    assert info.shape == (7, 150, 120)
    assert info.tags["planes_are"] == "frames"


def test_a_page_of_another_size_between_others_is_named(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for shape in ((30, 40), (30, 40), (31, 40), (30, 40)):
            writer.write(stack(shape=shape), metadata=None)
    with pytest.raises(FormatError, match=r"found page 2 \(40 x 31 px, 1 sample"):
        open_volume(str(tmp_path / "a.tif"))


def test_a_preview_behind_the_pages_is_left_out_and_reported(tmp_path: Path) -> None:
    image = stack()
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for plane in image:
            writer.write(plane, metadata=None)
        writer.write(stack(shape=(15, 12)), metadata=None, subfiletype=1)
    volume = open_volume(str(tmp_path / "a.tif"))
    assert np.array_equal(volume.read(WHOLE), image)
    (reported,) = volume.info.tags["left_out"]  # type: ignore[misc]
    assert str(reported).startswith("page 7 (12 x 15 px")
    assert left_out(volume.info) == ""


def test_single_bits_become_bytes(tmp_path: Path) -> None:
    image = stack(shape=(30, 44)) > 50
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack")
    volume = open_volume(str(tmp_path / "a.tif"))
    assert volume.info.dtype == "uint8"
    assert np.array_equal(volume.read(WHOLE)[0], image)


def test_a_coded_volume_goes_to_other_processes_and_threads(tmp_path: Path) -> None:
    image = stack("uint16", (6, 200, 300))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, compression="zlib", tile=(64, 64))
    volume = pickle.loads(pickle.dumps(open_volume(str(path))))
    assert isinstance(volume, CodedVolume)
    found: dict[int, Any] = {}

    def read(z: int) -> None:
        found[z] = volume.read((slice(z, z + 1), slice(None), slice(None)))

    threads = [threading.Thread(target=read, args=(z,)) for z in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(np.concatenate([found[z] for z in range(6)]), image)


@pytest.mark.parametrize("how", [{}, {"compression": "zlib", "rowsperstrip": 16}])
def test_a_file_cut_anywhere_is_reported_to_be_cut(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", stack(), metadata=None, **how)
    content = (tmp_path / "a.tif").read_bytes()
    for length in np.linspace(5, len(content) - 20, 100).astype(int):
        (tmp_path / "cut.tif").write_bytes(content[:length])
        with pytest.raises(FormatError, match="truncated TIFF"):
            open_volume(str(tmp_path / "cut.tif"))


@pytest.mark.parametrize("spaced", [True, False])
def test_a_stack_of_plain_pages_cut_anywhere_is_reported_to_be_cut(
    tmp_path: Path, spaced: bool
) -> None:
    path = plain_pages(tmp_path / "a.tif", stack(shape=(40, 20, 30)), bigtiff=spaced)
    content = path.read_bytes()
    for length in np.linspace(5, len(content) - 1, 150).astype(int):
        (tmp_path / "cut.tif").write_bytes(content[:length])
        with pytest.raises(FormatError, match="truncated TIFF"):
            open_volume(str(tmp_path / "cut.tif"))


def test_a_chain_of_pages_that_bites_its_tail_ends(tmp_path: Path) -> None:
    path = plain_pages(tmp_path / "a.tif", stack())
    content = bytearray(path.read_bytes())
    (at,) = struct.unpack("<I", content[4:8])
    (tags,) = struct.unpack("<H", content[at : at + 2])
    content[at + 2 + 12 * tags : at + 6 + 12 * tags] = content[4:8]
    path.write_bytes(content)
    with pytest.raises(FormatError, match="a directory of this TIFF twice"):
        open_volume(str(path))


def test_a_page_of_terabytes_in_a_small_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack()[0], compression="zlib", metadata=None)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        for code in (256, 257, 278):
            at = file.pages[0].tags[code].valueoffset
            content[at : at + 4] = struct.pack("<I", 3_000_000)
    path.write_bytes(content)
    volume = open_volume(str(path))
    with pytest.raises(FormatError, match="cannot be decoded"):
        volume.read((slice(0, 1), slice(0, 1), slice(0, 1)))


@pytest.mark.parametrize("how", [{}, {"compression": "zlib", "tile": (32, 32)}])
def test_damaged_bytes_never_raise_anything_else(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack(shape=(4, 40, 50)), photometric="minisblack", **how)
    content = np.frombuffer(path.read_bytes(), np.uint8)
    random = np.random.default_rng(22)
    for _ in range(200):
        damaged = content.copy()
        places = random.integers(4, 600, random.integers(1, 9))
        damaged[places] = random.integers(0, 256, places.size)
        path.write_bytes(damaged.tobytes())
        try:
            volume = open_volume(str(path))
            volume.read((slice(0, 1), slice(0, 9), slice(0, 9)))
        except FormatError as error:
            assert "\n" not in str(error)


def test_a_ranged_file_ends_where_the_source_does(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(100)))
    file = RangedFile(open_source(str(tmp_path / "a")))
    for at, count, expected in (
        (90, 20, range(90, 100)),
        (150, 20, ()),
        (10, 5, range(10, 15)),
    ):
        file.seek(at)
        assert file.read(count) == bytes(expected)


def test_jpeg_pages_are_decoded(tmp_path: Path) -> None:
    image = np.broadcast_to(np.arange(120, dtype=np.uint8), (3, 150, 120))
    how: dict[str, Any] = {"photometric": "minisblack", "compression": "jpeg"}
    tifffile.imwrite(tmp_path / "a.tif", image, **how)
    found = open_volume(str(tmp_path / "a.tif")).read(WHOLE)
    assert np.array_equal(found, tifffile.imread(tmp_path / "a.tif"))
    assert abs(found.astype(int) - image).max() < 3


def test_half_floats_become_floats(tmp_path: Path) -> None:
    for how in ({}, {"compression": "zlib"}):
        image = stack("float16")
        tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack", **how)
        volume = open_volume(str(tmp_path / "a.tif"))
        assert volume.info.dtype == "float32"
        found = volume.read(WHOLE)
        assert found.dtype == "float32" and np.array_equal(found, image)


def test_of_several_ome_images_the_first_is_taken(tmp_path: Path) -> None:
    first, second = stack(), stack()[::-1]
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as writer:
        for image in (first, second):
            writer.write(image, metadata={"axes": "ZYX"}, photometric="minisblack")
    volume = open_volume(str(tmp_path / "a.ome.tif"))
    assert np.array_equal(volume.read(WHOLE), first)
    assert volume.info.tags["left_out"] == ("7 pages of other images",)
