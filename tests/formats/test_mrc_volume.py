"""MRC volumes; files are written here field by field after the format's table."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from em_platform.errors import FormatError
from em_platform.formats.open import open_volume

MODES = {"int8": 0, "int16": 1, "float32": 2, "uint16": 6, "float16": 12}
WHOLE = (slice(None),) * 3


def voxels(dtype: str = "int16", shape: tuple[int, ...] = (4, 5, 6)) -> Any:
    return np.random.default_rng(3).integers(-90, 90, shape).astype(dtype)


def mrc(path: Path, image: Any, *, order: str = "<", **fields: Any) -> str:
    """A file whose words (counted from 1, as the table does) may be overwritten."""
    words: list[Any] = [0] * 256
    words[0:4] = [*image.shape[::-1], MODES[image.dtype.name]]
    words[7:10] = image.shape[::-1]
    words[16:19] = [1, 2, 3]
    words[22] = 1
    content = bytearray(struct.pack(f"{order}256i", *words))
    content[208:212] = b"MAP "
    content[212:214] = b"\x11\x11" if order == ">" else b"DD"
    cell = fields.pop("cell", image.shape[::-1])
    struct.pack_into(f"{order}3f", content, 40, *cell)
    struct.pack_into(f"{order}3f", content, 196, *fields.pop("origin", (0, 0, 0)))
    extended = fields.pop("extended", b"")
    struct.pack_into(f"{order}i", content, 92, len(extended))
    content[104:108] = fields.pop("kind", b"\0\0\0\0")
    for name, value in fields.items():
        at = 4 * (int(name.removeprefix("word")) - 1)
        struct.pack_into(f"{order}i", content, at, value)
    stored = image.astype(image.dtype.newbyteorder(order)).tobytes()
    path.write_bytes(bytes(content) + extended + stored)
    return str(path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", MODES)
def test_every_mode_is_read_as_written(tmp_path: Path, dtype: str, order: str) -> None:
    image = voxels("uint16" if dtype == "uint16" else "int8").astype(dtype)
    volume = open_volume(mrc(tmp_path / "a.mrc", image, order=order))
    assert volume.info.shape == (4, 5, 6)
    assert volume.info.dtype == ("float32" if dtype == "float16" else dtype)
    found = volume.read(WHOLE)
    assert found.dtype == volume.info.dtype and found.dtype.isnative
    assert np.array_equal(found, image)
    part = (slice(1, 3), slice(2, 5), slice(1, 2))
    assert np.array_equal(volume.read(part), image[part])


def test_lengths_of_three_axes_are_in_nm(tmp_path: Path) -> None:
    path = mrc(tmp_path / "a.mrc", voxels(), cell=(6 * 5.0, 5 * 7.0, 4 * 25.0))
    assert open_volume(path).info.voxel_size_nm == (2.5, 0.7, 0.5)


def test_a_stack_of_images_has_no_distance_of_planes(tmp_path: Path) -> None:
    info = open_volume(mrc(tmp_path / "a.mrc", voxels(), word23=0)).info
    assert info.voxel_size_nm == (0.0, 0.1, 0.1)
    assert info.tags["content"] == "image stack"


def test_no_cell_is_no_voxel_size(tmp_path: Path) -> None:
    info = open_volume(mrc(tmp_path / "a.mrc", voxels(), cell=(0, 0, 0))).info
    assert info.voxel_size_nm is None


@pytest.mark.parametrize("axes", [(1, 2, 3), (3, 2, 1), (2, 1, 3), (3, 1, 2)])
def test_axes_stored_in_any_order_become_z_y_x(
    tmp_path: Path, axes: tuple[int, int, int]
) -> None:
    image = voxels(shape=(4, 5, 6))
    column, row, section = axes
    stored = image.transpose(3 - section, 3 - row, 3 - column)
    words = {"word17": column, "word18": row, "word19": section}
    # The cell is along x, y, z, whatever the order of storage.
    words |= {"word8": 6, "word9": 5, "word10": 4}
    path = mrc(tmp_path / "a.mrc", stored, cell=(6.0, 10.0, 12.0), **words)
    volume = open_volume(path)
    assert volume.info.shape == image.shape
    assert volume.info.voxel_size_nm == (0.3, 0.2, 0.1)
    assert np.array_equal(volume.read(WHOLE), image)
    part = (slice(1, 3), slice(2, 5), slice(1, 2))
    assert np.array_equal(volume.read(part), image[part])


def test_the_origin_is_that_of_the_first_voxel(tmp_path: Path) -> None:
    path = mrc(tmp_path / "a.mrc", voxels(), origin=(10.0, 20.0, 30.0))
    assert open_volume(path).info.origin_nm == (3.0, 2.0, 1.0)


def test_without_an_origin_the_first_indices_tell_it(tmp_path: Path) -> None:
    path = mrc(tmp_path / "a.mrc", voxels(), word5=-2, word6=3, word7=10)
    assert open_volume(path).info.origin_nm == (1.0, 0.3, -0.2)


def test_imod_counts_the_origin_the_other_way(tmp_path: Path) -> None:
    stamp = {"word39": 1146047817, "word40": 1}
    path = mrc(tmp_path / "a.mrc", voxels(), origin=(10.0, 20.0, 30.0), **stamp)
    assert open_volume(path).info.origin_nm == (-3.0, -2.0, -1.0)


def test_imod_has_bytes_without_sign(tmp_path: Path) -> None:
    image = voxels("int8")
    path = mrc(tmp_path / "a.mrc", image, word39=1146047817, word40=0)
    volume = open_volume(path)
    assert volume.info.dtype == "uint8"
    assert np.array_equal(volume.read(WHOLE), image.view(np.uint8))


def test_feis_older_header_states_the_pixel(tmp_path: Path) -> None:
    record = [0.0] * 32
    record[0], record[11], record[12], record[13] = -70.0, 3.36e-9, 115000.0, 3e5
    extended = struct.pack("<32f", *record) * 4
    path = Path(mrc(tmp_path / "a.st", voxels(), extended=extended, word23=0))
    content = bytearray(path.read_bytes())
    content[220:224] = struct.pack("<i", 1)
    content[224:244] = b"Fei Company (c) 2003"
    path.write_bytes(content)
    info = open_volume(str(path)).info
    assert info.voxel_size_nm == (0.0, 3.36, 3.36)
    assert info.tags["tilt_deg"] == -70
    assert info.tags["voltage_v"] == 300_000
    assert info.tags["labels"] == ("Fei Company (c) 2003",)


@pytest.mark.parametrize(
    ("mode", "what"), [(3, "mode 3"), (4, "mode 4"), (16, "mode 16"), (101, "mode 101")]
)
def test_modes_without_grey_levels_are_refused(
    tmp_path: Path, mode: int, what: str
) -> None:
    with pytest.raises(FormatError, match=what):
        open_volume(mrc(tmp_path / "a.mrc", voxels(), word4=mode))


def test_a_file_cut_anywhere_is_reported_to_be_cut(tmp_path: Path) -> None:
    content = Path(mrc(tmp_path / "a.mrc", voxels(shape=(4, 50, 60)))).read_bytes()
    for length in np.linspace(212, len(content) - 1, 100).astype(int):
        (tmp_path / "cut.mrc").write_bytes(content[:length])
        with pytest.raises(FormatError, match="truncated MRC"):
            open_volume(str(tmp_path / "cut.mrc"))


def test_damaged_headers_never_raise_anything_else(tmp_path: Path) -> None:
    path = Path(mrc(tmp_path / "a.mrc", voxels()))
    content = np.frombuffer(path.read_bytes(), np.uint8)
    random = np.random.default_rng(21)
    for _ in range(300):
        damaged = content.copy()
        places = random.integers(0, 220, random.integers(1, 9))
        damaged[places] = random.integers(0, 256, places.size)
        path.write_bytes(damaged.tobytes())
        try:
            volume = open_volume(str(path))
            volume.read((slice(0, 1), slice(0, 1), slice(0, 1)))
        except FormatError as error:
            assert "\n" not in str(error)
