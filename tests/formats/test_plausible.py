"""A small answer that unpacks to hundreds of megabytes is refused on its way."""

import gzip
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from em_platform.errors import FormatError, SourceRefused
from em_platform.formats.chunked.listing import folders
from em_platform.formats.chunked.store import chunk_store
from em_platform.formats.header_values import MOST_BYTES, read_to_limit, unzip_to_limit
from em_platform.formats.source import read_text
from tests.formats.served_folder import serving_folder
from tests.ingest.serving import Answer, serving

# Members of gzip may follow each other: 130 kB that become 130 MB.
BOMB = gzip.compress(bytes(1 << 20)) * ((MOST_BYTES >> 20) + 1)


def test_pieces_behind_the_limit_are_not_asked_for() -> None:
    asked: list[int] = []

    def pieces() -> Iterator[bytes]:
        for number in range(100):
            asked.append(number)
            yield bytes(10)

    assert read_to_limit(pieces(), most_bytes=25) is None
    assert len(asked) == 3
    assert read_to_limit([b"ab", b"c"], most_bytes=3) == b"abc"


UNPACK = """
import sys, tracemalloc
from em_platform.formats.header_values import unzip_to_limit
bomb = sys.stdin.buffer.read()
tracemalloc.start()
assert unzip_to_limit(bomb, most_bytes=1 << 20) is None
print(tracemalloc.get_traced_memory()[1])
"""


def test_unpacking_takes_no_more_memory_than_the_limit() -> None:
    assert unzip_to_limit(gzip.compress(b"abc"), most_bytes=3) == b"abc"
    # A process of its own: threads of other tests would be counted, too.
    done = subprocess.run(
        (sys.executable, "-c", UNPACK), input=BOMB, capture_output=True, check=True
    )
    assert int(done.stdout) < 8 << 20


def test_packed_metadata_of_a_store_are_bounded_and_may_be_damaged(
    tmp_path: Path,
) -> None:
    with serving_folder(tmp_path) as served:
        (served.folder / "attributes.json").write_bytes(BOMB)
        (served.folder / "info").write_bytes(gzip.compress(b"{}" * 99)[:-9])
        for url, options in served.places():
            store = chunk_store(url, options)
            with pytest.raises(FormatError, match="unpacks to more than 134217728 by"):
                store.read_json("attributes.json")
            with pytest.raises(FormatError, match="cannot be unpacked"):
                store.read_json("info")


def test_a_packed_list_of_tiles_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "tiles.csv.gz").write_bytes(BOMB)
    with pytest.raises(FormatError, match="unpacks to more than 134217728 bytes"):
        read_text(str(tmp_path / "tiles.csv.gz"))


def test_a_page_of_a_listing_is_bounded() -> None:
    packed = Answer(body=BOMB, headers={"Content-Encoding": "gzip"})
    with serving(lambda _: packed) as at:
        store = chunk_store("s3://bucket", {"endpoint_url": at.url, "retries": 0})
        with pytest.raises(FormatError, match="more than 8388608 bytes, expected a pa"):
            folders(store, "")


def test_a_listing_follows_no_redirect_to_another_host() -> None:
    with serving(lambda _: Answer(body=b"<a/>")) as other:
        moved = Answer(status=302, headers={"Location": other.url})
        with serving(lambda _: moved) as at:
            store = chunk_store("s3://bucket", {"endpoint_url": at.url, "retries": 0})
            with pytest.raises(SourceRefused, match="the same host or one that is lis"):
                folders(store, "")
        assert not other.asked
