"""Every error that the platform raises, one tree; the parent says who acts.

PlatformError
├── ConfigError               a setting is missing, unknown or wrong       → operator
├── DataError                 what we hold is not right                    → rejected
│   ├── FormatError           a file cannot be read
│   ├── RecordError           a record breaks its schema
│   └── ChecksumError         bytes are not those that were promised
├── StorageError              the store did not take or give the bytes     → operator
│   ├── OutputBusy            another process writes this output (retryable)
│   └── OutputRefused         the output holds what we did not make
├── SourceError               the other side did not serve
│   ├── SourceUnavailable     down, slow, throttled (retryable)
│   └── SourceRefused         404, 401: no sense to retry
├── MessagingError
│   ├── BrokerUnavailable     no broker answers (retryable)
│   ├── NoAnswer              the message waited for did not come (retryable)
│   └── MessageRejected       a body does not fit its topic
├── AcquisitionError
│   ├── DeviceError           scope, stage or camera did not obey
│   ├── AcquisitionStopped    stopped on purpose, with the reason
│   └── ControlRefused        another operator has control, or it makes no sense now
├── ProcessingError
│   └── FitFailed             no arrangement explains the matches
├── ComputeUnavailable        no scheduler or worker does the work (retryable)
└── ToolError
    ├── ToolMissing           a program is not installed
    └── ToolFailed            a program ended with an error

Wording of every message: *who: what was found, what was expected; what to do*. No
sentence shows the password of a URL: it goes to logs, records and screens.
"""

import errno
import re

# Of the network and of network disks: the same works when the other side is back.
_AWAY = frozenset(
    getattr(errno, name)
    for name in (
        *("ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "EPIPE", "ETIMEDOUT"),
        *("EHOSTUNREACH", "ENETUNREACH", "EHOSTDOWN", "ENETDOWN", "ESTALE", "EBUSY"),
    )
)
# Of this computer: no descriptor, room or memory is left, or its disk fails.
_OWN = frozenset(
    getattr(errno, name)
    for name in (
        *("EMFILE", "ENFILE", "ENOMEM", "EIO"),
        *("ENOSPC", "EDQUOT", "EFBIG", "EROFS"),
    )
)
# Primary result codes (sqlite.org/rescode.html): BUSY, LOCKED, NOMEM, IOERR, FULL,
# CANTOPEN, PROTOCOL. A damaged file (CORRUPT, NOTADB) does not mend itself.
_OWN_SQLITE = frozenset((5, 6, 7, 10, 13, 14, 15))
# Classes of botocore, aiohttp, requests and distributed; none is imported for this.
_AWAY_CLASSES = frozenset(
    {
        *("EndpointConnectionError", "ConnectionClosedError", "ConnectTimeoutError"),
        *("ReadTimeoutError", "HTTPClientError", "ClientConnectionError"),
        *("ServerTimeoutError", "CommClosedError"),
    }
)

# `user:password@` before a host; greedy, as a password may hold a plain @.
_PASSWORD = re.compile(r'(://[^\s/:@"<>]*:)[^\s/"<>]*@')
# A token that stands alone there; a database's user name may be shown.
_TOKEN = re.compile(r'(\bhttps?://)[^\s/:@"<>]+@')


def without_passwords(text: str) -> str:
    """`text`, with `***` for the password of each URL in it."""
    if "://" not in text:
        return text
    return _TOKEN.sub(r"\1***@", _PASSWORD.sub(r"\1***@", text))


# Names of files may have any character but a NUL, and other programs any length.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]|\s*\n\s*")
_MOST_OF_A_WORD, _MOST_OF_A_SENTENCE = 300, 3000
_LONG_WORD = re.compile(rf"\S{{{_MOST_OF_A_WORD + 1},}}")


def one_line(text: str) -> str:
    """`text` on one line that can be printed; what nobody reads through is cut."""

    def shown(found: re.Match[str]) -> str:
        return " " if found[0].isspace() else ascii(found[0])[1:-1]

    def cut(found: re.Match[str]) -> str:
        return f"{found[0][:120]}...{found[0][-120:]}"

    text = _LONG_WORD.sub(cut, _UNSEEN.sub(shown, text))
    if len(text) <= _MOST_OF_A_SENTENCE:
        return text
    half = _MOST_OF_A_SENTENCE // 2
    return f"{text[:half]} ... {text[-half:]}"


class PlatformError(Exception):
    """Root of the tree; `facts` become metadata, `retryable` asks for a retry."""

    # Unless a class says otherwise: the same input would fail again.
    retryable = False

    def __init__(self, sentence: str, **facts: str | int | float | bool) -> None:
        super().__init__(one_line(without_passwords(sentence)))
        self.facts = {
            name: without_passwords(fact) if isinstance(fact, str) else fact
            for name, fact in facts.items()
        }


def fault_of_ours(error: BaseException) -> str:
    """What is reported of an error that nobody foresaw; the traceback is elsewhere."""
    return without_passwords(
        "this is a fault of em-platform, not of your input: found "
        f"{type(error).__name__} ({one_line(str(error)[:200])}), expected a result or "
        "a sentence"
    )


def may_pass(error: BaseException) -> bool:
    """Whether the same may work later: the error, or what caused it, is of the network.

    A platform error that says `retryable` is such a one, too.
    """
    cause: BaseException | None = error
    while cause is not None:
        named = {kind.__name__ for kind in type(cause).__mro__}
        if isinstance(cause, PlatformError) and cause.retryable:
            return True
        if isinstance(cause, ConnectionError | TimeoutError) or named & _AWAY_CLASSES:
            return True
        if isinstance(cause, OSError) and cause.errno in _AWAY:
            return True
        cause = cause.__cause__
    return False


def is_own_fault(error: BaseException) -> bool:
    """Whether this computer fails, or its store, and not what is worked on.

    No file descriptor, no room, no memory, a disk that errs, a locked database: it says
    nothing of a tile or a message, and is tried again for as long as it lasts.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, StorageError):
            return not isinstance(cause, OutputBusy | OutputRefused)
        if isinstance(cause, OSError) and cause.errno in _OWN:
            return True
        # The low byte is the primary code of an extended one.
        if getattr(cause, "sqlite_errorcode", 0) & 0xFF in _OWN_SQLITE:
            return True
        cause = cause.__cause__
    return False


class ConfigError(PlatformError):
    """A setting is missing, unknown or wrong; the sentence names its layer."""


class DataError(PlatformError):
    """What we hold is not right; the item is rejected."""


class FormatError(DataError):
    """A file cannot be read as what it claims to be."""


class RecordError(DataError):
    """A record breaks its schema."""


class ChecksumError(DataError):
    """Bytes are not those that were promised."""


class StorageError(PlatformError):
    """The store did not take or give the bytes (full disk, no permission)."""


class OutputBusy(StorageError):
    """Another process writes this output now."""

    retryable = True


class OutputRefused(StorageError):
    """What stands at the output is not ours, or not for this purpose."""


class SourceError(PlatformError):
    """The other side did not serve."""


class SourceUnavailable(SourceError):
    """The other side is down, slow or throttles."""

    retryable = True


class SourceRefused(SourceError):
    """The other side refused: 404, 401."""


class MessagingError(PlatformError):
    """The message bus did not carry a message."""


class BrokerUnavailable(MessagingError):
    """No broker answers at the configured address."""

    retryable = True


class NoAnswer(MessagingError):
    """The message that was waited for did not come in time."""

    retryable = True


class MessageRejected(MessagingError):
    """A message's body does not fit its topic."""


class AcquisitionError(PlatformError):
    """The microscope did not deliver."""


class DeviceError(AcquisitionError):
    """Scope, stage or camera did not obey."""


class AcquisitionStopped(AcquisitionError):
    """The acquisition was stopped on purpose."""


class ControlRefused(AcquisitionError):
    """An operator may not do this: no control, or not in the present state."""


class ProcessingError(PlatformError):
    """The pixels do not allow the result."""


class FitFailed(ProcessingError):
    """No arrangement of the tiles explains their matches."""


class ComputeUnavailable(PlatformError):
    """No Dask scheduler answers, or no worker does the work."""

    retryable = True


class ToolError(PlatformError):
    """An outside program did not do its work."""


class ToolMissing(ToolError):
    """An outside program is not installed."""


class ToolFailed(ToolError):
    """An outside program ended with an error."""
