"""An image is replaced in one step, by one process, and nothing else ever is."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from em_platform.config import OutputSettings
from em_platform.errors import OutputBusy, OutputRefused
from em_platform.formats.ome_zarr import open_level
from em_platform.storage.lease import one_writer
from em_platform.storage.manifest import Product
from tests.ome_zarr.array_volume import VOXELS, Breaks, digest, write

OTHER = Product(kind="volume", of="other cells")
INVERTED = 255 - VOXELS
LARGE = OutputSettings(chunk_px=32, shard_px=64)


def objects(bucket: dict[str, Any], prefix: str) -> dict[str, bytes]:
    import fsspec

    filesystem = fsspec.filesystem("s3", use_listings_cache=False, **bucket)
    found = filesystem.find(f"bucket/{prefix}")
    return {name: filesystem.cat_file(name) for name in found}


def test_in_a_bucket_the_old_image_stands_until_the_new_one_is_whole(
    bucket: dict[str, Any],
) -> None:
    url, options = "s3://bucket/replaced/a.zarr", {"storage_options": bucket}
    write(url, VOXELS, LARGE, **options)
    before = objects(bucket, "replaced/a.zarr")
    with pytest.raises(KeyboardInterrupt):
        write(
            url,
            Breaks(INVERTED, KeyboardInterrupt(), at=2),
            fingerprint="2",
            **options,
        )
    after = objects(bucket, "replaced/a.zarr")
    assert {name: after[name] for name in before} == before
    assert np.array_equal(open_level(url, 0, **options)[:], VOXELS)
    written = write(url, INVERTED, LARGE, fingerprint="2", **options)
    assert np.array_equal(open_level(url, 0, **options)[:], INVERTED)
    assert written.levels[0].path == "b/0"
    assert not before.keys() & objects(bucket, "replaced/a.zarr").keys() - {
        "bucket/replaced/a.zarr/zarr.json"
    }
    write(url, VOXELS, LARGE, **options)
    assert objects(bucket, "replaced/a.zarr") == before


def test_in_a_bucket_the_same_image_again_changes_nothing(
    bucket: dict[str, Any],
) -> None:
    url, options = "s3://bucket/again/a.zarr", {"storage_options": bucket}
    write(url, VOXELS, LARGE, **options)
    before = objects(bucket, "again/a.zarr")
    write(url, VOXELS, LARGE, fingerprint="of another computer", **options)
    assert objects(bucket, "again/a.zarr") == before


def test_another_product_is_replaced_only_where_that_is_asked_for(
    tmp_path: Path,
) -> None:
    from tests.ome_zarr.test_ome_zarr import IMAGE
    from tests.ome_zarr.test_ome_zarr import write as write_image

    target = tmp_path / "a.zarr"
    write(target, VOXELS)
    before = digest(target)
    with pytest.raises(OutputRefused, match="holds the volume of cells, it was to be"):
        write_image(target)
    assert digest(target) == before
    write_image(target, overwrite=True)
    assert np.array_equal(open_level(str(target), 0)[:], IMAGE)
    (target / "notes.txt").write_text("mine")
    with pytest.raises(OutputRefused, match=r"notes\.txt"):
        write_image(target, overwrite=True)
    assert (target / "notes.txt").read_text() == "mine"


def test_while_one_writes_another_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    with one_writer(str(tmp_path / "a.zarr"), work="a test"), pytest.raises(OutputBusy):
        write(tmp_path / "a.zarr", VOXELS)
    assert os.listdir(tmp_path) == []
    write(tmp_path / "a.zarr", VOXELS)
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_a_file_that_others_add_meanwhile_is_not_deleted(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", VOXELS)

    class Watched(Breaks):
        def read(self, region: Any) -> Any:
            (tmp_path / "a.zarr/notes.txt").write_text("mine")
            return super().read(region)

    with pytest.raises(OutputRefused, match=r"notes\.txt"):
        watched = Watched(INVERTED, KeyboardInterrupt(), at=-1)
        write(tmp_path / "a.zarr", watched, fingerprint="2")
    assert (tmp_path / "a.zarr/notes.txt").read_text() == "mine"
    assert np.array_equal(open_level(str(tmp_path / "a.zarr"), 0)[:], VOXELS)


def test_in_a_bucket_a_damaged_image_is_made_again_where_it_was(
    bucket: dict[str, Any],
) -> None:
    import fsspec

    url, options = "s3://bucket/damaged/a.zarr", {"storage_options": bucket}
    filesystem = fsspec.filesystem("s3", use_listings_cache=False, **bucket)
    write(url, VOXELS, LARGE, **options)
    write(url, INVERTED, LARGE, fingerprint="2", **options)
    before = objects(bucket, "damaged/a.zarr")
    filesystem.rm(next(name for name in before if "/b/0/c/" in name))
    write(url, INVERTED, LARGE, fingerprint="2", **options)
    assert objects(bucket, "damaged/a.zarr") == before


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a.zarr").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputRefused, match=r"is a file or a link"):
        write(tmp_path / "a.zarr", VOXELS)


def test_a_killed_writer_that_comes_back_does_not_publish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease was taken over, and what it had finished has another name now."""
    monkeypatch.setattr("em_platform.storage.lease.Lease.release", lambda _: None)

    class Suspended(Breaks):
        def read(self, region: Any) -> Any:
            if len(self.regions) == 30:
                # Another one takes over while this one stands still.
                lease = next(tmp_path.glob(".b.zarr.lease/*"))
                lease.rename(lease.with_name("taken"))
            return super().read(region)

    size = {"voxel_size_nm": (4.0, 4.0, 4.0)}
    with pytest.raises(OutputBusy, match="taken over"):
        write(
            tmp_path / "b.zarr", Suspended(VOXELS, KeyboardInterrupt(), at=-1, **size)
        )
    assert not (tmp_path / "b.zarr").exists()
