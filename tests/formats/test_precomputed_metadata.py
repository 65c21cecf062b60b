"""Precomputed volumes: scales, offsets and encodings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from em_platform.formats.chunked import list_levels, open_chunked
from tests.formats.chunk_writers import SHAPE, noise, pixels, write_precomputed

SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 2,
    "minishard_bits": 1,
    "shard_bits": 2,
    "hash": "murmurhash3_x86_128",
    "minishard_index_encoding": "raw",
    "data_encoding": "raw",
}


def test_labels_in_compressed_segmentation_are_exact(tmp_path: Path) -> None:
    truth = noise("uint64") * 10**15
    write_precomputed(
        tmp_path / "labels",
        truth,
        encoding="compressed_segmentation",
        compressed_segmentation_block_size=[8, 8, 8],
    )
    assert np.array_equal(pixels(open_chunked(str(tmp_path / "labels"))), truth)


@pytest.mark.parametrize("sharding", [{}, {"sharding": SHARDING}])
def test_jpeg_comes_back_within_a_few_grey_levels(
    sharding: dict[str, Any], tmp_path: Path
) -> None:
    z, y, x = np.indices(SHAPE)
    truth = (100 + 60 * np.sin(z / 9) * np.cos(y / 11) * np.sin(x / 13)).astype("u1")
    jpeg = {"encoding": "jpeg", "jpeg_quality": 90}
    write_precomputed(tmp_path / "em", truth, **jpeg, **sharding)
    found = pixels(open_chunked(str(tmp_path / "em")))
    assert np.abs(found.astype(int) - truth).max() <= 6


def test_precomputed_scales_have_their_voxel_and_offset(tmp_path: Path) -> None:
    write_precomputed(tmp_path / "em", noise(), scales=2, voxel_offset=[10, 20, 30])
    first, second = (open_chunked(str(tmp_path / "em"), level=n).info for n in (0, 1))
    assert (first.voxel_size_nm, first.levels) == ((6.0, 5.0, 4.0), 2)
    assert first.origin_nm == (180.0, 100.0, 40.0)
    # The first voxel of the second scale has its centre half a voxel further on.
    assert second.origin_nm == (30 * 12 + 3.0, 20 * 10 + 2.5, 10 * 8 + 2.0)
    for level in (1, second.tags["level"]):
        found = open_chunked(f"precomputed://{tmp_path}/em", level=level)  # type: ignore[arg-type]
        assert np.array_equal(pixels(found), noise()[::2, ::2, ::2])


def test_real_specs_of_a_fly_brain_give_each_scale(
    shared_data: Path, tmp_path: Path
) -> None:
    specs = (shared_data / "dvid/mcns-ng-specs.json").read_text()
    (tmp_path / "info").write_text(specs)
    levels = list_levels(str(tmp_path))
    assert levels[0].shape == (134576, 78317, 94088)
    assert levels[0].voxel_size_nm == (8.0, 8.0, 8.0)
    assert levels[3].voxel_size_nm == (64.0, 64.0, 64.0)
    info = open_chunked(str(tmp_path), level="512x512x512").info
    assert (info.shape, info.dtype) == ((2103, 1224, 1471), "uint64")
    assert info.tags["compression"] == "compressed_segmentation"
