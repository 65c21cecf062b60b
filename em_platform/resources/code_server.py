"""Dagster's code server, whose runs start from a process with all imports done.

`dagster api grpc` starts each run as a new Python, which imports Dagster and the
platform anew: 3 s of CPU, more than many a montage needs. Here runs are forked from one
process (the fork server of `multiprocessing`) that has imported them once and does
nothing else, so no thread and no connection is copied into a run.

It also keeps Dagster's instance open from one look of a sensor to the next.

    python -m em_platform.resources.code_server api grpc -m em_platform.definitions ...
"""

import gc
import importlib
import multiprocessing
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker, util
from typing import Any

from dagster import DagsterInstance, SensorEvaluationContext
from dagster._core.instance.ref import InstanceRef
from dagster._grpc import impl, server
from setproctitle import setproctitle

# What each run imports.
_PRELOADED = (
    "em_platform.definitions",
    "em_platform.temdb.register",
    "matplotlib.figure",
    "dagster._grpc.server",
    "dagster._core.storage.base_storage",
    "upath.core",
)


RUNS_TITLE = "em_platform fork server of runs"
"""By this it is found in `ps`; a run has it, too."""


# Dagster does not promise to keep this class; tests/system/test_platform.py
# notices. Without its context runs would be new processes again, slow and right.
class ForkingApiServer(server.DagsterApiServer):
    """Answers as Dagster's own; only the way in which it starts a process differs."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(_PRELOADED))
        self._mp_ctx = context  # type: ignore[assignment]


class KeptInstance:
    """Gives the contexts of sensors one instance instead of a new one for each look.

    To open one costs 0.06 s of CPU, mostly to load Dagster's migrations and compare
    them with the tables; a dozen sensors look each 2 to 60 s.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ref: InstanceRef | None = None
        self._instance: DagsterInstance | None = None

    def of(self, ref: InstanceRef) -> DagsterInstance:
        """The instance; a new one where dagster.yaml has changed."""
        with self._lock:
            if self._instance is None or ref != self._ref:
                self._ref, self._instance = ref, DagsterInstance.from_ref(ref)
            return self._instance

    def sensor_context(
        self, ref: InstanceRef | None, **named: Any
    ) -> SensorEvaluationContext:
        """Dagster's own context, with the kept instance."""
        instance = None if ref is None else self.of(ref)
        return SensorEvaluationContext(ref, instance=instance, **named)


def main() -> None:
    """Run `dagster` with this server in the place of its own."""
    for name in _PRELOADED:
        with suppress(Exception):  # the server itself then says what is wrong
            importlib.import_module(name)
    gc.freeze()  # so that a collection in a fork copies none of it
    # Started by the same function, but a program of its own.
    resource_tracker.ensure_running()
    start, util.spawnv_passfds = util.spawnv_passfds, _fork  # type: ignore[assignment]
    forkserver.ensure_running()
    util.spawnv_passfds = start
    from dagster._cli import main as dagster_command  # runs do not need it

    server.DagsterApiServer = ForkingApiServer  # type: ignore[misc]
    # Nor this name; tests/orchestration/test_code_server.py notices. Without it each
    # look opens the instance anew, slow and right.
    impl.SensorEvaluationContext = KeptInstance().sensor_context  # type: ignore
    dagster_command()  # type: ignore[no-untyped-call]


def _fork(_: str, __: Sequence[str], files: Sequence[int]) -> int:
    """Be the fork server of runs by a fork: what it would import is imported here.

    One that is killed is followed by a new Python, as `multiprocessing` starts it.
    """
    if pid := os.fork():
        return pid
    setproctitle(RUNS_TITLE)
    # Above all the end by which it notices that the code server has ended.
    closed = {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2, *files}
    for number in closed:
        with suppress(OSError):  # the listing's own
            os.close(number)
    listener, alive = files
    with suppress(SystemExit):
        forkserver.main(listener, alive, [])
    os._exit(0)


if __name__ == "__main__":
    main()
