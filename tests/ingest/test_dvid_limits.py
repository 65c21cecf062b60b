"""A DVID server that sends more than a box can have is refused on its way."""

import gzip
import json
import struct
import tracemalloc
from typing import Any

import cv2
import numpy as np
import pytest

from em_platform.config import SourceSettings, TransferSettings
from em_platform.errors import FormatError, SourceRefused, SourceUnavailable
from em_platform.ingest.dvid import Dvid
from em_platform.ingest.dvid_instance import DvidInstance, decoded, parse_info
from em_platform.ingest.http_answers import Cut
from em_platform.ingest.web import Web
from tests.ingest.serving import Answer, serving

BOX = ((0, 0, 0), (32, 32, 32))


def described(block_px: int = 32, *, labels: bool = False) -> dict[str, Any]:
    return {
        "Base": {
            "Name": "a",
            "TypeName": "labelmap" if labels else "uint8blk",
            "Compression": "jpeg",
        },
        "Extended": {
            "Values": [{"DataType": "uint64" if labels else "uint8"}],
            "BlockSize": [block_px] * 3,
            "MinPoint": [0, 0, 0],
            "MaxPoint": [99, 99, 99],
        },
    }


def instance(*, labels: bool = False) -> DvidInstance:
    return parse_info(described(labels=labels), who="flyem", url="/info")


def dvid(url: str) -> Dvid:
    limits = SourceSettings(requests_per_second=1e6)
    transfer = TransferSettings(retries=0, backoff_s=0.0, timeout_s=5)
    return Dvid(web=Web("flyem", limits, transfer), url=url, uuid="a", name="a")


@pytest.mark.parametrize("block_px", [0, -1, 1000])
def test_blocks_of_a_size_that_no_instance_has_are_refused(block_px: int) -> None:
    with pytest.raises(FormatError, match="tells of no volume of voxels"):
        parse_info(described(block_px), who="flyem", url="/info")


def test_a_box_that_unpacks_to_more_takes_no_more_memory() -> None:
    bomb = gzip.compress(bytes(64 << 20))
    with serving(lambda _: Answer(body=bomb)) as at:
        reader = dvid(at.url)
        tracemalloc.start()
        try:
            with pytest.raises(SourceUnavailable, match="more than the 262144 bytes"):
                reader.raw(instance(labels=True), BOX)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 8 << 20


def test_blocks_that_are_longer_than_their_voxels_are_refused() -> None:
    packed = gzip.compress(bytes(1 << 20))
    answer = Answer(body=packed, headers={"Content-Encoding": "gzip"})
    with (
        serving(lambda _: answer) as at,
        pytest.raises(SourceRefused, match="answered with more than 69632 bytes"),
    ):
        dvid(at.url).subvolblocks(instance(), BOX)


def test_a_block_of_labels_that_unpacks_to_more_is_no_block() -> None:
    payload = memoryview(gzip.compress(bytes(1 << 20)))
    with pytest.raises(Cut, match="block 0,0,0 unpacks to more than 528384 bytes"):
        decoded((0, 0, 0), payload, instance=instance(labels=True), encoding="blocks")


def test_a_picture_of_more_pixels_than_its_block_is_not_decoded() -> None:
    _, jpeg = cv2.imencode(".jpg", np.zeros((32, 32 * 32), np.uint8))
    content = bytearray(jpeg.tobytes())
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(Cut, match="has 60000 x 60000 pixels"):
        decoded((0, 0, 0), memoryview(content), instance=instance(), encoding="jpeg")


def test_a_description_of_endless_length_is_refused() -> None:
    body = json.dumps(described()).encode() + b" " * (1 << 20)
    packed = gzip.compress(body) * 130
    answer = Answer(body=packed, headers={"Content-Encoding": "gzip"})
    with serving(lambda _: answer) as at, pytest.raises(SourceRefused, match="more th"):
        dvid(at.url).instance()
