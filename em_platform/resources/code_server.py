"""Dagster's code server, whose runs start from a process with all imports done.

`dagster api grpc` starts each run as a new Python, which imports Dagster and the
platform anew: 3 s of CPU, more than many a montage needs. Here runs are forked from one
process (the fork server of `multiprocessing`) that has imported them once and does
nothing else, so no thread and no connection is copied into a run.

    python -m em_platform.resources.code_server api grpc -m em_platform.definitions ...
"""

import multiprocessing
from typing import Any

from dagster._grpc import server

# What each run imports. A module that cannot be imported is passed over.
_PRELOADED = (
    "em_platform.definitions",
    "em_platform.temdb.register",
    "matplotlib.figure",
    "dagster._grpc.server",
    "dagster._core.storage.base_storage",
    "upath.core",
)


# Dagster does not promise to keep this class; tests/system/test_platform.py
# notices. Without its context runs would be new processes again, slow and right.
class ForkingApiServer(server.DagsterApiServer):
    """Answers as Dagster's own; only the way in which it starts a process differs."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(_PRELOADED))
        self._mp_ctx = context  # type: ignore[assignment]


def main() -> None:
    """Run `dagster` with this server in the place of its own."""
    from dagster._cli import main as dagster_command  # runs do not need it

    server.DagsterApiServer = ForkingApiServer  # type: ignore[misc]
    dagster_command()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
