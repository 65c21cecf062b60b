"""Where the work of a montage runs: here, in threads, or on Dask workers.

A `Mapper` is like the built-in `map`: results come in the order of the items, one at a
time, and items are taken only as fast as the work goes, so that memory stays bounded.
"""

import ctypes
import logging
import os
import resource
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from em_platform.errors import ComputeUnavailable, ConfigError, PlatformError

if TYPE_CHECKING:
    from distributed import Client, Future

A = TypeVar("A")
B = TypeVar("B")

# A worker has one core: libraries that start threads of their own would share it.
_ONE_THREAD = {
    "NUMBA_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OPENCV_FOR_THREADS_NUM": "1",
    "BLOSC_NTHREADS": "1",
}

_CLUSTER: dict[str, list[str] | bool | str] = {
    # Pages would show every account what is computed, and how far it is.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    # The profiler can hang a worker for ever, on Python before 3.11.9
    # (https://github.com/dask/distributed/issues/8616).
    "distributed.worker.profile.enabled": False,
    # Of glibc, which reads it when a process starts: see `keep_freed_memory`.
    "distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX": "1",
    # What fails in a worker is raised here; its log only tells of our own end. Before
    # it starts: Dask reads this when it is imported.
    "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical",
}

_MEMORY_SETTING = "dask.memory_limit_mb"
_LOOK_S = 5.0  # so often it is asked whether there are workers still
_COMES_S = 300.0  # a unit's result is small, and the computer may be busy

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_KEPT_BYTES, _STEP_BYTES = 256 * 2**20, 64 * 2**20
_PROMISED_BYTES = 32 * 2**20  # what mallopt(3) says that every glibc takes


class Mapper(Protocol):
    """Do `act` to each of `items`; results come in the order of the items."""

    def __call__(self, act: Callable[[A], B], items: Iterable[A], /) -> Iterator[B]: ...


def serial(act: Callable[[A], B], items: Iterable[A], /) -> Iterator[B]:
    """One item after the other, in this process."""
    return map(act, items)


def thread_map(workers: int) -> Mapper:
    """A `Mapper` over threads of this process, for work that leaves Python's lock.

    At most `2 * workers` items are under way or wait to be taken.
    """

    def run(act: Callable[[A], B], items: Iterable[A], /) -> Iterator[B]:
        with ThreadPoolExecutor(workers, initializer=use_one_thread_an_item) as pool:
            yield from _in_order(
                lambda item: pool.submit(act, item), items, in_flight=2 * workers
            )

    return run


def local_map(workers: int) -> Mapper:
    """A `Mapper` in this process: threads, or none for one worker."""
    return serial if workers == 1 else thread_map(workers)


def dask_map(
    client: "Client", *, in_flight: int | None = None, wait_s: float = 30.0
) -> Mapper:
    """A `Mapper` over the workers of a Dask client.

    At most `in_flight` items are on the scheduler (default: three a worker thread).

    Raises
    ------
    ComputeUnavailable
        No worker was there for `wait_s`, the scheduler went away, or a worker died
        again and again on one item, most likely for want of memory.
    """

    def run(act: Callable[[A], B], items: Iterable[A], /) -> Iterator[B]:
        import dask

        _wait_for_worker(client, wait_s)
        # `act` may hold a flat field: it is sent once, as a task that can be redone.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1G"}):
            # Not pure: Dask would answer equal arguments with the earlier result.
            shared = client.submit(_itself, act, pure=False)
        threads = client.nthreads()  # type: ignore[no-untyped-call]
        many = in_flight or 3 * max(1, sum(threads.values()))

        def submit(item: A) -> "Future[Any]":
            return client.submit(_act_on_one_thread, shared, item, pure=False)

        def result(future: "Future[Any]") -> Any:
            return _dask_result(future, client, wait_s)

        yield from _in_order(submit, items, in_flight=many, result=result)

    return run


def _in_order(
    submit: Callable[[A], Any],
    items: Iterable[A],
    *,
    in_flight: int,
    result: Callable[[Any], Any] = lambda future: future.result(),
) -> Iterator[Any]:
    waiting: deque[Any] = deque()
    try:
        for item in items:
            waiting.append(submit(item))
            # Waiting for the oldest keeps the order, and memory bounded.
            if len(waiting) >= in_flight:
                yield result(waiting.popleft())
        while waiting:
            yield result(waiting.popleft())
    finally:
        # Whoever stops taking results leaves no work behind.
        for future in waiting:
            future.cancel()


def _wait_for_worker(client: "Client", wait_s: float) -> None:
    """Return when a worker is there; a task would wait for one for ever."""
    try:
        client.wait_for_workers(1, timeout=wait_s)
    except TimeoutError as error:
        raise _without_workers(client, wait_s) from error


def _without_workers(client: "Client", wait_s: float) -> ComputeUnavailable:
    address = str(client.scheduler.address if client.scheduler else "its address")
    # One of our own: there is no address to unset.
    if client.cluster is not None:
        return ComputeUnavailable(
            f"workers: this computer has had no worker for {wait_s:g} s, those that "
            "were started were expected to work and ended, most likely for want of "
            f"memory ({_limit(client)}): raise it, or lower the number of workers",
            address=address,
        )
    return ComputeUnavailable(
        f"Dask: the scheduler at {address} has had no worker for {wait_s:g} s, one at "
        "least was expected; start workers (`dask worker ADDRESS`), or unset "
        "dask.address to use this machine",
        address=address,
    )


def _dask_result(future: "Future[Any]", client: "Client", wait_s: float) -> Any:
    last_seen_s = time.monotonic()
    while True:
        # What is done has still to come here.
        is_done = future.done()  # type: ignore[no-untyped-call]
        try:
            return future.result(timeout=_COMES_S if is_done else min(_LOOK_S, wait_s))
        except PlatformError:
            raise
        except TimeoutError:
            # Of the work itself. What was done only after we looked, comes next time.
            if is_done:
                raise
            # What the client keeps: to ask a scheduler that is away would wait, too.
            if client.scheduler_info()["workers"]:
                last_seen_s = time.monotonic()
            elif time.monotonic() - last_seen_s > wait_s:
                raise _without_workers(client, wait_s) from None
        except Exception as error:
            # By name: distributed is imported only where it is used.
            name = type(error).__name__
            if name == "FutureCancelledError":
                raise ComputeUnavailable(
                    "workers: the scheduler was lost before the work was done, it was "
                    "expected to stay; see its log, then run again"
                ) from error
            if name != "KilledWorker":
                raise
            raise ComputeUnavailable(
                "workers: each that took one of the items ended over it, a result was "
                f"expected; most likely it needs more memory ({_limit(client)}): raise "
                "it, or lower the number of workers"
            ) from error


def _limit(client: "Client") -> str:
    """What a worker may hold, and by which setting."""
    if client.cluster is None:
        return "each worker's --memory-limit"
    limit = client.cluster.new_spec["options"].get("memory_limit", "no limit")
    setting = getattr(client.cluster, "memory_setting", _MEMORY_SETTING)
    return f"{setting} allows each {limit}"


def _itself(act: Callable[[A], B]) -> Callable[[A], B]:
    return act


def _act_on_one_thread(act: Callable[[A], B], item: A) -> B:
    use_one_thread_an_item()
    return act(item)


def use_one_thread_an_item() -> None:
    """Set this process up for a `Mapper`: one core an item, freed memory used again."""
    import cv2

    cv2.setNumThreads(1)  # its threads would compete with those of other items
    keep_freed_memory()


@cache
def keep_freed_memory() -> bool:
    """Whether this process now uses freed memory again instead of giving it back.

    Tiles and shards come and go by the thousand; to be given fresh pages for each takes
    longer than the work on it. Threads that start later share one heap: what one has
    freed is of no use to another heap. Of glibc only (mallopt(3)); elsewhere nothing
    happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if sys.platform != "linux" or mallopt is None:
        return False
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_TOP_PAD, _STEP_BYTES)
    kept = mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    largest = (_KEPT_BYTES, _PROMISED_BYTES)
    return bool(kept and any(mallopt(_M_MMAP_THRESHOLD, size) for size in largest))


_FEW_WORKERS = 8
# Of an idle worker, with its libraries and what it shares with none.
_BARE_WORKER_BYTES = 150 << 20


@contextmanager
def local_cluster(
    workers: int, *, memory_limit_mb: int = 2048, setting: str = _MEMORY_SETTING
) -> Iterator["Client"]:
    """Dask worker processes of one thread each on this machine; yields their client.

    `setting` is the name of the one that limits the memory of each.

    Only this client may give them work: they take code over loopback, which is open to
    every account, so each side shows a certificate that is made anew for each cluster.

    Raises
    ------
    ConfigError
        So many that they would fill the memory before the first has work, or so little
        memory for each that it would end before.
    ComputeUnavailable
        The workers end before they have started.
    """
    import psutil

    least_mb = _BARE_WORKER_BYTES // 10**6 + 1
    if memory_limit_mb < least_mb:
        raise ConfigError(
            f"{setting}: found {memory_limit_mb} MB a worker, expected {least_mb} or "
            "more, which it takes before it has work; raise it"
        )
    most = max(_FEW_WORKERS, int(psutil.virtual_memory().total / _BARE_WORKER_BYTES))
    if workers > most:
        raise ConfigError(
            f"workers: found {workers}, expected at most {most}, which is what this "
            "computer's memory holds; give fewer, or a cluster by dask.address"
        )
    from distributed import Client

    # Ctrl-C goes to all processes of a terminal; only we act on it, and end workers.
    # They, and the thread that starts them anew, have this mask from us.
    # The tracker takes the mask away where it is started.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        cluster = _cluster(workers, memory_limit_mb)
    except RuntimeError as error:  # a nanny's, whose process ended
        raise ComputeUnavailable(
            f"workers: one of {workers} ended before it had started ({error}), all "
            "were expected to work; see how much memory this computer gives a process "
            "(ulimit -v), or lower the number of workers"
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    cluster.memory_setting = setting
    with cluster, Client(cluster) as client:  # type: ignore[no-untyped-call]
        yield client


def _cluster(workers: int, memory_limit_mb: int) -> Any:
    import dask
    from distributed import LocalCluster
    from distributed.security import Security

    with dask.config.set(_CLUSTER):
        return LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",  # None would ask for port 8787
            host="127.0.0.1",
            memory_limit=f"{memory_limit_mb}MB",
            env=_ONE_THREAD,
            silence_logs=logging.CRITICAL,
            security=Security.temporary(),  # type: ignore[no-untyped-call]
            scheduler_kwargs={"dashboard": False},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a piece of work cost: CPU-seconds and the largest process's memory."""

    cpu_seconds: float
    peak_memory_mb: float


def own_usage() -> Usage:
    """Cost of this process, and CPU-seconds of its children that have ended."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    return Usage(cpu_seconds=seconds, peak_memory_mb=peak_memory_mb())


def worker_peak_memory_mb(client: "Client") -> float:
    """The most memory that one of the client's workers has held so far."""
    return float(max(client.run(peak_memory_mb).values(), default=0.0))


def peak_memory_mb() -> float:
    """The most memory that this process has held, in MiB.

    Linux counts it per program image (VmHWM, man 5 proc); `ru_maxrss` would start at
    the size of the parent process.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(x for x in status.read_text().splitlines() if x[:6] == "VmHWM:")
        return int(line.split()[1]) / 1024
    unit = 1024 * 1024 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
