"""Failed answers of a TEM DB as errors of the platform."""

import json

import httpx
from pydantic import ValidationError
from temdb.client import TEMdbClientError

from em_platform.errors import SourceError, SourceRefused, SourceUnavailable

_LATER = frozenset((408, 425, 429, 500, 502, 503, 504))


def status_of(error: TEMdbClientError) -> int | None:
    """The HTTP status that the server answered; None where it did not answer."""
    cause = error.__cause__
    if isinstance(cause, httpx.HTTPStatusError):
        return cause.response.status_code
    return None


def refused(error: TEMdbClientError, url: str) -> SourceError:
    """The platform's error for one of the client."""
    status, cause = status_of(error), error.__cause__
    if not isinstance(cause, httpx.HTTPStatusError):
        why = type(cause).__name__ if cause is not None else str(error)
        return SourceUnavailable(
            f"TEM DB {url}: no answer ({why}), expected one; start it with "
            "em-platform service temdb, or correct temdb.url"
        )
    request, text = cause.request, _detail(cause.response)
    call = f"{request.method} {request.url.path}"
    if status in _LATER:
        return SourceUnavailable(
            f"TEM DB {url}: answered {status} to {call} ({text}); ask again later"
        )
    if status in (401, 403):
        return SourceRefused(
            f"TEM DB {url}: refused our token ({status}); give temdb.token the one "
            "that it expects"
        )
    return SourceRefused(f"TEM DB {url}: answered {status} to {call}: {text}")


def strange_answer(error: ValidationError, url: str) -> SourceRefused:
    """An answer that is not one of TEM DB's."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return SourceRefused(
        f"TEM DB {url}: the answer is no {error.title} ({place}: {first['msg']}); see "
        "that temdb.url names a TEM DB of version 2"
    )


def _detail(response: httpx.Response) -> str:
    try:
        detail = json.loads(response.text)["detail"]
    except (ValueError, KeyError, TypeError):
        return response.text[:200]
    return str(detail)
