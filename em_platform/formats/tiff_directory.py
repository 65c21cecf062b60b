"""The directories of a TIFF, parsed by tifffile without trust, and what they state.

tifffile reads header, directories and tags through ranged reads, so that a directory
costs one or two small ones. The chain of directories is walked here and not by
`TiffFile.pages`: pages at equal distances are found without looking at each. Voxels
have the size that ImageJ, OME-TIFF or the plain resolution tags state: 1 or 72 per inch
is what programs write that know none.
"""

import json
import logging
import math
import re
import struct
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from em_platform.errors import FormatError
from em_platform.formats.header_values import nm_of, number_of, rounded
from em_platform.formats.source import Places, RangedFile, Source
from em_platform.model.volume import Tag

if TYPE_CHECKING:
    import tifffile

# What tifffile finds odd in a file it logs; here it is an error or of no importance.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_STORAGE = {256: 0, 257: 0, 258: 1, 259: 1, 262: 1, 266: 1, 277: 1, 284: 1, 317: 1} | {
    322: 0,
    323: 0,
    339: 1,
}
"""Tags that say how pixels are stored, and what their absence means."""
_SEGMENTS = {273, 279, 324, 325}
# No acquisition has so many pages; a damaged chain may be longer than any patience.
_MOST_PAGES = 1_000_000
_INCH, _CENTIMETRE = 2, 3  # values of ResolutionUnit (TIFF 6.0, tag 296)
# Of screens, scanners and prints; 28.346 a centimetre are 72 an inch.
_EMPTY_PER_INCH = {1.0, 72.0, 96.0, 100.0, 150.0, 200.0, 300.0, 600.0}
_EMPTY_PER_CENTIMETRE = {1.0, 28.346}
_PAIR = re.compile(r"^([A-Za-z ]+?)=(.*)$")
# No microscope has pixels of more than this; such a size is that of a print.
_LONGEST_NM = 2e4


@dataclass(frozen=True)
class Directory:
    """One directory: its place, its tags, where the next one is."""

    file: "TiffReader"
    page: "tifffile.TiffPage"
    offset: int
    end: int
    """Behind its table; values may lie elsewhere."""
    following: int
    """Where the next directory is; 0 behind the last."""

    @property
    def source(self) -> Source:
        """The file."""
        return self.file.source

    def __contains__(self, code: int) -> bool:
        return code in self.page.tags

    def is_all_before(self, place: int) -> bool:
        """Whether it ends there with all its values, and no other one follows."""
        ends = [tag.valueoffset + tag.valuebytecount for tag in self.page.tags]
        return not self.following and max(self.end, *ends) <= place

    def number(self, code: int, otherwise: int = 0) -> int:
        """The first value of a tag as a whole number."""
        value = self._value(code)
        value = value[0] if isinstance(value, tuple) and value else value
        return int(value) if isinstance(value, int) else otherwise

    def ratio(self, code: int) -> float:
        """The quotient that a tag holds; 0 where there is none."""
        value = self._value(code)
        if not isinstance(value, tuple) or len(value) < 2 or not value[1]:
            return 0.0
        return float(value[0]) / float(value[1])

    def text(self, code: int) -> str:
        """A tag's text up to its end mark; UTF-8, or else Latin-1."""
        content = self.content(code).split(b"\0")[0]
        try:
            return content.decode("utf-8").strip()
        except UnicodeDecodeError:
            return content.decode("latin-1").strip()

    def content(self, code: int) -> bytes:
        """The bytes of a tag's values, empty where there is none."""
        tag = self.page.tags.get(code)
        return (
            b"" if tag is None else self.file.read(tag.valueoffset, tag.valuebytecount)
        )

    @cached_property
    def uniform_key(self) -> tuple[object, ...]:
        """Equal for pages whose pixels are stored in the same way."""
        height = self.number(257)
        # Rows a strip: absent, endless or the page's height mean the same.
        rows = min(self.number(278, height) or height, height)
        tags = self.page.tags
        return (rows, *(tags.valueof(code, default=n) for code, n in _STORAGE.items()))

    @property
    def is_reduced(self) -> bool:
        """Whether it is a smaller copy of another page (TIFF 6.0, NewSubfileType)."""
        return bool(self.number(254) & 1)

    def _value(self, code: int) -> Any:
        return self.page.tags.valueof(code)


class TiffReader:
    """A TIFF whose directories are read one by one; for many threads.

    Raises
    ------
    FormatError
        Not a TIFF, or cut short.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        # Going to a place and reading are two steps on one handle.
        self._lock = threading.Lock()
        self._handle = RangedFile(source)
        start = source.read(0, 16)
        if len(start) < 16:
            raise cut_short(source, "its directory is not there")
        if not is_tiff(source):
            raise FormatError(
                f"{source.uri}: found a file that starts with {start[:4]!r}, expected "
                "TIFF; convert it",
                uri=source.uri,
            )
        # A third of a second to import; Dagster's processes load this module only.
        import tifffile

        try:
            self._file = tifffile.TiffFile(cast("IO[bytes]", self._handle))
        except Exception as error:
            # Of damaged bytes tifffile raises nearly anything.
            raise cut_short(source, "its directory is not there") from error
        self.order = self._file.byteorder
        self.big = self._file.is_bigtiff
        self._format = self._file.tiff
        at = start[8:16] if self.big else start[4:8]
        (self._first,) = struct.unpack(self._format.offsetformat, at)

    def read(self, at: int, count: int) -> bytes:
        """`count` bytes from `at`; fewer where the file ends."""
        with self._lock:
            self._handle.seek(at)
            return self._handle.read(count)

    def tables(self, places: Places, *, tags: int) -> NDArray[Any]:
        """Directories of so many tags at these places as they are stored, `(n,)`."""
        wide = f"{self.order}u{8 if self.big else 4}"
        short = f"{self.order}u2"
        tag = np.dtype([("code", short), ("kind", short), ("count", wide),
                        ("value", wide)])  # fmt: skip
        table = [("number", wide if self.big else short), ("tags", tag, (tags,)),
                 ("following", wide)]  # fmt: skip
        return self.pieces(places, np.dtype(table))

    def pieces(self, places: Places, dtype: np.dtype[Any]) -> NDArray[Any]:
        """One value of a type from each place; FormatError where the file ends."""
        return np.frombuffer(self.source.read_each(places, dtype.itemsize), dtype)

    def directories(self) -> Iterator[Directory]:
        """All directories of the chain, each read when it is asked for.

        Raises
        ------
        FormatError
            A directory is behind the file's end, or the chain bites its tail.
        """
        at, seen = self._first, set[int]()
        while at:
            if at in seen or len(seen) >= _MOST_PAGES:
                raise FormatError(
                    f"{self.source.uri}: found a directory of this TIFF twice, "
                    "expected an end; save it again",
                    uri=self.source.uri,
                )
            seen.add(at)
            directory = self.directory(at)
            yield directory
            at = directory.following

    def directory(self, at: int) -> Directory:
        """The directory at a place in the file."""
        form, source = self._format, self.source
        head = self.read(at, form.tagnosize)
        if len(head) < form.tagnosize:
            raise cut_short(source, f"a directory is promised at {at}")
        (count,) = struct.unpack(form.tagnoformat, head)
        size = count * form.tagsize + form.offsetsize
        # A damaged count may promise more than the file has.
        table = self.read(at + form.tagnosize, min(size, source.length))
        if len(table) < size:
            raise cut_short(source, f"a directory ends at {at + form.tagnosize + size}")
        (following,) = struct.unpack(form.offsetformat, table[-form.offsetsize :])
        codes = np.frombuffer(
            table, {"names": ["code"], "formats": [f"{self.order}u2"], "offsets": [0],
                    "itemsize": form.tagsize}, count,
        )["code"]  # fmt: skip
        page = self._page(at)
        # tifffile leaves out a tag whose values are not in the file.
        lost = {int(code) for code in codes} & (_SEGMENTS | set(_STORAGE)) - set(
            page.tags.keys()
        )
        if lost:
            raise cut_short(source, f"the values of tag {min(lost)} are not there")
        end = at + form.tagnosize + size
        return Directory(file=self, page=page, offset=at, end=end, following=following)

    def _page(self, at: int) -> "tifffile.TiffPage":
        first = self._file.pages.first
        if first.offset == at:
            return first
        import tifffile

        with self._lock:
            self._handle.seek(at)
            try:
                return tifffile.TiffPage(self._file, index=0)
            except Exception as error:
                raise FormatError(
                    f"{self.source.uri}: found a damaged directory at {at} of this "
                    f"TIFF ({error}), expected its tags; save it again",
                    uri=self.source.uri,
                ) from error


def is_tiff(source: Source) -> bool:
    """Whether the file claims to be a TIFF."""
    return source.read(0, 4) in TIFF_STARTS


def cut_short(source: Source, why: str) -> FormatError:
    """The error for a TIFF that ends before what it promises."""
    return FormatError(
        f"{source.uri}: truncated TIFF, found {source.length} bytes, but {why}; copy "
        "it again from where it was made",
        uri=source.uri,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TiffScale:
    """What a TIFF says of its axes, or a microscope of an image."""

    dialect: str = ""
    """`ImageJ`, `OME`, a microscope's maker or nothing."""
    voxel_size_nm: tuple[float, float, float] | None = None
    axes: tuple[int, int, int] | None = None
    """Channels, planes and points in time, where it says so."""
    tags: dict[str, Tag] = field(default_factory=dict)


def scale_of(directory: Directory) -> TiffScale:
    """What the first directory says of the voxels' size and of the pages' meaning."""
    text = directory.text(270)
    per_unit = directory.ratio(283), directory.ratio(282)
    unit = directory.number(296, _INCH)
    if text.startswith("ImageJ="):
        return imagej_scale(text, per_unit=per_unit, unit=unit)
    if text.startswith("{"):
        count = _shaped(text)
        axes = (1, count, 1) if count > 1 else None
        return TiffScale(voxel_size_nm=resolution_nm(per_unit, unit=unit), axes=axes)
    # The declaration and a comment may stand in front of the root.
    if text.startswith("<") and "<OME" in text[:1000]:
        found = ome_scale(text)
        if found is not None:
            return found
    return TiffScale(voxel_size_nm=resolution_nm(per_unit, unit=unit))


def imagej_scale(
    description: str, *, per_unit: tuple[float, float], unit: int
) -> TiffScale:
    """What ImageJ's description says; `per_unit` are pixels a unit along y and x."""
    fields = {
        found[1].strip(): found[2].strip()
        for line in description.replace("\\n", "\n").splitlines()
        if (found := _PAIR.match(line))
    }
    own = fields.get("unit", "")
    y, x = (nm_of(1 / count, own) if count > 0 else None for count in per_unit)
    # Without a unit of ImageJ's own, the resolution is what TIFF says it is.
    if not own and unit in (_INCH, _CENTIMETRE):
        plain = resolution_nm(per_unit, unit=unit)
        y, x = plain[1:] if plain else (None, None)
    z = nm_of(number_of(fields.get("spacing")), own)
    images = int(number_of(fields.get("images", "1")))
    axes = tuple(
        int(number_of(fields.get(name, "1")))
        for name in ("channels", "slices", "frames")
    )
    if axes == (1, 1, 1):
        # A plain stack may state nothing but its number of images.
        axes = (1, images, 1)
    tags: dict[str, Tag] = {}
    if own:
        tags["stated_unit"] = own
    return TiffScale(
        dialect="ImageJ",
        voxel_size_nm=(z or 0.0, y, x) if y and x else None,
        axes=(axes[0], axes[1], axes[2]),
        tags=tags,
    )


_OF_LIGHT = ("EmissionWavelength", "ExcitationWavelength", "Fluor")


def ome_scale(description: str) -> TiffScale | None:
    """What the OME-XML of the first image says; None where it is no XML."""
    try:
        root = ElementTree.fromstring(description)
    except ElementTree.ParseError:
        return None
    # The namespace in front has the year of OME's schema.
    pixels = next((e for e in root.iter() if e.tag.endswith("}Pixels")), None)
    if pixels is None:
        return None
    z, y, x = (
        nm_of(
            number_of(pixels.get(f"PhysicalSize{axis}", "")),
            # OME's own default.
            pixels.get(f"PhysicalSize{axis}Unit", "µm"),
        )
        for axis in "ZYX"
    )
    channels, planes, times = (
        int(number_of(pixels.get(f"Size{a}", "1"))) for a in "CZT"
    )
    tags: dict[str, Tag] = {}
    image = next((e for e in root.iter() if e.tag.endswith("}Image")), None)
    if image is not None and image.get("Name"):
        tags["name"] = str(image.get("Name"))
    day = next((e for e in root.iter() if e.tag.endswith("}AcquisitionDate")), None)
    if day is not None and day.text:
        tags["imaging_date"] = day.text[:10]
    parts = [e for e in root.iter() if e.tag.endswith("}Channel")]
    # Electrons have no colour.
    if any(name in part.attrib for part in parts for name in _OF_LIGHT):
        tags["modality"] = "light"
    return TiffScale(
        dialect="OME",
        voxel_size_nm=(z or 0.0, y, x) if y and x else None,
        axes=(channels, planes, times),
        tags=tags,
    )


def resolution_nm(
    per_unit: tuple[float, float], *, unit: int
) -> tuple[float, float, float] | None:
    """Lengths (z unknown: 0) from pixels an inch or centimetre; None for empty ones."""
    empty = {_INCH: _EMPTY_PER_INCH, _CENTIMETRE: _EMPTY_PER_CENTIMETRE}.get(unit)
    name = {_INCH: "inch", _CENTIMETRE: "cm"}.get(unit, "")
    if empty is None or min(per_unit) <= 0:
        return None
    # Rounded, as 28.346 is written with more digits or fewer.
    if any(rounded(round(count, 3)) in empty for count in per_unit):
        return None
    y, x = (nm_of(1 / count, name) for count in per_unit)
    if y is None or x is None or max(y, x) > _LONGEST_NM:
        return None
    return 0.0, y, x


def _shaped(description: str) -> int:
    """How many planes tifffile says that it wrote; 1 where it says nothing."""
    try:
        shape = json.loads(description).get("shape")
        count = math.prod(shape[:-2]) if shape else 1
        return count if isinstance(count, int) and count > 0 else 1
    except (AttributeError, RecursionError, TypeError, ValueError):
        return 1
