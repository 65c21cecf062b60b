"""Faults of this computer, tried again for as long as they last.

Each is a line of the log when it begins and when it is over, and in between a file
`<home>/troubles/<service>.json`, for the operator's page and the alerts.
"""

import json
import logging
import threading
import time
from contextlib import suppress
from pathlib import Path

from em_platform.errors import StorageError, one_line
from em_platform.storage.atomic import write_bytes

log = logging.getLogger(__name__)

_PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0)
# A process that was killed leaves its file behind; one that lives renews it.
_FRESH_S = 60.0


class Troubles:
    """What this process cannot do now, by who cannot; kept in `folder` if there is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: dict[str, str] = {}
        self._path: Path | None = None

    def keep_in(self, folder: Path, service: str) -> None:
        """Write them to the folder from now on."""
        self._path = folder / f"{service}.json"

    def put(self, who: str, sentence: str) -> None:
        """Note what `who` cannot do; an empty sentence means that it is over."""
        with self._lock:
            self._now.pop(who, None)
            if sentence:
                self._now[who] = sentence
            # The disk may be what fails: it is written again with the next try.
            with suppress(StorageError, OSError):
                self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        if self._now:
            sentences = list(self._now.values())
            write_bytes(self._path, json.dumps({"sentences": sentences}).encode())
        else:
            self._path.unlink(missing_ok=True)


TROUBLES = Troubles()
"""Of this process."""


def troubles_folder(home: Path) -> Path:
    """Where the processes of a home keep theirs."""
    return home.absolute() / "troubles"


def read_troubles(home: Path) -> dict[str, tuple[str, ...]]:
    """Service -> the sentences of what it cannot do now."""
    found = {}
    for path in sorted(troubles_folder(home).glob("[!.]*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            if time.time() - path.stat().st_mtime < _FRESH_S:
                sentences = json.loads(path.read_bytes())["sentences"]
                found[path.stem] = tuple(str(each) for each in sentences)
    return found


class OwnFaults:
    """The tries of one thread: how long to wait, and what is logged of it."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._tries = 0
        self._since_s = 0.0
        self._kind: tuple[object, ...] = ()

    def pause_s(self, error: Exception) -> float:
        """How long to wait before the next try; a fault that is news is logged."""
        sentence = one_line(str(error)) or type(error).__name__
        if self._tries == 0:
            self._since_s = time.monotonic()
        # By its kind: each file that cannot be opened would be a line of its own.
        if (kind := _kind_of(error)) != self._kind:
            self._kind = kind
            log.error("%s; it is tried again", self._named(sentence))
        TROUBLES.put(self._who, self._named(sentence))
        pause_s = _PAUSES_S[min(self._tries, len(_PAUSES_S) - 1)]
        self._tries += 1
        return pause_s

    def _named(self, sentence: str) -> str:
        named = sentence.startswith(f"{self._who}: ")
        return sentence if named else f"{self._who}: {sentence}"

    def over(self) -> None:
        """It worked."""
        if self._tries == 0:
            return
        lasted_s = time.monotonic() - self._since_s
        log.info("%s: goes on after %.0f s", self._who, lasted_s)
        self._tries, self._kind = 0, ()
        TROUBLES.put(self._who, "")


def _kind_of(error: BaseException) -> tuple[object, ...]:
    while error.__cause__ is not None:
        error = error.__cause__
    known = getattr(error, "errno", None) or getattr(error, "sqlite_errorcode", None)
    return (type(error), known or str(error))
