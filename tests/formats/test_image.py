import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import fsspec
import numpy as np
import pytest
import tifffile

from em_platform.errors import FormatError
from em_platform.formats.image import read_header, read_image, write_tiff
from em_platform.formats.source import join_uri, local_path
from em_platform.model import Box


def specimen(dtype: str = "uint8") -> np.ndarray[Any, Any]:
    y, x = np.mgrid[:120, :90]
    return (100 + 60 * np.sin(y / 9) * np.cos(x / 7)).astype(dtype)


def write_mrc(
    path: Path, images: np.ndarray[Any, Any], mode: int, order: str = "<"
) -> None:
    header = bytearray(1024)
    header[:16] = struct.pack(order + "4i", *images.shape[::-1], mode)
    header[208:212] = b"MAP "
    header[212:214] = b"\x11\x11" if order == ">" else b"DD"
    path.write_bytes(bytes(header) + images.tobytes())


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_lossless_files_give_their_pixels(
    tmp_path: Path, name: str, dtype: str
) -> None:
    path = str(tmp_path / name)
    cv2.imwrite(path, specimen(dtype))
    header = read_header(path)
    assert (header.size.height_px, header.size.width_px) == (120, 90)
    assert header.dtype == dtype
    assert np.array_equal(read_image(path), specimen(dtype))
    part = read_image(path, Box(y0=3, x0=4, y1=50, x1=60))
    assert np.array_equal(part, specimen(dtype)[3:50, 4:60])


def test_a_jpeg_is_close(tmp_path: Path) -> None:
    path = str(tmp_path / "a.jpg")
    cv2.imwrite(path, specimen(), [cv2.IMWRITE_JPEG_QUALITY, 98])
    assert read_header(path).size.width_px == 90
    assert np.abs(read_image(path).astype(int) - specimen()).max() <= 6


@pytest.mark.parametrize(
    ("mode", "dtype"), [(1, "<i2"), (1, ">i2"), (2, "<f4"), (6, "<u2"), (6, ">u2")]
)
def test_an_image_of_an_mrc_stack_is_named_by_its_number(
    tmp_path: Path, mode: int, dtype: str
) -> None:
    stack = np.stack([specimen(dtype), specimen(dtype) + 5, specimen(dtype) + 9])
    write_mrc(tmp_path / "s.mrc", stack.astype(dtype), mode, order=dtype[0])
    path = f"{tmp_path}/s.mrc#2"
    assert read_header(path).dtype == np.dtype(dtype).name
    assert np.array_equal(read_image(path), stack[2])
    with pytest.raises(FormatError, match="image 3 was asked for, 3 are there"):
        read_header(f"{tmp_path}/s.mrc#3")


def test_signed_bytes_of_an_mrc_become_0_to_255(tmp_path: Path) -> None:
    write_mrc(tmp_path / "s.mrc", np.array([[[-128, 0, 127]]], np.int8), 0)
    assert read_image(f"{tmp_path}/s.mrc").tolist() == [[0, 128, 255]]


def test_files_behind_a_url_are_read() -> None:
    memory = fsspec.filesystem("memory")
    _, png = cv2.imencode(".png", specimen())
    memory.pipe_file("/tiles/a.png", png.tobytes())
    assert read_header("memory://tiles/a.png").size.height_px == 120
    assert np.array_equal(read_image("memory://tiles/a.png"), specimen())
    with pytest.raises(FormatError, match=r"b\.png: found no such"):
        read_image("memory://tiles/b.png")


def test_only_the_rows_asked_for_are_read_from_a_url() -> None:
    memory = fsspec.filesystem("memory")
    with memory.open("/tiles/big.tif", "wb") as file:
        tifffile.imwrite(file, np.tile(specimen("uint16"), (8, 8)))
    part = read_image("memory://tiles/big.tif", Box(y0=500, x0=100, y1=510, x1=130))
    assert np.array_equal(part, np.tile(specimen("uint16"), (8, 8))[500:510, 100:130])


def colour(path: Path) -> None:
    cv2.imwrite(str(path), np.dstack([specimen()] * 3))


def truncated_png(path: Path) -> None:
    cv2.imwrite(str(path), specimen())
    path.write_bytes(path.read_bytes()[:-500])


def truncated_jpeg(path: Path) -> None:
    _, jpeg = cv2.imencode(".jpg", specimen())
    path.write_bytes(jpeg.tobytes()[:-500])


def truncated_mrc(path: Path) -> None:
    write_mrc(path, specimen("<i2")[None], 1)
    path.write_bytes(path.read_bytes()[:-2])


def complex_mrc(path: Path) -> None:
    write_mrc(path, np.zeros((1, 4, 4), np.complex64), 4)


@pytest.mark.parametrize(
    ("name", "write", "sentence"),
    [
        ("a.tif", lambda p: None, "found no such file"),
        ("a.tif", lambda p: p.write_bytes(b""), "found 0 bytes, expected content"),
        ("a.tif", lambda p: p.write_bytes(b"II*\0"), "truncated TIFF"),
        ("a.tif", lambda p: p.write_bytes(b"hello world!"), r"starts with b'hell'"),
        ("a.tif", lambda p: p.mkdir(), "cannot be read"),
        ("a.tif", colour, "found 3 samples a pixel, expected one grey level"),
        ("a.png", colour, "found 3 samples a pixel, expected one grey level"),
        ("a.png", truncated_png, "truncated PNG"),
        ("a.jpg", truncated_jpeg, "truncated JPEG"),
        ("a.mrc", truncated_mrc, "truncated MRC, found 22622 bytes, expected 22624"),
        ("a.mrc", complex_mrc, "found MRC mode 4"),
    ],
)
def test_what_is_not_a_tile_is_one_sentence_that_names_the_file(
    tmp_path: Path, name: str, write: Any, sentence: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(FormatError, match=sentence) as caught:
        read_header(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


def test_paths_and_urls_are_joined() -> None:
    assert join_uri("/a", "b.tif") == "/a/b.tif"
    assert join_uri("s3://bucket/a/", "b.tif") == "s3://bucket/a/b.tif"
    assert join_uri("s3://bucket/a", "s3://other/b.tif") == "s3://other/b.tif"
    assert local_path("file:///a%20b") == "/a b"
    assert local_path("s3://bucket/a") is None


def announcing(path: Path, *, side_px: int) -> None:
    """A compressed TIFF of a few bytes whose header asks for `side_px` squared."""
    entries = {256: side_px, 257: side_px, 258: 8, 259: 8, 262: 1, 277: 1}
    entries |= {278: side_px, 273: 8, 279: 0}
    tags = b"".join(
        struct.pack("<HHII", code, 4, 1, entries[code]) for code in sorted(entries)
    )
    path.write_bytes(
        b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + tags + bytes(4)
    )


def announcing_png(path: Path, *, side_px: int) -> None:
    """A whole PNG whose header asks for `side_px` squared."""
    _, png = cv2.imencode(".png", np.zeros((8, 8), np.uint8))
    content = bytearray(png.tobytes())
    content[16:24] = struct.pack(">II", side_px, side_px)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)


@pytest.mark.parametrize("write", [announcing, announcing_png])
def test_a_header_that_its_file_cannot_hold_is_refused_before_memory_is_taken(
    tmp_path: Path, write: Any
) -> None:
    path = tmp_path / "a.tif"
    write(path, side_px=16_000)
    for read in (read_header, read_image):
        with pytest.raises(FormatError, match="header of 16000 x 16000 px in a"):
            read(str(path))
    write(path, side_px=60_000)
    with pytest.raises(FormatError, match="expected at most 2147483648 in one image"):
        read_header(str(path))


def test_a_sparse_image_of_a_size_that_is_plausible_is_read(tmp_path: Path) -> None:
    announcing(tmp_path / "a.tif", side_px=2000)
    assert not read_image(str(tmp_path / "a.tif")).any()


@pytest.mark.parametrize("codec", ["zstd", "zlib"])
def test_a_blank_frame_that_packs_well_is_read(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((9000, 9000), np.uint8), compression=codec)
    assert read_image(str(path)).shape == (9000, 9000)


def test_who_reads_a_local_file_imports_no_client_of_servers(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_tiff(path, np.arange(12, dtype=np.uint8).reshape(3, 4))
    script = (
        "import sys; from em_platform.formats import open_volume, read_image\n"
        "read_image(sys.argv[1]), open_volume(sys.argv[1])\n"
        "print(sorted({'aiohttp', 'requests', 'tensorstore', 'zarr'} & {*sys.modules}))"
    )
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
