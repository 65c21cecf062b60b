"""What a service process logs: one JSON object a line, or plain text for a person."""

import json
import logging
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from em_platform.config import Settings
from em_platform.errors import PlatformError, fault_of_ours, without_passwords
from em_platform.storage.own_faults import TROUBLES, troubles_folder

log = logging.getLogger(__name__)

_TEXT = "%(asctime)s %(levelname)s %(message)s"
_CHATTY = ("httpx", "httpcore", "stomp", "transitions", "urllib3", "alembic", "asyncio")
"""Libraries that log an event of their own for each of ours; only warnings of them."""

# What every record has; anything else came by `extra` and belongs in the line.
_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",  # uvicorn's
}


class JsonFormatter(logging.Formatter):
    """One JSON object of a record, on one line.

    Its keys are `time` (ISO 8601, UTC), `level`, `service`, `logger`, `message`, where
    there is one `exception`, and whatever was given as `extra`, such as `montage_id`.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        extra = vars(record)
        line |= {k: extra[k] for k in extra if k not in _ORDINARY and k not in line}
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        # default=str: a line with a path or an array in it is better than none.
        text = json.dumps(line, default=str, ensure_ascii=False)
        return without_passwords(text)  # last: `extra` and tracebacks hold URLs, too


class TextFormatter(logging.Formatter):
    """A line for a person, without the passwords of URLs."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the traceback where there is one."""
        return without_passwords(super().format(record))


def setup_logging(service: str, settings: Settings) -> None:
    """Let this process log by `settings.logging`, in the name of `service`.

    Lines go to stderr: text where the format is `text` or stderr is a terminal, so that
    a person who starts one service by hand can read them; JSON otherwise, as under a
    supervisor or in a container. With `loki_url` they are also sent to Loki. What ends
    the process or a thread of it unforeseen is logged, too.

    Raises
    ------
    ConfigError
        The address or the tags of Loki cannot be understood.
    """
    chosen = settings.logging
    lines = logging.StreamHandler(sys.stderr)
    as_text = chosen.format == "text" or sys.stderr.isatty()
    lines.setFormatter(TextFormatter(_TEXT) if as_text else JsonFormatter(service))
    handlers: list[logging.Handler] = [lines]
    if chosen.loki_url:
        from em_platform.processes.loki import LokiHandler  # requests costs 0.1 s

        loki = LokiHandler.of(chosen, service=service)
        loki.setFormatter(JsonFormatter(service))
        handlers.append(loki)
    # Without force nothing is set where a library has put a handler there before.
    logging.basicConfig(level=chosen.level, handlers=handlers, force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    TROUBLES.keep_in(troubles_folder(settings.home), service)
    _log_unforeseen()


def _log_unforeseen() -> None:
    """Log an exception that nobody caught, instead of the interpreter's own lines."""
    after: Callable[..., Any] = sys.__excepthook__

    def of_process(
        kind: type[BaseException],
        error: BaseException,
        trace: TracebackType | None,
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            after(kind, error, trace)
            return
        # Its own errors are sentences already.
        known = isinstance(error, PlatformError)
        sentence = str(error) if known else fault_of_ours(error)
        log.critical("ended by: %s", sentence, exc_info=(kind, error, trace))

    def of_thread(caught: threading.ExceptHookArgs) -> None:
        if caught.exc_value is None or caught.exc_type is SystemExit:
            return
        name = caught.thread.name if caught.thread else "a thread"
        details = (caught.exc_type, caught.exc_value, caught.exc_traceback)
        sentence = fault_of_ours(caught.exc_value)
        log.error("%s ended: %s", name, sentence, exc_info=details)

    sys.excepthook = of_process
    threading.excepthook = of_thread
