"""Speaks to aloha: what is sent, how fast, and when it is tried again."""

import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import requests
from requests.adapters import HTTPAdapter

from em_platform.config import BufferSettings
from em_platform.errors import SourceRefused, SourceUnavailable
from em_platform.messaging.topics import shortened
from em_platform.model import AcquisitionUpload, StoredTile

T = TypeVar("T")
Answer: TypeAlias = dict[str, Any]
"""Of aloha: a JSON object that who asked reads (see `_parsed`)."""

# A computer that is there accepts at once; the timeout of the settings is for
# answers.
_CONNECT_S = 5.0
_PIECE = 256 * 1024  # Small enough that the rate moves within a frame
# Timeout, too early, too many requests: the same request may succeed later.
_LATER = {408, 425, 429}


class AlohaClient:
    """One aloha by its URL and token; safe to use from many threads.

    Raises
    ------
    SourceUnavailable
        It is down, slow, has no room, or its TEM database is down: ask again.
    SourceRefused
        It says no; `facts["status"]` is the HTTP status.
    """

    def __init__(
        self, url: str, token: str, *, timeout_s: float, parallel: int = 1
    ) -> None:
        self._base = f"{url.rstrip('/')}/api/v1/acquisitions"
        self._timeout = (_CONNECT_S, timeout_s)
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy stands between the two
        self._session.headers["Authorization"] = f"Bearer {token}"
        # one more: the uploader's own thread asks beside the senders
        pool = HTTPAdapter(pool_maxsize=parallel + 1)
        self._session.mount("http://", pool)
        self._session.mount("https://", pool)

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def announce(self, upload: AcquisitionUpload) -> frozenset[str]:
        """Announce an acquisition; the tiles that are stored already."""
        answer = self._ask(
            "PUT",
            upload.acquisition_id,
            data=upload.model_dump_json().encode(),
            headers={"Content-Type": "application/json"},
        )
        return self._parsed(answer, lambda found: frozenset(map(str, found["stored"])))

    def send(
        self,
        acquisition_id: str,
        tile_id: str,
        frame: Path,
        *,
        sent: Callable[[int], None],
    ) -> StoredTile:
        """Send the file of one frame; `sent` gets each piece's bytes."""
        # unbuffered: the pieces are larger than a buffer would be
        with frame.open("rb", buffering=0) as file:
            answer = self._ask(
                "PUT",
                f"{acquisition_id}/tiles/{tile_id}",
                data=_Body(file, sent),
                headers={"Content-Type": "image/tiff"},
            )
        return self._parsed(answer, StoredTile.model_validate)

    def complete(self, acquisition_id: str) -> int:
        """Have an acquisition verified and registered; how many tiles it has."""
        answer = self._ask("POST", f"{acquisition_id}/complete")
        return self._parsed(answer, lambda found: int(found["tiles"]))

    def abort(self, acquisition_id: str, reason: str) -> None:
        """Have an acquisition registered as aborted."""
        self._ask("POST", f"{acquisition_id}/abort", params={"reason": reason})

    def _parsed(self, answer: Answer, parse: Callable[[Answer], T]) -> T:
        try:
            return parse(answer)
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise SourceUnavailable(
                f"aloha at {self._base} answered what it never does "
                f"({shortened(repr(answer))}); see that it is aloha that listens there "
                "(acquisition.buffer.url)"
            ) from error

    def _ask(self, method: str, place: str, **more: Any) -> Answer:
        url = f"{self._base}/{place}"
        try:
            answer = self._session.request(
                method, url, timeout=self._timeout, allow_redirects=False, **more
            )
            body: Any = answer.json()
        except requests.exceptions.InvalidJSONError as error:
            # first: it is a RequestException, too
            raise SourceUnavailable(
                f"aloha at {url} did not answer in JSON ({error}); see that it is "
                "aloha that listens there (acquisition.buffer.url)"
            ) from error
        except requests.RequestException as error:
            raise SourceUnavailable(
                f"aloha at {url} does not serve ({_clause(error)}); see that it runs "
                "and that acquisition.buffer.url is right; it is tried again"
            ) from error
        if answer.status_code == requests.codes.ok and isinstance(body, dict):
            return body
        refusal = body.get("detail") if isinstance(body, dict) else body
        sentence = f"{refusal} (HTTP {answer.status_code} from {url})"
        if answer.status_code >= 500 or answer.status_code in _LATER:
            raise SourceUnavailable(sentence, status=answer.status_code)
        raise SourceRefused(sentence, status=answer.status_code)


class _Body:
    """A file's bytes in pieces; with a length, so that they are sent as they are."""

    def __init__(self, file: FileIO, sent: Callable[[int], None]) -> None:
        self._file = file
        self._sent = sent

    def __len__(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def __iter__(self) -> Iterator[bytes]:
        while piece := self._file.read(_PIECE):
            yield piece
            self._sent(len(piece))


def _clause(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return f"{type(error).__name__}: {reason or error}"[:200]


@dataclass(slots=True)
class _Failures:
    """How often in a row, and until when to wait."""

    count: int
    not_before: float


class Backoff:
    """Pauses by name; who has not failed does not wait."""

    def __init__(
        self, settings: BufferSettings, *, chance: Callable[[], float] = random.random
    ) -> None:
        self._settings = settings
        self._chance = chance
        self._failed: dict[str, _Failures] = {}

    def waits(self, name: str) -> bool:
        """Whether it is too early to try again."""
        failed = self._failed.get(name)
        return failed is not None and time.monotonic() < failed.not_before

    def fail(self, name: str) -> float:
        """Note a failure; for how many seconds to wait: half to all of the pause."""
        count = self._failed[name].count if name in self._failed else 0
        # 30: 2.0 ** 1024 is an OverflowError, and aloha may be away for days
        pause_s = self._settings.retry_s * 2.0 ** min(count, 30)
        # by chance: all that wait must not come back at one moment
        pause_s = min(pause_s, self._settings.retry_most_s) * (0.5 + self._chance() / 2)
        self._failed[name] = _Failures(count + 1, time.monotonic() + pause_s)
        return pause_s

    def succeed(self, name: str) -> None:
        """Forget its failures."""
        self._failed.pop(name, None)


# The operator's page shows a rate that is steady and still follows a stop.
_WINDOW_S = 5.0


class Rate:
    """Bytes over the last seconds; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lately: deque[tuple[float, int]] = deque()

    def add(self, count: int) -> None:
        """So many bytes have gone just now."""
        with self._lock:
            self._lately.append((time.monotonic(), count))

    def bits_per_s(self) -> int:
        """The mean over the last five seconds."""
        since = time.monotonic() - _WINDOW_S
        with self._lock:
            while self._lately and self._lately[0][0] < since:
                self._lately.popleft()
            return round(8 * sum(count for _, count in self._lately) / _WINDOW_S)
