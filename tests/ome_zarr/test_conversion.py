"""Files of tifffile become OME-Zarr, and these become files that tifffile reads."""

import math
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from em_platform.config import OutputSettings
from em_platform.errors import ConfigError, FormatError, OutputRefused
from em_platform.formats import open_volume
from em_platform.ome_zarr import convert, export

SETTINGS = OutputSettings(chunk_px=32, shard_px=64)


def image(shape: tuple[int, ...], dtype: str = "uint16") -> Any:
    return np.random.default_rng(2).integers(0, 4000, shape).astype(dtype)


def written(path: Path, voxels: Any) -> str:
    tifffile.imwrite(
        path,
        voxels,
        imagej=True,
        resolution=(250, 250),
        metadata={"spacing": 0.03, "unit": "um", "axes": "ZYX"},
    )
    return str(path)


def test_a_stack_becomes_an_ome_zarr_with_its_voxel_size(tmp_path: Path) -> None:
    voxels = image((5, 90, 70))
    target = str(tmp_path / "a.zarr")
    made = convert(written(tmp_path / "a.tif", voxels), target, settings=SETTINGS)
    volume = open_volume(target)
    assert volume.info.voxel_size_nm == made.voxel_size_nm == (30.0, 4.0, 4.0)
    assert np.array_equal(volume.read((slice(None),) * 3), voxels)


def test_a_stated_voxel_size_wins(tmp_path: Path) -> None:
    target = str(tmp_path / "a.zarr")
    source = written(tmp_path / "a.tif", image((2, 40, 40)))
    convert(source, target, settings=SETTINGS, voxel_nm=(50.0, 8.0, 8.0))
    assert open_volume(target).info.voxel_size_nm == (50.0, 8.0, 8.0)


@pytest.mark.parametrize("edge", [0.0, -1.0, math.nan, math.inf, 1e300])
def test_edges_that_are_no_lengths_are_refused(tmp_path: Path, edge: float) -> None:
    """round3 1.2.10, 1.2.11: 0 was taken; NaN was a fault and left a `.partial`."""
    source = written(tmp_path / "a.tif", image((2, 40, 40)))
    target, edges = str(tmp_path / "a.zarr"), (edge, 1.0, 1.0)
    with pytest.raises(ConfigError, match=r"a voxel of .* nm .* was given, edges from"):
        convert(source, target, settings=SETTINGS, voxel_nm=edges)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_another_files_volume_is_replaced_only_when_asked(tmp_path: Path) -> None:
    target = str(tmp_path / "a.zarr")
    first = written(tmp_path / "a.tif", image((2, 40, 40)))
    second = written(tmp_path / "b.tif", image((3, 40, 40)))
    convert(first, target, settings=SETTINGS)
    with pytest.raises(OutputRefused, match="replace it by --overwrite"):
        convert(second, target, settings=SETTINGS)
    convert(second, target, settings=SETTINGS, overwrite=True)
    assert open_volume(target).info.shape == (3, 40, 40)


@pytest.mark.parametrize("shape", [(1, 700, 530), (3, 90, 1100)])
def test_an_exported_tiff_has_the_same_voxels_and_sizes(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    voxels = image(shape)
    zarr = str(tmp_path / "a.zarr")
    convert(written(tmp_path / "a.tif", voxels), zarr, settings=SETTINGS)
    export(zarr, tmp_path / "b.ome.tif")
    assert np.array_equal(
        tifffile.imread(tmp_path / "b.ome.tif").reshape(shape), voxels
    )
    back = open_volume(str(tmp_path / "b.ome.tif"))
    assert back.info.voxel_size_nm == (30.0, 4.0, 4.0)
    export(zarr, tmp_path / "b.ome.tif", level=1)  # its own file is replaced
    assert open_volume(str(tmp_path / "b.ome.tif")).info.voxel_size_nm != (30, 4, 4)


def test_a_plane_is_exported_as_png_and_a_volume_is_not(tmp_path: Path) -> None:
    plane, zarr = image((1, 60, 50)), str(tmp_path / "a.zarr")
    convert(written(tmp_path / "a.tif", plane), zarr, settings=SETTINGS)
    export(zarr, tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    assert np.array_equal(imagecodecs.png_decode(content), plane[0])
    deep = str(tmp_path / "deep.zarr")
    convert(written(tmp_path / "d.tif", image((4, 60, 50))), deep, settings=SETTINGS)
    with pytest.raises(FormatError, match="expected one plane of uint8 or uint16"):
        export(deep, tmp_path / "d.png")


@pytest.mark.parametrize("name", ["b.ome.tif", "b.png"])
def test_of_a_damaged_image_nothing_is_exported(tmp_path: Path, name: str) -> None:
    zarr = str(tmp_path / "a.zarr")
    convert(written(tmp_path / "a.tif", image((1, 60, 50))), zarr, settings=SETTINGS)
    (shard,) = (tmp_path / "a.zarr" / "0").rglob("c/*/*/*")
    content = bytearray(shard.read_bytes())
    content[40] ^= 1
    shard.write_bytes(content)
    with pytest.raises(FormatError, match=r"a\.zarr could not be read"):
        export(zarr, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_names_of_other_formats_are_refused(tmp_path: Path) -> None:
    source = written(tmp_path / "a.tif", image((2, 40, 40)))
    with pytest.raises(FormatError, match=r"ending in \.zarr"):
        convert(source, str(tmp_path / "out.tif"), settings=SETTINGS)
    with pytest.raises(FormatError, match=r"ending in \.tif, .tiff, .mrc or .png"):
        export(str(tmp_path / "a.zarr"), tmp_path / "a.jpg")
