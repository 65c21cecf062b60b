"""A folder that is served by HTTP and as a bucket, and misbehaves on demand."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em_platform.standins.faults import Faults, RequestsLog
from em_platform.standins.http import Server
from em_platform.standins.part import FileHost, Tree
from em_platform.standins.s3 import Buckets, refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedFolder:
    """`folder` as `http` and as the bucket `s3`; `options` are those of the bucket."""

    folder: Path
    http: str
    s3: str
    options: dict[str, Any]
    faults: Faults
    requests: RequestsLog

    def places(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        """The folder in three ways: URL and options."""
        return (
            (str(self.folder), {}),
            (self.http, self.options),
            (self.s3, self.options),
        )


@contextmanager
def serving_folder(parent: Path) -> Iterator[ServedFolder]:
    """Serve a new, empty folder; fill it before the first listing."""
    folder = parent / "served"
    folder.mkdir()
    tree = Tree(folder, lambda path: None)
    faults, requests = Faults(), RequestsLog()
    files = FileHost(tree, prefix="/files", faults=faults)
    buckets = Buckets({"em-bucket": tree}, faults=faults)
    with (
        Server("web", files, faults=faults, requests=requests) as web,
        Server("s3", buckets, faults=faults, requests=requests, refuse=refuse) as s3,
    ):
        yield ServedFolder(
            folder=folder,
            http=f"{web.url}/files",
            s3="s3://em-bucket",
            options={"endpoint_url": s3.url, "retries": 2, "backoff_s": 0.05},
            faults=faults,
            requests=requests,
        )
