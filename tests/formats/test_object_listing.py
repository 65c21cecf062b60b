"""A bucket of another maker is listed and read, with and without credentials."""

import json
from collections.abc import Iterator
from typing import Any

import boto3  # type: ignore[import-untyped]
import numpy as np
import pytest
import zarr

from em_platform.errors import SourceRefused
from em_platform.formats.chunked import open_chunked
from em_platform.formats.chunked.count import count_chunks
from em_platform.formats.chunked.listing import folders
from em_platform.formats.chunked.store import chunk_store
from em_platform.ome_zarr.level_arrays import store_at
from tests.formats.chunk_writers import noise, pixels

URL = "s3://em-open/data/volume"


@pytest.fixture(scope="module")
def open_bucket(bucket: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Keys of a bucket that anybody may list and read, and that holds a volume."""
    endpoint = bucket["client_kwargs"]["endpoint_url"]
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket="em-open")
    everybody = {"Effect": "Allow", "Principal": "*"}
    statements = [
        {**everybody, "Action": "s3:GetObject", "Resource": "arn:aws:s3:::em-open/*"},
        {**everybody, "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::em-open"},
    ]
    policy = {"Version": "2012-10-17", "Statement": statements}
    client.put_bucket_policy(Bucket="em-open", Policy=json.dumps(policy))
    array = zarr.create_array(
        store_at(URL, bucket),
        shape=noise().shape,
        chunks=(8, 16, 16),
        dtype="uint16",
        zarr_format=2,
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )
    array[...] = noise()
    client.delete_object(Bucket="em-open", Key="data/volume/1/1/1")
    client.close()
    yield bucket


def anonymous(keys: dict[str, Any]) -> dict[str, Any]:
    return {"endpoint_url": keys["client_kwargs"]["endpoint_url"], "retries": 1}


def test_a_public_bucket_is_read_without_credentials(
    open_bucket: dict[str, Any],
) -> None:
    options = anonymous(open_bucket)
    found = pixels(open_chunked(URL, options=options))
    assert np.array_equal(found[:8], noise()[:8])
    count = count_chunks(URL, options=options)
    assert (count.expected, count.missing_names) == (27, ("1/1/1",))
    assert folders(chunk_store("s3://em-open", options), "data/") == ("volume",)


def test_a_bucket_with_keys_is_listed_alike(
    open_bucket: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    found = pixels(open_chunked(URL, options=open_bucket))
    assert np.array_equal(found[:8], noise()[:8])
    assert count_chunks(URL, options=open_bucket) == count_chunks(
        URL, options=anonymous(open_bucket)
    )
    assert folders(chunk_store("s3://em-open", open_bucket), "data/") == ("volume",)


def test_a_closed_bucket_refuses_who_has_no_credentials(
    open_bucket: dict[str, Any],
) -> None:
    closed = store_at("s3://bucket/closed", open_bucket)
    zarr.create_array(closed, shape=(4, 4, 4), dtype="uint8", zarr_format=2)
    with pytest.raises(SourceRefused, match="was refused"):
        open_chunked("s3://bucket/closed", options=anonymous(open_bucket))
