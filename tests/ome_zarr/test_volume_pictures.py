"""Pictures of a volume: true proportions, little read, a sentence where it is none."""

import io

import numpy as np
import pytest
from PIL import Image

from em_platform.config import OutputSettings
from em_platform.errors import FormatError
from em_platform.model.volume import VolumeInfo
from em_platform.ome_zarr import mid_sections, preview, write_volume
from em_platform.storage.manifest import Product

SETTINGS = OutputSettings(chunk_px=16, shard_px=32)


class ArrayVolume:
    """Voxels in memory."""

    def __init__(self, voxels, size):
        self.voxels = voxels
        self.info = VolumeInfo(
            uri="memory",
            format="array",
            shape=voxels.shape,
            dtype=voxels.dtype.name,
            voxel_size_nm=size,
        )

    def read(self, region):
        return self.voxels[region]


def picture(folder, voxels, size=(4.0, 4.0, 4.0), *, max_px=256, pooling="mean"):
    url = str(folder / "a.zarr")
    write_volume(
        url,
        ArrayVolume(voxels, size),
        settings=SETTINGS,
        name="cells",
        product=Product(kind="volume", of="a test"),
        fingerprint="",
        pooling=pooling,
    )
    return np.asarray(Image.open(io.BytesIO(mid_sections(url, max_px=max_px))))


def test_three_sections_stand_side_by_side_in_true_proportions(tmp_path):
    voxels = np.zeros((8, 60, 90), np.uint8)
    voxels[4] = 100  # only the middle plane: a line in the other sections
    found = picture(tmp_path, voxels, (20.0, 4.0, 4.0))
    # 90 x 60 of 4 nm, and 40 such pixels deep, with gaps of 6.
    assert found.shape == (60, 90 + 6 + 90 + 6 + 40)
    xy, xz, yz = found[:, :90], found[:, 96:186], found[:, 192:]
    assert (xy == 255).all()
    assert (xz[40:] == 255).all()
    assert (xz[:40].argmax(axis=0) // 5 == 4).all()
    assert (yz.argmax(axis=1) // 5 == 4).all()


@pytest.mark.parametrize("dtype", ["i2", "u2", "f4"])
def test_grey_levels_are_stretched_between_percentiles(tmp_path, dtype):
    ramp = np.linspace(300, 900, 64).astype(dtype)
    voxels = np.broadcast_to(ramp, (64, 64, 64)).copy()
    voxels[32, 0, 0] = 32000
    if dtype == "f4":
        voxels[32, 1, 1] = np.nan
    found = picture(tmp_path, voxels)[:, :64]
    assert found[32, 0] < 5
    assert found[32, 63] > 250
    assert (np.diff(found[32].astype(int)) >= 0).all()


def test_a_large_volume_is_shown_small(tmp_path):
    voxels = np.random.default_rng(1).integers(0, 255, (40, 200, 300), dtype=np.uint8)
    assert picture(tmp_path, voxels, max_px=60).shape == (40, 60 + 6 + 60 + 6 + 8)


def test_one_section_is_one_picture(tmp_path):
    voxels = np.random.default_rng(1).integers(0, 255, (1, 80, 50), dtype=np.uint8)
    assert picture(tmp_path, voxels, (0.0, 4.0, 4.0)).shape == (80, 50)


def test_labels_have_a_colour_each_and_nothing_is_black(tmp_path):
    labels = np.zeros((16, 32, 32), np.uint64)
    labels[:, :16], labels[:, 24:] = 2**40 + 1, 2**40 + 2
    found = picture(tmp_path, labels, pooling="mode")
    assert found.shape[2] == 3
    colours = [tuple(found[y, 5]) for y in (5, 20, 28)]
    assert colours[1] == (0, 0, 0)
    assert len(set(colours)) == 3


def test_the_preview_of_a_volume_is_its_middle_section(tmp_path):
    voxels = np.zeros((9, 40, 30), np.uint8)
    voxels[4] = np.arange(30)
    picture(tmp_path, voxels)
    assert np.array_equal(preview(str(tmp_path / "a.zarr"), 64), voxels[4])


def test_what_is_no_volume_is_reported_in_one_sentence(tmp_path):
    with pytest.raises(FormatError, match="is not an OME-Zarr"):
        mid_sections(str(tmp_path / "nothing.zarr"))


def test_a_damaged_volume_is_reported_in_one_sentence(tmp_path):
    voxels = np.random.default_rng(1).integers(0, 255, (20, 20, 20), dtype=np.uint8)
    picture(tmp_path, voxels)
    for shard in (tmp_path / "a.zarr").rglob("c/*/*/*"):
        shard.write_bytes(b"no shard at all")
    with pytest.raises(FormatError, match="could not be read"):
        mid_sections(str(tmp_path / "a.zarr"))


def test_a_single_wrong_bit_is_never_read_as_other_voxels(tmp_path):
    voxels = np.random.default_rng(1).integers(0, 9, (20, 20, 20), dtype=np.uint8)
    picture(tmp_path, voxels)
    (shard,) = (tmp_path / "a.zarr" / "0").rglob("c/*/*/*")
    whole, noticed = shard.read_bytes(), 0
    for at in np.random.default_rng(2).integers(0, len(whole), 40):
        wrong = bytearray(whole)
        wrong[at] ^= 1
        shard.write_bytes(wrong)
        try:
            found = preview(str(tmp_path / "a.zarr"), 64)
        except FormatError as error:
            assert "could not be read" in str(error)
            noticed += 1
        else:  # a bit that means nothing
            assert np.array_equal(found, voxels[10])
    assert noticed > 30
