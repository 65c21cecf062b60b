"""Bodies of HTTP's answers: whole, in time, and unpacked."""

import gzip
import time
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import requests

# Nobody's link is as slow as 3.5 kB/s.
_PIECE_BYTES, _PIECE_S = 1 << 20, 300.0


def pieces_of(answer: "requests.Response", *, unpack: bool = True) -> Iterator[bytes]:
    """The body as it comes, unpacked where it is packed on its way.

    Raises
    ------
    requests.RequestException
        It broke off, is damaged, or a MiB of it took longer than some minutes: a byte
        now and then keeps a connection alive for ever.
    """
    import requests
    from urllib3.exceptions import HTTPError

    # urllib3 2.8 loses or doubles bytes where a member of gzip ends with a piece, and
    # takes one that is cut for whole.
    zipped = answer.headers.get("Content-Encoding", "").lower() in ("gzip", "x-gzip")
    body: Any = _Body(answer, unpack=unpack and not zipped)
    read1 = gzip.GzipFile(fileobj=body).read1 if unpack and zipped else body.read
    try:
        while piece := read1(_PIECE_BYTES):
            yield piece
    except HTTPError as error:
        raise requests.ConnectionError(error) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise requests.exceptions.ContentDecodingError(error) from error


class _Body:
    """Reads what has come: of `iter_content` a piece would have to be full first."""

    def __init__(self, answer: "requests.Response", *, unpack: bool) -> None:
        self._raw = answer.raw
        self._unpack = unpack
        self._due, self._ends = _PIECE_BYTES, time.monotonic() + _PIECE_S

    def read(self, most: int) -> bytes:
        """Up to `most` bytes, none at the end."""
        import requests

        piece: bytes = self._raw.read1(most, decode_content=self._unpack)
        now = time.monotonic()
        if piece and now > self._ends:
            raise requests.Timeout(f"{_PIECE_S:g} s were not enough for a MiB")
        self._due -= len(piece)
        if self._due <= 0:
            self._due, self._ends = _PIECE_BYTES, now + _PIECE_S
        return piece
