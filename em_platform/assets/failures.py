"""The one bridge between the platform's errors and Dagster's."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from em_platform.errors import PlatformError

_RETRIES = 3
_PAUSE_S = 5.0


@contextmanager
def dagster_failures() -> Iterator[None]:
    """A platform error within the block becomes a retry or a failed step.

    The step shows the error's sentence, and its facts as metadata.
    """
    try:
        yield
    except PlatformError as error:
        if error.retryable:
            raise dg.RetryRequested(_RETRIES, _PAUSE_S) from error
        raise dg.Failure(
            description=str(error), metadata=dict(error.facts), allow_retries=False
        ) from error
