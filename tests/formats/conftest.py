"""A bucket on a real S3 server, for images and volumes."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def bucket() -> Iterator[dict[str, Any]]:
    """The fsspec options of `s3://bucket`, which all tests share."""
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
    client.create_bucket(Bucket="bucket")
    yield {
        "key": "key",
        "secret": "secret",
        "client_kwargs": {"endpoint_url": endpoint},
    }
    client.close()
    server.stop()
