"""Pigeon, imported without its search through every installed package.

`pigeon.utils` reads the files of all distributions when it is imported, to know the
versions of those that define topics: 0.3 CPU-seconds in each of a microscope's 16
processes. Pigeon's own entry points name these packages in a fifth of the time.
"""

import importlib.metadata
from collections.abc import Mapping


def _packages_of_topics() -> Mapping[str, list[str]]:
    """Top-level package -> its distribution, of all that define topics."""
    return {
        point.module.partition(".")[0]: [point.dist.name]
        for point in importlib.metadata.entry_points(group="pigeon.msgs")
        if point.dist is not None
    }


_search = importlib.metadata.packages_distributions
importlib.metadata.packages_distributions = _packages_of_topics
try:
    from pigeon import Pigeon
    from pigeon.utils import get_version
finally:
    importlib.metadata.packages_distributions = _search  # others need the real one

__all__ = ["Pigeon", "get_version"]
