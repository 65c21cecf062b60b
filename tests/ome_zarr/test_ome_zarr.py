"""OME-Zarr images: valid, whole or absent, the same bytes however they were made."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

from em_platform.config import RenderSettings
from em_platform.errors import FormatError, StorageError
from em_platform.formats.ome_zarr import level_count, open_level
from em_platform.ome_zarr import preview, write_pyramid
from em_platform.storage.manifest import Product
from tests.ome_zarr.forked import forked

SETTINGS = RenderSettings(chunk_px=32, shard_px=128)
CELLS = Product(kind="mosaic", of="cells")
IMAGE = np.random.default_rng(7).integers(1, 256, (700, 501), dtype=np.uint8)
# Of nine shards, for a bucket, where each object costs several requests.
PART = np.ascontiguousarray(IMAGE[:300, :258])


def write(target, image=IMAGE, *, render=None, settings=SETTINGS, **more):
    return write_pyramid(
        str(target),
        image.shape,
        dtype=image.dtype,
        render=render or (lambda region: image[region]),
        settings=settings,
        name="cells",
        product=more.pop("product", CELLS),
        fingerprint=more.pop("fingerprint", "one"),
        voxel_nm=(4.0, 4.0),
        **more,
    )


def digest(folder):
    names = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    total = hashlib.sha256()
    for path in names:
        total.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The digest of the image as an undisturbed call writes it."""
    write(folder := tmp_path_factory.mktemp("whole") / "a.zarr")
    return digest(folder)


class Breaks:
    """Gives pixels, and an error at the n-th call."""

    def __init__(self, image, *, at):
        self.image, self.at, self.calls = image, at, 0

    def __call__(self, region):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return self.image[region]


def test_pixels_come_back_and_the_levels_are_means(tmp_path):
    written = write(tmp_path / "a.zarr")
    assert level_count(str(tmp_path / "a.zarr")) == len(written.shapes) == 6
    assert np.array_equal(open_level(str(tmp_path / "a.zarr"), 0)[:], IMAGE)
    top = open_level(str(tmp_path / "a.zarr"), 5)[:]
    assert top.shape == (22, 16)
    assert abs(float(top.mean()) - float(IMAGE.mean())) < 2


def test_the_ome_zarr_models_accept_the_metadata(tmp_path):
    from ome_zarr_models.v05 import Image

    write(tmp_path / "a.zarr")
    image = Image.from_zarr(zarr.open_group(tmp_path / "a.zarr", mode="r"))
    (multiscale,) = image.attributes.ome.multiscales
    assert [(axis.name, axis.unit) for axis in multiscale.axes] == [
        ("y", "nanometer"),
        ("x", "nanometer"),
    ]
    scale, translation = multiscale.datasets[2].coordinateTransformations
    assert scale.scale == [16.0, 16.0]
    # Pixel 0 of level 2 covers pixels 0..3, whose middle is 1.5 pixels of 4 nm.
    assert translation.translation == [6.0, 6.0]


def test_the_ome_zarr_reader_opens_the_image(tmp_path):
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    written = write(tmp_path / "a.zarr")
    (node, *_) = Reader(parse_url(str(tmp_path / "a.zarr")))()
    assert [level.shape for level in node.data] == list(written.shapes)
    assert np.array_equal(np.asarray(node.data[0]), IMAGE)


def test_the_image_is_sharded_and_other_readers_decode_it(tmp_path):
    write(tmp_path / "a.zarr")
    array = zarr.open_array(tmp_path / "a.zarr" / "0", mode="r")
    assert (array.chunks, array.shards) == ((32, 32), (128, 128))
    assert np.array_equal(array[:], IMAGE)
    assert len(list((tmp_path / "a.zarr/0/c").rglob("*"))) == 6 + 6 * 4


def test_background_costs_no_files(tmp_path):
    empty = np.full((600, 600), 9, np.uint8)
    write(
        tmp_path / "a.zarr",
        empty,
        settings=SETTINGS.model_copy(update={"background": 9}),
    )
    assert not (tmp_path / "a.zarr/0/c").exists()
    assert (open_level(str(tmp_path / "a.zarr"), 0)[:] == 9).all()


def test_sixteen_bits_are_kept_and_previewed_in_eight(tmp_path):
    image = (IMAGE.astype(np.uint16) << 7) + 3
    write(tmp_path / "a.zarr", image)
    assert np.array_equal(open_level(str(tmp_path / "a.zarr"), 0)[:], image)
    small = preview(str(tmp_path / "a.zarr"), 50)
    assert small.dtype == np.uint8
    assert small.min() == 0 and small.max() > 200


@pytest.mark.parametrize(("max_px", "shape"), [(100, (100, 72)), (9999, (700, 501))])
def test_a_preview_is_as_small_as_asked_and_never_larger(tmp_path, max_px, shape):
    write(tmp_path / "a.zarr")
    assert preview(str(tmp_path / "a.zarr"), max_px).shape == shape


def test_twice_the_same_input_gives_the_same_bytes(tmp_path, whole):
    write(tmp_path / "a.zarr")
    assert digest(tmp_path / "a.zarr") == whole


def test_threads_give_the_same_bytes_as_serial(tmp_path, whole):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(3) as pool:
        write(tmp_path / "b.zarr", run=pool.map)
    assert digest(tmp_path / "b.zarr") == whole


def test_an_interrupted_call_is_gone_on_with_and_ends_with_the_same_bytes(
    tmp_path, whole
):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "b.zarr", render=Breaks(IMAGE, at=20))
    assert not (tmp_path / "b.zarr").exists()
    second = Breaks(IMAGE, at=10_000)
    write(tmp_path / "b.zarr", render=second)
    assert 0 < second.calls < 24
    assert digest(tmp_path / "b.zarr") == whole
    assert os.listdir(tmp_path) == ["b.zarr"]


def test_other_input_is_not_mixed_with_what_an_interrupted_call_left(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "b.zarr", render=Breaks(IMAGE, at=20))
    other = 255 - IMAGE
    write(tmp_path / "b.zarr", other, fingerprint="two")
    assert np.array_equal(open_level(str(tmp_path / "b.zarr"), 0)[:], other)


def test_an_old_image_stands_until_the_new_one_is_whole(tmp_path):
    write(tmp_path / "a.zarr")
    before = digest(tmp_path / "a.zarr")
    other = 255 - IMAGE
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.zarr", render=Breaks(other, at=20), fingerprint="two")
    assert digest(tmp_path / "a.zarr") == before
    write(tmp_path / "a.zarr", other, fingerprint="two")
    assert np.array_equal(open_level(str(tmp_path / "a.zarr"), 0)[:], other)
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_a_half_written_shard_of_a_killed_call_does_no_harm(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "b.zarr", render=Breaks(IMAGE, at=20))
    partial = next((tmp_path / "b.zarr.partial").glob("*/image"))
    for shard in (path for path in partial.rglob("c/*/*") if path.is_file()):
        if int(shard.parent.name) > 2:
            shard.write_bytes(shard.read_bytes()[:100])
    for mark in (tmp_path / "b.zarr.partial").glob("*/done/*"):
        mark.unlink()
    write(tmp_path / "b.zarr")
    assert digest(tmp_path / "b.zarr") == whole


@pytest.mark.system
@pytest.mark.parametrize("shards", [1, 9, 18])
def test_a_writer_killed_at_any_moment_leaves_nothing_at_the_target(
    tmp_path, whole, shards
):
    with forked("tests.ome_zarr.slow_image", str(tmp_path / "b.zarr")) as writer:
        for _ in range(shards):
            assert writer.lines.readline() == "shard\n"
        time.sleep(0.01 * shards)
        writer.process.kill()
        writer.process.wait()
    assert not (tmp_path / "b.zarr").exists()
    write(tmp_path / "b.zarr")
    assert digest(tmp_path / "b.zarr") == whole


@pytest.mark.system
def test_a_full_disk_is_reported_in_one_sentence_and_leaves_nothing_at_the_target(
    tmp_path, repository
):
    # The size limit of a process's files stops writes as a full disk does.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))"
    write_slowly = "import runpy; runpy.run_module('tests.ome_zarr.slow_image')"
    done = subprocess.run(
        [sys.executable, "-c", f"{limit}\n{write_slowly}", str(tmp_path / "b.zarr")],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("em_platform.errors.StorageError: image: ")
    assert "could not be written (File too large" in last
    assert not (tmp_path / "b.zarr").exists()


def test_a_target_in_a_place_without_access_is_reported_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="could not be written"):
        write(tmp_path / "file" / "a.zarr")


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_what_is_no_image_is_reported_in_one_sentence(tmp_path, make):
    make(tmp_path / "a.zarr")
    with pytest.raises(FormatError, match=r"is not an OME-Zarr 0\.5 image"):
        level_count(str(tmp_path / "a.zarr"))


def test_memory_does_not_grow_with_the_image(tmp_path):
    code = textwrap.dedent(
        """
        import sys
        import numpy as np
        from em_platform.config import RenderSettings
        from em_platform.storage.manifest import Product
        from em_platform.ome_zarr import write_pyramid
        from em_platform.stitching.compute import peak_memory_mb
        noise = np.random.default_rng(0).integers(0, 256, (1024, 1024), dtype=np.uint8)
        for side in (1024, int(sys.argv[2])):
            before = peak_memory_mb()
            write_pyramid(f"{sys.argv[1]}/{side}.zarr", (side, side), dtype=np.uint8,
                          render=lambda region: noise,
                          settings=RenderSettings(chunk_px=256, shard_px=1024),
                          name="noise", fingerprint="",
                          product=Product(kind="mosaic", of="noise"))
        print(peak_memory_mb() - before)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "8192"],
        capture_output=True,
        text=True,
        check=True,
    )
    # 64 shards of 1 MiB, a branch of the tree holds one a level: 6 MiB. All of level 1
    # would be 16 more.
    assert float(done.stdout) < 14


def test_a_bucket_holds_an_image_only_when_it_is_whole(bucket):
    target, options = "s3://bucket/mosaics/a.zarr", {"storage_options": bucket}
    with pytest.raises(KeyboardInterrupt):
        write(target, PART, render=Breaks(PART, at=7), **options)
    with pytest.raises(FormatError):
        level_count(target, **options)
    second = Breaks(PART, at=10_000)
    write(target, PART, render=second, **options)
    assert 0 < second.calls < 9
    assert np.array_equal(open_level(target, 0, **options)[:], PART)
    assert preview(target, 50, **options).shape == (50, 43)


def test_an_image_in_a_bucket_is_replaced_without_leftovers(bucket):
    import fsspec

    target, options = "s3://bucket/second/a.zarr", {"storage_options": bucket}
    write(target, PART, **options)
    small = np.ascontiguousarray(IMAGE[:100, :100])
    write(target, small, fingerprint="two", **options)
    assert np.array_equal(open_level(target, 0, **options)[:], small)
    found = fsspec.filesystem("s3", use_listings_cache=False, **bucket).find(
        "bucket/second"
    )
    assert {name.split("/")[2] for name in found} == {"a.zarr", ".a.zarr.lease"}
    assert sum("/0/c/" in name for name in found) == 1


def test_metadata_is_plain_json_with_version_and_names(tmp_path):
    write(tmp_path / "a.zarr", attributes={"em_platform": {"origin_px": [1, 2]}})
    group = json.loads((tmp_path / "a.zarr/zarr.json").read_text())
    assert group["attributes"]["ome"]["version"] == "0.5"
    assert group["attributes"]["em_platform"]["origin_px"] == [1, 2]
    level = json.loads((tmp_path / "a.zarr/0/zarr.json").read_text())
    assert level["dimension_names"] == ["y", "x"]
