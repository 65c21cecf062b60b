"""From a request to what goes over the wire: conditions, ranges, faults."""

import re
import time
from dataclasses import dataclass, replace
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from em_platform.standins.faults import (
    NOTHING,
    Fault,
    Faults,
    Kind,
    disturbed,
    status_shown,
)
from em_platform.standins.messages import (
    Handler,
    InMemory,
    Refusal,
    Request,
    Response,
)

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response of which the bytes from `start` to `stop` are to be sent.

    `cut_at` is after how many bytes of the body the connection breaks.
    """

    response: Response
    start: int = 0
    stop: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    hang_s: float | None = None
    cut_at: int | None = None
    bytes_per_s: float | None = None
    faults: tuple[str, ...] = ()


def answer(
    request: Request, handler: Handler, *, refuse: Refusal, faults: Faults
) -> Answer:
    """What is to be sent for a request."""
    due = faults.due(site=request.site, method=request.method, path=request.path)
    refused = status_shown(due)
    if refused is None:
        response = disturbed(handler(request), due)
    else:
        response = refuse(*refused)
        if "status" in due and due["status"].retry_after_s is not None:
            wait = {"Retry-After": f"{due['status'].retry_after_s:g}"}
            response = replace(response, headers={**response.headers, **wait})
    made = _conditional(request, response, ranged="no_range" not in due)
    return _with_wire_faults(made, due)


def _with_wire_faults(made: Answer, due: dict[Kind, Fault]) -> Answer:
    cut_at = None
    if "cut" in due:
        half = (made.stop - made.start) // 2
        cut_at = due["cut"].after_bytes
        # Half: something has come then, and something is missing.
        cut_at = half if cut_at is None else cut_at
    return replace(
        made,
        hang_s=due["hang"].seconds if "hang" in due else None,
        cut_at=cut_at,
        bytes_per_s=due["slow"].bytes_per_s if "slow" in due else None,
        faults=tuple(due),
    )


def _conditional(request: Request, response: Response, *, ranged: bool) -> Answer:
    """The response under the conditions and for the range of the request."""
    asked = request.headers
    if response.status == 200 and response.etag:
        if _names(asked["If-None-Match"], response.etag):
            return _plain(replace(response, status=304, content=NOTHING, ranged=False))
        if asked["If-Match"] and not _names(asked["If-Match"], response.etag):
            return _plain(_failed(response))
    if not (ranged and response.ranged and response.status == 200):
        return _plain(replace(response, ranged=response.ranged and ranged))
    wanted = asked["Range"]
    if wanted and _still_the_same(asked["If-Range"], response):
        return _part(wanted, response)
    return _plain(response)


def _names(condition: str | None, etag: str) -> bool:
    if not condition:
        return False
    # Weakly compared, as If-None-Match asks (RFC 9110, 13.1.2).
    listed = [each.strip().removeprefix("W/") for each in condition.split(",")]
    return "*" in listed or etag in listed


def _still_the_same(condition: str | None, response: Response) -> bool:
    if not condition:
        return True
    if condition.startswith(('"', "W/")):
        # Strongly compared: a weak one never fits (RFC 9110, 13.1.5).
        return condition == response.etag
    return response.modified is not None and condition == _date(response.modified)


def _failed(response: Response) -> Response:
    return replace(
        response, status=412, content=InMemory(b"Precondition Failed"), ranged=False
    )


def _plain(response: Response) -> Answer:
    return Answer(
        response=response, stop=response.content.size, headers=_described(response)
    )


def _part(wanted: str, response: Response) -> Answer:
    """One range; several at once, or nonsense, are answered with the whole."""
    found = _RANGE.fullmatch(wanted.replace(" ", ""))
    # A server may ignore any range (RFC 9110, 14.2).
    if found is None or found.groups() == ("", ""):
        return _plain(response)
    size = response.content.size
    first, last = found.groups()
    # `bytes=-7` are the last seven.
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    described = _described(response)
    if start >= size or start >= stop:
        nothing = replace(response, status=416, content=NOTHING)
        # With the size, as RFC 9110, 14.4 wants it of a 416.
        outside = ("Content-Range", f"bytes */{size}")
        return Answer(response=nothing, headers=(*described, outside))
    place = ("Content-Range", f"bytes {start}-{stop - 1}/{size}")
    part = replace(response, status=206)
    return Answer(response=part, start=start, stop=stop, headers=(*described, place))


def _described(response: Response) -> tuple[tuple[str, str], ...]:
    headers = [("Content-Type", response.media_type), *response.headers.items()]
    if response.ranged:
        headers.append(("Accept-Ranges", "bytes"))
    if response.etag:
        headers.append(("ETag", response.etag))
    if response.modified is not None:
        modified = _date(response.modified)
        headers.append(("Last-Modified", modified))
    return tuple(headers)


# A few moments come in every answer: now, and those of the files.
@lru_cache(maxsize=64)
def _date(second: float) -> str:
    return formatdate(second, usegmt=True)


def head_bytes(status: int, headers: tuple[tuple[str, str], ...]) -> bytes:
    """The status line and the headers, up to the empty line."""
    try:
        # A fault may show a number that HTTP does not name.
        words = HTTPStatus(status).phrase
    except ValueError:
        words = "Unknown"
    lines = [f"HTTP/1.1 {status} {words}", f"Date: {_date(int(time.time()))}"]
    lines += [f"{name}: {value}" for name, value in headers]
    # Headers are read as Latin-1; another letter must not break the answer.
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
