"""What an image of ours consists of, and whether it is still as it was written."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from em_platform.config import OutputSettings
from em_platform.storage.guard import is_whole
from em_platform.storage.manifest import standing_at
from tests.ome_zarr.array_volume import CELLS, VOXELS, digest, write

LARGE = OutputSettings(chunk_px=32, shard_px=64)


def flip(path: Path) -> None:
    """Change one byte, and neither the size nor the time of the last change."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def shard(image: Path, level: int = 0) -> Path:
    return next(p for p in sorted(image.glob(f"{level}/c/**/*")) if p.is_file())


@pytest.fixture
def image(tmp_path: Path) -> Path:
    write(tmp_path / "a.zarr", VOXELS)
    return tmp_path / "a.zarr"


def test_an_image_is_whole_as_it_was_written(image: Path) -> None:
    assert is_whole(str(image), CELLS)
    assert is_whole(str(image), CELLS, deep=True)
    standing = standing_at(str(image), {})
    assert standing is not None and standing.manifest is not None
    assert standing.foreign == []
    written = {"zarr.json", "em_platform/zarr.json", *standing.manifest.files}
    found = (path for path in image.rglob("*") if path.is_file())
    assert {str(path.relative_to(image)) for path in found} == written


@pytest.mark.parametrize(
    "damage",
    [
        lambda image: shard(image).unlink(),
        lambda image: shard(image, level=1).write_bytes(b"short"),
        lambda image: flip(shard(image)),
        lambda image: flip(image / "0/zarr.json"),
        lambda image: flip(image / "em_platform/zarr.json"),
        lambda image: (image / "zarr.json").write_text("{}"),
        lambda image: (image / "zarr.json").unlink(),
    ],
    ids=["lost", "cut", "flipped", "level", "manifest", "emptied", "unsealed"],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_damaged_by_hand_is_found_and_made_again(
    image: Path, damage: Any, tmp_path: Path
) -> None:
    before = digest(image)
    damage(image)
    assert not is_whole(str(image), CELLS)
    write(image, VOXELS)
    assert digest(image) == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_what_changed_without_a_trace_is_found_by_reading_all(image: Path) -> None:
    flip(shard(image))
    # As a disk does that loses a bit: the file looks older than the manifest.
    os.utime(image / "em_platform/zarr.json")
    standing = standing_at(str(image), {})
    assert standing is not None
    assert standing.damaged(deep=True) == [str(shard(image).relative_to(image))]


def test_a_copy_is_as_whole_as_the_original(image: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy.zarr"
    shutil.copytree(image, copy)
    for path in copy.rglob("*"):
        path.chmod(0o755)  # all files are newer than the manifest now
    assert is_whole(str(copy), CELLS)
    sealed = (copy / "em_platform/zarr.json").stat().st_ctime_ns
    files = [p for p in copy.rglob("*") if p.is_file()]
    assert max(path.stat().st_ctime_ns for path in files) == sealed  # read once only
    assert digest(copy) == digest(image)


def test_zarr_readers_pass_over_the_manifest(image: Path) -> None:
    import zarr

    group = zarr.open_group(image, mode="r")
    assert "em_platform" in dict(group.members())
    assert np.array_equal(group["0"][:], VOXELS)


def test_an_image_in_a_bucket_is_whole_until_an_object_is_lost(
    bucket: dict[str, Any],
) -> None:
    import fsspec

    url = "s3://bucket/manifest/a.zarr"
    write(url, VOXELS, LARGE, storage_options=bucket)
    assert is_whole(url, CELLS, bucket, deep=True)
    filesystem = fsspec.filesystem("s3", use_listings_cache=False, **bucket)
    name = next(n for n in filesystem.find("bucket/manifest") if "/0/c/" in n)
    content = filesystem.cat_file(name)
    filesystem.pipe_file(name, bytes(len(content)))
    assert not is_whole(url, CELLS, bucket)  # of the same size, but newer
    filesystem.rm(name)
    assert not is_whole(url, CELLS, bucket)
    write(url, VOXELS, LARGE, storage_options=bucket)
    assert filesystem.cat_file(name) == content
    assert is_whole(url, CELLS, bucket, deep=True)


def test_a_manifest_is_read_as_it_was_written(image: Path) -> None:
    standing = standing_at(str(image), {})
    assert standing is not None and standing.manifest is not None
    content = (image / "em_platform/zarr.json").read_bytes()
    assert standing.manifest.content() == content
    assert json.loads(content)["attributes"]["product"] == {
        "kind": "volume",
        "of": "cells",
    }
