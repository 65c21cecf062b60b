"""Objects below a URL by name, and what a store of chunks says when it cannot.

All chunked formats are read through tensorstore (https://google.github.io/tensorstore):
its key-value stores know files, HTTP and S3, bound the number of requests and retry.
"""

import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from em_platform.errors import (
    FormatError,
    PlatformError,
    SourceRefused,
    SourceUnavailable,
)
from em_platform.formats.chunked.guard import Upstream, guarded, upstream_of
from em_platform.formats.header_values import MOST_BYTES, unzip_to_limit
from em_platform.formats.source import local_path
from em_platform.storage.layout import StorageOptions

_GZIP = b"\x1f\x8b"
_PREFIXES = ("precomputed://", "zarr://", "zarr2://", "zarr3://", "n5://")
_GOOGLE = "https://storage.googleapis.com/"
FIRST_WAIT_S = 0.25
"""Before the first retry; doubled before each further one."""
# Metadata are small: so long all retries of a silent server take, and no more.
_ANSWER_S = 120.0
_CACHE_BYTES = 64 * 2**20
# tensorstore adds its spec and places in its code, which help no reader.
_DETAILS = re.compile(r"\s*\[[a-z_]+='.*", re.DOTALL)
# Codes with which tensorstore's messages begin; others mean damaged data.
_REFUSALS = ("NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED")
_OUTAGES = (
    *("ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"),
    *("CANCELLED", "UNKNOWN", "INTERNAL"),
)
# curl's own watchdogs: without them a server that falls silent is waited for for hours.
_WATCHDOGS = {
    "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "20",
    "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1",
    "TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS": "10",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkStore:
    """The objects below `url`: a path, `http(s)://` or `s3://`.

    `options` are `endpoint_url`, `region`, `key` and `secret`, `anon` (false: what
    AWS's own tools would find; without it and `key` nothing is signed),
    `requests_at_once`, `requests_per_second`,
    `retries` and `backoff_s`; others are for others.
    """

    url: str
    options: StorageOptions = field(default_factory=dict, repr=False)

    def child(self, name: str) -> "ChunkStore":
        """The objects below `name`."""
        return replace(self, url=f"{self.url.rstrip('/')}/{name}") if name else self

    def parent(self) -> tuple["ChunkStore", str]:
        """The store one up, and the name of this one in it."""
        above, _, name = self.url.rstrip("/").rpartition("/")
        return replace(self, url=above), name

    def read(self, name: str) -> bytes | None:
        """The whole object `name`, None where there is none.

        Raises
        ------
        SourceUnavailable, SourceRefused
            The server does not answer, or not to us.
        FormatError
            It is packed, and damaged or too long.
        """
        local = local_path(self.url)
        # Of a pipe tensorstore would wait for who writes into it.
        if local is not None and not os.path.isfile(os.path.join(local, name)):
            return None
        opened, upstream = open_store(self)
        with plain_errors(f"{self.url}/{name}", upstream):
            answer = opened.read(name).result(timeout=_ANSWER_S)
        if answer.state != "value":
            return None
        content = bytes(answer.value)
        # Buckets hand out objects that were uploaded with Content-Encoding: gzip.
        if not content.startswith(_GZIP):
            return content
        return _unzipped(content, f"{self.url}/{name}")

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The JSON object `name`, None where there is none.

        A bucket that may not be listed says "forbidden" of what it lacks.

        Raises
        ------
        FormatError
            It is not a JSON object.
        """
        try:
            content = self.read(name)
        except SourceRefused:
            return None
        if content is None:
            return None
        try:
            # A bare NaN is what some writers put for the fill value.
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _not_json(f"{self.url}/{name}", str(error)) from error
        if not isinstance(value, dict):
            raise _not_json(f"{self.url}/{name}", f"a {type(value).__name__}")
        return value

    def kvstore_json(self) -> str:
        """The store as tensorstore's JSON."""
        return json.dumps(_kvstore(self.url, self.options), sort_keys=True)

    def context_json(self) -> str:
        """The limits of requests and memory as tensorstore's JSON."""
        backoff_s = float(self.options.get("backoff_s", FIRST_WAIT_S))
        retries = {
            "max_retries": int(self.options.get("retries", 3)),
            "initial_delay": f"{backoff_s}s",
            "max_delay": f"{max(4.0, backoff_s)}s",  # not below the first wait
        }
        limit = {"limit": int(self.options.get("requests_at_once", 16))}
        return json.dumps({
            "cache_pool": {"total_bytes_limit": _CACHE_BYTES},
            "http_request_retries": retries,
            "s3_request_retries": retries,
            "http_request_concurrency": limit,
            "s3_request_concurrency": limit,
        })  # fmt: skip


def chunk_store(url: str, options: StorageOptions | None = None) -> ChunkStore:
    """The store at a URL; neuroglancer's `precomputed://` and the like are taken off.

    A public bucket of Google (`gs://`) is read by HTTPS.

    Raises
    ------
    FormatError
        A protocol that cannot be read chunk by chunk.
    """
    plain = url
    for prefix in _PREFIXES:
        plain = plain.removeprefix(prefix)
    if plain.startswith("gs://"):
        plain = _GOOGLE + plain.removeprefix("gs://")
    store = ChunkStore(url=plain.rstrip("/") or plain, options=dict(options or {}))
    # Refuses what cannot be read now, and not at the first read.
    store.kvstore_json()
    return store


@contextmanager
def plain_errors(url: str, upstream: Upstream | None = None) -> Iterator[None]:
    """Turn what tensorstore raises into our errors, each one sentence with the URL.

    Where the guard did not pass on what `upstream` sent, that is the reason.
    """
    try:
        yield
    except PlatformError:
        raise
    except (TimeoutError, ValueError, OSError, NotImplementedError) as error:
        if upstream is not None:
            upstream.raise_refusal()
        if isinstance(error, TimeoutError):
            raise _error(url, "DEADLINE_EXCEEDED", "no answer in time") from error
        code, _, rest = str(error).partition(": ")
        if not re.fullmatch(r"[A-Z_]+", code):
            code, rest = "", str(error)
        raise _error(url, code, rest) from error


def _error(url: str, code: str, rest: str) -> PlatformError:
    reason = " ".join(_DETAILS.sub("", rest).split())[:300]
    if code in _REFUSALS:
        return SourceRefused(
            f"chunks: {url} was refused ({reason}), expected what may be read; "
            "correct the address or ask for access",
            url=url,
        )
    if code in _OUTAGES:
        return SourceUnavailable(
            f"chunks: {url} is not served ({reason}), expected an answer; try again "
            "later or check the address",
            url=url,
        )
    if rest.startswith("Error opening"):
        return FormatError(
            f"chunks: {url} cannot be opened ({reason}), expected metadata and codecs "
            "that tensorstore knows; convert it with the tool that made it",
            url=url,
        )
    return FormatError(
        f"chunks: {url} cannot be decoded ({reason}), expected chunks as its metadata "
        "tell; fetch it again or report it to who made it",
        url=url,
    )


def _unzipped(content: bytes, url: str) -> bytes:
    try:
        found = unzip_to_limit(content)
    except (OSError, EOFError, zlib.error) as error:
        raise FormatError(
            f"chunks: {url} cannot be unpacked ({error}), expected a whole gzip; fetch "
            "it again or report it to who made it",
            url=url,
        ) from error
    if found is None:
        raise FormatError(
            f"chunks: {url} unpacks to more than {MOST_BYTES} bytes, expected "
            "metadata; report it to who made it",
            url=url,
        )
    return found


def _not_json(url: str, found: str) -> FormatError:
    return FormatError(
        f"chunks: {url} is not metadata ({found}), expected a JSON object; fetch it "
        "again or report it to who made it",
        url=url,
    )


def _kvstore(url: str, options: StorageOptions) -> dict[str, Any]:
    local = local_path(url)
    if local is not None:
        return {"driver": "file", "path": f"{os.path.abspath(local)}/"}
    protocol, _, rest = url.partition("://")
    if protocol in ("http", "https"):
        return {"driver": "http", "base_url": f"{url}/"}
    bucket, _, path = rest.partition("/")
    folder = f"{path.rstrip('/')}/" if path else ""
    if protocol != "s3":
        raise FormatError(
            f"chunks: {url} has the protocol {protocol}, expected a path, http, https, "
            "s3 or gs; copy it to one of these",
            url=url,
        )
    client = options.get("client_kwargs") or {}
    endpoint = options.get("endpoint_url") or client.get("endpoint_url")
    region = options.get("region") or client.get("region_name") or "us-east-1"
    found = {
        "driver": "s3",
        "bucket": bucket,
        "path": folder,
        "aws_region": region,
        "aws_credentials": {"type": _credentials(options)},
    }
    return found | ({"endpoint": str(endpoint).rstrip("/")} if endpoint else {})


def is_anonymous(options: StorageOptions) -> bool:
    """Whether a bucket is read without credentials: unless `options` name some."""
    return bool(options.get("anon", "key" not in options))


def _credentials(options: StorageOptions) -> str:
    """Which credentials tensorstore uses; by itself it looks for some for seconds."""
    if is_anonymous(options):
        return "anonymous"
    if "key" not in options:
        return "default"
    # tensorstore takes a key from nowhere but the environment of the process.
    os.environ.setdefault("AWS_ACCESS_KEY_ID", str(options["key"]))
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", str(options.get("secret", "")))
    return "environment"


def tensorstore() -> Any:
    """The library, loaded when first needed, with watchdogs set."""
    for name, value in _WATCHDOGS.items():
        os.environ.setdefault(name, value)
    # Where an institute has certificates of its own, other tools know it by these.
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        if os.environ.get(name):
            os.environ.setdefault("TENSORSTORE_CA_BUNDLE", os.environ[name])
    import tensorstore as loaded

    return loaded


# The process is a part of the key: threads do not survive a fork.
@lru_cache(maxsize=8)
def _context(limits: str, process: int) -> Any:
    return tensorstore().Context(json.loads(limits))


def context_of(limits: str) -> Any:
    """The resources that all arrays with the same limits share in this process."""
    return _context(limits, os.getpid())


@lru_cache(maxsize=32)
def _store(kvstore: str, url: str, limits: str, process: int) -> Any:
    described = json.loads(kvstore)
    upstream = upstream_of(described, url)
    opened = tensorstore().KvStore.open(
        guarded(described, upstream), context=context_of(limits)
    )
    return opened.result(), upstream


def open_store(store: ChunkStore) -> tuple[Any, Upstream | None]:
    """The tensorstore KvStore, opened once in this process, and who serves it."""
    kvstore, limits = store.kvstore_json(), store.context_json()
    opened, upstream = _store(kvstore, store.url, limits, os.getpid())
    return opened, upstream
