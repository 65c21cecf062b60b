"""An answer leads to no other host, and fills no memory."""

import gzip

import pytest

from em_platform.config import EbiSettings, SourceSettings, TransferSettings
from em_platform.errors import SourceRefused, SourceUnavailable
from em_platform.ingest.http_answers import MOST_BYTES
from em_platform.ingest.remote_file import Offer, fetch_stream
from em_platform.ingest.web import Web
from tests.ingest.serving import Answer, serving

# Members of gzip may follow each other: 130 kB that become 130 MB.
BOMB = gzip.compress(bytes(1 << 20)) * ((MOST_BYTES >> 20) + 1)


def web() -> Web:
    limits = SourceSettings(requests_per_second=1e6)
    return Web("ebi", limits, TransferSettings(retries=1, backoff_s=0.0, timeout_s=5.0))


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_a_redirect_to_a_host_that_is_not_listed_is_refused(method: str) -> None:
    with serving(lambda _: Answer()) as other:
        moved = Answer(status=302, headers={"Location": f"{other.url}/?token=abc"})
        with (
            serving(lambda _: moved) as at,
            pytest.raises(SourceRefused, match=r"127\.0\.0\.1 sent us on") as caught,
        ):
            web().exchange(at.url, lambda answer: answer.content, method=method)
        assert not other.asked
    assert "ingest.ebi.redirect_hosts" in str(caught.value)
    assert "abc" not in str(caught.value)


def test_a_redirect_within_the_host_is_followed_and_its_body_not_read() -> None:
    moved = Answer(
        status=301, body=BOMB, headers={"Location": "/b", "Content-Encoding": "gzip"}
    )
    with serving(
        lambda asked: moved if asked.path == "/a" else Answer(body=b"ok")
    ) as at:
        assert web().get(f"{at.url}/a") == b"ok"
        assert [each.path for each in at.asked] == ["/a", "/b"]


def test_hosts_of_the_settings_may_be_redirected_to() -> None:
    with serving(lambda _: Answer(body=b"ok")) as other:
        files = other.url.replace("127.0.0.1", "localhost")
        moved = Answer(status=302, headers={"Location": files})
        with serving(lambda _: moved) as at:
            limits = EbiSettings(files_urls=(files,), requests_per_second=1e6)
            assert Web("ebi", limits, TransferSettings()).get(at.url) == b"ok"


def test_an_answer_that_unpacks_to_more_than_the_limit_is_refused() -> None:
    packed = Answer(body=BOMB, headers={"Content-Encoding": "gzip"})
    with serving(lambda _: packed) as at:
        for ask in (web().json, web().text, web().listing):
            with pytest.raises(SourceRefused, match="with more than 134217728 bytes"):
                ask(at.url)
        assert len(at.asked) == 3  # not tried again


@pytest.mark.parametrize(
    ("size_bytes", "error", "sentence"),
    [
        (None, SourceRefused, "goes on behind 5000000 bytes, expected an end"),
        (4_000_000, SourceUnavailable, "more than the 4000000 bytes came"),
    ],
)
def test_a_stream_that_goes_on_ends_before_it_fills_the_disk(
    size_bytes: int | None, error: type[Exception], sentence: str
) -> None:
    ends: list[int] = []
    packed = Answer(body=BOMB, headers={"Content-Encoding": "gzip"})
    with serving(lambda _: packed) as at, pytest.raises(error, match=sentence):
        fetch_stream(
            web(),
            Offer(url=at.url, size_bytes=size_bytes),
            name="a.tif",
            write=lambda place, block: ends.append(place + len(block)),
            most_bytes=5_000_000,
        )
    assert max(ends) <= 5_000_000
