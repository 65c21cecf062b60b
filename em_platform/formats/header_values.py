"""What headers state, as a number to work with: lengths in nm, and sizes within reason.

Microscopes write the same unit in many ways: two code points look like µ, Å is a letter
or a sign, and ImageJ escapes both. What is no length (1/nm, eV, degrees, pixels) has no
value in nm. A damaged or malicious header promises more pixels than its file can hold:
122 bytes are enough to ask for gigabytes.
"""

import gzip
import io
import math
import unicodedata
from collections.abc import Iterable
from typing import Any

from em_platform.errors import FormatError
from em_platform.model.sentences import size_of

# Names as `_plain` leaves them: casefolded, with the NFKC forms of µ and Å.
_NM = {
    "pm": 1e-3,
    "picometer": 1e-3,
    "a": 0.1,
    "\u00e5": 0.1,
    "ang": 0.1,
    "angstrom": 0.1,
    "\u00e5ngstr\u00f6m": 0.1,
    "nm": 1.0,
    "nanometer": 1.0,
    "um": 1e3,
    "\u03bcm": 1e3,
    "micron": 1e3,
    "micrometer": 1e3,
    "mm": 1e6,
    "millimeter": 1e6,
    "cm": 1e7,
    "centimeter": 1e7,
    "in": 2.54e7,
    "inch": 2.54e7,
    "m": 1e9,
    "meter": 1e9,
}
_LONGEST_NM = 1e9  # a metre: no voxel is longer


def nm_of(value: float, unit: str) -> float | None:
    """A length in nm, None where the unit is no length or the value cannot be one.

    Rounded to seven digits, which is what a float32 holds: 0.008 µm is 8 nm.
    """
    factor = _NM.get(_plain(unit))
    if factor is None or not math.isfinite(value):
        return None
    length_nm = rounded(value * factor)
    return length_nm if 0 < length_nm < _LONGEST_NM else None


def number_of(value: Any) -> float:
    """A number as text or otherwise; 0.0 where there is none, or no finite one."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return 0.0
    return found if abs(found) < 1e30 else 0.0  # float() takes inf and NaN


def rounded(value: float) -> float:
    """A number to the seven digits that a float32 holds."""
    return float(f"{value:.7g}")


def _plain(unit: str) -> str:
    # "\\u00B5m" is how ImageJ writes µ, "Â" what is left of UTF-8 read as Latin-1.
    unit = unit.replace("\\u00B5", "\u00b5").replace("\\u00b5", "\u00b5")
    unit = unit.replace("\u00c2\u00b5", "\u00b5").replace("\u00c2\u00c5", "\u00c5")
    name = unicodedata.normalize("NFKC", unit).strip().strip("\0").casefold()
    if name in _NM:
        return name
    return name.removesuffix("s").replace("metre", "meter")


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
    found = f"{uri}: found a header of {size_of(size_px)}"
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
