"""Digests that a server states of what it sends, in the headers of its answer.

Sources: Content-MD5 (RFC 1864), Digest (RFC 3230), Repr-Digest (RFC 9530),
x-goog-hash (https://cloud.google.com/storage/docs/xml-api/reference-headers), and the
ETag of S3, which is the MD5 of an object that came in one part and is not encrypted
with a key of KMS or of a customer
(https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html).
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_STRONGEST = ("sha512", "sha256", "sha1", "md5")
MD5_ETAG = re.compile(r'"?([0-9a-f]{32})"?')
_OF_S3 = ("x-amz-request-id", "x-amz-id-2")
# With these an ETag looks like an MD5 and is none.
_ENCRYPTED = "x-amz-server-side-encryption"

# Some servers speak S3 with ETags of their own: one is believed to be an MD5 where
# another of that server was. Metadata is read before chunks.
_servers_with_md5: set[str] = set()


@dataclass(slots=True, kw_only=True)
class Digest:
    """One that was stated, and that of the bytes which were added."""

    kind: str
    expected: bytes
    server: str = ""
    """Of an ETag, which only may be an MD5."""
    _found: Any = field(init=False)

    def __post_init__(self) -> None:
        # Against damage, not against forgery.
        self._found = hashlib.new(self.kind, usedforsecurity=False)

    def add(self, piece: bytes) -> None:
        """Take further bytes."""
        self._found.update(piece)

    def is_right(self) -> bool:
        """Whether all bytes together have the digest that was stated."""
        is_equal = bool(self._found.digest() == self.expected)
        if self.server and is_equal:
            _servers_with_md5.add(self.server)
        return is_equal or bool(self.server and self.server not in _servers_with_md5)


def digest_of(headers: Mapping[str, str], *, server: str) -> Digest | None:
    """The strongest digest of a whole body (status 200), None where none is stated.

    `server` tells whose ETags are alike: another for each host and bucket.
    """
    found = dict(_stated(headers))
    for kind in _STRONGEST:
        if kind in found:
            return Digest(kind=kind, expected=found[kind])
    etag = _md5_of_etag(headers)
    return Digest(kind="md5", expected=etag, server=server) if etag else None


def _md5_of_etag(headers: Mapping[str, str]) -> bytes | None:
    """What may be the MD5 in the ETag of an answer of S3."""
    match = MD5_ETAG.fullmatch(headers.get("ETag", ""))
    encryption = headers.get(_ENCRYPTED, "AES256")
    by_customer = f"{_ENCRYPTED}-customer-algorithm" in headers
    is_plain = encryption == "AES256" and not by_customer
    if match is None or not is_plain or not any(name in headers for name in _OF_S3):
        return None
    return bytes.fromhex(match[1])


def _stated(headers: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """Kind and digest, as far as they are well-formed."""
    pairs = [("md5", headers.get("Content-MD5", ""))]
    # Of Google's, what is unpacked on its way has the digest of the packed bytes.
    names = ["Digest", "Repr-Digest", "Content-Digest"]
    packed = headers.get("x-goog-stored-content-encoding", "identity")
    if packed == headers.get("Content-Encoding", "identity"):
        names.append("x-goog-hash")
    for name in names:
        for entry in headers.get(name, "").split(","):
            kind, _, text = entry.strip().partition("=")
            pairs.append((kind.lower().replace("-", ""), text.strip(":")))
    for kind, text in pairs:
        if kind not in _STRONGEST:
            continue
        try:
            digest = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            continue
        if len(digest) == hashlib.new(kind, usedforsecurity=False).digest_size:
            yield kind, digest
