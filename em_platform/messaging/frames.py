"""STOMP frames to bytes and back, versions 1.0 to 1.2; no sockets.

Source: STOMP specifications 1.0, 1.1, 1.2 (https://stomp.github.io).
"""

from dataclasses import dataclass

from em_platform.errors import MessagingError

VERSIONS = ("1.0", "1.1", "1.2")
CLIENT_COMMANDS = frozenset(
    (
        b"ABORT",
        b"ACK",
        b"BEGIN",
        b"COMMIT",
        b"CONNECT",
        b"DISCONNECT",
        b"NACK",
        b"SEND",
        b"STOMP",
        b"SUBSCRIBE",
        b"UNSUBSCRIBE",
    )
)
_LONGEST_COMMAND = max(map(len, CLIENT_COMMANDS))
_HEADER_LIMIT_BYTES = 64 * 1024  # far more than any client sends; garbage has no end
# Of a client that has not logged in: tokens of identity providers reach 4 kB.
_LOGIN_LIMIT_BYTES = 8 * 1024
_OBJECT_BYTES = 1000  # about what Python needs for a frame with some short headers
_UNESCAPED = {"n": "\n", "c": ":", "\\": "\\", "r": "\r"}
# STOMP 1.2, "Value Encoding": for the sake of clients of 1.0.
_NEVER_ESCAPED = frozenset((b"CONNECT", b"STOMP", b"CONNECTED"))


class FrameError(MessagingError):
    """Bytes that are no STOMP frame; `receipt` names the frame where it is known."""

    def __init__(self, sentence: str, *, receipt: str = "") -> None:
        super().__init__(sentence)
        self.receipt = receipt


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: a command, its headers (the first of each name), a body."""

    command: bytes
    headers: dict[str, str]
    body: bytes = b""

    @property
    def memory_bytes(self) -> int:
        """About what it takes while it is kept."""
        return memory_of(self.headers, self.body)


class FrameReader:
    """Cuts a stream of bytes into frames.

    `version` may be set as soon as it is negotiated; it rules how headers are escaped.
    Frames of a few kB are taken until `logged_in` is set.
    """

    def __init__(self, body_limit_bytes: int, *, logged_in: bool = True) -> None:
        self.version = "1.2"
        self.logged_in = logged_in
        self._body_limit_bytes = body_limit_bytes
        self._buffer = bytearray()
        self._head: tuple[bytes, dict[str, str], int] | None = None
        self._searched = 0  # bytes without a NUL: a body in parts is searched once

    @property
    def buffered_bytes(self) -> int:
        """How much of an unfinished frame is here."""
        return len(self._buffer)

    @property
    def _limit(self) -> int:
        return self._body_limit_bytes if self.logged_in else _LOGIN_LIMIT_BYTES

    def clear(self) -> None:
        """Forget the unfinished frame: nothing more is read."""
        self._buffer = bytearray()

    def feed(self, received: bytes) -> None:
        """Add bytes that were received."""
        self._buffer += received

    def next(self) -> Frame | None:
        """The next whole frame, or None when more bytes are needed.

        Raises
        ------
        FrameError
            The bytes are no frame, or the frame is too large.
        """
        if self._head is None:
            self._head = self._read_head()
        if self._head is None:
            return None
        command, headers, length = self._head
        body = self._read_counted(length) if length >= 0 else self._read_to_nul(headers)
        if body is None:
            return None
        self._head = None
        return Frame(command, headers, body)

    def _read_head(self) -> tuple[bytes, dict[str, str], int] | None:
        buffer = self._buffer
        start = 0
        # a frame may be followed by any number of them
        while start < len(buffer) and buffer[start] in b"\r\n":
            start += 1  # heart-beats, and line ends after a frame
        if start:
            del buffer[:start]
        if not buffer:
            return None
        command = self._command()
        if command is None:
            return None
        limit = _HEADER_LIMIT_BYTES if self.logged_in else _LOGIN_LIMIT_BYTES
        end, past = _blank_line(buffer, limit)
        if end < 0:
            if len(buffer) > limit:
                raise FrameError(
                    f"the header of a {command.decode()} frame is longer than "
                    f"{limit} bytes; put long values into the body"
                )
            return None
        head = bytes(buffer[:end]).partition(b"\n")[2]
        del buffer[:past]
        headers = read_headers(head, command=command, version=self.version)
        return command, headers, self._length(headers)

    def _command(self) -> bytes | None:
        """The first line; refused as soon as it can be no command."""
        line, ended, _ = bytes(self._buffer[: _LONGEST_COMMAND + 2]).partition(b"\n")
        line = line.removesuffix(b"\r")
        if ended and line in CLIENT_COMMANDS:
            return line
        possible = any(command.startswith(line) for command in CLIENT_COMMANDS)
        if ended or not possible:
            raise FrameError(
                f"{line[:20]!r} is no STOMP command; a STOMP client was expected"
            )
        return None

    def _length(self, headers: dict[str, str]) -> int:
        """The announced length of the body, -1 where it ends at a NUL."""
        text = headers.get("content-length")
        if text is None:
            return -1
        receipt = headers.get("receipt", "")
        if not (text.isascii() and text.isdigit()):
            raise FrameError(
                f"content-length is {text[:20]!r}, a number was expected",
                receipt=receipt,
            )
        digits = text.lstrip("0") or "0"
        # 20 digits are more than any limit; int() raises an error on some thousand
        if int(digits[:20]) > self._limit:
            raise self._too_large(f"{digits[:20]} bytes", receipt)
        return int(digits)

    def _read_counted(self, length: int) -> bytes | None:
        # the NUL behind the body must be there, too
        if len(self._buffer) <= length:
            return None
        if self._buffer[length] != 0:
            raise FrameError(
                f"a body of content-length {length} does not end in NUL; "
                "count bytes, not characters"
            )
        body = bytes(self._buffer[:length])
        del self._buffer[: length + 1]
        return body

    def _read_to_nul(self, headers: dict[str, str]) -> bytes | None:
        end = self._buffer.find(0, self._searched)
        if (len(self._buffer) if end < 0 else end) > self._limit:
            raise self._too_large("more bytes", headers.get("receipt", ""))
        self._searched = len(self._buffer) if end < 0 else 0
        if end < 0:
            return None
        body = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return body

    def _too_large(self, found: str, receipt: str) -> FrameError:
        cure = "send less or raise broker.frame_limit_mb"
        return FrameError(
            f"a body of {found} was announced, at most {self._limit} are taken"
            f"{'' if self.logged_in else ' before the login'}; "
            f"{cure if self.logged_in else 'log in first'}",
            receipt=receipt,
        )


def read_headers(head: bytes, *, command: bytes, version: str) -> dict[str, str]:
    """The headers in the lines of `head`; of a repeated one the first (STOMP 1.2)."""
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        raise FrameError(f"a header of {command.decode()} is not UTF-8") from error
    # Clients look for the NUL that ends a frame: after one in a header they would take
    # what follows for a frame of the broker.
    if "\0" in text:
        raise FrameError(f"a header of {command.decode()} holds NUL, text was expected")
    if "\r" in text:
        text = f"{text}\n".replace("\r\n", "\n")[:-1]
    escaped = version != "1.0" and command not in _NEVER_ESCAPED and "\\" in text
    headers: dict[str, str] = {}
    for line in text.split("\n") if text else ():
        name, colon, value = line.partition(":")
        if not colon or not name:
            raise FrameError(f"header line {line[:40]!r} is not name:value")
        if escaped and "\\" in line:
            name, value = unescape(name, version), unescape(value, version)
        # of a repeated header the first counts (STOMP 1.2)
        if name not in headers:
            headers[name] = value
    return headers


def write_frame(frame: Frame, version: str) -> bytes:
    """The bytes of `frame` for a client of `version`."""
    head = write_head(
        frame.command,
        {**frame.headers, "content-length": str(len(frame.body))},
        version,
    )
    return b"%b\n%b\0" % (head, frame.body)


def write_head(command: bytes, headers: dict[str, str], version: str) -> bytes:
    """Command and header lines, without the blank line that ends them."""
    pairs = headers.items()
    text = "".join(map("".join, pairs))
    plain = not (":" in text or "\\" in text or "\n" in text or "\r" in text)
    if command not in _NEVER_ESCAPED and not plain:  # most heads have nothing to escape
        pairs = {escape(k, version): escape(v, version) for k, v in pairs}.items()
    lines = "".join([f"{name}:{value}\n" for name, value in pairs])
    return b"%b\n%b" % (command, lines.encode())


def escape(text: str, version: str) -> str:
    """`text` as it stands in a header line of `version`.

    1.0 has no escapes: what would break the line becomes a blank.
    """
    if version == "1.0":
        return text.replace("\r", " ").replace("\n", " ")
    text = text.replace("\\", "\\\\").replace("\n", "\\n").replace(":", "\\c")
    return text.replace("\r", "\\r" if version == "1.2" else " ")


def unescape(text: str, version: str) -> str:
    """The meaning of `text` from a header line; FrameError for an unknown escape."""
    parts = text.split("\\")
    if len(parts) == 1:
        return text
    found = [parts[0]]
    rest = iter(parts[1:])
    for part in rest:
        # An empty part is an escaped backslash: what follows it stands as it is.
        after = part[1:] if part else next(rest, None)
        letter = part[:1] or "\\"
        known = letter in _UNESCAPED and (letter != "r" or version == "1.2")
        if after is None or not known:
            raise FrameError(
                f"header text {text[:40]!r} has an escape that STOMP {version} "
                "does not know"
            )
        found.append(_UNESCAPED[letter] + after)
    return "".join(found)


def memory_of(headers: dict[str, str], body: bytes) -> int:
    """About what a frame takes while it is kept: without a body it takes some, too."""
    lengths = sum(map(len, headers)) + sum(map(len, headers.values()))
    return _OBJECT_BYTES + lengths + len(body)


def _blank_line(buffer: bytearray, limit: int) -> tuple[int, int]:
    """Where the header ends and the body starts, (-1, -1) when not yet there."""
    plain = buffer.find(b"\n\n", 0, limit)
    until = limit if plain < 0 else plain + 1
    # 1.2 allows CR LF, and both may be mixed
    carriage = buffer.find(b"\n\r\n", 0, until)
    if carriage >= 0:
        return carriage, carriage + 3
    return plain, plain + 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Limits and login of the broker; without a username any client may connect."""

    username: str
    password: str
    heart_beat_s: float
    login_s: float
    queue_limit: int
    work_queue_limit: int
    frame_limit_bytes: int
    connections: int
    server: str

    @property
    def unfinished_bytes(self) -> int:
        """What is kept of frames whose end has not come, of all clients together."""
        return 4 * self.frame_limit_bytes

    @property
    def kept_bytes(self) -> int:
        """What all queues may keep; all open transactions may keep as much."""
        return 2 * self.frame_limit_bytes


@dataclass(slots=True)
class Counters:
    """What has happened at one broker since it was started."""

    clients: int = 0
    refused: int = 0
    received: int = 0
    delivered: int = 0
    dropped: int = 0
    # now: of unfinished frames, and of frames that wait for COMMIT
    unfinished_bytes: int = 0
    postponed_bytes: int = 0
