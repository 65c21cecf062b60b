import pytest

from em_platform.messaging.frames import (
    Frame,
    FrameError,
    FrameReader,
    escape,
    unescape,
    write_frame,
)


def frames_in(*chunks: bytes, limit: int = 1000, version: str = "1.2") -> list[Frame]:
    reader = FrameReader(limit)
    reader.version = version
    found = []
    for chunk in chunks:
        reader.feed(chunk)
        while (frame := reader.next()) is not None:
            found.append(frame)
    return found


SEND = b"SEND\ndestination:a\n\nhello\0"


def test_a_frame_is_read_however_its_bytes_arrive() -> None:
    whole = frames_in(SEND)
    assert whole == [Frame(b"SEND", {"destination": "a"}, b"hello")]
    assert frames_in(*(bytes([byte]) for byte in SEND)) == whole
    assert frames_in(SEND + SEND[:9], SEND[9:]) == whole * 2


def test_line_ends_between_frames_are_heart_beats() -> None:
    assert len(frames_in(b"\n\r\n\n" + SEND + b"\n\n", b"\r", b"\n" + SEND)) == 2


def test_lines_may_end_in_carriage_return() -> None:
    read = frames_in(b"SEND\r\ndestination:a\r\n\r\nhello\0")
    assert read == [Frame(b"SEND", {"destination": "a"}, b"hello")]


def test_a_counted_body_may_hold_nul_and_blank_lines() -> None:
    body = b"\0\n\n\0"
    read = frames_in(b"SEND\ndestination:a\ncontent-length:4\n\n" + body + b"\0" + SEND)
    assert [frame.body for frame in read] == [body, b"hello"]


def test_of_a_repeated_header_the_first_counts() -> None:
    (frame,) = frames_in(b"SEND\nfoo:World\nfoo:Hello\n\n\0")
    assert frame.headers == {"foo": "World"}


@pytest.mark.parametrize(
    ("text", "version", "written"),
    [
        ("a:b\\c\nd\re", "1.2", "a\\cb\\\\c\\nd\\re"),
        ("a:b\\c\nd\re", "1.1", "a\\cb\\\\c\\nd e"),
        ("a:b\\c\nd", "1.0", "a:b\\c d"),
        ("", "1.2", ""),
        ("\\\\n", "1.2", "\\\\\\\\n"),
    ],
)
def test_headers_are_escaped_as_each_version_asks(
    text: str, version: str, written: str
) -> None:
    assert escape(text, version) == written
    if version == "1.2":
        assert unescape(written, version) == text


@pytest.mark.parametrize(
    ("line", "version"),
    [(b"a:\\t", "1.2"), (b"a:\\", "1.2"), (b"a:b\\r", "1.1"), (b"a:\\x", "1.1")],
)
def test_an_unknown_escape_is_refused(line: bytes, version: str) -> None:
    with pytest.raises(FrameError, match="has an escape that STOMP"):
        frames_in(b"SEND\n" + line + b"\n\n\0", version=version)


def test_a_login_and_version_1_0_have_no_escapes() -> None:
    (login,) = frames_in(b"CONNECT\npasscode:a\\b:c\n\n\0")
    assert login.headers == {"passcode": "a\\b:c"}
    (old,) = frames_in(b"SEND\nfoo:a\\nb\n\n\0", version="1.0")
    assert old.headers == {"foo": "a\\nb"}


@pytest.mark.parametrize(
    ("garbage", "sentence"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "b'GET / HTTP/1.' is no STOMP command"),
        (b"\x16\x03\x01\x02\x00\x01", "is no STOMP command"),
        (b"SENDER\n", "b'SENDER' is no STOMP command"),
        (b"SEND\nno colon\n\n\0", "is not name:value"),
        (b"SEND\n:x\n\n\0", "is not name:value"),
        (b"SEND\nfoo:\xff\xfe\n\n\0", "is not UTF-8"),
        (b"SEND\ncontent-length:-1\n\n\0", "a number was expected"),
        (b"SEND\ncontent-length:2\n\nabc\0", "does not end in NUL"),
        (b"SEND\ncontent-length:1001\n\n", "at most 1000 are taken"),
        (b"SEND\n\n" + b"x" * 1001, "at most 1000 are taken"),
        (b"SEND\nfoo:" + b"x" * 70_000, "is longer than 65536 bytes"),
        (b"SEND\ncontent-length:" + b"9" * 5000 + b"\n\n", "at most 1000 are taken"),
        (b"SEND\ncontent-length:" + b"0" * 20 + b"1001\n\n", "at most 1000 are taken"),
        (b"SEND\nfoo:\0RECEIPT\n\n\0", "a header of SEND holds NUL"),
    ],
)
def test_what_is_no_frame_is_refused_in_one_sentence(
    garbage: bytes, sentence: str
) -> None:
    with pytest.raises(FrameError) as caught:
        frames_in(garbage)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_zeros_before_a_length_mean_nothing() -> None:
    (frame,) = frames_in(b"SEND\ncontent-length:" + b"0" * 5000 + b"5\n\nhello\0")
    assert frame.body == b"hello"


@pytest.mark.parametrize(
    ("start", "sentence"),
    [
        (
            b"CONNECT\ncontent-length:9000\n\n",
            "at most 8192 are taken before the login",
        ),
        (b"CONNECT\n\n" + b"x" * 9000, "at most 8192 are taken before the login"),
        (b"CONNECT\npasscode:" + b"x" * 9000, "is longer than 8192 bytes"),
    ],
)
def test_a_frame_has_a_few_kilobytes_until_the_login(
    start: bytes, sentence: str
) -> None:
    reader = FrameReader(1_000_000, logged_in=False)
    reader.feed(start)
    with pytest.raises(FrameError, match=sentence):
        reader.next()


def test_a_refused_frame_names_its_receipt() -> None:
    with pytest.raises(FrameError) as caught:
        frames_in(b"SEND\nreceipt:r7\ncontent-length:1001\n\n")
    assert caught.value.receipt == "r7"


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2"])
def test_a_written_frame_is_read_back(version: str) -> None:
    sent = Frame(b"SEND", {"destination": "/topic/tile.raw", "ü": "π"}, b"a\0b")
    (read,) = frames_in(write_frame(sent, version), version=version)
    assert read.body == sent.body
    assert read.headers == {**sent.headers, "content-length": "3"}
