"""Where the pixels of a TIFF's pages are, and which pages make one volume.

Thousands of pages written by one program lie at equal distances. Where the second, the
third, the middle and the last do, the others are not looked at: a file of 1,065 pages
and 400,000 strips opens with six small reads, on a disk or behind a URL.
"""

from dataclasses import dataclass

import numpy as np

from em_platform.errors import FormatError
from em_platform.formats.tiff_directory import Directory, cut_short

_KINDS = {1: "u", 2: "i", 3: "f"}  # by SampleFormat (TIFF 6.0, tag 339)
_REDUCED = 1  # bit of NewSubfileType (tag 254): a smaller copy of another page
# Values of PhotometricInterpretation (tag 262).
_PALETTE = 3
_RGB = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PageLayout:
    """How the pixels of a page are stored."""

    height: int
    width: int
    stored_dtype: str
    """numpy's name with byte order, such as `>u2`."""
    segment_shape: tuple[int, int]
    """Rows and columns of a strip or tile."""
    tiled: bool
    compression: int
    photometric: int
    simple: bool
    """Whether the bytes of a segment are its pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """The pages of a volume; `plain_offsets` is None where they must be decoded."""

    layout: PageLayout
    count: int
    directory_offsets: tuple[int, ...]
    """Empty where pages are plain and none had to be looked for."""
    plain_offsets: tuple[int, ...] | None
    stride: int | None
    """Distance of plain pages, where it is one for all."""
    left_out: tuple[str, ...] = ()
    """Pages that are no part of the volume, in words."""


def layout_of(directory: Directory) -> PageLayout:
    """How a page is stored.

    Raises
    ------
    FormatError
        It has several samples a pixel, or pixels of an odd size.
    """
    uri = directory.source.uri
    height, width = directory.number(257), directory.number(256)
    if height < 1 or width < 1:
        raise FormatError(f"{uri}: found no image in this TIFF; save it again", uri=uri)
    samples = directory.number(277, 1)
    photometric = directory.number(262, 1)
    if samples != 1:
        # 6: YCbCr, as JPEG pages have it.
        colour = " (colours)" if photometric in (_RGB, 6) or samples >= 3 else ""
        raise FormatError(
            f"{uri}: found {samples} samples a pixel{colour}, {height} x {width} "
            "pixels, expected one grey level a pixel; convert it to grey levels",
            uri=uri,
        )
    bits = directory.number(258, 1)
    kind = _KINDS.get(directory.number(339, 1), "u" if bits < 64 else "V")
    if bits not in (1, 8, 16, 32, 64) or (kind == "f" and bits < 16) or kind == "V":
        raise FormatError(
            f"{uri}: found pixels of {bits} bits (sample format "
            f"{directory.number(339, 1)}), expected whole numbers of 8 to 64 bits or "
            "floats; convert it",
            uri=uri,
        )
    # Single bits are unpacked to bytes.
    dtype = np.dtype(f"{directory.file.order}{kind}{max(bits, 8) // 8}")
    tiled = 322 in directory
    if tiled:
        segment = (directory.number(323), directory.number(322))
    else:
        # Rows a strip: absent or endless (TIFF's default) means one strip.
        segment = (min(directory.number(278, height) or height, height), width)
    if min(segment) < 1:
        raise FormatError(f"{uri}: found tiles of {segment} pixels; save it again")
    compression = directory.number(259, 1)
    # With another FillOrder (266) or Predictor (317) bytes are not pixels.
    simple = (
        compression == 1
        and not tiled
        and bits >= 8
        and directory.number(266, 1) == 1
        and directory.number(317, 1) == 1
    )
    return PageLayout(
        height=height,
        width=width,
        stored_dtype=dtype.str,
        segment_shape=segment,
        tiled=tiled,
        compression=compression,
        photometric=photometric,
        simple=simple,
    )


def pages_of(first: Directory) -> Pages:
    """All pages that are stored as `first` is.

    Raises
    ------
    FormatError
        A page between them is of another size or type, or pixels are promised behind
        the file's end.
    """
    layout = layout_of(first)
    return _evenly_spaced(first, layout) or _walked(first, layout)


def plain_offset(directory: Directory, layout: PageLayout) -> int | None:
    """Where a page's rows begin, if they lie plain and one after the other."""
    offsets, counts = segments_of(directory, layout)
    if not layout.simple:
        return None
    size = layout.height * layout.width * np.dtype(layout.stored_dtype).itemsize
    if int(counts.sum()) < size:
        raise cut_short(
            directory.source, f"its strips hold {int(counts.sum())} bytes of {size}"
        )
    row_bytes = size // layout.height
    ends = offsets[:-1] + layout.segment_shape[0] * row_bytes
    return int(offsets[0]) if np.array_equal(offsets[1:], ends) else None


def segments_of(
    directory: Directory, layout: PageLayout
) -> tuple[np.ndarray, np.ndarray]:
    """Start and length in bytes of each strip or tile, `(n,)` each."""
    page = directory.page
    try:
        offsets = np.array(page.dataoffsets, np.int64)
        counts = np.array(page.databytecounts, np.int64)
    except OverflowError as error:
        # BigTIFF has 64 bits without a sign; what does not fit is damage.
        raise cut_short(directory.source, "pixels are promised far behind") from error
    height, width = layout.segment_shape
    expected = -(-layout.height // height) * -(-layout.width // width)
    if counts.size == 0 and layout.simple and expected == 1:
        # A lone plain strip needs no count: its length follows from the page's size.
        size = layout.height * layout.width * np.dtype(layout.stored_dtype).itemsize
        counts = np.array([size])
    if offsets.size != expected or counts.size != expected:
        raise FormatError(
            f"{directory.source.uri}: found {offsets.size} strips or tiles in this "
            f"TIFF, expected {expected}; save it again",
            uri=directory.source.uri,
        )
    end = int((offsets + counts).max())
    if int(offsets.min()) < 0 or end > directory.source.length:
        raise cut_short(directory.source, f"pixels are promised up to {end}")
    return offsets, counts


def _evenly_spaced(first: Directory, layout: PageLayout) -> Pages | None:
    """Plain pages at equal distances: the second, third, middle and last tell.

    Directories may lie between the pages or, as ImageJ puts them, behind all. The first
    page is often a little longer than the others: it has the program's name.
    """
    second = _matching(first, first.following)
    third = _matching(first, second.following) if second else None
    if second is None or third is None:
        return None
    places = [plain_offset(page, layout) for page in (first, second, third)]
    if None in places:
        return None
    at, then, later = (int(place) for place in places if place is not None)
    step, stride = third.offset - second.offset, later - then
    if step <= 0 or stride <= 0:
        return None
    # If all are so, the last one is the last that begins inside of the file.
    count = 2 + (first.source.length - 1 - second.offset) // step
    for number in {2, count // 2, count - 1} - {0, 1}:
        place = second.offset + (number - 1) * step
        page = _matching(first, place)
        following = 0 if number == count - 1 else place + step
        if page is None or page.following != following:
            return None
        if plain_offset(page, layout) != then + (number - 1) * stride:
            return None
    even = then - at == stride
    rest = range(then, then + (count - 1) * stride, stride)
    return Pages(
        layout=layout,
        count=count,
        directory_offsets=(),
        plain_offsets=None if even else (at, *rest),
        stride=stride if even else None,
    )


def _matching(first: Directory, place: int) -> Directory | None:
    if not place:
        return None
    try:
        page = first.file.directory(place)
        return page if page.uniform_key == first.uniform_key else None
    except FormatError:
        return None


def _walked(first: Directory, layout: PageLayout) -> Pages:
    places: list[int] = []
    plain: list[int | None] = []
    others: list[str] = []
    between: Directory | None = None
    for number, page in enumerate(first.file.directories()):
        # The first page is the volume, whatever it calls itself.
        reduced = bool(page.number(254) & _REDUCED) and page.offset != first.offset
        if page.uniform_key != first.uniform_key or reduced:
            others.append(_described(number, page))
            # Previews may stand between pages, other images may not.
            between = page if places and not reduced else between
            continue
        if between is not None:
            raise _mixed(layout, between, others[-1])
        places.append(page.offset)
        plain.append(plain_offset(page, layout))
    known = [offset for offset in plain if offset is not None]
    all_plain = len(known) == len(plain)
    steps = set(np.diff(known).tolist()) if all_plain else set()
    return Pages(
        layout=layout,
        count=len(places),
        directory_offsets=() if all_plain else tuple(places),
        plain_offsets=tuple(known) if all_plain else None,
        stride=steps.pop() if len(steps) == 1 else None,
        left_out=tuple(others),
    )


def _mixed(layout: PageLayout, other: Directory, described: str) -> FormatError:
    uri = other.source.uri
    return FormatError(
        f"{uri}: found {described} between pages of {layout.height} x "
        f"{layout.width}, expected pages of one size and type, stored in one way; "
        "save it again or split it",
        uri=uri,
    )


def _described(number: int, page: Directory) -> str:
    return (
        f"page {number} of {page.number(257)} x {page.number(256)} x "
        f"{page.number(277, 1)} samples of {page.number(258, 1)} bits, compression "
        f"{page.number(259, 1)}"
    )
