"""A bucket on a real S3 server."""

from tests.formats.conftest import bucket

__all__ = ["bucket"]
