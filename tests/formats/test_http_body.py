"""Bodies that drip, that are packed in several parts, or that are cut."""

import gzip
import time
from collections.abc import Callable

import numpy as np
import pytest

from em_platform.config import SourceSettings, TransferSettings
from em_platform.errors import SourceUnavailable
from em_platform.formats import http_body
from em_platform.formats.chunked.listing import listed
from em_platform.formats.chunked.store import chunk_store
from em_platform.ingest.dvid import Dvid
from em_platform.ingest.dvid_instance import DvidInstance
from em_platform.ingest.remote_file import Offer, fetch_part, fetch_stream
from em_platform.ingest.web import Web
from tests.ingest.serving import Answer, serving

MIB = 1 << 20
PIXELS = np.random.default_rng(3).integers(0, 4, 4 * MIB, np.uint8).tobytes()


def web() -> Web:
    limits = SourceSettings(requests_per_second=1e6)
    return Web("ebi", limits, TransferSettings(retries=0, timeout_s=5.0))


def list_bucket(url: str) -> None:
    bucket = chunk_store("s3://bucket/a", {"endpoint_url": url, "retries": 0})
    list(listed(bucket, ("0/",)))


def fetch_a_part(url: str) -> None:
    offer = Offer(url=url, size_bytes=40)
    fetch_part(web(), offer, (0, 40), name="a.tif", write=lambda at, block: None)


def fetch_a_box(url: str) -> None:
    instance = DvidInstance(
        name="a",
        type_name="uint8blk",
        dtype="uint8",
        low=(0, 0, 0),
        high=(2, 4, 5),
        block_shape=(32, 32, 32),
        voxel_size_nm=None,
        jpeg=False,
        proxied=False,
    )
    dvid = Dvid(web=web(), url=url, uuid="a", name="a")
    dvid.raw(instance, (instance.low, instance.high))


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (list_bucket, r"is not served \(Timeout\)"),
        (web().get, "no answer in time"),
        (fetch_a_part, "no answer in time"),
        (fetch_a_box, "no answer in time"),
    ],
)
def test_a_body_that_drips_is_given_up(
    ask: Callable[[str], object], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_body, "_PIECE_S", 0.3)
    headers = {"Content-Range": "bytes 0-39/40"}
    dripping = Answer(status=206, body=bytes(40), headers=headers, drip_s=0.1)
    whole = Answer(body=bytes(40), drip_s=0.1)
    with serving(lambda asked: dripping if "range" in asked.headers else whole) as at:
        started = time.monotonic()
        with pytest.raises(SourceUnavailable, match=sentence):
            ask(at.url)
        # All of it would take 4 s.
        assert time.monotonic() - started < 2


def test_a_body_that_is_slow_and_long_may_take_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # All of it takes 1.6 times as long, each two bytes a twelfth: room for a busy core.
    monkeypatch.setattr(http_body, "_PIECE_S", 0.5)
    monkeypatch.setattr(http_body, "_PIECE_BYTES", 2)
    with serving(lambda _: Answer(body=b"0123456789" * 4, drip_s=0.02)) as at:
        assert web().get(at.url) == b"0123456789" * 4


@pytest.mark.parametrize("member", [MIB // 16, 3 * MIB // 16, MIB - 7, MIB, 2 * MIB])
@pytest.mark.parametrize("encoding", ["gzip", "x-gzip"])
def test_gzip_of_several_members_is_unpacked_whole(member: int, encoding: str) -> None:
    members = [PIXELS[at : at + member] for at in range(0, len(PIXELS), member)]
    packed = Answer(
        body=b"".join(gzip.compress(each, 1) for each in members),
        headers={"Content-Encoding": encoding},
    )
    with serving(lambda _: packed) as at:
        assert web().get(at.url) == PIXELS
        assert at.asked[0].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize("cut", [1, 9, 1000, 200_000])
def test_gzip_that_is_cut_or_damaged_is_not_taken_for_whole(cut: int) -> None:
    packed = gzip.compress(PIXELS, 1)
    damaged = bytearray(packed)
    damaged[-cut] ^= 1
    headers = {"Content-Encoding": "gzip"}
    for body in (packed[:-cut], bytes(damaged)):
        answer = Answer(body=body, headers=headers)
        with serving(lambda _, answer=answer: answer) as at:
            with pytest.raises(SourceUnavailable, match="did not serve"):
                web().get(at.url)
            offer = Offer(url=at.url, size_bytes=None)
            with pytest.raises(SourceUnavailable, match="did not serve"):
                fetch_stream(
                    web(),
                    offer,
                    name="a.tif",
                    write=lambda at, block: None,
                    most_bytes=2 * len(PIXELS),
                )
