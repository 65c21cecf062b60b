"""Sends log lines to a Loki server, and never makes the service wait for it."""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Self
from urllib.parse import urlsplit

import requests

from em_platform.config import LoggingSettings
from em_platform.errors import ConfigError, without_passwords

log = logging.getLogger(__name__)

_PATH = "/loki/api/v1/push"
_KEPT = 10_000  # lines while Loki is away; older ones are lost
_BATCH = 500  # lines a request: far below the 4 MB that Loki takes by default
_PAUSES_S = (1.0, 2.0, 5.0, 15.0, 30.0)  # spares a Loki that just restarts
_TIMEOUT_S = (3.0, 10.0)  # to connect, to be answered
_AT_END_S = 2.0  # within the 8 s that the supervisor gives a child to end
_LISTENED_FOR_S = 0.25  # so long a line waits for others to be sent with it
_OWN = (__name__, "urllib3", "requests")
"""Loggers whose lines would beget others if they were sent."""

_Line = tuple[tuple[tuple[str, str], ...], str, str]
"""Labels, nanoseconds since 1970, text."""


class LokiHandler(logging.Handler):
    """Hands lines to a thread that posts them, many at once, to Loki's push API.

    While Loki is away the last 10,000 lines are kept and are sent when it is back; how
    many were lost is logged then. Lines that Loki refuses as such (status 400, 413,
    422) are lost, so that they do not stop those after them.
    """

    def __init__(
        self,
        url: str,
        *,
        labels: Mapping[str, str],
        login: tuple[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._url = url
        self._labels = dict(labels)
        self._login = login
        self._waiting: deque[_Line] = deque()
        self._news = threading.Condition()
        self._ending = False
        self._lost = 0
        self._away = False
        # A daemon: a Loki that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._post_all, name="loki", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, settings: LoggingSettings, *, service: str) -> Self:
        """The handler that the settings describe; `service` is one of its labels.

        Raises
        ------
        ConfigError
            The address or the tags cannot be understood.
        """
        password = settings.loki_password.get_secret_value()
        login = (settings.loki_username, password)
        labels = {"service": service, **tags_of(settings.loki_tags)}
        url = push_url(settings.loki_url)
        return cls(url, labels=labels, login=login if any(login) else None)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line for the thread; returns at once."""
        if record.name.split(".")[0] in _OWN or record.name in _OWN:
            return
        try:
            text = self.format(record)
        except Exception:
            self.handleError(record)
            return
        labels = {
            **self._labels,
            "severity": record.levelname.lower(),
            "logger": record.name,
        }
        line = (tuple(labels.items()), str(int(record.created * 1e9)), text)
        with self._news:
            # The oldest goes: what is logged during an outage explains the outage.
            if len(self._waiting) >= _KEPT:
                self._waiting.popleft()
                self._lost += 1
            self._waiting.append(line)
            self._news.notify()

    def close(self) -> None:
        """Send what waits, for at most two seconds."""
        with self._news:
            self._ending = True
            self._news.notify()
        self._thread.join(timeout=_AT_END_S)
        super().close()

    def _post_all(self) -> None:
        failures = 0
        with requests.Session() as session:
            session.auth = self._login
            while batch := self._next_batch():
                if self._post(session, batch):
                    failures = 0
                    continue
                # To the front, so that lines are sent in their order of time.
                with self._news:
                    excess = max(len(batch) + len(self._waiting) - _KEPT, 0)
                    self._waiting.extendleft(reversed(batch[excess:]))
                    self._lost += excess
                if self._ending:
                    return  # one try at the end; the lines are in the local log too
                pause_s = _PAUSES_S[min(failures, len(_PAUSES_S) - 1)]
                with self._news:
                    self._news.wait_for(lambda: self._ending, timeout=pause_s)
                failures += 1

    def _next_batch(self) -> list[_Line]:
        """Some lines; none when the process ends and all is sent."""
        with self._news:
            while not self._waiting and not self._ending:
                self._news.wait()
        if not self._ending:
            time.sleep(_LISTENED_FOR_S)
        with self._news:
            count = min(len(self._waiting), _BATCH)
            return [self._waiting.popleft() for _ in range(count)]

    def _post(self, session: requests.Session, batch: list[_Line]) -> bool:
        """Whether these lines need not be sent again."""
        try:
            answer = session.post(
                self._url,
                data=json.dumps(streams(batch)).encode(),
                headers={"Content-Type": "application/json"},
                timeout=_TIMEOUT_S,
            )
        except requests.RequestException as error:
            self._tell_away(f"does not answer ({type(error).__name__})")
            return False
        if answer.status_code in (400, 413, 422):
            log.warning(
                "logs: Loki refused %d lines with status %d (%s), they are lost there",
                *(len(batch), answer.status_code, answer.text[:200].strip()),
            )
            return True
        if not answer.ok:
            self._tell_away(f"answers with status {answer.status_code}")
            return False
        if self._away:
            log.warning("logs: Loki is back; %d lines were lost there", self._lost)
        self._away, self._lost = False, 0
        return True

    def _tell_away(self, how: str) -> None:
        if not self._away:
            log.warning(
                "logs: Loki at %s %s, 200 or 204 was expected; the last %d lines are "
                "kept and sent when it is back; see that it runs, or correct "
                "logging.loki_url",
                *(without_passwords(self._url), how, _KEPT),
            )
        self._away = True


def streams(lines: list[_Line]) -> dict[str, list[dict[str, object]]]:
    """The body of a push: lines of the same labels together, in their order."""
    found: dict[tuple[tuple[str, str], ...], list[list[str]]] = {}
    for labels, time_ns, text in lines:
        found.setdefault(labels, []).append([time_ns, text])
    return {"streams": [{"stream": dict(k), "values": v} for k, v in found.items()]}


def push_url(given: str) -> str:
    """Loki's address with the path of its push API, where none was given."""
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"logging.loki_url: found {given!r}, expected an address such as "
            f"http://loki:3100{_PATH}; correct it"
        )
    return given if parts.path.strip("/") else f"{given.rstrip('/')}{_PATH}"


def tags_of(text: str) -> dict[str, str]:
    """`key:value` pairs with commas between them."""
    found: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        key, colon, value = (part.strip() for part in pair.partition(":"))
        if not (key and colon and value):
            raise ConfigError(
                f"logging.loki_tags: found {pair!r}, expected key:value; write for "
                "instance 'scope:T1,room:3'"
            )
        found[key] = value
    return found
