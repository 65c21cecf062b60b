"""What goes wrong at the other side is reported soon, in one sentence."""

import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import trustme
from numcodecs import LZ4
from zarr.codecs import GzipCodec

from em_platform.errors import (
    ChecksumError,
    FormatError,
    PlatformError,
    SourceRefused,
    SourceUnavailable,
)
from em_platform.formats.chunked import chunked_format, guard, open_chunked
from em_platform.standins.faults import Fault, Faults
from em_platform.standins.http import Server
from em_platform.standins.part import FileHost, Tree
from tests.formats.chunk_writers import (
    noise,
    pixels,
    write_n5,
    write_precomputed,
    write_v2,
    write_v3,
)
from tests.formats.served_folder import ServedFolder, serving_folder


def write_gzip(path: Path, voxels: Any) -> None:
    write_v3(path, voxels, chunks=(8, 8, 8), compressors=GzipCodec())


WRITERS: dict[str, tuple[Any, str]] = {
    "zarr": (write_gzip, "c/1/1/1"),
    "n5": (write_n5, "1/1/1"),
}


@pytest.fixture
def served_folder(tmp_path: Path) -> Iterator[ServedFolder]:
    with serving_folder(tmp_path) as served:
        yield served


def addresses(served: ServedFolder) -> tuple[str, str]:
    return f"{served.http}/volume", f"{served.s3}/volume"


@pytest.mark.parametrize(
    ("fault", "error", "sentence"),
    [
        ({"kind": "status", "status": 503}, SourceUnavailable, "is not served"),
        ({"kind": "status", "status": 500}, SourceUnavailable, "is not served"),
        ({"kind": "status", "status": 429}, SourceUnavailable, "is not served"),
        ({"kind": "status", "status": 403}, SourceRefused, "was refused"),
        ({"kind": "status", "status": 401}, SourceRefused, "was refused"),
        ({"kind": "cut"}, SourceUnavailable, "is not served"),
        ({"kind": "wrong_length"}, SourceUnavailable, "is not served"),
    ],
)
def test_a_chunk_that_does_not_come_is_reported(
    fault: dict[str, Any], error: Any, sentence: str, served_folder: ServedFolder
) -> None:
    write, chunk = WRITERS["zarr"]
    write(served_folder.folder / "volume", noise())
    served_folder.faults.add(Fault(path=f"*/volume/{chunk}", **fault))
    options = {**served_folder.options, "retries": 1}
    for url in addresses(served_folder):
        volume = open_chunked(url, options=options)
        started = time.monotonic()
        with pytest.raises(error, match=sentence) as raised:
            pixels(volume)
        assert time.monotonic() - started < 20
        assert_one_sentence(raised.value, url)


@pytest.mark.parametrize(("kind", "place"), [("zarr", 0), ("n5", 1)])
def test_a_chunk_that_comes_at_the_third_try_is_read(
    kind: str, place: int, served_folder: ServedFolder
) -> None:
    write, chunk = WRITERS[kind]
    write(served_folder.folder / "volume", noise())
    url = addresses(served_folder)[place]
    volume = open_chunked(url, options=served_folder.options)
    served_folder.faults.add(Fault("status", path=f"*/volume/{chunk}", times=2))
    assert np.array_equal(pixels(volume), noise())


def test_a_chunk_that_cannot_be_decoded_is_reported(
    served_folder: ServedFolder,
) -> None:
    write, chunk = WRITERS["zarr"]
    write(served_folder.folder / "volume", noise())
    served_folder.faults.add(Fault("corrupt", path=f"*/volume/{chunk}"))
    url, bucket = addresses(served_folder)
    volume = open_chunked(url, options=served_folder.options)
    with pytest.raises(FormatError, match="cannot be decoded") as raised:
        pixels(volume)
    assert_one_sentence(raised.value, url)
    # S3 states a digest: these are not the bytes that it has.
    volume = open_chunked(bucket, options=served_folder.options)
    with pytest.raises(ChecksumError, match=f"{chunk} came with other bytes") as found:
        pixels(volume)
    assert_one_sentence(found.value, bucket)


def test_a_flipped_byte_of_a_bucket_is_noticed_and_asked_for_again(
    served_folder: ServedFolder,
) -> None:
    """Nothing packs the voxels, so that only the digest can tell."""
    write_v2(served_folder.folder / "volume", noise(), compressors=None)
    _, url = addresses(served_folder)
    once = Fault("corrupt", path="*/volume/0.1.1", times=1)
    served_folder.faults.add(once)
    volume = open_chunked(url, options=served_folder.options)
    assert np.array_equal(pixels(volume), noise())
    served_folder.faults.add(Fault("corrupt", path="*/volume/0.1.1"))
    again = open_chunked(url, options=served_folder.options)
    with pytest.raises(ChecksumError, match=r"0\.1\.1 came with other bytes"):
        pixels(again)


def write_several(path: Path, voxels: Any) -> None:
    write_precomputed(path, voxels, chunk_size=(8, 8, 8), encoding="raw")


@pytest.mark.parametrize(
    ("write", "metadata", "chunk"),
    [(write_gzip, "zarr.json", "c/1/1/1"), (write_several, "info", "*/8-16_8-16_8-16")],
)
def test_what_never_ends_is_read_to_a_limit(
    write: Any,
    metadata: str,
    chunk: str,
    served_folder: ServedFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "MOST_BYTES", 1 << 20)
    write(served_folder.folder / "volume", noise())
    # With one that is skipped, tensorstore's own look at the metadata.
    for name, skip in ((metadata, 0), (metadata, 1), (chunk, 0)):
        for url in addresses(served_folder):
            served_folder.faults.clear()
            served_folder.faults.add(
                Fault("endless", path=f"*/volume/{name}", skip=skip, methods=("GET",))
            )
            with pytest.raises(SourceRefused, match="sends more bytes") as raised:
                pixels(open_chunked(url, options=served_folder.options))
            assert_one_sentence(raised.value, url)
    assert max(each.bytes_sent for each in served_folder.requests.all()) < 64 << 20


def test_a_chunk_that_drips_is_given_up(
    served_folder: ServedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "WHOLE_S", 0.2)
    write_v2(served_folder.folder / "volume", noise(), compressors=None)
    volume = open_chunked(f"{served_folder.http}/volume", options=served_folder.options)
    # The 512 bytes of the whole chunk would take 25 s.
    served_folder.faults.add(Fault("slow", path="*/0.1.1", bytes_per_s=20.0))
    started = time.monotonic()
    with pytest.raises(SourceRefused, match=r"is not whole after 0\.2 s"):
        pixels(volume)
    assert time.monotonic() - started < 10


def test_the_guard_answers_none_but_this_process() -> None:
    served = guard.Upstream(address="http://127.0.0.1:9/", url="a")
    url = guard.guarded({}, served)["base_url"]
    start, _, rest = url.removeprefix("http://").partition("/")
    secret, _, number = rest.partition("/")
    # No secret has a ~ in it; other tests of this process have lower numbers.
    wrong = (f"x/{number}a", f"{secret[:-1]}~/{number}a", f"{secret}/{10**9}/a")
    for path in ("", *wrong):
        assert requests.get(f"http://{start}/{path}", timeout=60).status_code == 400
    # The server that is asked is not there.
    assert requests.get(f"{url}a", timeout=60).status_code == 503


@pytest.mark.parametrize("content", [b"", b"not compressed"])
def test_a_broken_chunk_on_disk_is_reported(content: bytes, tmp_path: Path) -> None:
    write_v2(tmp_path / "volume", noise())
    (tmp_path / "volume/0.0.0").write_bytes(content)
    with pytest.raises(FormatError, match="cannot be decoded") as raised:
        pixels(open_chunked(str(tmp_path / "volume")))
    assert_one_sentence(raised.value, str(tmp_path))


@pytest.mark.parametrize("kind", ["zarr", "n5"])
def test_a_codec_that_nobody_here_knows_is_reported(kind: str, tmp_path: Path) -> None:
    if kind == "zarr":
        write_v2(tmp_path, noise(), compressors=LZ4())
    else:
        array = {"dataType": "uint8", "dimensions": [9, 9, 9], "blockSize": [3, 3, 3]}
        lz4 = {"compression": {"type": "lz4", "blockSize": 65536}}
        (tmp_path / "attributes.json").write_text(json.dumps(array | lz4))
    volume = open_chunked(str(tmp_path))
    assert volume.info.tags["compression"] == "lz4"
    with pytest.raises(FormatError, match=r"cannot be opened .*lz4.*codecs") as raised:
        pixels(volume)
    assert_one_sentence(raised.value, str(tmp_path))


def test_a_volume_is_read_over_tls(tmp_path: Path) -> None:
    """In a process of its own: certificates are read once."""
    write_v2(tmp_path / "volume", noise())
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    files = FileHost(Tree(tmp_path, lambda path: None), prefix="/", faults=Faults())
    script = (
        "import sys; from em_platform.formats.chunked import open_chunked\n"
        "volume = open_chunked(sys.argv[1])\n"
        "print(volume.read((slice(None),) * 3).sum())"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TENSORSTORE_")}
    with Server("web", files, tls=context) as web:
        done = subprocess.run(
            [sys.executable, "-c", script, f"{web.url}/volume"],
            env={**clean, "SSL_CERT_FILE": str(tmp_path / "ca.pem")},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stdout.strip() == str(noise().sum()), done.stderr


@pytest.mark.parametrize(
    ("status", "error"), [(503, SourceUnavailable), (403, SourceRefused)]
)
def test_metadata_that_do_not_come_are_reported(
    status: int, error: Any, served_folder: ServedFolder
) -> None:
    write_n5(served_folder.folder / "volume", noise())
    served_folder.faults.add(Fault("status", status=status))
    options = {**served_folder.options, "retries": 1}
    for url in addresses(served_folder):
        with pytest.raises(error) as raised:
            open_chunked(url, options=options)
        assert_one_sentence(raised.value, url)


def test_a_bucket_that_forbids_what_it_lacks_is_read(
    served_folder: ServedFolder,
) -> None:
    write_v2(served_folder.folder / "volume", noise())
    for name in ("zarr.json", ".zattrs"):
        served_folder.faults.add(Fault("status", path=f"*/{name}", status=403))
    for url in addresses(served_folder):
        assert chunked_format(url, served_folder.options) == "zarr"
        volume = open_chunked(url, options=served_folder.options)
        assert np.array_equal(pixels(volume), noise())


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/volume", "s3://em-bucket/volume"])
def test_a_dead_server_is_reported_within_seconds(url: str) -> None:
    started = time.monotonic()
    with pytest.raises(SourceUnavailable, match=r"is not served \("):
        open_chunked(url, options={"endpoint_url": "http://127.0.0.1:9", "retries": 2})
    assert time.monotonic() - started < 20


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(FormatError, match="has the protocol ftp"):
        open_chunked("ftp://127.0.0.1/volume", format="zarr")


def test_at_most_so_many_requests_run_at_once(served_folder: ServedFolder) -> None:
    write_v2(served_folder.folder / "volume", noise(), chunks=(8, 16, 16))
    options = {**served_folder.options, "requests_at_once": 2}
    served_folder.faults.add(Fault("slow", bytes_per_s=20_000.0))
    pixels(open_chunked(f"{served_folder.http}/volume", options=options))
    chunks = [each for each in served_folder.requests.all() if each.seconds > 0.01]
    begun = [each.at for each in chunks]
    ended = [each.at + each.seconds for each in chunks]
    running = [
        sum(a <= at < b for a, b in zip(begun, ended, strict=True)) for at in begun
    ]
    assert len(chunks) > 10 and max(running) <= 2


def assert_one_sentence(error: PlatformError, url: str) -> None:
    words = str(error)
    assert words.startswith("chunks: ") and url in words
    assert "\n" not in words and "tensorstore_spec" not in words and len(words) < 600
