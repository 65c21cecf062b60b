import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from em_platform.errors import FormatError
from em_platform.formats.image import (
    encode_tiff,
    read_tiff,
    read_tiff_header,
    write_tiff,
)
from em_platform.formats.source import open_source
from em_platform.model import Box


def ramp(dtype: str = "uint8") -> np.ndarray[Any, Any]:
    return np.arange(300 * 200).reshape(300, 200).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"rowsperstrip": 16},
        {"compression": "zlib"},
        {"compression": "lzw", "predictor": True, "rowsperstrip": 10},
        {"tile": (64, 64)},
    ],
    ids=lambda how: "-".join(how) or "plain",
)
def test_any_way_of_writing_gives_the_same_pixels(
    tmp_path: Path, dtype: str, how: dict[str, Any]
) -> None:
    image = ramp(dtype)
    tifffile.imwrite(tmp_path / "a.tif", image, **how)
    source = open_source(str(tmp_path / "a.tif"))
    header = read_tiff_header(source)
    assert (header.height_px, header.width_px, header.samples) == (300, 200, 1)
    assert np.dtype(header.dtype).newbyteorder("=") == image.dtype
    assert np.array_equal(read_tiff(source), image)
    part = read_tiff(source, Box(y0=7, x0=11, y1=123, x1=45))
    assert np.array_equal(part, image[7:123, 11:45])
    assert part.dtype == image.dtype


def test_plain_rows_are_found_and_compressed_ones_are_not(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", ramp(), rowsperstrip=16)
    tifffile.imwrite(tmp_path / "b.tif", ramp(), compression="zlib")
    assert read_tiff_header(open_source(str(tmp_path / "a.tif"))).offset is not None
    assert read_tiff_header(open_source(str(tmp_path / "b.tif"))).offset is None


@pytest.mark.parametrize("keep", [100, 1000, 30_000, 60_100])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_truncated_file_is_named_so(
    tmp_path: Path, keep: int, compression: str | None
) -> None:
    path = tmp_path / "cut.tif"
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (300, 200), np.uint8)
    tifffile.imwrite(path, image, compression=compression)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FormatError, match=r"cut\.tif: truncated TIFF, found \d+ bytes"):
        read_tiff_header(open_source(str(path)))


def test_compressed_rubbish_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "bad.tif"
    tifffile.imwrite(path, ramp(), compression="zlib")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[0]
    content[offset : offset + 64] = b"\xff" * 64
    path.write_bytes(bytes(content))
    with pytest.raises(FormatError, match=r"bad\.tif: cannot be decoded"):
        read_tiff(open_source(str(path)))


def test_what_is_written_is_read_back_and_has_the_same_bytes_twice(
    tmp_path: Path,
) -> None:
    write_tiff(tmp_path / "a.tif", ramp("uint16"))
    write_tiff(tmp_path / "b.tif", ramp("uint16"))
    assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), ramp("uint16"))
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    assert read_tiff_header(open_source(str(tmp_path / "a.tif"))).offset is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "b.tif"]


@pytest.mark.parametrize("dtype", ["uint8", "<u2", ">u2", "int16", "float32"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (256, 257)])
def test_a_file_is_what_tifffile_writes_in_the_order_of_this_computer(
    shape: tuple[int, int], dtype: str
) -> None:
    image = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    for pixels in (image, image[:, ::-1]):
        file = io.BytesIO()
        own = pixels.astype(pixels.dtype.newbyteorder("="))
        tifffile.imwrite(
            file, own, photometric="minisblack", metadata=None, software=False
        )
        assert encode_tiff(pixels) == file.getvalue()


def test_files_of_one_length_are_told_apart_by_what_stands_before_the_pixels(
    tmp_path: Path,
) -> None:
    values = np.arange(600, dtype=np.uint8)
    wanted = {
        "wide": values.reshape(20, 30),
        "tall": values.reshape(30, 20),
        "wide again": values[::-1].reshape(20, 30),
        "negative": values.reshape(20, 30),
        "tall again": values[::-1].reshape(30, 20),
    }
    lengths = set()
    for name, image in wanted.items():
        how = {"photometric": "miniswhite" if name == "negative" else "minisblack"}
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, image, metadata=None, software=False, **how)
        lengths.add(path.stat().st_size)
        found = read_tiff(open_source(str(path)))
        assert np.array_equal(found, ~image if name == "negative" else image)
    assert len(lengths) == 1
