"""A bucket that can be written, for results: moto's server, where it is installed."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from em_platform.errors import ToolMissing

# moto accepts any key; the client needs one to sign with.
_KEY = "standin"


@dataclass(frozen=True, slots=True, kw_only=True)
class WritableS3:
    """Where it listens, and the bucket that is there; all is gone when it ends."""

    url: str
    bucket: str

    @property
    def settings(self) -> dict[str, str]:
        """Dotted settings that let results lie there."""
        return {
            "storage.root": f"s3://{self.bucket}/em",
            "storage.endpoint_url": self.url,
            "storage.access_key": _KEY,
            "storage.secret_key": _KEY,
        }


@contextmanager
def running_writable_s3(bucket: str = "em-platform") -> Iterator[WritableS3]:
    """A server with one empty bucket, which it keeps in memory.

    Raises
    ------
    ToolMissing
        moto is not installed.
    """
    try:
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        raise ToolMissing(
            "standins: no moto found, which is the writable S3; "
            "pip install 'moto[server]'"
        ) from error
    import requests

    # It writes a line for each request, else.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        # By hand: s3fs sends us-east-1 as a constraint, which moto refuses.
        made = requests.put(f"{url}/{bucket}", timeout=10)
        made.raise_for_status()
        yield WritableS3(url=url, bucket=bucket)
    finally:
        server.stop()
