"""Who does the heavy work, as assets see it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg
from pydantic import PrivateAttr

from em_platform.config import DaskSettings
from em_platform.errors import ComputeUnavailable
from em_platform.resources.storage import Configuration
from em_platform.stitching.compute import Mapper, dask_map, local_cluster, thread_map

if TYPE_CHECKING:
    from distributed import Client

A = TypeVar("A")
B = TypeVar("B")

# A scheduler on the network answers at once; a wrong address never does.
_CONNECT_S = 10
# Two workers take 6 CPU-seconds to start, half of what the work on so many pixels takes
# (decision 0028).
_SMALL = 2**30


class DaskResource(dg.ConfigurableResource[Any]):
    """A Dask cluster: the scheduler at `dask.address`, else workers of this run alone.

    Workers start when a step first asks for them and end with the run. Where there is
    no scheduler and little to do, the work is done in threads of the run.
    """

    configuration: Configuration
    _stack: ExitStack = PrivateAttr(default_factory=ExitStack)
    _client: Any = PrivateAttr(default=None)

    @contextmanager
    def yield_for_execution(
        self, context: dg.InitResourceContext
    ) -> Iterator["DaskResource"]:
        """Within the block workers may be started; at its end they are gone."""
        with self._stack:
            yield self
        self._client = None

    def client(self) -> "Client":
        """A client of the cluster, the same one for the whole run.

        Raises
        ------
        ComputeUnavailable
            No scheduler answers at the address.
        """
        if self._client is None:
            dask = self.configuration.settings().dask
            self._client = self._stack.enter_context(_cluster(dask))
        client: Client = self._client
        return client

    def map(self, size: int) -> Mapper:
        """Does one act to many items, which have `size` pixels (or bytes) in all.

        Workers start with the first item: none where there is nothing to do.
        """
        dask = self.configuration.settings().dask
        if size < _SMALL and not dask.address:
            return thread_map(dask.workers)

        def run(act: Callable[[A], B], items: Iterable[A], /) -> Iterator[B]:
            rest = iter(items)
            for first in rest:  # once: `dask_map` takes all that follow
                many = dask_map(self.client(), wait_s=dask.wait_s)
                yield from many(act, chain((first,), rest))

        return run


def _cluster(dask: DaskSettings) -> AbstractContextManager["Client"]:
    if not dask.address:
        return local_cluster(dask.workers, memory_limit_mb=dask.memory_limit_mb)
    return _remote(dask.address)


@contextmanager
def _remote(address: str) -> Iterator["Client"]:
    from distributed import Client

    try:
        client = Client(address, timeout=_CONNECT_S)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise ComputeUnavailable(
            f"Dask: no scheduler answers at {address} within {_CONNECT_S} s; start it, "
            "or unset dask.address (EM_DASK_ADDRESS) to use this machine",
            address=address,
        ) from error
    with client:
        yield client
