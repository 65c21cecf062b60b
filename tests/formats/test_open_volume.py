"""Files, folders, chunked arrays and URLs as volumes, known by their content."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import (
    BaseHTTPRequestHandler,
    SimpleHTTPRequestHandler,
    ThreadingHTTPServer,
)
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

from em_platform.errors import FormatError, PlatformError
from em_platform.formats.open import open_volume
from em_platform.ome_zarr import served
from em_platform.standins import image_files
from em_platform.standins.faults import Faults
from em_platform.standins.http import Server
from em_platform.standins.part import Tree
from em_platform.standins.s3 import Buckets

WHOLE = (slice(None),) * 3
PART = (slice(1, 3), slice(5, 33), slice(20, 41))


def stack(dtype: str = "uint16", shape: tuple[int, ...] = (4, 40, 50)) -> Any:
    values = np.random.default_rng(9).integers(0, 200, shape)
    return values.astype(dtype)


def write(path: Path, image: Any) -> None:
    """The image in the format of the path's suffix, uint16."""
    if path.suffix == ".dm3":
        image_files.write_dm(path, image, pixel_um=0.008, name="a", tags={})
    elif path.suffix == ".tif":
        tifffile.imwrite(path, image, photometric="minisblack")
    elif path.suffix == ".mrc":
        words = np.zeros(256, "<i4")
        words[[0, 1, 2, 3, 7, 8, 9, 22]] = [*image.shape[::-1], 6, 1, 1, 1, 1]
        words[52] = int.from_bytes(b"MAP ", "little")
        path.write_bytes(words.tobytes() + image.astype("<u2").tobytes())
    elif path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(image))
    else:
        path.write_bytes(imagecodecs.jpeg8_encode(image.astype(np.uint8)))


@pytest.mark.parametrize("suffix", [".dm3", ".tif", ".mrc"])
def test_a_name_says_nothing(tmp_path: Path, suffix: str) -> None:
    image = stack()
    write(tmp_path / f"a{suffix}", image)
    (tmp_path / f"a{suffix}").rename(tmp_path / "picture.png")
    volume = open_volume(str(tmp_path / "picture.png"))
    assert np.array_equal(volume.read(WHOLE), image)


@pytest.mark.parametrize("suffix", [".dm3", ".tif", ".mrc"])
def test_a_file_url_is_a_path(tmp_path: Path, suffix: str) -> None:
    image = stack()
    write(tmp_path / f"a b{suffix}", image)
    address = (tmp_path / f"a b{suffix}").as_uri()
    assert np.array_equal(open_volume(address).read(PART), image[PART])


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_png_is_one_plane(tmp_path: Path, dtype: str) -> None:
    image = stack(dtype)[0]
    write(tmp_path / "a.png", image)
    volume = open_volume(str(tmp_path / "a.png"))
    assert (volume.info.shape, volume.info.dtype) == ((1, 40, 50), dtype)
    assert volume.info.voxel_size_nm is None
    assert np.array_equal(volume.read(WHOLE)[0], image)
    part = (slice(0, 1), slice(3, 9), slice(20, 30))
    assert np.array_equal(volume.read(part)[0], image[3:9, 20:30])


def test_a_jpeg_is_one_plane(tmp_path: Path) -> None:
    image = np.full((32, 48), 77, np.uint8)
    write(tmp_path / "a.jpg", image)
    volume = open_volume(str(tmp_path / "a.jpg"))
    assert volume.info.format == "JPEG"
    assert np.array_equal(volume.read(WHOLE)[0], image)


def test_colours_of_a_png_are_reported_and_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.png", stack("uint8", (40, 50, 3)))
    with pytest.raises(FormatError, match="found 3 samples a pixel, 50 x 40 px"):
        open_volume(str(tmp_path / "a.png"))


def test_alpha_that_hides_nothing_is_left_out(tmp_path: Path) -> None:
    image = stack("uint8", (40, 50, 2))
    image[..., 1] = 255
    write(tmp_path / "a.png", image)
    volume = open_volume(str(tmp_path / "a.png"))
    assert volume.info.tags["alpha"] == "left out"
    assert np.array_equal(volume.read(WHOLE)[0], image[..., 0])


def test_alpha_that_hides_something_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.png", stack("uint8", (40, 50, 2)))
    volume = open_volume(str(tmp_path / "a.png"))
    with pytest.raises(FormatError, match="partly transparent"):
        volume.read(WHOLE)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "found 0 bytes"),
        (b"\x1f\x8b\x08" + bytes(2000), "a gzip file"),
        (b"PK\3\4" + bytes(2000), "a ZIP archive"),
        (b"\x89HDF\r\n\x1a\n" + bytes(2000), "an HDF5 file"),
        (b"hello", "starts with b'hell'"),
        (bytes(5000), "starts with"),
        (b"\0\0\0\3", "starts with"),
        (b"II*\0", "truncated TIFF"),
    ],
)
def test_other_files_are_refused_in_one_sentence(
    tmp_path: Path, content: bytes, why: str
) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(FormatError) as caught:
        open_volume(str(tmp_path / "a"))
    assert why in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="found no such file"):
        open_volume(str(tmp_path / "a.dm3"))
    with pytest.raises(FormatError, match="found the protocol gopher"):
        open_volume("gopher://a/b.dm3")


def test_a_folder_is_a_stack_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    image = stack(shape=(12, 40, 50))
    for z, plane in enumerate(image):
        write(tmp_path / f"slice_{z}.dm3", plane)
    (tmp_path / "notes.txt").write_text("focus was lost at slice 7")
    volume = open_volume(str(tmp_path))
    assert volume.info.format == "DM3 stack"
    assert volume.info.shape == image.shape
    assert np.array_equal(volume.read(WHOLE), image)


def test_a_folder_without_images_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="found a folder without images"):
        open_volume(str(tmp_path))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_folder_of_chunks_is_an_array(tmp_path: Path, zarr_format: Any) -> None:
    image = stack()
    path = tmp_path / "a.zarr"
    array = zarr.create_array(
        path,
        shape=image.shape,
        dtype="uint16",
        chunks=(2, 20, 20),
        zarr_format=zarr_format,
    )
    array[:] = image
    volume = open_volume(str(path))
    assert volume.info.format == f"Zarr v{zarr_format}"
    assert np.array_equal(volume.read(PART), image[PART])


def test_random_bytes_never_raise_anything_else(tmp_path: Path) -> None:
    random = np.random.default_rng(23)
    starts = [b"", b"II*\0", b"MM\0+", b"\0\0\0\3", b"\0\0\0\4", b"\x89PNG\r\n\x1a\n"]
    starts += [b"\xff\xd8\xff"]
    for number in range(300):
        start = starts[number % len(starts)]
        content = bytearray(start + random.bytes(int(random.integers(0, 3000))))
        if number % 3 == 0 and len(content) > 300:
            content[208:212] = b"MAP "
        (tmp_path / "a").write_bytes(content)
        try:
            open_volume(str(tmp_path / "a")).read((slice(0, 1),) * 3)
        except FormatError as error:
            assert "\n" not in str(error)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address at which the files of `tmp_path` are served."""
    with served(str(tmp_path)) as address:
        yield address


@pytest.mark.parametrize("suffix", [".dm3", ".tif", ".mrc"])
def test_files_behind_a_url_are_read_in_ranges(
    tmp_path: Path, web: str, suffix: str
) -> None:
    image = stack(shape=(4, 300, 400))
    write(tmp_path / f"a{suffix}", image)
    volume = open_volume(f"{web}/a{suffix}")
    assert (volume.info.shape, volume.info.dtype) == (image.shape, "uint16")
    assert np.array_equal(volume.read(PART), image[PART])
    # The pixels were not fetched to find out what they are.
    assert len(volume.source.first) < 70_000  # type: ignore[attr-defined]


def test_coded_tiffs_behind_a_url_are_read(tmp_path: Path, web: str) -> None:
    image = stack(shape=(4, 300, 400))
    how: dict[str, Any] = {"compression": "zlib", "tile": (64, 64)}
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack", **how)
    assert np.array_equal(open_volume(f"{web}/a.tif").read(PART), image[PART])


def test_arrays_behind_a_url_are_read(tmp_path: Path, web: str) -> None:
    image = stack()
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=image.shape, dtype="uint16", chunks=(2, 20, 20)
    )
    array[:] = image
    assert np.array_equal(open_volume(f"{web}/a.zarr").read(PART), image[PART])


def test_what_a_server_has_not_is_reported(web: str) -> None:
    with pytest.raises(PlatformError, match="found no such object"):
        open_volume(f"{web}/a.tif")


def test_a_server_that_is_not_there_is_reported() -> None:
    with pytest.raises(PlatformError, match=r"127\.0\.0\.1:9"):
        open_volume("http://127.0.0.1:9/a.tif")


def test_a_folder_of_a_web_server_is_a_stack(tmp_path: Path) -> None:
    image = stack(shape=(3, 40, 50))
    for z, plane in enumerate(image):
        write(tmp_path / f"slice_{z}.dm3", plane)
    names = "".join(f'<a href="slice_{z}.dm3">slice {z}</a>' for z in range(3))
    (tmp_path / "index.html").write_text(f"<html>{names}</html>")
    with web_server(tmp_path) as address:
        # This server knows no ranges: of what it sends whole a part is used.
        assert np.array_equal(open_volume(f"{address}/").read(WHOLE), image)
        with pytest.raises(FormatError, match="a web page or XML"):
            open_volume(f"{address}/index.html")


class Quiet(SimpleHTTPRequestHandler):
    """Files of a folder, whole."""

    def log_message(self, *_: Any) -> None:
        """Keep the terminal quiet."""


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_server_that_tells_no_length_is_asked_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = stack()
    write(tmp_path / "a.tif", image)

    def unmeasured(self: Quiet, name: str, value: str) -> None:
        if name != "Content-Length":
            BaseHTTPRequestHandler.send_header(self, name, value)

    monkeypatch.setattr(Quiet, "send_header", unmeasured, raising=False)
    with web_server(tmp_path) as address:
        volume = open_volume(f"{address}/a.tif")
        assert np.array_equal(volume.read(PART), image[PART])


def test_files_and_folders_in_a_public_bucket_are_read(tmp_path: Path) -> None:
    image = stack()
    (tmp_path / "planes").mkdir()
    write(tmp_path / "a.tif", image)
    write(tmp_path / "a.dm3", image)
    for z, plane in enumerate(image):
        write(tmp_path / f"planes/{z}.tif", plane)
    tree = Tree(tmp_path, lambda _: None)
    with Server("s3", Buckets({"em-data": tree}, faults=Faults())) as server:
        options = {"endpoint_url": server.url}
        for name in ("a.tif", "a.dm3", "planes"):
            volume = open_volume(f"s3://em-data/{name}", options)
            assert np.array_equal(volume.read(PART), image[PART])
        with pytest.raises(PlatformError, match="found no such object"):
            open_volume("s3://em-data/b.tif", options)
