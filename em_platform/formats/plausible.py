"""Guards against files that claim, or unpack to, more than the memory holds.

A damaged or malicious header promises more pixels than its file can hold: 122 bytes are
enough to ask for gigabytes.
"""

import gzip
import io
from collections.abc import Iterable

from em_platform.errors import FormatError

MOST_BYTES = 1 << 27
"""Of metadata: those of thousands of arrays, consolidated, have tens of MB."""


def read_to_limit(
    pieces: Iterable[bytes], *, most_bytes: int = MOST_BYTES
) -> bytes | None:
    """The pieces as one, None where they are longer; no more of them is asked for."""
    found, length = [], 0
    for piece in pieces:
        length += len(piece)
        if length > most_bytes:
            return None
        found.append(piece)
    return b"".join(found)


def unzip_to_limit(content: bytes, *, most_bytes: int = MOST_BYTES) -> bytes | None:
    """What gzip packed, None where it is longer.

    Raises
    ------
    OSError, EOFError, zlib.error
        It is damaged, or ends too early.
    """
    with gzip.open(io.BytesIO(content)) as unpacking:
        found = bytes(unpacking.read(most_bytes + 1))
    return found if len(found) <= most_bytes else None


# A blank image packs better than any ratio; so much is never refused.
_ALWAYS_BYTES = 1 << 26
LARGEST_RATIO = 5000
"""Deflate packs at most 1:1032, most other codecs of blank pixels a little better."""
_RATIOS = {
    # Zstandard writes 128 KiB of one value in 4 bytes (RFC 8878, 3.1.1.2).
    34926: 40_000,
    50000: 40_000,
}
"""By TIFF's number of a compression."""
# 46,341 squared: more than any camera or scan generator gives in one image.
_MOST_PIXELS = 1 << 31


def ratio_of(compression: int) -> int:
    """How many bytes of pixels one byte may hold, by TIFF's number of a compression."""
    return _RATIOS.get(compression, LARGEST_RATIO)


def is_plausible(
    coded_bytes: int, pixel_bytes: int, *, ratio: int = LARGEST_RATIO
) -> bool:
    """Whether so few bytes may hold so many pixels."""
    return pixel_bytes <= max(_ALWAYS_BYTES, ratio * coded_bytes)


def check_image(
    uri: str,
    size_px: tuple[int, int],
    *,
    pixel_bytes: int,
    file_bytes: int,
    ratio: int = LARGEST_RATIO,
) -> None:
    """Refuse an image that is decoded whole; `pixel_bytes` are those of one pixel.

    Raises
    ------
    FormatError
        Its file cannot hold so many pixels, or no image has so many.
    """
    height, width = size_px
    found = f"{uri}: found a header of {height} x {width} pixels"
    if height * width > _MOST_PIXELS:
        raise FormatError(
            f"{found}, expected at most {_MOST_PIXELS} in one image; split it",
            uri=uri,
        )
    if not is_plausible(file_bytes, height * width * pixel_bytes, ratio=ratio):
        raise FormatError(
            f"{found} in a file of {file_bytes} bytes, expected a file that can hold "
            "them; copy it again, or save it without compression",
            uri=uri,
        )
