"""Volumes: voxels bit-exact, levels true, places and statistics right."""

import numpy as np
import pytest
import zarr

from em_platform.config import OutputSettings
from em_platform.errors import FormatError, StorageError
from em_platform.formats.ome_zarr import level_count, open_level
from tests.ome_zarr.array_volume import (
    RNG,
    SETTINGS,
    VOXELS,
    ArrayVolume,
    digest,
    write,
)
from tests.small_disk import small_disk


def means(below, factors):
    """Exact means of blocks, rounded half up; an odd last line with itself."""
    pad = [(0, -n % f) for n, f in zip(below.shape, factors, strict=True)]
    even = np.pad(below, pad, mode="edge")
    z, y, x = (n // f for n, f in zip(even.shape, factors, strict=True))
    blocks = even.reshape(z, factors[0], y, factors[1], x, factors[2])
    if below.dtype.kind == "f":
        return blocks.astype(np.float64).mean(axis=(1, 3, 5))
    count = int(np.prod(factors))
    total = blocks.astype(object).sum(axis=(1, 3, 5))
    return ((2 * total + count) // (2 * count)).astype(below.dtype)


INTEGERS = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"]


@pytest.mark.parametrize("dtype", [*INTEGERS, "f4", "f8"])
def test_voxels_come_back_bit_by_bit_and_levels_are_exact_means(tmp_path, dtype):
    dtype = np.dtype(dtype)
    shape = (17, 24, 29)
    if dtype.kind == "f":
        voxels = RNG.normal(0, 1e5, shape).astype(dtype)
    else:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        voxels = RNG.integers(low, high, shape, dtype, endpoint=True)
    written = write(tmp_path / "a.zarr", voxels)
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert np.array_equal(group["0"][:], voxels)
    assert [level.shape for level in written.levels] == [
        (17, 24, 29),
        (9, 12, 15),
        (5, 6, 8),
    ]
    below = voxels
    for level in ("1", "2"):
        found = group[level][:]
        assert found.dtype == dtype
        truth = means(below, (2, 2, 2))
        if dtype.kind == "f":
            assert np.allclose(found, truth, rtol=1e-5, atol=0.05)
        else:
            assert np.array_equal(found, truth)
        below = found


def test_coarse_axes_wait_until_the_others_are_as_coarse(tmp_path):
    volume = ArrayVolume(
        VOXELS, voxel_size_nm=(50.0, 8.0, 8.0), origin_nm=(500.0, 80.0, 160.0)
    )
    written = write(tmp_path / "a.zarr", volume)
    assert [level.shape for level in written.levels] == [
        (40, 71, 53),
        (40, 36, 27),
        (40, 18, 14),
        (40, 9, 7),
        (20, 5, 4),
        (10, 3, 2),
        (5, 2, 1),
    ]
    assert written.levels[3].voxel_size_nm == (50.0, 64.0, 64.0)
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    below = VOXELS
    for level, factors in enumerate([(1, 2, 2)] * 3 + [(2, 2, 2)] * 3, start=1):
        found = group[str(level)][:]
        assert np.array_equal(found, means(below, factors))
        below = found


def test_the_models_accept_the_metadata_and_levels_lie_where_they_are(tmp_path):
    from ome_zarr_models.v05 import Image

    volume = ArrayVolume(
        VOXELS, voxel_size_nm=(50.0, 8.0, 8.0), origin_nm=(500.0, 80.0, 160.0)
    )
    write(tmp_path / "a.zarr", volume, attributes={"em_platform": {"key": "k"}})
    image = Image.from_zarr(zarr.open_group(tmp_path / "a.zarr", mode="r"))
    (multiscale,) = image.attributes.ome.multiscales
    assert [(axis.name, axis.unit) for axis in multiscale.axes] == [
        ("z", "nanometer"),
        ("y", "nanometer"),
        ("x", "nanometer"),
    ]
    assert multiscale.name == "cells"
    places = [dataset.coordinateTransformations for dataset in multiscale.datasets]
    assert places[0][0].scale == [50.0, 8.0, 8.0]
    assert places[0][1].translation == [500.0, 80.0, 160.0]
    assert places[4][0].scale == [100.0, 128.0, 128.0]
    # Its first voxel covers 2 of 50 nm and 16 of 8 nm.
    assert places[4][1].translation == [525.0, 80.0 + 60.0, 160.0 + 60.0]
    attributes = zarr.open_group(tmp_path / "a.zarr", mode="r").attrs
    assert attributes["em_platform"]["key"] == "k"


def test_without_a_voxel_size_there_is_no_unit(tmp_path):
    from ome_zarr_models.v05 import Image

    for name, size in (("a.zarr", None), ("b.zarr", (0.0, 2.0, 2.0))):
        write(tmp_path / name, ArrayVolume(VOXELS[:1], voxel_size_nm=size))
        image = Image.from_zarr(zarr.open_group(tmp_path / name, mode="r"))
        (multiscale,) = image.attributes.ome.multiscales
        known = "nanometer" if size else None
        assert [axis.unit for axis in multiscale.axes] == [None, known, known]
        assert level_count(str(tmp_path / name)) == 5
        assert open_level(str(tmp_path / name), 4).shape == (1, 5, 4)


def test_the_ome_zarr_reader_opens_all_levels(tmp_path):
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    written = write(tmp_path / "a.zarr", VOXELS)
    (node, *_) = Reader(parse_url(str(tmp_path / "a.zarr")))()
    assert [level.shape for level in node.data] == [x.shape for x in written.levels]
    assert np.array_equal(np.asarray(node.data[0]), VOXELS)


@pytest.mark.parametrize(
    ("shape", "settings", "chunk", "shard"),
    [
        ((16, 900, 700), OutputSettings(), (16, 64, 64), (16, 256, 256)),
        ((70, 300, 20), OutputSettings(), (64, 64, 20), (128, 256, 20)),
        ((300, 300, 300), OutputSettings(chunk_mb=1.0), (100,) * 3, (200,) * 3),
        ((300, 300, 300), OutputSettings(chunk_mb=64.0), (300,) * 3, (300,) * 3),
        ((1, 90, 90), OutputSettings(shard_px=8), (1, 64, 64), (1, 64, 64)),
    ],
)
def test_chunks_and_shards_are_no_larger_than_the_volume_needs(
    shape, settings, chunk, shard
):
    from em_platform.ome_zarr.layout import plan_volume

    layout = plan_volume(shape, itemsize=1, settings=settings)
    assert (layout.chunk_shape, layout.pyramid.shard_shape) == (chunk, shard)


def test_as_many_levels_as_are_asked_for(tmp_path):
    written = write(
        tmp_path / "a.zarr", VOXELS, SETTINGS.model_copy(update={"levels": 2})
    )
    assert len(written.levels) == 2


def test_what_was_written_is_reported(tmp_path):
    voxels = VOXELS.copy()
    voxels[7] = 3
    reported = []
    written = write(tmp_path / "a.zarr", voxels, progress=reported.append)
    assert sum(reported) == voxels.nbytes
    assert len(reported) > 3
    assert (written.chunk_shape, written.shard_shape) == ((8,) * 3, (16,) * 3)
    assert written.size_bytes == sum(
        path.stat().st_size
        for path in (tmp_path / "a.zarr").rglob("*")
        if path.is_file()
    )
    found = written.statistics
    assert (found.minimum, found.maximum) == (1.0, 255.0)
    assert found.mean == pytest.approx(voxels.mean(), rel=1e-12)
    assert found.std == pytest.approx(voxels.std(), rel=1e-9)
    assert found.histogram == tuple(np.bincount(voxels.ravel(), minlength=256))
    assert found.blank_sections == (7,)


@pytest.mark.parametrize(
    ("pooling", "factors"), [("mode", (2, 2, 2)), ("nearest", (2, 2, 2))]
)
def test_labels_are_never_mixed(tmp_path, pooling, factors):
    labels = RNG.integers(0, 3, (9, 20, 16)).astype(np.uint64) * 2**60 + 1
    write(tmp_path / "a.zarr", labels, pooling=pooling)
    found = open_level(str(tmp_path / "a.zarr"), 1)[:]
    pad = np.pad(labels, [(0, 1), (0, 0), (0, 0)], mode="edge")
    blocks = pad.reshape(5, 2, 10, 2, 8, 2).transpose(0, 2, 4, 1, 3, 5)
    flat = blocks.reshape(-1, 8)
    for block, label in zip(flat, found.ravel(), strict=True):
        if pooling == "nearest":
            assert label == block[0]
        else:
            votes = [int((block == each).sum()) for each in block]
            assert label == block[int(np.argmax(votes))]


def test_a_mean_with_what_is_not_a_number_is_none(tmp_path):
    voxels = np.full((8, 8, 16), 2.0, np.float32)
    voxels[0, 0, 0] = np.nan
    voxels[4:] = np.finfo(np.float32).max
    write(tmp_path / "a.zarr", voxels)
    found = open_level(str(tmp_path / "a.zarr"), 1)[:]
    assert np.isnan(found[0, 0, 0])
    assert np.isnan(found).sum() == 1
    assert found[2:].min() == np.finfo(np.float32).max


def test_a_volume_that_breaks_its_promise_is_reported_in_one_sentence(tmp_path):
    volume = ArrayVolume(VOXELS)
    volume.voxels = VOXELS[:30]
    with pytest.raises(FormatError, match="memory gave uint8 voxels of shape"):
        write(tmp_path / "a.zarr", volume)
    assert not (tmp_path / "a.zarr").exists()


def test_whole_rows_of_a_flat_source_are_read_once(tmp_path):
    volume = ArrayVolume(VOXELS, chunk_shape=(1, 1, 53))
    write(tmp_path / "a.zarr", volume)
    rows = np.zeros(VOXELS.shape[:2], int)
    for z, y, x in volume.regions:
        assert (x.start, x.stop) == (0, 53)
        rows[z, y] += 1
    assert (rows == 1).all()
    write(tmp_path / "b.zarr", ArrayVolume(VOXELS))
    assert digest(tmp_path / "a.zarr") == digest(tmp_path / "b.zarr")


def test_whole_planes_of_a_stack_are_read_once_where_memory_allows(tmp_path):
    volume = ArrayVolume(VOXELS, chunk_shape=(1, 71, 53))
    write(tmp_path / "a.zarr", volume)
    planes = np.zeros(40, int)
    for z, _, _ in volume.regions:
        planes[z] += 1
    assert (planes == 1).all()


@pytest.mark.parametrize("size", ["40k", "300k", "700k"])
def test_a_full_disk_never_leaves_a_volume_that_is_not_whole(tmp_path, size):
    with small_disk(tmp_path / "disk", size) as disk:
        voxels = RNG.integers(1, 256, (64, 96, 96), dtype=np.uint8)
        with pytest.raises(StorageError, match="No space left on device"):
            write(disk / "v.zarr", ArrayVolume(voxels))
        assert not (disk / "v.zarr").exists()
