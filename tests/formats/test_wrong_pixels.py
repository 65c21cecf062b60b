"""Legal files that were read without a word as something else than they hold."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from em_platform.errors import FormatError
from em_platform.formats import read_header, read_image
from em_platform.formats.open import open_volume

WHOLE = (slice(None),) * 3
IMAGE = np.random.default_rng(0).integers(0, 200, (10, 64, 48)).astype("u1")


def write_pages(path: Path, *, rows_a_strip: int) -> bytearray:
    with tifffile.TiffWriter(path) as writer:
        for plane in IMAGE:
            writer.write(plane, metadata=None, rowsperstrip=rows_a_strip)
    return bytearray(path.read_bytes())


def patch_tag(path: Path, code: int, value: int, *, page: int = 0) -> None:
    """Put another value into a tag that is stored in its directory."""
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tag = file.pages[page].tags[code]  # type: ignore[union-attr]
        form, at = {3: "<H", 4: "<I"}[int(tag.dtype)], tag.valueoffset
    content[at : at + struct.calcsize(form)] = struct.pack(form, value)
    path.write_bytes(content)


def swap_strips(path: Path, content: bytearray) -> None:
    """Pages 4 and 7 name each other's strips, inside their directories or outside."""
    with tifffile.TiffFile(path) as file:
        a, b = (file.pages[n].tags[273] for n in (4, 7))  # type: ignore[union-attr]
    length = 4 * a.count
    spot_a, spot_b = (
        slice(a.valueoffset, a.valueoffset + length),
        slice(b.valueoffset, b.valueoffset + length),
    )
    content[spot_a], content[spot_b] = content[spot_b], content[spot_a]


def leave_out_a_page(path: Path, content: bytearray) -> None:
    """Page 3 goes on with page 5."""
    with tifffile.TiffFile(path) as file:
        third, fifth = file.pages[3], file.pages[5]
        at = third.offset + 2 + 12 * len(third.tags)  # type: ignore[union-attr]
    content[at : at + 4] = struct.pack("<I", fifth.offset)


@pytest.mark.parametrize("rows_a_strip", [64, 4], ids=["inline", "lists"])
@pytest.mark.parametrize("change", [swap_strips, leave_out_a_page])
def test_a_stack_that_only_looks_even_is_read_page_by_page(
    tmp_path: Path, change: Callable[[Path, bytearray], None], rows_a_strip: int
) -> None:
    path = tmp_path / "a.tif"
    content = write_pages(path, rows_a_strip=rows_a_strip)
    change(path, content)
    path.write_bytes(content)
    expected = tifffile.imread(path, key=slice(None))
    assert not np.array_equal(expected, IMAGE)
    assert np.array_equal(open_volume(str(path)).read(WHOLE), expected)


def test_a_preview_in_front_is_not_the_image(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(IMAGE[0, ::4, ::4], subfiletype=1, metadata=None)
        writer.write(IMAGE[0], metadata=None)
    assert np.array_equal(open_volume(str(path)).read(WHOLE)[0], IMAGE[0])
    assert np.array_equal(read_image(str(path)), IMAGE[0])


def test_all_planes_behind_one_directory_of_tifffile_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, photometric="minisblack")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        first = file.pages[0]
        at = first.offset + 2 + 12 * len(first.tags)  # type: ignore[union-attr]
    # As tifffile does where it is asked to write one directory for a series.
    content[at : at + 4] = bytes(4)
    path.write_bytes(content)
    assert np.array_equal(open_volume(str(path)).read(WHOLE), IMAGE)
    with pytest.raises(FormatError, match="found several images in this TIFF"):
        read_image(str(path))


def test_a_tile_of_several_pages_is_refused(tmp_path: Path) -> None:
    write_pages(tmp_path / "a.tif", rows_a_strip=64)
    with pytest.raises(FormatError, match="found several images in this TIFF"):
        read_header(str(tmp_path / "a.tif"))


def test_a_tile_with_its_pyramid_behind_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(IMAGE[0], metadata=None)
        writer.write(IMAGE[0, ::2, ::2], subfiletype=1, metadata=None)
    assert np.array_equal(read_image(str(path)), IMAGE[0])


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_white_is_zero_is_turned_around(
    tmp_path: Path, dtype: str, compression: str | None
) -> None:
    path = tmp_path / "a.tif"
    stored = IMAGE[0].astype(dtype)
    tifffile.imwrite(
        path, stored, photometric="miniswhite", metadata=None, compression=compression
    )
    assert np.array_equal(read_image(str(path)), np.iinfo(dtype).max - stored)


def test_a_palette_of_greys_is_applied_and_one_of_colours_refused(
    tmp_path: Path,
) -> None:
    path, stored = tmp_path / "a.tif", IMAGE[0]
    grey = np.arange(255, -1, -1).astype("u2") * 257
    write = {"photometric": "palette", "metadata": None}
    tifffile.imwrite(path, stored, colormap=np.stack([grey] * 3), **write)
    assert np.array_equal(read_image(str(path)), 255 - stored)
    tifffile.imwrite(path, stored, colormap=np.stack([grey, grey // 2, grey]), **write)
    with pytest.raises(FormatError, match="found a palette of colours"):
        read_header(str(path))


def test_bits_in_the_other_order_are_turned_around(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    turned = np.array([int(f"{n:08b}"[::-1], 2) for n in range(256)], "u1")
    tifffile.imwrite(path, turned[IMAGE[0]], metadata=None, resolutionunit=2)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        at = file.pages[0].tags[296].offset  # type: ignore[union-attr]
    # FillOrder (266) in place of ResolutionUnit (296), which has the value 2, too.
    content[at : at + 2] = struct.pack("<H", 266)
    path.write_bytes(content)
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].fillorder == 2  # type: ignore[union-attr]
    assert np.array_equal(read_image(str(path)), IMAGE[0])
    assert np.array_equal(open_volume(str(path)).read(WHOLE)[0], IMAGE[0])


@pytest.mark.parametrize("compression", [2, 3, 9, 99, 262, 1234, 34661, 34718, 65535])
def test_a_codec_that_nobody_has_is_refused_at_once(
    tmp_path: Path, compression: int
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE[0], metadata=None, compression="zlib")
    patch_tag(path, 259, compression)
    with pytest.raises(FormatError, match=f"found compression {compression} of"):
        open_volume(str(path))
    with pytest.raises(FormatError, match=f"found compression {compression} of"):
        read_header(str(path))


def test_strips_that_were_left_out_are_zeros(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE[0], metadata=None, rowsperstrip=16)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        for code in (273, 279):
            tag = file.pages[0].tags[code]  # type: ignore[union-attr]
            size = {3: 2, 4: 4}[int(tag.dtype)]
            at = tag.valueoffset + size
            content[at : at + size] = bytes(size)
    path.write_bytes(content)
    expected = IMAGE[0].copy()
    expected[16:32] = 0
    assert np.array_equal(read_image(str(path)), expected)
    assert np.array_equal(open_volume(str(path)).read(WHOLE)[0], expected)


def test_bytes_behind_a_jpegs_end_do_no_harm(tmp_path: Path) -> None:
    from imagecodecs import jpeg8_encode

    path, content = tmp_path / "a.jpg", jpeg8_encode(IMAGE[0])
    path.write_bytes(content)
    expected = read_image(str(path))
    path.write_bytes(content + b"x" * 5000)
    assert read_header(str(path)).size.width_px == 48
    assert np.array_equal(read_image(str(path)), expected)
    path.write_bytes(content[:-9])
    with pytest.raises(FormatError, match="truncated JPEG"):
        read_header(str(path))


def write_mrc(path: Path, *, space_group: int, sections_a_volume: int) -> None:
    words = np.zeros(256, "<i4")
    words[:4] = (48, 64, 10, 0)
    words[7:10] = (48, 64, sections_a_volume)
    words[22] = space_group
    header = bytearray(words.tobytes())
    header[208:212] = b"MAP "
    path.write_bytes(bytes(header) + IMAGE.tobytes())


def test_a_stack_of_volumes_is_not_one_volume(tmp_path: Path) -> None:
    path = tmp_path / "a.mrc"
    write_mrc(path, space_group=401, sections_a_volume=5)
    with pytest.raises(FormatError, match="found 2 volumes of 5 sections"):
        open_volume(str(path))
    write_mrc(path, space_group=401, sections_a_volume=10)
    assert open_volume(str(path)).info.shape == (10, 64, 48)


def test_a_stack_is_a_tile_only_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.mrc"
    write_mrc(path, space_group=0, sections_a_volume=1)
    with pytest.raises(FormatError, match="found 10 images in this MRC"):
        read_header(str(path))
    expected = IMAGE[3].view("i1").astype("i2") + 128
    assert np.array_equal(read_image(f"{path}#3"), expected)


@pytest.mark.parametrize("name", ["info", "attributes.json"])
@pytest.mark.parametrize("text", ["by hand, on a Monday", '{"by": "hand"}'])
def test_a_folder_of_images_beside_a_file_of_a_known_name_is_a_stack(
    tmp_path: Path, name: str, text: str
) -> None:
    for number, plane in enumerate(IMAGE[:3]):
        tifffile.imwrite(tmp_path / f"s{number}.tif", plane, metadata=None)
    (tmp_path / name).write_text(text)
    assert np.array_equal(open_volume(str(tmp_path)).read(WHOLE), IMAGE[:3])


def test_a_png_without_a_width_is_one_sentence(tmp_path: Path) -> None:
    from imagecodecs import png_encode

    content = bytearray(png_encode(IMAGE[0]))
    content[16:20] = bytes(4)
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(FormatError, match="found 0 x 64 px"):
        read_header(str(tmp_path / "a.png"))


def test_what_is_no_number_is_as_dark_as_the_darkest() -> None:
    from em_platform.imaging.valid import finite

    image: Any = np.array([[3.0, np.nan], [np.inf, 5.0]], np.float32)
    assert finite(image).tolist() == [[3.0, 3.0], [3.0, 5.0]]
    assert finite(image * np.nan).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert finite(IMAGE) is IMAGE
