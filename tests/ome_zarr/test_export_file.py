"""What tifffile, Pillow and mrcfile read of the parts that were exported."""

from pathlib import Path
from typing import Any

import imagecodecs
import mrcfile
import numpy as np
import pytest
import tifffile
from PIL import Image

from em_platform.config import OutputSettings
from em_platform.errors import ConfigError, FormatError, OutputRefused
from em_platform.ome_zarr import convert, export

SETTINGS = OutputSettings(chunk_px=32, shard_px=64)


def ome_zarr(folder: Path, voxels: Any, *, nm: float | None = 4.0) -> str:
    """An OME-Zarr of these voxels, z 30 nm apart; or of no known size."""
    known = {"unit": "um", "spacing": 0.03} if nm else {}
    tifffile.imwrite(
        folder / "in.tif",
        voxels,
        imagej=True,
        resolution=(1000 / nm, 1000 / nm) if nm else None,
        metadata={"axes": "ZYX", **known},
    )
    target = str(folder / "a.zarr")
    convert(str(folder / "in.tif"), target, settings=SETTINGS)
    return target


def image(shape: tuple[int, ...], dtype: str = "uint16") -> Any:
    return np.random.default_rng(2).integers(0, 4000, shape).astype(dtype)


def test_readers_without_ome_get_the_size_of_a_pixel_and_the_coarser_levels(
    tmp_path: Path,
) -> None:
    """round3 1.2.4: XResolution was 1/1 without a unit, and there was one level."""
    voxels = image((1, 700, 530), "uint8")
    export(ome_zarr(tmp_path, voxels), tmp_path / "b.tif")
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        levels = file.series[0].levels
        assert [level.shape for level in levels[:3]] == [
            *((700, 530), (350, 265), (175, 133)),
        ]
        # 4 nm are 2.5 million pixels in a centimetre, half as many one level above.
        fine, coarse = levels[0].keyframe, levels[1].keyframe
        assert fine.tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER
        assert fine.tags["XResolution"].value == (2_500_000, 1)
        assert fine.tags["YResolution"].value == (2_500_000, 1)
        assert coarse.tags["XResolution"].value == (1_250_000, 1)
        mean = voxels[0, :2, :2].mean()
        assert levels[1].asarray()[0, 0] == pytest.approx(mean, abs=1)
    with Image.open(tmp_path / "b.tif") as picture:
        # Pillow counts in inches.
        assert picture.info["dpi"][0] == pytest.approx(2_500_000 * 2.54)


def test_without_a_pixel_size_no_resolution_is_made_up(tmp_path: Path) -> None:
    export(ome_zarr(tmp_path, image((1, 60, 50)), nm=None), tmp_path / "b.tif")
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.pages.first.tags["ResolutionUnit"].value == tifffile.RESUNIT.NONE


@pytest.mark.parametrize("name", ["b.tif", "b.mrc", "b.png"])
def test_a_window_of_a_plane_is_written_alone(tmp_path: Path, name: str) -> None:
    """round3 1.2.4: there was no crop and no single plane."""
    voxels, target = image((3, 90, 640)), tmp_path / name
    shape = export(ome_zarr(tmp_path, voxels), target, crop=(20, 10, 600, 70), plane=2)
    assert shape == (70, 600)
    if name == "b.mrc":
        found = mrcfile.read(target)
    elif name == "b.png":
        found = imagecodecs.png_decode(target.read_bytes())
    else:
        found = tifffile.imread(target)
    assert np.array_equal(found, voxels[2, 10:80, 20:620])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_an_mrc_has_voxels_sizes_in_angstrom_and_grey_levels(
    tmp_path: Path, dtype: str
) -> None:
    """round3 1.2.4: there was no MRC."""
    voxels, target = image((3, 90, 70), dtype), tmp_path / "b.mrc"
    zarr = ome_zarr(tmp_path, voxels)
    export(zarr, target)
    first = target.read_bytes()
    with mrcfile.open(target) as file:
        assert np.array_equal(file.data, voxels)
        assert file.is_volume()
        assert file.voxel_size.tolist() == pytest.approx((40, 40, 300))
        assert file.header.dmin == voxels.min() and file.header.dmax == voxels.max()
        assert float(file.header.rms) == pytest.approx(voxels.std(), rel=1e-5)
    assert mrcfile.validate(target)
    export(zarr, target)  # its own file is replaced, by the same bytes
    assert target.read_bytes() == first
    (tmp_path / "raw.mrc").write_bytes(b"not ours")
    with pytest.raises(OutputRefused):
        export(zarr, tmp_path / "raw.mrc", overwrite=True)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"crop": (0, 0, 71, 90)}, "71 x 90 px at 0, 0 .* which has 70 x 90 px"),
        ({"crop": (10, 10, 0, 5)}, "does not lie in level 0"),
        ({"crop": (-1, 0, 5, 5)}, "does not lie in level 0"),
        ({"level": 99}, "is not an OME-Zarr 0.5 image with that level"),
        ({"plane": 3}, "has 3 planes, counted from 0, and none of number 3"),
    ],
)
def test_a_part_that_is_not_there_is_one_sentence(
    tmp_path: Path, asked: dict[str, Any], sentence: str
) -> None:
    zarr = ome_zarr(tmp_path, image((3, 90, 70)))
    with pytest.raises((ConfigError, FormatError), match=sentence):
        export(zarr, tmp_path / "b.tif", **asked)
    assert not (tmp_path / "b.tif").exists()


def test_levels_of_which_planes_were_joined_are_no_overviews(tmp_path: Path) -> None:
    """Voxels that are as high as wide: each level has half of the planes."""
    zarr = ome_zarr(tmp_path, image((4, 128, 128)), nm=30.0)
    export(zarr, tmp_path / "b.tif")
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert len(file.series[0].levels) == 1
    assert export(zarr, tmp_path / "c.tif", level=1, plane=1) == (64, 64)


def test_types_that_an_mrc_has_not_are_refused(tmp_path: Path) -> None:
    voxels = np.zeros((1, 40, 40), np.uint32)
    tifffile.imwrite(tmp_path / "in.tif", voxels)
    convert(
        str(tmp_path / "in.tif"), str(tmp_path / "a.zarr"), settings=SETTINGS,
        pooling="mode",
    )  # fmt: skip
    with pytest.raises(FormatError, match=r"of uint32, .* for an MRC; name a \.tif"):
        export(str(tmp_path / "a.zarr"), tmp_path / "b.mrc")
