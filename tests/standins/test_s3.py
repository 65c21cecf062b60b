"""The bucket as boto3, s3fs and tensorstore see it, without credentials."""

import asyncio
from collections.abc import Iterator
from typing import Any

import boto3
import numpy as np
import pytest
import requests
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from em_platform.standins.faults import Fault
from em_platform.standins.openorganelle import BUCKET
from em_platform.standins.world import World

STORE = "jrc_mus-nacc-2/jrc_mus-nacc-2.zarr"
S0 = f"{STORE}/recon-2/em/fibsem-int16/s0"


@pytest.fixture
def client(world: World) -> Iterator[Any]:
    config = Config(
        signature_version=UNSIGNED,
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path"},
    )
    made = boto3.client(
        "s3", endpoint_url=world.urls["s3"], region_name="us-east-1", config=config
    )
    yield made
    made.close()


def names(client: Any, call: str, **asked: Any) -> list[str]:
    pages = client.get_paginator(call).paginate(Bucket=BUCKET, **asked)
    found = []
    for page in pages:
        found += [each["Prefix"] for each in page.get("CommonPrefixes", [])]
        found += [each["Key"] for each in page.get("Contents", [])]
    return found


@pytest.mark.parametrize("call", ["list_objects", "list_objects_v2"])
@pytest.mark.parametrize("size", [1000, 7])
def test_all_keys_are_listed_once_and_in_order(
    client: Any, call: str, size: int
) -> None:
    found = names(client, call, PaginationConfig={"PageSize": size})
    assert len(found) > 150
    assert found == sorted(set(found))


@pytest.mark.parametrize("call", ["list_objects", "list_objects_v2"])
@pytest.mark.parametrize("size", [1000, 2])
def test_folders_are_listed_by_a_delimiter(client: Any, call: str, size: int) -> None:
    found = names(
        client,
        call,
        Prefix=f"{S0}/",
        Delimiter="/",
        PaginationConfig={"PageSize": size},
    )
    below = {name.removeprefix(f"{S0}/") for name in found}
    assert below == {".zarray", ".zattrs", "0/", "1/", "2/"}
    assert len(found) == 5


def test_an_object_comes_whole_and_in_ranges(client: Any) -> None:
    found = client.get_object(Bucket=BUCKET, Key=f"{S0}/.zarray")
    with found["Body"] as body:
        whole = body.read()
    part = client.get_object(Bucket=BUCKET, Key=f"{S0}/.zarray", Range="bytes=5-9")
    with part["Body"] as body:
        assert body.read() == whole[5:10]
    head = client.head_object(Bucket=BUCKET, Key=f"{S0}/.zarray")
    assert head["ContentLength"] == len(whole)
    assert head["ETag"] == found["ETag"]


@pytest.mark.parametrize(
    ("bucket", "key", "code"),
    [
        (BUCKET, "none", "NoSuchKey"),
        (BUCKET, "jrc_hela-2/", "NoSuchKey"),
        ("none", "key", "NoSuchBucket"),
    ],
)
def test_what_is_not_there_has_its_code(
    client: Any, bucket: str, key: str, code: str
) -> None:
    with pytest.raises(ClientError) as caught:
        client.get_object(Bucket=bucket, Key=key)
    assert caught.value.response["Error"]["Code"] == code


def test_nothing_can_be_written(client: Any) -> None:
    with pytest.raises(ClientError, match="AccessDenied"):
        client.put_object(Bucket=BUCKET, Key="new", Body=b"1")
    with pytest.raises(ClientError, match="AccessDenied"):
        client.delete_object(Bucket=BUCKET, Key=f"{S0}/.zarray")
    with pytest.raises(ClientError, match="AccessDenied"):
        client.list_buckets()


def test_a_browser_may_read_from_another_site(world: World) -> None:
    url = f"{world.urls['s3']}/{BUCKET}/{S0}/.zarray"
    answer = requests.get(url, headers={"Origin": "http://viewer"}, timeout=10)
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


def test_a_missing_chunk_is_neither_listed_nor_served(
    world: World, client: Any
) -> None:
    world.faults.add(Fault("missing", f"/{BUCKET}/{S0}/1/2/3"))
    listed = names(client, "list_objects_v2", Prefix=f"{S0}/1/2/")
    assert [name[-1] for name in listed] == ["0", "1", "2", "4", "5"]
    with pytest.raises(ClientError, match="NoSuchKey"):
        client.get_object(Bucket=BUCKET, Key=f"{S0}/1/2/3")


def test_too_many_requests_are_reported_as_s3_tells_them(
    world: World, client: Any
) -> None:
    world.faults.add(Fault("status", "*/.zarray", status=503, times=1))
    with pytest.raises(ClientError, match="SlowDown"):
        client.get_object(Bucket=BUCKET, Key=f"{S0}/.zarray")


def test_s3fs_finds_and_reads(world: World) -> None:
    import s3fs

    async def look() -> tuple[list[str], bytes, list[str]]:
        files = s3fs.S3FileSystem(
            anon=True,
            asynchronous=True,
            skip_instance_cache=True,
            client_kwargs={"endpoint_url": world.urls["s3"]},
        )
        session = await files.set_session()
        try:
            listed = await files._ls(f"{BUCKET}/{S0}", detail=False)
            found = await files._find(f"{BUCKET}/{S0}/0")
            return listed, await files._cat_file(f"{BUCKET}/{S0}/.zarray"), found
        finally:
            await session.close()

    listed, content, found = asyncio.run(look())
    assert f"{BUCKET}/{S0}/0" in listed
    assert b'"zarr_format": 2' in content
    assert len(found) == 5 * 6


def test_tensorstore_reads_the_truth(world: World) -> None:
    import tensorstore

    spec = {
        "driver": "zarr",
        "kvstore": {
            "driver": "s3",
            "bucket": BUCKET,
            "path": f"{S0}/",
            "endpoint": world.urls["s3"],
            "aws_region": "us-east-1",
            "aws_credentials": {"type": "anonymous"},
        },
    }
    found = tensorstore.open(spec).result().read().result()
    key = "jrc_mus-nacc-2.recon-2.em.fibsem-int16.s0"
    assert np.array_equal(found, world.truth("openorganelle", key))
