"""Volumes: voxels bit-exact, levels true, resumed after a kill, whatever the runner."""

import hashlib
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr

from em_platform.config import OutputSettings
from em_platform.errors import FormatError, SourceUnavailable
from em_platform.formats.ome_zarr import level_count, open_level
from em_platform.formats.open_volume import open_volume
from em_platform.formats.volume_writer import write_volume
from em_platform.model.volume import VolumeInfo

SETTINGS = OutputSettings(chunk_px=8, shard_px=16)
RNG = np.random.default_rng(11)
VOXELS = RNG.integers(1, 256, (40, 71, 53), dtype=np.uint8)


class ArrayVolume:
    """Voxels in memory; remembers what was read."""

    def __init__(self, voxels, **more):
        self.voxels, self.regions = voxels, []
        self.info = VolumeInfo(
            uri="memory",
            format="array",
            shape=voxels.shape,
            dtype=voxels.dtype.name,
            **more,
        )

    def read(self, region):
        self.regions.append(region)
        return self.voxels[region]


class Breaks(ArrayVolume):
    """Gives voxels, and an error at the n-th read."""

    def __init__(self, voxels, error, *, at, **more):
        super().__init__(voxels, **more)
        self.error, self.at = error, at

    def read(self, region):
        found = super().read(region)
        if len(self.regions) == self.at:
            raise self.error
        return found


def write(target, volume, settings=SETTINGS, **more):
    if isinstance(volume, np.ndarray):
        volume = ArrayVolume(volume, voxel_size_nm=(4.0, 4.0, 4.0))
    more = {"name": "cells", "fingerprint": "one"} | more
    return write_volume(str(target), volume, settings=settings, **more)


def digest(folder):
    total = hashlib.sha256()
    for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
        total.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return total.hexdigest()


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
    assert attributes["em_platform"] == {"key": "k"}


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
    from em_platform.formats.volume_layout import plan_volume

    layout = plan_volume(shape, itemsize=1, settings=settings)
    assert (layout.chunk_shape, layout.pyramid.shard_shape) == (chunk, shard)


def test_as_many_levels_as_are_asked_for(tmp_path):
    written = write(
        tmp_path / "a.zarr", VOXELS, SETTINGS.model_copy(update={"levels": 2})
    )
    assert len(written.levels) == 2


def test_what_was_written_is_told(tmp_path):
    voxels = VOXELS.copy()
    voxels[7] = 3
    told = []
    written = write(tmp_path / "a.zarr", voxels, progress=told.append)
    assert sum(told) == voxels.nbytes
    assert len(told) > 3
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


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_give_the_same_bytes_as_serial(tmp_path, workers):
    first = write(tmp_path / "a.zarr", VOXELS)
    with ThreadPoolExecutor(workers) as pool:
        second = write(tmp_path / "b.zarr", VOXELS, run=pool.map)
    assert digest(tmp_path / "a.zarr") == digest(tmp_path / "b.zarr")
    assert first.statistics == second.statistics


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), SourceUnavailable("dvid: down"), FormatError("cut short")],
)
def test_an_interrupted_call_is_gone_on_with_where_it_stopped(tmp_path, error):
    first = write(tmp_path / "a.zarr", VOXELS)
    size = {"voxel_size_nm": (4.0, 4.0, 4.0)}
    broken = Breaks(VOXELS, error, at=40, **size)
    with pytest.raises(type(error)) as raised:
        write(tmp_path / "b.zarr", broken)
    assert raised.value is error
    assert not (tmp_path / "b.zarr").exists()
    again, told = ArrayVolume(VOXELS, **size), []
    second = write(tmp_path / "b.zarr", again, progress=told.append)
    assert digest(tmp_path / "a.zarr") == digest(tmp_path / "b.zarr")
    assert first.statistics == second.statistics
    assert sum(told) == VOXELS.nbytes
    # A unit is at most 8 shards: all before the last one are not read again.
    twice = [region for region in again.regions if region in broken.regions]
    assert len(twice) <= 8
    assert len(list(tmp_path.iterdir())) == 2


def test_other_voxels_of_the_same_name_start_anew(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "b.zarr", Breaks(VOXELS, KeyboardInterrupt(), at=40))
    other = ArrayVolume(255 - VOXELS)
    write(tmp_path / "b.zarr", other, fingerprint="two")
    assert np.array_equal(open_level(str(tmp_path / "b.zarr"), 0)[:], 255 - VOXELS)


def test_a_volume_that_breaks_its_promise_is_told_in_one_sentence(tmp_path):
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


SLOW = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from em_platform.config import OutputSettings
    from em_platform.formats.open_volume import open_volume
    from em_platform.formats.volume_writer import write_volume

    class Slow:
        def __init__(self, volume):
            self.volume, self.info = volume, volume.info
        def read(self, region):
            time.sleep(0.004)
            return self.volume.read(region)

    target, source, seconds = sys.argv[1:]
    write_volume(target, Slow(open_volume(source)), fingerprint="one", name="cells",
                 settings=OutputSettings(chunk_px=8, shard_px=16),
                 progress=lambda size: print(size, flush=True))
    """
)


@pytest.mark.system
def test_killed_at_random_it_resumes_and_ends_bit_identical(tmp_path):
    write(tmp_path / "source.zarr", VOXELS)
    volume = open_volume(str(tmp_path / "source.zarr"))
    first = write(tmp_path / "a.zarr", volume)
    again = [sys.executable, "-c", SLOW]
    again += [str(tmp_path / "b.zarr"), str(tmp_path / "source.zarr"), "0"]
    random, kills = np.random.default_rng(int(time.time())), 0
    while not (tmp_path / "b.zarr").exists() and kills < 3:
        process = subprocess.Popen(again, stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        time.sleep(random.uniform(0, 0.12))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        kills += 1
    second = write(tmp_path / "b.zarr", volume)
    assert digest(tmp_path / "a.zarr") == digest(tmp_path / "b.zarr")
    assert first.statistics == second.statistics


@pytest.mark.system
@pytest.mark.filterwarnings("ignore")
def test_dask_workers_give_the_same_bytes(tmp_path):
    from em_platform.stitching.compute import dask_map, local_cluster

    write(tmp_path / "source.zarr", VOXELS)
    volume = open_volume(str(tmp_path / "source.zarr"))
    first = write(tmp_path / "a.zarr", volume)
    with local_cluster(2) as client:
        second = write(tmp_path / "b.zarr", volume, run=dask_map(client))
    assert digest(tmp_path / "a.zarr") == digest(tmp_path / "b.zarr")
    assert first.statistics == second.statistics


def test_memory_does_not_grow_with_the_volume(tmp_path):
    code = textwrap.dedent(
        """
        import sys
        import numpy as np
        from em_platform.config import OutputSettings
        from em_platform.formats.volume_writer import write_volume
        from em_platform.model.volume import VolumeInfo
        from em_platform.stitching.compute import peak_memory_mb

        class Made:
            def __init__(self, shape):
                self.info = VolumeInfo(uri="made", format="made", shape=shape,
                                       dtype="uint16", chunk_shape=(1, 1, shape[2]))
            def read(self, region):
                z, y, x = (np.arange(part.start, part.stop, dtype=np.uint16)
                           for part in region)
                return (z[:, None, None] + y[:, None]) ^ x

        for shape in ((64, 128, 256), (256, 128, 256), (256, 256, 512)):
            write_volume(f"{sys.argv[1]}/{shape}.zarr", Made(shape), name="made",
                         settings=OutputSettings(chunk_px=32, shard_px=64),
                         fingerprint="")
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
    # 4, 16 and 64 MiB of voxels; what is read at once is 64 rows of 64 sections.
    assert larger - small < 8
    assert largest - small < 24


def test_a_bucket_holds_a_volume_only_when_it_is_whole(tmp_path, bucket):
    target, options = "s3://bucket/volumes/a.zarr", {"storage_options": bucket}
    settings = SETTINGS.model_copy(update={"shard_px": 32})
    here = write(tmp_path / "a.zarr", VOXELS, settings)
    size = {"voxel_size_nm": (4.0, 4.0, 4.0)}
    broken = Breaks(VOXELS, SourceUnavailable("gone"), at=9, **size)
    with pytest.raises(SourceUnavailable):
        write(target, broken, settings, **options)
    with pytest.raises(FormatError):
        level_count(target, **options)
    again = ArrayVolume(VOXELS, **size)
    there = write(target, again, settings, **options)
    assert len(again.regions) <= 8
    assert np.array_equal(open_level(target, 0, **options)[:], VOXELS)
    assert there.statistics == here.statistics
    assert there.size_bytes > VOXELS.nbytes / 2
