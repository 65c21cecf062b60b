"""One public source over HTTP: politely, with retries, and with plain sentences."""

import json
import logging
import os
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from em_platform.config import SourceSettings, TransferSettings
from em_platform.errors import FormatError, SourceError, SourceRefused
from em_platform.formats import careful_session
from em_platform.ingest.http_answers import (
    Cut,
    Listed,
    broken,
    not_served,
    parse_index,
    retry_after_s,
    shown,
    whole_body,
)
from em_platform.ingest.rate_limit import Pace, Waits, pause_s

log = logging.getLogger(__name__)

T = TypeVar("T")
Params: TypeAlias = Mapping[str, str | int]
"""Of a URL's query."""
Headers = Mapping[str, str]

AS_IT_IS = {"Accept-Encoding": "identity"}
"""Headers that ask for a body which is not compressed on its way."""

# Servers that know no HEAD answer so (RFC 9110, 15.5.6 and 15.6.2): GET tells the same.
_NO_HEAD = {HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileHead:
    """What a server says of a file without sending it."""

    url: str
    size_bytes: int | None = None
    """None where it does not say, or where the length is that of a compressed body."""
    length_bytes: int | None = None
    """Of the body as it would come."""
    etag: str = ""
    modified: str = ""
    accepts_ranges: bool = False
    content_encoding: str = ""


class Web:
    """Asks one source; to be shared by all threads that ask it.

    `who` is the source's name in sentences and settings. `limits` say how gently it is
    asked, `transfer` how long and how often. A `token` goes along as Bearer. `verify`
    is False or the path of certificates, as for requests. Goes to other processes
    (pickles); each of those keeps its own pace.

    Raises
    ------
    SourceRefused
        The source refused (401, 403, 404, 410 and other 4xx), sent us on to a host
        that is not listed, or answered with too much: no sense to retry.
    SourceUnavailable
        No answer, a cut one, 429 or 5xx, after all retries.
    """

    def __init__(
        self,
        who: str,
        limits: SourceSettings,
        transfer: TransferSettings,
        *,
        token: str = "",
        verify: bool | str = True,
        waits: Waits | None = None,
    ) -> None:
        self.who = who
        self._made_of = (who, limits, transfer, token, verify)
        self._transfer = transfer
        self._waits = waits or Waits()
        self._pace = Pace(
            at_once=limits.requests_at_once,
            per_second=limits.requests_per_second,
            waits=self._waits,
        )
        self._session = careful_session(
            who,
            hosts=_hosts_of(limits),
            cure=f"if that is right, add its name to ingest.{who}.redirect_hosts",
        )
        # urllib3's retries do not see a body that ends early (decision 24). With fewer
        # connections than places, requests would close and open them anew.
        adapter = HTTPAdapter(pool_maxsize=limits.requests_at_once, max_retries=0)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        self._session.verify = verify
        self._session.headers["User-Agent"] = "em-platform (electron microscopy ingest)"
        if token:
            # Not a header, which a `.netrc` of the user would replace.
            self._session.auth = _Bearer(token)

    def __reduce__(self) -> tuple[Any, ...]:
        return _web_of, self._made_of

    def close(self) -> None:
        """Close its connections."""
        self._session.close()

    def json(self, url: str, params: Params | None = None) -> Any:
        """The JSON at `url`; FormatError where it is none."""
        return self._parsed(url, self.get(url, params=params))

    def text(self, url: str) -> str:
        """The text at `url`, read as UTF-8."""
        # Texts of public sources may begin with a byte order mark.
        return self.get(url).decode("utf-8-sig", errors="replace")

    def get(
        self,
        url: str,
        headers: Headers | None = None,
        params: Params | None = None,
    ) -> bytes:
        """All bytes at `url`, whole (a cut answer is asked for again)."""
        part = any(name.lower() == "range" for name in headers or ())
        expected = (200, 206) if part else (200,)
        take = partial(whole_body, self.who)
        return self.exchange(
            url, take, headers=headers, params=params, expected=expected
        )

    def first_bytes(self, url: str, count: int) -> bytes:
        """The beginning of a file; no more of it comes, whatever the server sends."""

        def take(response: requests.Response) -> bytes:
            return bytes(response.raw.read(count, decode_content=True))

        headers = {**AS_IT_IS, "Range": f"bytes=0-{count - 1}"}
        return self.exchange(url, take, headers=headers, expected=(200, 206))

    def head(self, url: str) -> FileHead:
        """What the server says of the file at `url`."""
        try:
            return self.exchange(url, _head_of, method="HEAD", headers=AS_IT_IS)
        except SourceError as error:
            if error.facts.get("status") not in _NO_HEAD:
                raise
        one_byte = {**AS_IT_IS, "Range": "bytes=0-0"}
        return self.exchange(url, _head_of, headers=one_byte, expected=(200, 206))

    def has(self, url: str) -> bool:
        """Whether something is there; a bucket that may not be listed says 403 then."""
        try:
            self.head(url)
        except SourceRefused as error:
            if error.facts.get("status") in (403, 404, 410):
                return False
            raise
        return True

    def listing(self, url: str) -> tuple[Listed, ...]:
        """Files and folders that the index page of a folder names, in its order."""

        def parse(response: requests.Response) -> tuple[Listed, ...]:
            kind = response.headers.get("Content-Type", "text/html")
            if "html" not in kind:
                raise FormatError(
                    f"{self.who}: {shown(url)} is {kind}, expected the index page of a "
                    f"folder; check the addresses in ingest.{self.who}",
                    url=shown(url),
                )
            page = whole_body(self.who, response).decode("utf-8", errors="replace")
            return parse_index(page, response.url)

        return self.exchange(url.rstrip("/") + "/", parse)

    def exchange(
        self,
        url: str,
        take: Callable[[requests.Response], T],
        *,
        method: str = "GET",
        headers: Headers | Callable[[], Headers] | None = None,
        params: Params | None = None,
        body: Any = None,
        expected: Container[int] = (200,),
    ) -> T:
        """What `take` makes of the answer; all is tried again where it breaks off.

        `take` reads the body, which has not come yet, and may raise `Cut` for an answer
        that is not whole. `headers` may be asked for at each try, to go on where the
        last one ended.
        """
        tried = 0
        while True:
            tried += 1
            given = headers() if callable(headers) else headers
            try:
                # Kept until the body has come: it bounds open connections, too.
                with self._pace.place():
                    response = self._session.request(
                        method,
                        url,
                        headers=dict(given or {}),
                        params=dict(params or {}),
                        json=body,
                        timeout=self._transfer.timeout_s,
                        # `take` reads the body, of an expected answer only.
                        stream=True,
                        # Given each time: REQUESTS_CA_BUNDLE would stand above it.
                        verify=self._session.verify,
                    )
                    with response:
                        if response.status_code in expected:
                            return take(response)
                        failed = not_served(self.who, response, tried=tried)
                        asked_s = retry_after_s(response.headers.get("Retry-After"))
            except (requests.RequestException, urllib3.exceptions.HTTPError, Cut) as e:
                failed, asked_s = broken(self.who, url, error=e, tried=tried), 0.0
            if not failed.retryable or tried > self._transfer.retries:
                raise failed
            # The place is free while this one waits.
            self._wait(url, tried, asked_s=asked_s, reason=failed)

    def _wait(
        self, url: str, tried: int, *, asked_s: float, reason: SourceError
    ) -> None:
        wait_s = pause_s(
            tried,
            backoff_s=self._transfer.backoff_s,
            chance=self._waits.chance(),
            asked_s=asked_s,
        )
        status = reason.facts.get("status") or reason.facts.get("reason")
        log.info(
            *("%s: %s: %s, try %d; again in %.1f s",),
            *(self.who, shown(url), status, tried, wait_s),
        )
        self._waits.sleep(wait_s)

    def _parsed(self, url: str, content: bytes) -> Any:
        try:
            return json.loads(content)
        except ValueError as error:
            begin = content[:80].decode("utf-8", errors="replace")
            raise FormatError(
                f"{self.who}: {shown(url)} answered {begin!r}, expected JSON; check "
                f"the addresses in ingest.{self.who}",
                url=shown(url),
            ) from error


class _Bearer(requests.auth.AuthBase):
    """Puts a token into requests to the source, and not into redirects elsewhere."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _hosts_of(limits: SourceSettings) -> frozenset[str]:
    """The hosts that a source's settings name, in addresses or as such."""
    values = limits.model_dump().values()
    groups = (each if isinstance(each, tuple) else (each,) for each in values)
    texts = (each for group in groups for each in group if isinstance(each, str))
    hosts = (urlsplit(text).hostname for text in texts if "://" in text)
    return frozenset((*filter(None, hosts), *limits.redirect_hosts))


def _web_of(*made_of: Any) -> Web:
    """One for all equal ones that come to this process, so that they share a pace."""
    # A forked process must not use its parent's open connections.
    return _web_in(os.getpid(), *made_of)


@lru_cache(maxsize=16)
def _web_in(
    process: int,
    who: str,
    limits: SourceSettings,
    transfer: TransferSettings,
    token: str,
    verify: bool | str,
) -> Web:
    return Web(who, limits, transfer, token=token, verify=verify)


def _head_of(response: requests.Response) -> FileHead:
    headers = response.headers
    encoding = headers.get("Content-Encoding", "").strip().lower()
    ranged = response.status_code == HTTPStatus.PARTIAL_CONTENT
    length = headers.get("Content-Length", "")
    if ranged:
        # The length of a ranged answer is that of the one byte.
        length = headers.get("Content-Range", "").rpartition("/")[2]
    encoding = "" if encoding == "identity" else encoding
    return FileHead(
        url=response.url,
        size_bytes=int(length) if length.isdigit() and not encoding else None,
        length_bytes=int(length) if length.isdigit() else None,
        etag=headers.get("ETag", ""),
        modified=headers.get("Last-Modified", ""),
        accepts_ranges=ranged or "bytes" in headers.get("Accept-Ranges", "").lower(),
        content_encoding=encoding,
    )
