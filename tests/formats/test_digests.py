"""Which digest of a body the headers of an answer state."""

import base64
import hashlib

import pytest

from em_platform.formats.chunked.digests import digest_of

CONTENT = b"as it was stored"
MD5 = hashlib.md5(CONTENT)
SHA = hashlib.sha256(CONTENT)
IN_64 = {each.name: base64.b64encode(each.digest()).decode() for each in (MD5, SHA)}
S3 = {"x-amz-request-id": "1", "ETag": f'"{MD5.hexdigest()}"'}


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({"Content-MD5": IN_64["md5"]}, "md5"),
        ({"x-goog-hash": f"crc32c=AAAAAA==, md5={IN_64['md5']}"}, "md5"),
        ({"Digest": f"MD5={IN_64['md5']},SHA-256={IN_64['sha256']}"}, "sha256"),
        ({"Repr-Digest": f"sha-256=:{IN_64['sha256']}:"}, "sha256"),
        (S3, "md5"),
        # Not S3; in parts; with a key; of packed bytes; none at all; no digest.
        ({"ETag": S3["ETag"]}, None),
        ({**S3, "ETag": f'"{MD5.hexdigest()}-12"'}, None),
        ({**S3, "x-amz-server-side-encryption": "aws:kms"}, None),
        (
            {
                "x-goog-hash": f"md5={IN_64['md5']}",
                "x-goog-stored-content-encoding": "gzip",
            },
            None,
        ),
        ({"Content-MD5": "AAAA", "Digest": "sha-256=%%%"}, None),
        ({}, None),
    ],
)
def test_a_digest_is_taken_where_it_is_one(
    headers: dict[str, str], kind: str | None
) -> None:
    found = digest_of(headers, server="http://a/b")
    assert (found and found.kind) == kind
    if found is not None:
        found.add(CONTENT)
        assert found.is_right()
        found.add(b"!")
        assert not found.is_right()


def test_etags_are_digests_only_where_one_was() -> None:
    """Servers that speak S3 may make up their ETags."""
    other = {**S3, "ETag": f'"{"0" * 32}"'}
    unknown = digest_of(other, server="http://never/asked")
    assert unknown is not None and unknown.is_right()
    right = digest_of(S3, server="http://never/asked")
    assert right is not None
    right.add(CONTENT)
    assert right.is_right()
    known = digest_of(other, server="http://never/asked")
    assert known is not None and not known.is_right()
