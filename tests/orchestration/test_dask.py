"""Where the work of an asset runs: threads of the run, its own workers, a scheduler."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import pytest

from em_platform.resources.dask import DaskResource
from em_platform.resources.storage import Configuration

SMALL, LARGE = 48 * 2048**2, 2**30


@contextmanager
def resource() -> Iterator[DaskResource]:
    """As a run has it."""
    given = DaskResource(configuration=Configuration())
    with given.yield_for_execution(dg.build_init_resource_context()) as dask:
        yield dask


def processes(dask: DaskResource, size: int) -> set[int]:
    """The processes in which a few items are worked on."""
    found = list(dask.map(size)(lambda item: (item, os.getpid()), range(4)))
    assert [item for item, _ in found] == list(range(4))
    return {process for _, process in found}


def test_small_work_is_done_in_threads_of_the_run(home) -> None:
    with resource() as dask:
        assert processes(dask, SMALL) == {os.getpid()}


def test_large_work_has_workers_of_its_own_which_end_with_the_run(
    home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EM_DASK__WORKERS", "1")
    with resource() as dask:
        (worker,) = processes(dask, LARGE)
        assert worker != os.getpid()
        os.kill(worker, 0)  # it is there
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_a_scheduler_gets_small_work_too(
    home, monkeypatch: pytest.MonkeyPatch, dask_address: str
) -> None:
    monkeypatch.setenv("EM_DASK__ADDRESS", dask_address)
    with resource() as dask:
        work = dask.map(SMALL)(lambda _: threading.current_thread().name, range(4))
        names = set(work)
    # The names of a worker's threads.
    assert all("-Dask-Default-Threads-" in name for name in names), names
