"""A read-only, anonymous S3 (objects, ranges, listings), and a bucket for results.

The bucket that can be written is moto's server, where that is installed.
"""

import base64
import hashlib
import logging
import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import escape

from em_platform.errors import ToolMissing
from em_platform.standins.faults import Faults
from em_platform.standins.messages import (
    Request,
    Response,
    as_file,
    as_text,
)
from em_platform.standins.part import Tree

_SPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
# S3's own limit of a page (ListObjectsV2, `max-keys`).
_MOST_KEYS = 1000
# What clients of S3 look for: its region, and that a browser may read it (CORS).
_HEADERS = {
    "Server": "AmazonS3",
    "x-amz-request-id": "STANDIN000000000",
    "x-amz-bucket-region": "us-east-1",
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "ETag, Content-Length, Content-Range",
}
_CODES = {
    400: ("InvalidRequest", "The request is not valid."),
    401: ("AccessDenied", "Access Denied"),
    403: ("AccessDenied", "Access Denied"),
    404: ("NoSuchKey", "The specified key does not exist."),
    405: ("MethodNotAllowed", "The specified method is not allowed."),
    429: ("TooManyRequests", "Please reduce your request rate."),
    500: ("InternalError", "We encountered an internal error. Please try again."),
    503: ("SlowDown", "Please reduce your request rate."),
}


def refuse(status: int, words: str) -> Response:
    """An error as S3 words it."""
    code, message = _CODES.get(status, ("Fault", words))
    return _error(status, code, message)


def _error(status: int, code: str, message: str, about: str = "") -> Response:
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{escape(message)}</Message>{about}"
        "<RequestId>STANDIN000000000</RequestId><HostId>stand-in</HostId></Error>"
    )
    return _xml(text, status=status)


def _absent(key: str) -> Response:
    return _error(404, *_CODES[404], f"<Key>{escape(key)}</Key>")


def _xml(text: str, *, status: int = 200) -> Response:
    answer = as_text(text, status=status, media_type="application/xml")
    return replace(answer, headers=_HEADERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What a listing is asked for; `after` is the last name that is known already."""

    bucket: str
    prefix: str
    delimiter: str
    most: int
    after: str
    version: str
    token: str


class Buckets:
    """Serves `/<bucket>/<key>` of folders; nothing can be written."""

    def __init__(self, buckets: Mapping[str, Tree], *, faults: Faults) -> None:
        self._buckets = buckets
        self._faults = faults
        self._lock = threading.Lock()
        self._keys: dict[str, list[str]] = {}
        self._etags: dict[str, str] = {}

    def __call__(self, request: Request) -> Response:
        # A browser asks so before it reads from another site (CORS).
        if request.method == "OPTIONS":
            return _xml("")
        bucket, _, key = request.path.lstrip("/").partition("/")
        if not bucket or request.method not in ("GET", "HEAD"):
            return refuse(403, "")
        if bucket not in self._buckets:
            return _error(
                404,
                "NoSuchBucket",
                "The specified bucket does not exist",
                f"<BucketName>{escape(bucket)}</BucketName>",
            )
        if key:
            return self._object(bucket, key)
        return self._about(bucket, request)

    def _object(self, bucket: str, key: str) -> Response:
        if key.endswith("/") or ".." in key.split("/"):
            return _absent(key)
        path = f"{self._buckets[bucket].root}/{key}"
        try:
            found = as_file(Path(path), media_type=_media_type(key))
            return replace(found, etag=self._etag(path), headers=_HEADERS)
        # Not there, or a folder, which is no key.
        except OSError:
            return _absent(key)

    def _etag(self, path: str) -> str:
        with self._lock:
            known = self._etags.get(path)
        if known is None:
            # Without the lock: two threads find the same digest.
            content = Path(path).read_bytes()
            # MD5 is S3's ETag of an object that came in one part.
            known = hashlib.md5(content, usedforsecurity=False).hexdigest()
            with self._lock:
                self._etags[path] = known
        return f'"{known}"'

    def _about(self, bucket: str, request: Request) -> Response:
        names = request.query
        if "location" in names:
            # Empty means us-east-1.
            return _xml(f'<LocationConstraint xmlns="{_SPACE}"/>')
        if request.method == "HEAD":
            return _xml("")
        beyond = {"versions", "uploads", "acl", "policy", "tagging"} & names.keys()
        if beyond:
            return refuse(403, "")
        version = request.asked("list-type", "1")
        token = request.asked("continuation-token")
        after = request.asked("marker" if version == "1" else "start-after")
        try:
            asked = _Asked(
                bucket=bucket,
                prefix=request.asked("prefix"),
                delimiter=request.asked("delimiter"),
                most=min(_MOST_KEYS, int(request.asked("max-keys", str(_MOST_KEYS)))),
                # The token is the last name: nothing has to be kept between two pages.
                after=base64.b64decode(token).decode() if token else after,
                version=version,
                token=token,
            )
        except ValueError:
            return _error(400, "InvalidArgument", "The continuation token is wrong")
        return self._listing(asked, request)

    def _listing(self, asked: _Asked, request: Request) -> Response:
        coded = request.asked("encoding-type") == "url"
        entries: list[tuple[str, str]] = []
        more = False
        for kind, name in self._names(asked, site=request.site):
            if len(entries) == asked.most:
                more = True
                break
            entries.append((kind, name))
        root = self._buckets[asked.bucket].root
        body = [
            self._contents(root, name, coded) if kind == "key" else _common(name, coded)
            for kind, name in entries
        ]
        last = entries[-1][1] if entries else ""
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<ListBucketResult xmlns="{_SPACE}">{_head(asked, coded)}'
            f"<IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{_next(asked, last, coded) if more else ''}"
            f"<KeyCount>{len(entries)}</KeyCount>{''.join(body)}</ListBucketResult>"
        )
        return _xml(text)

    def _names(self, asked: _Asked, *, site: str) -> Iterator[tuple[str, str]]:
        """Keys and common prefixes in order, each once, after `asked.after`."""
        before = ""
        keys = self._sorted_keys(asked.bucket)
        # Sorted names with one prefix stand together: jump there, stop behind.
        for key in islice(keys, bisect_left(keys, asked.prefix), None):
            if not key.startswith(asked.prefix):
                return
            if self._faults.hidden(f"/{asked.bucket}/{key}", site=site):
                continue
            rest = key[len(asked.prefix) :]
            if asked.delimiter and asked.delimiter in rest:
                end = rest.index(asked.delimiter) + len(asked.delimiter)
                common = asked.prefix + rest[:end]
                # The last page may have ended with this prefix.
                if common != before and common > asked.after:
                    yield "prefix", common
                before = common
            elif key > asked.after:
                yield "key", key

    def _sorted_keys(self, bucket: str) -> list[str]:
        root = self._buckets[bucket].root
        with self._lock:
            # Once: the files of a world stay as they are while it is served.
            if bucket not in self._keys:
                found = (p for p in root.rglob("*") if p.is_file())
                self._keys[bucket] = sorted(
                    p.relative_to(root).as_posix() for p in found
                )
            return self._keys[bucket]

    def _contents(self, root: Path, key: str, coded: bool) -> str:
        path = root / key
        return (
            f"<Contents><Key>{_safe(key, coded)}</Key>"
            "<LastModified>2024-01-15T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(self._etag(str(path)))}</ETag><Size>{path.stat().st_size}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )


def _head(asked: _Asked, coded: bool) -> str:
    delimiter = _safe(asked.delimiter, coded)
    return (
        f"<Name>{asked.bucket}</Name><Prefix>{_safe(asked.prefix, coded)}</Prefix>"
        + (f"<Delimiter>{delimiter}</Delimiter>" if asked.delimiter else "")
        + (
            f"<Marker>{_safe(asked.after, coded)}</Marker>"
            if asked.version == "1"
            else ""
        )
        + f"<MaxKeys>{asked.most}</MaxKeys>"
        + ("<EncodingType>url</EncodingType>" if coded else "")
        + (
            f"<ContinuationToken>{asked.token}</ContinuationToken>"
            if asked.token
            else ""
        )
    )


def _next(asked: _Asked, last: str, coded: bool) -> str:
    if asked.version == "1":
        return f"<NextMarker>{_safe(last, coded)}</NextMarker>"
    token = base64.b64encode(last.encode()).decode()
    return f"<NextContinuationToken>{token}</NextContinuationToken>"


def _common(prefix: str, coded: bool) -> str:
    return f"<CommonPrefixes><Prefix>{_safe(prefix, coded)}</Prefix></CommonPrefixes>"


def _safe(text: str, coded: bool) -> str:
    return quote(text) if coded else escape(text)


def _media_type(key: str) -> str:
    name = key.rpartition("/")[2]
    if name.endswith(".json") or name in (
        ".zarray",
        ".zattrs",
        ".zgroup",
        ".zmetadata",
    ):
        return "application/json"
    return "binary/octet-stream"


# moto accepts any key; the client needs one to sign with.
_KEY = "standin"


@dataclass(frozen=True, slots=True, kw_only=True)
class WritableS3:
    """Where it listens, and the bucket that is there; all is gone when it ends."""

    url: str
    bucket: str

    @property
    def settings(self) -> dict[str, str]:
        """Dotted settings that let results lie there."""
        return {
            "storage.root": f"s3://{self.bucket}/em",
            "storage.endpoint_url": self.url,
            "storage.access_key": _KEY,
            "storage.secret_key": _KEY,
        }


@contextmanager
def running_writable_s3(bucket: str = "em-platform") -> Iterator[WritableS3]:
    """A server with one empty bucket, which it keeps in memory.

    Raises
    ------
    ToolMissing
        moto is not installed.
    """
    try:
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        raise ToolMissing(
            "standins: no moto found, which is the writable S3; "
            "pip install 'moto[server]'"
        ) from error
    import requests

    # It writes a line for each request, else.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        # By hand: s3fs sends us-east-1 as a constraint, which moto refuses.
        made = requests.put(f"{url}/{bucket}", timeout=10)
        made.raise_for_status()
        yield WritableS3(url=url, bucket=bucket)
    finally:
        server.stop()
