"""Chunked volumes come out as z, y, x in nm, from disk, web and bucket."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from em_platform.errors import FormatError, SourceRefused
from em_platform.formats.chunked import chunked_format, open_chunked
from em_platform.formats.chunked.count import count_chunks
from tests.formats.chunk_writers import (
    SHAPE,
    noise,
    pixels,
    write_n5,
    write_precomputed,
    write_v2,
    write_v3,
)
from tests.formats.served_folder import ServedFolder, serving_folder


@pytest.fixture
def served_folder(tmp_path: Path) -> Iterator[ServedFolder]:
    with serving_folder(tmp_path) as served:
        yield served


WRITERS: dict[str, Any] = {
    "v2 slash zstd": lambda p, v: write_v2(
        p, v, chunk_key_encoding={"name": "v2", "separator": "/"}
    ),
    "v2 dot big-endian": lambda p, v: write_v2(p, v.astype(v.dtype.newbyteorder(">"))),
    "v2 raw F": lambda p, v: write_v2(p, v, compressors=None, order="F"),
    "v3 gzip": lambda p, v: write_v3(p, v, chunks=(8, 8, 8), compressors=GzipCodec()),
    "v3 blosc v2 keys": lambda p, v: write_v3(
        p,
        v,
        chunks=(8, 8, 8),
        compressors=BloscCodec(),
        chunk_key_encoding={"name": "v2", "separator": "."},
    ),
    "v3 sharded": lambda p, v: write_v3(
        p, v, chunks=(8, 8, 8), shards=(16, 16, 16), compressors=ZstdCodec()
    ),
    "n5": write_n5,
    "precomputed raw": write_precomputed,
    "precomputed sharded": lambda p, v: write_precomputed(
        p,
        v,
        sharding={
            "@type": "neuroglancer_uint64_sharded_v1",
            "preshift_bits": 1,
            "minishard_bits": 2,
            "shard_bits": 3,
            "hash": "identity",
            "minishard_index_encoding": "gzip",
            "data_encoding": "gzip",
        },
    ),
}


@pytest.mark.parametrize("how", WRITERS)
def test_voxels_come_back_from_disk_web_and_bucket(
    how: str, served_folder: ServedFolder
) -> None:
    truth = noise()
    WRITERS[how](served_folder.folder / "volume", truth)
    for url, options in served_folder.places():
        volume = open_chunked(f"{url}/volume", options=options)
        assert volume.info.shape == SHAPE
        assert volume.info.dtype == "uint16"
        found = pixels(volume)
        assert found.dtype == np.uint16 and found.flags.c_contiguous
        assert np.array_equal(found, truth)
        region = (slice(3, 20), slice(5, 6), slice(40, 99))
        assert np.array_equal(volume.read(region), truth[region])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "uint64", "float32"])
@pytest.mark.parametrize("kind", ["zarr", "n5", "precomputed"])
def test_types_stay(kind: str, dtype: str, tmp_path: Path) -> None:
    truth = noise(dtype)
    writer = {"zarr": write_v2, "n5": write_n5, "precomputed": write_precomputed}
    writer[kind](tmp_path / "volume", truth)
    volume = open_chunked(str(tmp_path / "volume"))
    assert volume.info.dtype == dtype
    assert np.array_equal(pixels(volume), truth)
    assert chunked_format(str(tmp_path / "volume")) == kind


def test_an_image_of_two_axes_is_one_plane(tmp_path: Path) -> None:
    truth = noise(shape=(30, 40))
    write_v3(tmp_path / "plane", truth, chunks=(8, 8))
    volume = open_chunked(str(tmp_path / "plane"))
    assert volume.info.shape == (1, 30, 40)
    assert np.array_equal(pixels(volume), truth[None])


def test_a_volume_goes_to_other_processes_and_opens_there(tmp_path: Path) -> None:
    truth = noise()
    write_v2(tmp_path / "volume", truth)
    volume = open_chunked(str(tmp_path / "volume"))
    sent = pickle.dumps(volume)
    assert len(sent) < 3000
    assert np.array_equal(pixels(pickle.loads(sent)), truth)


def test_missing_chunks_are_the_fill_value(tmp_path: Path) -> None:
    write_v2(tmp_path / "volume", noise(), fill_value=9)
    (tmp_path / "volume/0.0.0").unlink()
    found = pixels(open_chunked(str(tmp_path / "volume")))
    assert (found[:8, :16, :16] == 9).all()


@pytest.mark.parametrize(
    ("level", "crop", "sentence"),
    [
        (7, None, "no level 7 .found: s0, s1"),
        ("s9", None, "no level 's9'"),
        (0, ((0, 0, 0), (99, 1, 1)), "expected the crop"),
        (0, ((0, 0, 0), (0, 1, 1)), "expected the crop"),
    ],
)
def test_what_is_not_there_is_one_sentence(
    level: Any, crop: Any, sentence: str, tmp_path: Path
) -> None:
    for n in range(2):
        write_n5(tmp_path / f"em/s{n}", noise())
    with pytest.raises(FormatError, match=sentence):
        open_chunked(str(tmp_path / "em"), level=level, crop=crop)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".zarray", "{"),
        (".zarray", "[]"),
        (".zarray", '{"shape": [3]}'),
        ("zarr.json", '{"node_type": "array"}'),
        ("attributes.json", '{"dataType": "uint8"}'),
        ("info", '{"scales": []}'),
    ],
)
def test_metadata_that_cannot_be_right_are_one_sentence(
    name: str, content: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(FormatError, match=r"^chunks: .*metadata.*; fetch"):
        open_chunked(str(tmp_path))


def test_what_is_no_volume_is_refused(served_folder: ServedFolder) -> None:
    (served_folder.folder / "readme.txt").write_text("hello")
    for url, options in served_folder.places():
        assert chunked_format(url, options) is None
        expected = SourceRefused if "://" in url else FormatError
        with pytest.raises(expected, match="expected a Zarr, N5 or precomputed"):
            open_chunked(url, options=options)


def test_a_volume_opened_again_is_read_again(served_folder: ServedFolder) -> None:
    for n, (url, options) in enumerate(served_folder.places()):
        write_v2(served_folder.folder / f"{n}", noise())
        assert np.array_equal(
            pixels(open_chunked(f"{url}/{n}", options=options)), noise()
        )
        (served_folder.folder / f"{n}/0.0.0").unlink()
        again = pixels(open_chunked(f"{url}/{n}", options=options))
        assert not again[:8, :16, :16].any()


@pytest.mark.parametrize("consolidated", [True, False])
def test_a_group_without_an_image_names_what_is_in_it(
    consolidated: bool, served_folder: ServedFolder
) -> None:
    write_v2(served_folder.folder / "group/em/raw", noise())
    for name in (".", "em"):
        zarr.open_group(served_folder.folder / "group" / name, zarr_format=2)
    if consolidated:
        zarr.consolidate_metadata(served_folder.folder / "group", zarr_format=2)
    for url, options in served_folder.places():
        listed = not url.startswith("http")
        found = "em/raw" if consolidated else "em" if listed else "no list"
        with pytest.raises(FormatError, match=rf"no level 0 \(found: {found}"):
            open_chunked(f"{url}/group", options=options)
        volume = open_chunked(f"{url}/group", level="em/raw", options=options)
        assert np.array_equal(pixels(volume), noise())


def test_an_n5_container_names_what_is_in_it(served_folder: ServedFolder) -> None:
    write_n5(served_folder.folder / "root.n5/em/s0", noise())
    (served_folder.folder / "root.n5/attributes.json").write_text('{"n5": "2.0.0"}')
    for url, options in (served_folder.places()[0], served_folder.places()[2]):
        with pytest.raises(FormatError, match=r"found: em\)"):
            open_chunked(f"{url}/root.n5", options=options)


def described(kind: str, folder: Path, chunk: tuple[int, int, int]) -> str:
    """Metadata of an array without voxels; its chunk z, y, x."""
    folder.mkdir()
    shape = [1200, 1000, 1000]
    z_y_x, x_y_z = list(chunk), list(chunk[::-1])
    compression = {"type": "gzip"}
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "zarr": (".zarray", {
            "zarr_format": 2, "shape": shape, "chunks": z_y_x, "dtype": "|u1",
            "compressor": None, "fill_value": 7, "filters": None, "order": "C",
        }),
        "n5": ("attributes.json", {
            "dimensions": shape[::-1], "blockSize": x_y_z, "dataType": "uint8",
            "compression": compression,
        }),
        "precomputed": ("info", {
            "@type": "neuroglancer_multiscale_volume", "data_type": "uint8",
            "num_channels": 1, "type": "image", "scales": [{
                "key": "s0", "size": shape[::-1], "resolution": [4, 4, 4],
                "chunk_sizes": [x_y_z], "encoding": "raw", "voxel_offset": [0, 0, 0],
            }],
        }),
    }  # fmt: skip
    name, metadata = found[kind]
    (folder / name).write_text(json.dumps(metadata))
    return str(folder)


@pytest.mark.parametrize("kind", ["zarr", "n5", "precomputed"])
def test_chunks_that_would_fill_the_memory_are_refused_before_one_is_read(
    tmp_path: Path, kind: str
) -> None:
    url = described(kind, tmp_path / "a", (576, 1000, 1000))
    limited = {"memory_limit_mb": 1536}
    with pytest.raises(FormatError, match=r"576000000 bytes.*at most 402653184"):
        open_chunked(url, options=limited)
    with pytest.raises(FormatError, match="raise the source's memory_limit_mb"):
        count_chunks(url, options=limited)
    # round3 4.8: without a source's limit 0.56 MB of gzip took this much.
    with pytest.raises(FormatError, match="expected at most 268435456"):
        open_chunked(url)
    # Who has the memory may read it.
    wide = open_chunked(url, options={"memory_limit_mb": 4096})
    assert wide.info.chunk_shape == (576, 1000, 1000)


@pytest.mark.parametrize("kind", ["zarr", "n5", "precomputed"])
@pytest.mark.parametrize("chunk", [(0, 64, 64), (64, -64, 64)])
def test_chunks_without_voxels_are_refused(
    tmp_path: Path, kind: str, chunk: tuple[int, int, int]
) -> None:
    url = described(kind, tmp_path / "a", chunk)
    for read in (open_chunked, count_chunks):
        with pytest.raises(FormatError, match=r"metadata of .* cannot be used"):
            read(url)
