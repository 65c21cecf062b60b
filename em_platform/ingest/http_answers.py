"""Answers of web servers: refusals and cut answers in one sentence, index pages."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import requests
import urllib3

from em_platform.errors import (
    ConfigError,
    SourceError,
    SourceRefused,
    SourceUnavailable,
)
from em_platform.formats import pieces_of, read_to_limit

Answer: TypeAlias = Mapping[str, Any]
"""A JSON object of a source; who reads it says what is missing or wrong in it."""

MOST_BYTES = 1 << 27
"""Of an answer that is read whole: lists and descriptions have a few MB."""
_LATER = {408, 425, 429}
"""Statuses below 500 that may change by themselves."""
# Signed addresses of buckets, too: `X-Amz-Signature`, `X-Amz-Credential`.
_SECRET = re.compile(
    r"(?i)((?:^|[?&;])[^=&;]*(?:token|key|secret|password|signature|credential|sig)"
    r"[^=&;]*=)[^&;]+"
)
# urllib3 names its own object first, which no reader needs.
_CONNECTION = re.compile(r"^HTTPS?Connection\([^)]*\): ")
_CURES = {
    401: "give its token, or one that is still valid, in ingest.{who}",
    403: "give a token that may read it in ingest.{who}, or ask the source for access",
    404: "check the item's key and the addresses in ingest.{who}",
    410: "the source took it away; take the item off ingest.{who}.items",
}


class Cut(Exception):
    """An answer that is not whole or not right, and may be so at the next try."""


def shown(url: str) -> str:
    """`url` without passwords, tokens and keys, fit for a sentence."""
    try:
        parts = urlsplit(url)
    except ValueError:  # no URL, and so none of its parts is known
        return url.rpartition("@")[2]
    host = parts.netloc.rpartition("@")[2]
    query = _SECRET.sub(r"\1...", parts.query)
    return urlunsplit(parts._replace(netloc=host, query=query))


def whole_body(
    who: str, response: requests.Response, *, most_bytes: int = MOST_BYTES
) -> bytes:
    """The body of an answer, unpacked.

    Raises
    ------
    SourceRefused
        It is longer than `most_bytes`, as packed or unpacked.
    """
    found = read_to_limit(pieces_of(response), most_bytes=most_bytes)
    if found is None:
        url = shown(response.url)
        raise SourceRefused(
            f"{who}: {url} answered with more than {most_bytes} bytes, expected fewer; "
            f"check the addresses in ingest.{who}",
            url=url,
        )
    return found


def not_served(who: str, response: requests.Response, *, tried: int) -> SourceError:
    """The error for a status that was not expected; says whether to retry."""
    status = response.status_code
    url = shown(response.url)
    found = f"{who}: {url} answered {status} ({_reason(response)})"
    if status < 500 and status not in _LATER:
        cure = _CURES.get(status, _CURES[404]).format(who=who)
        return SourceRefused(f"{found}; {cure}", url=url, status=status)
    return SourceUnavailable(
        f"{found} at the last of {tried} tries; wait until the service is well, then "
        "run again: the finished parts are kept",
        url=url,
        status=status,
        tries=tried,
    )


def broken(who: str, url: str, *, error: Exception, tried: int) -> SourceError:
    """The error for an answer that did not come, or not whole.

    Raises
    ------
    ConfigError
        `url` is none.
    """
    where = shown(url)
    if isinstance(error, ValueError):  # InvalidURL, MissingSchema and their like
        raise ConfigError(
            f"{who}: {where!r} is no address of a web server; correct the addresses in "
            f"ingest.{who}"
        ) from error
    reason = _why(error)
    # OpenSSL's CERTIFICATE_VERIFY_FAILED stays; other faults of TLS may pass.
    if isinstance(error, requests.exceptions.SSLError) and "ERTIFICATE" in repr(error):
        failed: SourceError = SourceRefused(
            f"{who}: {where} has a certificate that is not trusted ({reason}); name "
            f"its certificate or check the addresses in ingest.{who}",
            url=where,
            reason=reason,
        )
    else:
        failed = SourceUnavailable(
            f"{who}: {where} did not serve ({reason}) at the last of {tried} tries; "
            "check the network, then run again: the finished parts are kept",
            url=where,
            reason=reason,
            tries=tried,
        )
    # It is raised elsewhere, where `raise from` has no cause to name.
    failed.__cause__ = error
    return failed


def _reason(response: requests.Response) -> str:
    """The server's own words for an error, in one line."""
    kind = response.headers.get("Content-Type", "")
    # Pages of HTML are made for browsers, and say little in one line.
    plain = "json" in kind or "text/plain" in kind
    try:
        # The page of an error may have any length.
        body = response.raw.read(500, decode_content=True) if plain else b""
    # The connection may break here too; the status is what counts.
    except (urllib3.exceptions.HTTPError, OSError):
        body = b""
    words = " ".join(body.decode("utf-8", errors="replace").split())[:200]
    return words or response.reason or HTTPStatus(response.status_code).phrase


def _why(error: Exception) -> str:
    """The innermost words of what went wrong with a connection."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    cause: object = error
    while isinstance(cause, BaseException):
        # urllib3 has the cause in `reason`, others as the first argument.
        inner = getattr(cause, "reason", None) or (cause.args or ("",))[0]
        if not isinstance(inner, BaseException | str) or not inner:
            break
        cause = inner
    words = _CONNECTION.sub("", str(cause)) or type(error).__name__
    return " ".join(words.split())[:200]


def retry_after_s(text: str | None) -> float:
    """Seconds that the other side asks us to wait (RFC 9110, 10.2.3); 0 for none."""
    if not text:
        return 0.0
    if text.strip().isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    # `-0000` is UTC without a zone (RFC 5322, 3.3).
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One file or folder; `name` has no slash, `url` of a folder ends in one."""

    name: str
    url: str
    is_folder: bool


def parse_index(page: str, url: str) -> tuple[Listed, ...]:
    """Files and folders that Apache's or nginx's index of `url` names, in its order.

    Only what lies directly in that folder counts: links to the parent, to other orders
    of the list and to other places are left out.
    """
    folder = _without_query(url).rstrip("/") + "/"
    parser = _Links()
    parser.feed(page)
    parser.close()
    # Some pages link a file twice, by its icon and by its name.
    found = {listed.name: listed for listed in _below(folder, parser.links)}
    return tuple(found.values())


class _Links(HTMLParser):
    """Collects where a page's links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]


def _below(folder: str, links: list[str]) -> Iterator[Listed]:
    for link in links:
        # `?C=M;O=A` is how Apache links other orders of a list.
        if urlsplit(link).query or link.startswith("#"):
            continue
        # A bare name may have a colon in it, which urljoin takes for a scheme.
        bare = "://" not in link and not link.startswith("/")
        at = urljoin(folder, f"./{link}" if bare else link)
        # Unquoted, as pages write `%20` and such in more than one way.
        rest = unquote(at).removeprefix(unquote(folder))
        name = rest.removesuffix("/")
        outside = len(rest) == len(unquote(at)) or not name or "/" in name
        if not outside and name not in (".", ".."):
            yield Listed(name=name, url=at, is_folder=rest.endswith("/"))


def _without_query(url: str) -> str:
    return urlunsplit(urlsplit(url)._replace(query="", fragment=""))
