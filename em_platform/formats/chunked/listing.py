"""Which objects lie below a URL: by walking, by listing a bucket, or by asking.

An anonymous bucket is listed by plain HTTP (ListObjectsV2, 1000 names a page, see
https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html); one that needs
credentials through fsspec.
"""

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from xml.etree import ElementTree

from em_platform.errors import (
    FormatError,
    SourceRefused,
    SourceUnavailable,
    StorageError,
)
from em_platform.formats.chunked.store import FIRST_WAIT_S, ChunkStore, is_anonymous
from em_platform.formats.header_values import read_to_limit
from em_platform.formats.http_body import pieces_of
from em_platform.formats.remote import careful_session
from em_platform.formats.source import local_path

# To connect, and between two bytes: as tensorstore's, see `store`.
_TIMEOUT_S = (10.0, 20.0)
# A page has up to 1000 names of up to 1024 bytes, each of them quoted as three.
_MOST_PAGE_BYTES = 1 << 23
_ABSENT = (403, 404)  # 403: a bucket that may not be listed says so of what it lacks


@dataclass(frozen=True, slots=True)
class Found:
    """One object: its name below the URL, and what tells its versions apart."""

    name: str
    size_bytes: int
    etag: str


def can_list(store: ChunkStore) -> bool:
    """Whether the objects of a store can be listed, or have to be asked for."""
    return not store.url.startswith(("http://", "https://"))


def listed(store: ChunkStore, prefixes: Iterable[str]) -> Iterator[Found]:
    """All objects below the URL whose names begin with one of the prefixes.

    Raises
    ------
    SourceUnavailable, SourceRefused
        The bucket does not answer, or is not listed for us.
    """
    local = local_path(store.url)
    if local is not None:
        for prefix in prefixes:
            yield from _walked(local, prefix)
        return
    pages: Callable[[str], Iterable[Found]]
    if is_anonymous(store.options):
        pages = partial(_listed_by_http, store)
    else:
        pages = partial(_listed_by_fsspec, store)
    # Pages of one prefix follow each other; those of several come beside each other.
    at_once = min(8, int(store.options.get("requests_at_once", 16)))
    with ThreadPoolExecutor(at_once) as threads:
        # Lists, since the threads would only make generators and ask nothing.
        for found in threads.map(lambda prefix: list(pages(prefix)), prefixes):
            yield from found


def folders(store: ChunkStore, prefix: str) -> tuple[str, ...]:
    """Names of the folders right below `prefix`, which is empty or ends with "/".

    Raises
    ------
    SourceUnavailable, SourceRefused
        The bucket does not answer, or is not listed for us.
    """
    local = local_path(store.url)
    if local is not None:
        below_it = Path(local, prefix)
        inner = below_it.iterdir() if below_it.is_dir() else ()
        return tuple(sorted(path.name for path in inner if path.is_dir()))
    if not is_anonymous(store.options):
        below = {each.name[len(prefix) :] for each in listed(store, (prefix,))}
        return tuple(sorted({name.partition("/")[0] for name in below if "/" in name}))
    return tuple(
        unquote(entry.text or "").rstrip("/").rpartition("/")[2]
        for page in _pages(store, prefix, delimiter="/")
        for entry in page.iterfind("{*}CommonPrefixes/{*}Prefix")
    )


def asked(store: ChunkStore, names: Iterable[str]) -> Iterator[Found | None]:
    """What each name is, by a HEAD for it; None where there is no such object.

    Raises
    ------
    SourceUnavailable
        The server does not answer.
    """
    at_once = int(store.options.get("requests_at_once", 16))
    with _Asking(store) as asking, ThreadPoolExecutor(at_once) as threads:
        yield from threads.map(asking.head, names)


def _walked(root: str, prefix: str) -> Iterator[Found]:
    folder, _, start = prefix.rpartition("/")
    try:
        with os.scandir(os.path.join(root, folder)) as entries:
            found = [entry for entry in entries if entry.name.startswith(start)]
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise StorageError(
            f"chunks: {root}/{folder} could not be listed ({error.strerror}); check "
            "access, then run again",
            url=root,
        ) from error
    for entry in found:
        name = f"{folder}/{entry.name}" if folder else entry.name
        if entry.is_dir():
            yield from _walked(root, f"{name}/")
        else:
            status = entry.stat()
            # A disk has no ETags: the time of the last change tells versions apart.
            yield Found(name, status.st_size, str(status.st_mtime_ns))


def _listed_by_http(store: ChunkStore, prefix: str) -> Iterator[Found]:
    _, folder = _bucket(store)
    for page in _pages(store, prefix):
        for entry in page.iterfind("{*}Contents"):
            yield Found(
                unquote(entry.findtext("{*}Key", ""))[len(folder) :],
                int(entry.findtext("{*}Size", "0")),
                entry.findtext("{*}ETag", "").strip('"'),
            )


def _pages(
    store: ChunkStore, prefix: str, *, delimiter: str = ""
) -> Iterator[ElementTree.Element]:
    bucket_url, folder = _bucket(store)
    # Names may have characters that XML has not: they come quoted.
    asked_for = f"list-type=2&encoding-type=url&prefix={quote(folder + prefix)}"
    if delimiter:
        asked_for += f"&delimiter={quote(delimiter, safe='')}"
    token = ""
    with _Asking(store) as asking:
        while True:
            query = asked_for
            if token:
                query += f"&continuation-token={quote(token, safe='')}"
            page = asking.page(f"{bucket_url}?{query}")
            yield page
            token = page.findtext("{*}NextContinuationToken", "")
            if page.findtext("{*}IsTruncated") != "true" or not token:
                return


def _listed_by_fsspec(store: ChunkStore, prefix: str) -> Iterator[Found]:
    from fsspec.core import url_to_fs

    from em_platform.storage.layout import errors_of

    # The other options are tensorstore's or ours.
    known = ("key", "secret", "token", "endpoint_url", "client_kwargs", "config_kwargs")
    options = {k: v for k, v in store.options.items() if k in known}
    filesystem, path = url_to_fs(store.url, use_listings_cache=False, **options)
    try:
        entries = filesystem.find(f"{path}/{prefix}", detail=True, withdirs=False)
    except errors_of(store.url) as error:
        raise StorageError(
            f"chunks: {store.url} could not be listed ({error}); check access, then "
            "run again",
            url=store.url,
        ) from error
    for name, entry in entries.items():
        etag = str(entry.get("ETag", "")).strip('"')
        yield Found(name[len(path) + 1 :], int(entry["size"]), etag)


def _bucket(store: ChunkStore) -> tuple[str, str]:
    """The address of a bucket, and the folder in it, with "/" at its end."""
    bucket, _, path = store.url.removeprefix("s3://").partition("/")
    folder = f"{path.rstrip('/')}/" if path else ""
    client = store.options.get("client_kwargs") or {}
    endpoint = store.options.get("endpoint_url") or client.get("endpoint_url")
    if endpoint:
        return f"{str(endpoint).rstrip('/')}/{bucket}", folder
    region = store.options.get("region") or client.get("region_name")
    host = f"s3.{region}.amazonaws.com" if region else "s3.amazonaws.com"
    return f"https://{bucket}.{host}", folder


class _Asking:
    """Asks one server over connections that are kept, with retries."""

    def __init__(self, store: ChunkStore) -> None:
        from requests.adapters import HTTPAdapter

        self._base = store.url
        if store.url.startswith("s3://"):
            bucket_url, folder = _bucket(store)
            self._base = f"{bucket_url}/{folder.rstrip('/')}".rstrip("/")
        self._first_wait_s = float(store.options.get("backoff_s", FIRST_WAIT_S))
        self._retries = int(store.options.get("retries", 3))
        # A bucket of another region is one host of AWS further.
        hosts = ("amazonaws.com",) if store.url.startswith("s3://") else ()
        self._session = careful_session("chunks", hosts=hosts)
        at_once = int(store.options.get("requests_at_once", 16))
        for scheme in ("http://", "https://"):
            # requests keeps 10 connections by itself; further threads open new ones.
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=at_once))

    def __enter__(self) -> "_Asking":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def head(self, name: str) -> Found | None:
        """What the object `name` is, None where there is none."""
        url = f"{self._base}/{quote(name)}"
        answer, _ = self._answer("HEAD", url)
        if answer.status_code in _ABSENT:
            return None
        self._check(url, answer)
        size = int(answer.headers.get("Content-Length") or 0)
        return Found(name, size, answer.headers.get("ETag", "").strip('"'))

    def page(self, url: str) -> ElementTree.Element:
        """One page of a listing."""
        answer, content = self._answer("GET", url)
        self._check(url, answer)
        if content is None:
            raise FormatError(
                f"chunks: {url} answered with more than {_MOST_PAGE_BYTES} bytes, "
                "expected a page of a listing; correct the address",
                url=url,
            )
        try:
            return ElementTree.fromstring(content)
        except ElementTree.ParseError as error:
            raise SourceUnavailable(
                f"chunks: {url} answered with what is no listing ({error}), expected "
                "XML; try again later",
                url=url,
            ) from error

    def _answer(self, method: str, url: str) -> tuple[Any, bytes | None]:
        """The answer and its body, None where that is too long."""
        import requests

        for tried in range(self._retries + 1):
            try:
                with self._session.request(
                    method, url, timeout=_TIMEOUT_S, stream=True
                ) as answer:
                    content = read_to_limit(
                        pieces_of(answer), most_bytes=_MOST_PAGE_BYTES
                    )
            except requests.RequestException as error:
                if tried == self._retries:
                    raise SourceUnavailable(
                        f"chunks: {url} is not served ({type(error).__name__}), "
                        "expected an answer; try again later or check the address",
                        url=url,
                    ) from error
            else:
                # 429, too many requests, is worth another try.
                if answer.status_code < 500 and answer.status_code != 429:
                    return answer, content
            if tried < self._retries:
                # At random: clients that failed together must not come back together.
                time.sleep(self._first_wait_s * 2**tried * random.uniform(0.5, 1.0))
        return answer, content  # the last one: `_check` says what it was

    def _check(self, url: str, answer: Any) -> None:
        if answer.status_code == 200:
            return
        status = f"{answer.status_code} {answer.reason}"
        if answer.status_code < 500 and answer.status_code != 429:
            raise SourceRefused(
                f"chunks: {url} was refused ({status}), expected what may be listed; "
                "correct the address or ask for access",
                url=url,
            )
        raise SourceUnavailable(
            f"chunks: {url} is not served ({status}), expected an answer; try again "
            "later",
            url=url,
        )
