"""Where the pixels of a TIFF's pages are, and which pages make one volume.

Thousands of pages written by one program lie at equal distances. Where the second and
the third do, the bytes of all directories are compared with what these two promise,
which takes a hundredth of parsing them; where one differs, all are parsed.
"""

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats.sem_tiff import OLYMPUS_TAG
from em_platform.formats.source import Source
from em_platform.formats.tiff_directory import Directory, TiffReader, cut_short
from em_platform.model.sentences import counted, size_of

# Directories whose bytes are compared at once: less than 4 MiB.
_PAGES_AT_ONCE = 4096
_STRIPS, _WHOLE_NUMBERS = 273, {3: "u2", 4: "u4", 16: "u8"}  # by the tag's type
_KINDS = {1: "u", 2: "i", 3: "f"}  # by SampleFormat (TIFF 6.0, tag 339)
# Values of PhotometricInterpretation (tag 262).
WHITE_IS_ZERO, _RGB, PALETTE = 0, 2, 3
PREVIEW = ", a preview"
_FAX = {2, 3, 4}  # values of Compression (tag 259)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageLayout:
    """How the pixels of a page are stored."""

    height: int
    width: int
    stored_dtype: str
    """numpy's name with byte order, such as `>u2`."""
    segment_shape: tuple[int, int]
    """Rows and columns of a strip or tile."""
    compression: int
    photometric: int
    simple: bool
    """Whether the bytes of a segment are its pixels."""

    @property
    def plane_bytes(self) -> int:
        """Of the pixels of a page, as they are stored plain."""
        return self.height * self.width * np.dtype(self.stored_dtype).itemsize

    @property
    def dtype(self) -> str:
        """Type of what is read; half floats become float32, as everywhere."""
        name = np.dtype(self.stored_dtype).newbyteorder("=").name
        return "float32" if name == "float16" else name


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
            f"{uri}: found {samples} samples a pixel{colour}, "
            f"{size_of((height, width))}, expected one grey level a pixel; convert it "
            "to grey levels",
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
    _check_codec(uri, compression, bits)
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
        compression=compression,
        photometric=photometric,
        simple=simple,
    )


def _check_codec(uri: str, compression: int, bits: int) -> None:
    from tifffile import TIFF

    # Fax codes are of single bits; tifffile decodes them to anything.
    if compression in TIFF.DECOMPRESSORS and (bits == 1 or compression not in _FAX):
        return
    raise FormatError(
        f"{uri}: found compression {compression} of pixels of {bits} bits, expected "
        "one that can be decoded, such as 1 (none) or 8 (Deflate); save it so",
        uri=uri,
    )


def main_page(source: Source) -> Directory:
    """The first page, or the image behind a preview of it.

    Raises
    ------
    FormatError
        There is none.
    """
    chain = TiffReader(source).directories()
    first = next(chain, None)
    if first is None:
        raise FormatError(f"{source.uri}: found no image in this TIFF; save it again")
    if first.is_reduced:
        return next((page for page in chain if not page.is_reduced), first)
    if first.number(277, 1) > 1:
        # Olympus' cameras put a coloured one in front, and do not call it so.
        more = islice(chain, 3)
        return next((page for page in more if OLYMPUS_TAG in page), first)
    return first


def greys_of(page: Directory, layout: PageLayout) -> tuple[int, ...]:
    """The grey level of each value by a page's palette.

    Raises
    ------
    FormatError
        It holds colours.
    """
    values = page.page.tags.valueof(320)
    levels = np.asarray(values if values is not None else (), np.int64)
    size = 1 << (8 * np.dtype(layout.stored_dtype).itemsize)
    red, *others = levels.reshape(3, -1) if levels.size == 3 * size else (None,)
    if red is None or any((other != red).any() for other in others):
        raise FormatError(
            f"{page.source.uri}: found a palette of colours, expected one grey level a "
            "pixel; convert it to grey levels",
            uri=page.source.uri,
        )
    # A palette has 16 bits (TIFF 6.0, tag 320), an 8-bit image the upper ones of it.
    return tuple((red >> 8 if size == 256 else red).tolist())


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
    # Programs leave strips of zeros out: then the others are not one after the other.
    if not counts.all():
        return None
    size = layout.plane_bytes
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
    except (OverflowError, TypeError, ValueError) as error:
        # BigTIFF has 64 bits without a sign; what does not fit is damage, as are
        # values of another type.
        raise cut_short(directory.source, "pixels are promised far behind") from error
    height, width = layout.segment_shape
    expected = -(-layout.height // height) * -(-layout.width // width)
    if counts.size == 0 and layout.simple and expected == 1:
        # A lone plain strip needs no count: its length follows from the page's size.
        counts = np.array([layout.plane_bytes])
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
    """Plain pages at equal distances, None where one of them is not.

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
    end = then + (count - 2) * stride + layout.plane_bytes
    if end > first.source.length:
        return None
    try:
        if not _goes_on(second, third, count - 1, stride):
            return None
    except FormatError:
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


def _goes_on(second: Directory, third: Directory, count: int, stride: int) -> bool:
    """Whether `count` directories from the second on differ as these two do.

    From page to page only the place of the strips may change, and of values that do not
    fit into a directory.
    """
    file, step = second.file, third.offset - second.offset
    two = file.tables((second.offset, third.offset), tags=len(second.page.tags))
    grow = two["tags"]["value"][1] - two["tags"]["value"][0]
    for start in range(0, count, _PAGES_AT_ONCE):
        end = min(start + _PAGES_AT_ONCE, count)
        # With the last one before: strips are compared from page to page.
        numbers = np.arange(max(0, start - 1), end, dtype=np.int64)
        places = second.offset + numbers * step
        expected = np.repeat(two[:1], len(places))
        expected["tags"]["value"] += numbers[:, None].astype(grow.dtype) * grow
        expected["following"] = np.where(numbers == count - 1, 0, places + step)
        found = file.tables(places, tags=len(grow))
        if found.tobytes() != expected.tobytes():
            return False
        if not _strips_go_on(file, found["tags"], numbers * stride):
            return False
    return True


def _strips_go_on(file: TiffReader, tags: NDArray[Any], steps: NDArray[Any]) -> bool:
    """Whether the strips' lists, `(n, tags)`, are as far from the first as `steps`."""
    (at,) = np.flatnonzero(tags["code"][0] == _STRIPS)
    kind, count, places = (tags[name][:, at] for name in ("kind", "count", "value"))
    dtype = np.dtype((file.order + _WHOLE_NUMBERS[int(kind[0])], (int(count[0]),)))
    if dtype.itemsize <= tags["value"].itemsize:
        return True  # in the directory itself, and so compared
    lists = file.pieces(places, dtype).astype(np.int64)
    return bool((lists - lists[0] == (steps - steps[0])[:, None]).all())


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
        # What is asked for is the volume, whatever it calls itself.
        reduced = page.is_reduced and page.offset != first.offset
        if page.uniform_key != first.uniform_key or reduced:
            others.append(_described(number, page) + (PREVIEW if reduced else ""))
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
        f"{uri}: found {described} between pages of "
        f"{size_of((layout.height, layout.width))}, expected pages of one size and "
        "type, stored in one way; save it again or split it",
        uri=uri,
    )


def _described(number: int, page: Directory) -> str:
    return (
        f"page {number} ({page.number(256)} x {page.number(257)} px, "
        f"{counted(page.number(277, 1), 'sample')} of {page.number(258, 1)} bits, "
        f"compression {page.number(259, 1)})"
    )
