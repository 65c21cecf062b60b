"""Which HTTP status stands for which error."""

import errno

from em_platform.aloha.body import TooLarge
from em_platform.errors import (
    AcquisitionStopped,
    DataError,
    FormatError,
    PlatformError,
    RecordError,
    SourceRefused,
    SourceUnavailable,
    StorageError,
)

_RETRY_AFTER_S = 5  # a full disk or a restarted database is not back sooner
# Full, over the quota, too large a file, read-only: as in storage.atomic.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
# FormatError and RecordError before DataError, whose kinds they are.
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (TooLarge, 413),
    (FormatError, 422),
    (RecordError, 422),
    (DataError, 409),
    (AcquisitionStopped, 409),
    (SourceUnavailable, 503),
    (SourceRefused, 502),
    (StorageError, 503),
)
"""The first that fits counts."""


class NotAnnounced(PlatformError):
    """Nothing is known of what was asked for."""


def answer_to(error: Exception) -> tuple[int, dict[str, str]]:
    """Status and headers with which an error is answered."""
    if isinstance(error, NotAnnounced):
        return 404, {}
    if isinstance(error, StorageError) and _is_full(error):
        return 507, {"Retry-After": str(_RETRY_AFTER_S)}
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    if status == 503:
        return status, {"Retry-After": str(_RETRY_AFTER_S)}
    return status, {}


def _is_full(error: StorageError) -> bool:
    cause: BaseException | None = error
    # Our sentence hides the number, the error that it came from has it.
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
            return True
        cause = cause.__cause__
    return bool(error.facts.get("full"))
