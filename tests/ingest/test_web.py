"""One source is asked politely, again where that helps, and fails in one sentence."""

import gzip
import json
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from em_platform.config import SourceSettings, TransferSettings
from em_platform.errors import (
    ConfigError,
    FormatError,
    SourceRefused,
    SourceUnavailable,
)
from em_platform.ingest.http_answers import retry_after_s, shown
from em_platform.ingest.rate_limit import Pace, Waits, pause_s
from em_platform.ingest.web import Web
from em_platform.standins.flyem import certificates
from em_platform.standins.http import Server
from em_platform.standins.messages import as_bytes
from tests.ingest.serving import Answer, Asked, serving


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept_s: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds

    def waits(self) -> Waits:
        return Waits(clock=lambda: self.now_s, sleep=self.sleep, chance=lambda: 0.5)


def web(
    clock: Time | None = None,
    *,
    retries: int = 3,
    token: str = "",
    at_once: int = 100,
    redirect_hosts: tuple[str, ...] = (),
) -> Web:
    return Web(
        "ebi",
        SourceSettings(
            requests_at_once=at_once,
            requests_per_second=1e6,
            redirect_hosts=redirect_hosts,
        ),
        TransferSettings(retries=retries, backoff_s=1.0, timeout_s=5.0),
        token=token,
        waits=(clock or Time()).waits(),
    )


def in_turn(*answers: Answer) -> Callable[[Asked], Answer]:
    """These answers one after the other, then the last for ever."""
    left = list(answers)
    return lambda asked: left.pop(0) if len(left) > 1 else left[0]


def test_json_comes_with_its_parameters() -> None:
    with serving(
        lambda asked: Answer(body=json.dumps({"at": asked.path}).encode())
    ) as at:
        assert web().json(f"{at.url}/m", {"limit": 2}) == {"at": "/m?limit=2"}


def test_the_beginning_of_a_file_comes_without_the_rest() -> None:
    with serving(lambda _: Answer(body=b"x" * 10_000_000)) as at:
        assert web().first_bytes(at.url, 4) == b"xxxx"
        assert at.asked[0].headers["range"] == "bytes=0-3"


def test_a_range_comes_as_it_is_asked_for() -> None:
    ranged = Answer(status=206, body=b"bc")
    with serving(lambda _: ranged) as at:
        assert web().get(at.url, headers={"Range": "bytes=1-2"}) == b"bc"


def test_what_is_not_json_is_reported() -> None:
    with (
        serving(lambda _: Answer(body=b"<html>Down")) as at,
        pytest.raises(FormatError, match="answered '<html>Down', expected JSON"),
    ):
        web().json(at.url)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_status_that_passes_is_tried_again_later_and_later(status: int) -> None:
    clock = Time()
    failing = Answer(status=status)
    with serving(in_turn(failing, failing, failing, Answer(body=b"ok"))) as at:
        assert web(clock).get(at.url) == b"ok"
    assert clock.slept_s == [0.5, 1.0, 2.0]  # 1, 2, 4 s, shortened by chance to half


def test_a_status_that_stays_is_reported_after_all_tries() -> None:
    with serving(lambda _: Answer(status=503, body=b"busy")) as at:
        with pytest.raises(SourceUnavailable) as caught:
            web(retries=2).get(f"{at.url}/x")
        assert len(at.asked) == 3
    assert caught.value.facts == {"url": f"{at.url}/x", "status": 503, "tries": 3}
    assert "ebi" in str(caught.value)
    assert f"{at.url}/x answered 503" in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_refusal_is_reported_at_once(status: int) -> None:
    stated = {"Content-Type": "application/json"}
    answer = Answer(status=status, body=b'{"message": "No such image"}', headers=stated)
    with serving(lambda _: answer) as at:
        with pytest.raises(SourceRefused, match="No such image") as caught:
            web().get(at.url)
        assert len(at.asked) == 1
    assert caught.value.facts["status"] == status
    assert not caught.value.retryable


def test_a_cut_body_is_asked_for_again() -> None:
    whole = Answer(body=b"x" * 1000)
    with serving(in_turn(Answer(body=b"x" * 1000, cut_after=10), whole)) as at:
        assert web().get(at.url) == b"x" * 1000
        assert len(at.asked) == 2


def test_a_connection_that_is_always_cut_is_reported() -> None:
    with (
        serving(lambda _: Answer(body=b"x" * 1000, cut_after=10)) as at,
        pytest.raises(SourceUnavailable, match="did not serve") as caught,
    ):
        web().get(at.url)
    assert caught.value.facts["tries"] == 4
    assert "10 bytes read" in str(caught.value)


def test_nobody_there_is_reported() -> None:
    with serving(lambda _: Answer()) as at:
        gone = at.url
    with pytest.raises(SourceUnavailable, match="Connection refused"):
        web(retries=1).get(gone)


def test_no_answer_in_time_is_reported() -> None:
    ended = threading.Event()

    def slow(asked: Asked) -> Answer:
        ended.wait(10)
        return Answer()

    transfer = TransferSettings(retries=0, timeout_s=0.1)
    with serving(slow) as at:
        with pytest.raises(SourceUnavailable, match="no answer in time"):
            Web("ebi", SourceSettings(), transfer).get(at.url)
        ended.set()


@pytest.mark.parametrize("url", ["nonsense", "", "ftp://host/a", "http://[bad"])
def test_what_is_no_address_is_a_matter_of_settings(url: str) -> None:
    with pytest.raises(ConfigError, match="no address of a web server"):
        web().get(url)


def test_a_server_that_does_not_speak_tls_is_reported() -> None:
    transfer = TransferSettings(retries=0, timeout_s=0.1)
    with (
        serving(lambda _: Answer()) as at,
        pytest.raises(SourceUnavailable, match="did not serve"),
    ):
        Web("ebi", SourceSettings(), transfer).get(at.url.replace("http:", "https:"))


def test_a_certificate_that_is_not_trusted_is_reported_at_once(tmp_path: Path) -> None:
    context, authority = certificates(tmp_path / "tls")
    limits, transfer = SourceSettings(), TransferSettings()
    with Server("tls", lambda _: as_bytes(b"ok"), tls=context) as server:
        with pytest.raises(SourceRefused, match="a certificate that is not trusted"):
            web().get(server.url)
        trusting = Web("ebi", limits, transfer, verify=str(authority))
        assert trusting.get(server.url) == b"ok"


def test_the_other_side_is_waited_for_as_it_asks() -> None:
    clock = Time()
    failing = Answer(status=429, headers={"Retry-After": "7"})
    with serving(in_turn(failing, Answer(body=b"ok"))) as at:
        web(clock).get(at.url)
    assert clock.slept_s == [7.0]


@pytest.mark.parametrize(
    ("text", "least_s", "most_s"),
    [
        (None, 0, 0),
        ("", 0, 0),
        ("3", 3, 3),
        ("soon", 0, 0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0, 0),
        ("Fri, 31 Dec 2199 23:59:59 GMT", 1e9, 1e11),
    ],
)
def test_retry_after_is_seconds_or_a_date(
    text: str | None, least_s: float, most_s: float
) -> None:
    assert least_s <= retry_after_s(text) <= most_s


def test_a_pause_is_never_longer_than_two_minutes() -> None:
    assert pause_s(60, backoff_s=1.0, chance=1.0, asked_s=0.0) == 120.0
    assert pause_s(1, backoff_s=1.0, chance=0.0, asked_s=1e9) == 120.0


def test_a_token_goes_as_bearer_and_not_elsewhere() -> None:
    with serving(lambda _: Answer()) as other:
        elsewhere = other.url.replace("127.0.0.1", "localhost")

        def redirect(asked: Asked) -> Answer:
            return Answer(status=302, headers={"Location": elsewhere})

        with serving(redirect) as at:
            web(token="secret", redirect_hosts=("localhost",)).get(at.url)
            assert at.asked[0].headers["authorization"] == "Bearer secret"
        assert "authorization" not in other.asked[0].headers


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://me:word@host/a?b=c", "https://host/a?b=c"),
        ("https://host/a?access_token=abc&b=c", "https://host/a?access_token=...&b=c"),
        ("https://host/a?X-Amz-Signature=abc", "https://host/a?X-Amz-Signature=..."),
    ],
)
def test_secrets_are_not_shown(url: str, expected: str) -> None:
    assert shown(url) == expected


def test_a_head_tells_what_a_file_is() -> None:
    headers = {
        "Content-Length": "12",
        "ETag": '"abc"',
        "Last-Modified": "Mon, 15 Jan 2024 00:00:00 GMT",
        "Accept-Ranges": "bytes",
    }
    with serving(lambda _: Answer(headers=headers)) as at:
        head = web().head(at.url)
    assert head.size_bytes == 12
    assert head.etag == '"abc"'
    assert head.modified == "Mon, 15 Jan 2024 00:00:00 GMT"
    assert head.accepts_ranges
    assert not head.content_encoding


def test_the_length_of_a_compressed_body_is_not_that_of_the_file() -> None:
    headers = {"Content-Length": "12", "Content-Encoding": "gzip"}
    with serving(lambda _: Answer(headers=headers)) as at:
        assert web().head(at.url).size_bytes is None
        assert at.asked[0].headers["accept-encoding"] == "identity"


def test_a_server_without_head_is_asked_for_one_byte() -> None:
    def answer(asked: Asked) -> Answer:
        if asked.method == "HEAD":
            return Answer(status=405)
        assert asked.headers["range"] == "bytes=0-0"
        ranged = {"Content-Range": "bytes 0-0/345"}
        return Answer(status=206, body=b"x", headers=ranged)

    with serving(answer) as at:
        head = web().head(at.url)
    assert head.size_bytes == 345
    assert head.accepts_ranges


@pytest.mark.parametrize(("status", "there"), [(200, True), (404, False), (403, False)])
def test_whether_something_is_there(status: int, there: bool) -> None:
    with serving(lambda _: Answer(status=status)) as at:
        assert web().has(at.url) is there


def test_a_compressed_answer_is_unpacked() -> None:
    packed = Answer(body=gzip.compress(b"[1]"), headers={"Content-Encoding": "gzip"})
    with serving(lambda _: packed) as at:
        assert web().json(at.url) == [1]


APACHE = """<html><head><title>Index of /data</title></head><body><h1>Index</h1><pre>
<a href="?C=N;O=D">Name</a> <a href="/empiar/">Parent Directory</a>
<a href="F57%208.dm3">F57 8.dm3</a> 2024-01-15 11:10   29M
<a href="a:b.mrc">a:b.mrc</a>
<a href="trakem2.1/">trakem2.1/</a>    -
<a href="../">up</a><a href="#top">top</a><a href="https://elsewhere.org/x">x</a>
<a href="deep/er.mrc">deeper</a><a href="..%2F..%2Fetc">bad</a>
</pre></body></html>"""


def test_a_listing_names_what_lies_in_the_folder() -> None:
    html = {"Content-Type": "text/html;charset=UTF-8"}
    with serving(lambda _: Answer(body=APACHE.encode(), headers=html)) as at:
        listed = web().listing(f"{at.url}/empiar/data")
        assert at.asked[0].path == "/empiar/data/"
    assert [each.name for each in listed] == ["F57 8.dm3", "a:b.mrc", "trakem2.1"]
    assert [each.is_folder for each in listed] == [False, False, True]
    assert listed[0].url == f"{at.url}/empiar/data/F57%208.dm3"
    assert listed[2].url == f"{at.url}/empiar/data/trakem2.1/"


def test_absolute_links_below_the_folder_count() -> None:
    page = b'<a href="/data/one.tif">one.tif</a><a href="/data/">.</a>'
    with serving(lambda _: Answer(body=page)) as at:
        assert [each.name for each in web().listing(f"{at.url}/data/")] == ["one.tif"]


def test_what_is_no_index_page_is_reported() -> None:
    answer = Answer(body=b"II", headers={"Content-Type": "image/tiff"})
    with (
        serving(lambda _: answer) as at,
        pytest.raises(FormatError, match="image/tiff, expected the index page"),
    ):
        web().listing(at.url)


def test_requests_keep_their_distance() -> None:
    clock = Time()
    pace = Pace(at_once=2, per_second=10.0, waits=clock.waits())
    started = []
    for _ in range(5):
        with pace.place():
            started.append(round(clock.now_s, 6))
    assert started == [0.0, 0.0, 0.1, 0.2, 0.3]


def test_no_more_than_allowed_are_asked_at_once() -> None:
    lock = threading.Lock()
    now = most = 0

    def count(asked: Asked) -> Answer:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        return Answer()

    asker = web(at_once=3)
    with serving(count) as at, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: asker.get(at.url), range(16)))
    assert most == 3


def test_a_web_goes_to_other_processes() -> None:
    with serving(lambda _: Answer(body=b"ok")) as at:
        assert pickle.loads(pickle.dumps(web(token="secret"))).get(at.url) == b"ok"
