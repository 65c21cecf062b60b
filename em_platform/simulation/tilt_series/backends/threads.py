"""Work done by a few threads, given back in order, with little of it in memory."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    make: Callable[[Item], Result], items: Sequence[Item], *, workers: int
) -> Iterator[Result]:
    """`make` of each item, in their order; `workers` are made at a time."""
    if workers == 1:
        yield from map(make, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                # One more than there are workers: none waits for the writer, and
                # memory holds a few results only.
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for each in waiting:
                each.cancel()
