"""Chunks are counted where they lie: on disk, in a bucket, on a plain web server."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from em_platform.errors import FormatError, SourceRefused, SourceUnavailable
from em_platform.formats.chunked.count import ChunkCount, count_chunks
from em_platform.standins.faults import Fault
from tests.formats.chunk_writers import (
    noise,
    write_n5,
    write_precomputed,
    write_v2,
    write_v3,
)
from tests.formats.served_folder import ServedFolder, serving_folder

SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 1,
    "minishard_bits": 1,
    "shard_bits": 5,
    "hash": "identity",
    "minishard_index_encoding": "gzip",
    "data_encoding": "gzip",
}

STORES: dict[str, tuple[Any, int, str]] = {
    "v2 dot": (write_v2, 27, "1.2.0"),
    "v2 slash": (
        lambda p, v: write_v2(
            p, v, chunk_key_encoding={"name": "v2", "separator": "/"}
        ),
        27,
        "1/2/0",
    ),
    "v3": (lambda p, v: write_v3(p, v, chunks=(8, 16, 16)), 27, "c/1/2/0"),
    "v3 shards": (
        lambda p, v: write_v3(p, v, chunks=(8, 8, 8), shards=(16, 16, 16)),
        18,
        "c/0/2/0",
    ),
    "n5": (write_n5, 27, "0/2/1"),
    "precomputed": (write_precomputed, 27, "4_5_6/0-16_24-34_8-16"),
    "precomputed with an offset": (
        lambda p, v: write_precomputed(p, v, voxel_offset=[10, 20, 30]),
        27,
        "4_5_6/10-26_44-54_38-46",
    ),
}
"""How it is written, how many objects it has, and the name of one."""


@pytest.fixture
def served_folder(tmp_path: Path) -> Iterator[ServedFolder]:
    with serving_folder(tmp_path) as served:
        yield served


@pytest.mark.parametrize("how", STORES)
def test_what_lacks_is_named_on_disk_web_and_bucket(
    how: str, served_folder: ServedFolder
) -> None:
    write, expected, name = STORES[how]
    folder = served_folder.folder / "volume"
    write(folder, noise())
    lacking = folder / name
    size = sum(p.stat().st_size for p in objects(folder)) - lacking.stat().st_size
    lacking.unlink()
    for url, options in served_folder.places():
        count = count_chunks(f"{url}/volume", options=options)
        assert (count.expected, count.missing) == (expected, 1)
        assert count.missing_names == (name,)
        assert count.size_bytes == size


def touch_many(folder: Path) -> None:
    """An array of 1980 chunks, of which only the names matter."""
    array = zarr.create_array(
        folder, shape=(21, 34, 45), chunks=(2, 3, 3), dtype="u1", zarr_format=2
    )
    for place in np.ndindex(array.cdata_shape):
        (folder / ".".join(map(str, place))).write_bytes(b"chunk")


def objects(folder: Path) -> list[Path]:
    metadata = (".zarray", ".zattrs", "zarr.json", "attributes.json", "info")
    files = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if path.name not in metadata]


@pytest.mark.parametrize("how", STORES)
def test_of_a_crop_only_its_chunks_count(how: str, tmp_path: Path) -> None:
    write, _, name = STORES[how]
    write(tmp_path / "volume", noise())
    (tmp_path / "volume" / name).unlink()
    with_it = ((8, 33, 3), (8, 1, 10))
    without = ((0, 0, 0), (8, 8, 8))
    for crop, missing in ((with_it, 1), (without, 0)):
        count = count_chunks(str(tmp_path / "volume"), crop=crop)
        assert (count.expected, count.missing) == (1, missing)


def test_shards_of_a_precomputed_volume_are_those_that_hold_the_region(
    served_folder: ServedFolder,
) -> None:
    folder = served_folder.folder / "em"
    write_precomputed(folder, noise(), sharding=SHARDING)
    written = sorted(str(path.relative_to(folder)) for path in objects(folder))
    for url, options in served_folder.places():
        count = count_chunks(f"{url}/em", options=options)
        assert (count.expected, count.missing) == (len(written), 0)
    (folder / written[3]).unlink()
    assert count_chunks(str(folder)).missing_names == (written[3],)
    part = count_chunks(str(folder), crop=((0, 0, 0), (8, 12, 16)))
    assert (part.expected, part.missing) == (1, 0)


def test_shards_by_a_hash_are_not_counted(tmp_path: Path) -> None:
    hashed = {**SHARDING, "hash": "murmurhash3_x86_128"}
    write_precomputed(tmp_path / "em", noise(), sharding=hashed)
    count = count_chunks(str(tmp_path / "em"))
    assert (count.expected, count.missing) == (None, None)


def test_an_archive_too_large_to_ask_for_is_not_counted(
    served_folder: ServedFolder,
) -> None:
    zarr.create_array(
        served_folder.folder / "huge",
        shape=(30000, 30, 30),
        chunks=(1, 30, 30),
        dtype="uint8",
    )
    count = count_chunks(f"{served_folder.http}/huge", options=served_folder.options)
    assert (count.expected, count.missing) == (30000, None)
    listed = count_chunks(f"{served_folder.s3}/huge", options=served_folder.options)
    assert (listed.expected, listed.missing) == (30000, 30000)
    assert len(listed.missing_names) == 100


def test_a_bucket_is_listed_page_by_page(served_folder: ServedFolder) -> None:
    folder = served_folder.folder / "many"
    touch_many(folder)
    (folder / "0.0.7").unlink()
    count = count_chunks(f"{served_folder.s3}/many", options=served_folder.options)
    assert (count.expected, count.missing_names) == (11 * 12 * 15, ("0.0.7",))
    pages = served_folder.requests.count(lambda each: "list-type" in each.query)
    assert pages == 2
    heads = served_folder.requests.count(lambda each: each.method == "HEAD")
    assert heads == 0


def test_a_small_crop_of_a_bucket_is_asked_for(served_folder: ServedFolder) -> None:
    touch_many(served_folder.folder / "many")
    count = count_chunks(
        f"{served_folder.s3}/many",
        crop=((0, 0, 0), (2, 3, 6)),
        options=served_folder.options,
    )
    assert (count.expected, count.missing, count.with_md5) == (2, 0, 2)
    assert served_folder.requests.count(lambda each: "list-type" in each.query) == 0


def test_the_digest_tells_of_every_change(served_folder: ServedFolder) -> None:
    folder = served_folder.folder / "volume"
    write_v2(folder, noise())

    def counted(place: int) -> ChunkCount:
        url, options = served_folder.places()[place]
        return count_chunks(f"{url}/volume", options=options)

    before = [counted(place) for place in range(3)]
    assert before == [counted(place) for place in range(3)]
    served_folder.faults.add(Fault("changed_etag", path="*/1.1.1"))
    assert counted(1).digest != before[1].digest
    served_folder.faults.clear()
    assert counted(1) == before[1]
    os.utime(folder / "1.1.1", (1, 1))
    assert counted(0).digest != before[0].digest


@pytest.mark.parametrize(
    ("status", "error"), [(503, SourceUnavailable), (403, SourceRefused)]
)
def test_a_bucket_that_is_not_listed_is_reported(
    status: int, error: Any, served_folder: ServedFolder
) -> None:
    write_v2(served_folder.folder / "volume", noise())
    served_folder.faults.add(
        Fault("status", path="/em-bucket", status=status),
        Fault("status", path="/em-bucket/", status=status),
    )
    with pytest.raises(error, match=r"^chunks: http.*em-bucket.*; "):
        count_chunks(f"{served_folder.s3}/volume", options=served_folder.options)


def test_a_crop_that_reaches_out_is_refused(tmp_path: Path) -> None:
    write_v2(tmp_path / "volume", noise())
    with pytest.raises(FormatError, match="expected the crop"):
        count_chunks(str(tmp_path / "volume"), crop=((20, 0, 0), (2, 1, 1)))
