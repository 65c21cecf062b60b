"""Volumes are resumed after a kill, and are the same whatever does the work."""

import shutil
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from em_platform.config import OutputSettings
from em_platform.errors import FormatError, SourceUnavailable
from em_platform.formats.ome_zarr import level_count, open_level
from em_platform.formats.open import open_volume
from em_platform.ome_zarr import image_output, mid_sections
from em_platform.storage import atomic
from tests.ome_zarr.array_volume import (
    VOXELS,
    ArrayVolume,
    Breaks,
    digest,
    write,
)
from tests.ome_zarr.forked import forked


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Digest and statistics of the volume as an undisturbed call writes it."""
    folder = tmp_path_factory.mktemp("whole") / "a.zarr"
    made = write(folder, VOXELS)
    return digest(folder), made.statistics


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_give_the_same_bytes_as_serial(tmp_path, whole, workers):
    with ThreadPoolExecutor(workers) as pool:
        second = write(tmp_path / "b.zarr", VOXELS, run=pool.map)
    assert (digest(tmp_path / "b.zarr"), second.statistics) == whole


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), SourceUnavailable("dvid: down"), FormatError("cut short")],
)
def test_an_interrupted_call_is_gone_on_with_where_it_stopped(tmp_path, whole, error):
    size = {"voxel_size_nm": (4.0, 4.0, 4.0)}
    broken = Breaks(VOXELS, error, at=40, **size)
    with pytest.raises(type(error)) as raised:
        write(tmp_path / "b.zarr", broken)
    assert raised.value is error
    assert not (tmp_path / "b.zarr").exists()
    again, reported = ArrayVolume(VOXELS, **size), []
    second = write(tmp_path / "b.zarr", again, progress=reported.append)
    assert (digest(tmp_path / "b.zarr"), second.statistics) == whole
    assert sum(reported) == VOXELS.nbytes
    # A unit is at most 8 shards: all before the last one are not read again.
    twice = [region for region in again.regions if region in broken.regions]
    assert len(twice) <= 8
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_what_stands_and_is_not_yet_noted_is_not_read_again(
    tmp_path, monkeypatch, whole, older, moment
):
    """Killed before the volume takes its place, just after it, or before the note."""
    if older:
        write(tmp_path / "b.zarr", VOXELS[::-1].copy(), fingerprint="older")

    def killed(*given):
        if moment == "within":
            path = given[1]
            given[0].rename(path) if not path.exists() else atomic._exchange(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        if moment == "after":
            write(tmp_path / "b.zarr", VOXELS, keep=killed)
        else:
            patched.setattr(image_output, "put_folder", killed)
            write(tmp_path / "b.zarr", VOXELS)
    volume = ArrayVolume(VOXELS, voxel_size_nm=(4.0, 4.0, 4.0))
    noted = []
    written = write(tmp_path / "b.zarr", volume, keep=noted.append)
    assert volume.regions == []
    assert noted == [written]
    assert digest(tmp_path / "b.zarr") == whole[0]
    assert [path.name for path in tmp_path.iterdir()] == ["b.zarr"]


def test_a_volume_that_was_taken_away_before_it_was_noted_is_made_anew(tmp_path, whole):
    def killed(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.zarr", VOXELS, keep=killed)
    shutil.rmtree(tmp_path / "a.zarr")
    write(tmp_path / "a.zarr", VOXELS)
    assert digest(tmp_path / "a.zarr") == whole[0]


def test_other_voxels_of_the_same_name_start_anew(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "b.zarr", Breaks(VOXELS, KeyboardInterrupt(), at=40))
    other = ArrayVolume(255 - VOXELS)
    write(tmp_path / "b.zarr", other, fingerprint="two")
    assert np.array_equal(open_level(str(tmp_path / "b.zarr"), 0)[:], 255 - VOXELS)


@pytest.mark.system
def test_killed_at_random_it_resumes_and_ends_bit_identical(tmp_path, whole):
    source = tmp_path / "source.zarr"
    write(source, VOXELS)
    given = (str(tmp_path / "b.zarr"), str(source))
    random, kills = np.random.default_rng(int(time.time())), 0
    while not (tmp_path / "b.zarr").exists() and kills < 3:
        with forked("tests.ome_zarr.slow_volume", *given) as writer:
            writer.lines.readline()
            time.sleep(random.uniform(0, 0.12))
            writer.process.kill()
            writer.process.wait()
        kills += 1
    second = write(tmp_path / "b.zarr", open_volume(str(source)))
    assert (digest(tmp_path / "b.zarr"), second.statistics) == whole


@pytest.mark.system
@pytest.mark.filterwarnings("ignore")
def test_dask_workers_give_the_same_bytes(tmp_path, whole):
    from em_platform.stitching.compute import dask_map, local_cluster

    write(tmp_path / "source.zarr", VOXELS)
    volume = open_volume(str(tmp_path / "source.zarr"))
    with local_cluster(2) as client:
        second = write(tmp_path / "b.zarr", volume, run=dask_map(client))
    assert (digest(tmp_path / "b.zarr"), second.statistics) == whole


def test_memory_does_not_grow_with_the_volume(tmp_path):
    code = textwrap.dedent(
        """
        import sys
        import numpy as np
        from em_platform.config import OutputSettings
        from em_platform.ome_zarr import write_volume
        from em_platform.model.volume import VolumeInfo
        from em_platform.storage.manifest import Product
        from em_platform.stitching.compute import peak_memory_mb

        class Made:
            def __init__(self, shape):
                self.info = VolumeInfo(uri="made", format="made", shape=shape,
                                       dtype="uint16", chunk_shape=(1, 1, shape[2]))
            def read(self, region):
                z, y, x = (np.arange(part.start, part.stop, dtype=np.uint16)
                           for part in region)
                return (z[:, None, None] + y[:, None]) ^ x

        for shape in ((64, 128, 256), (256, 128, 256), (256, 256, 256)):
            write_volume(f"{sys.argv[1]}/{shape}.zarr", Made(shape), name="made",
                         settings=OutputSettings(chunk_px=32, shard_px=64),
                         fingerprint="",
                         product=Product(kind="volume", of="made"))
            print(peak_memory_mb())
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    small, larger, largest = map(float, done.stdout.split())
    # 4, 16 and 32 MiB of voxels; what is read at once is 64 rows of 64 sections.
    assert larger - small < 8
    assert largest - small < 24


def test_a_bucket_holds_a_volume_only_when_it_is_whole(tmp_path, bucket):
    target, options = "s3://bucket/volumes/a.zarr", {"storage_options": bucket}
    settings = OutputSettings(chunk_px=32, shard_px=64)
    here = write(tmp_path / "a.zarr", VOXELS, settings)
    size = {"voxel_size_nm": (4.0, 4.0, 4.0)}
    broken = Breaks(VOXELS, SourceUnavailable("gone"), at=2, **size)
    with pytest.raises(SourceUnavailable):
        write(target, broken, settings, **options)
    with pytest.raises(FormatError):
        level_count(target, **options)
    again = ArrayVolume(VOXELS, **size)
    there = write(target, again, settings, **options)
    assert len(again.regions) == 1
    assert np.array_equal(open_level(target, 0, **options)[:], VOXELS)
    assert there.statistics == here.statistics
    assert there.size_bytes > VOXELS.nbytes / 2
    assert mid_sections(target, **options).startswith(b"\x89PNG")
