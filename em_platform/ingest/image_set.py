"""Which files of an EMPIAR image set are one volume, and its section distance."""

import re
import struct
from collections import Counter
from collections.abc import Iterator, Sequence

from em_platform.errors import FormatError
from em_platform.ingest.crawl import Found, crawl
from em_platform.ingest.empiar import EmpiarEntry, ImageSet, Wanted
from em_platform.ingest.web import Web

_KINDS = {
    ".dm3": "DM3",
    ".dm4": "DM4",
    ".mrc": "MRC",
    ".mrcs": "MRC",
    # IMOD's names for MRC: reconstruction, stack, aligned stack.
    ".rec": "MRC",
    ".st": "MRC",
    ".ali": "MRC",
    ".map": "MRC",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
# Of MRC2014, without the extended header.
_MRC_HEADER_BYTES = 1024
_SUFFIX = re.compile(r"(?:\.[a-z][a-z0-9]{0,4}){1,2}$", re.IGNORECASE)
_DIGITS = re.compile(r"(\d+)")


def choose_set(entry: EmpiarEntry, wanted: Wanted) -> ImageSet:
    """The image set that is wanted.

    Raises
    ------
    FormatError
        The entry has no such set.
    """
    if wanted.image_set > len(entry.image_sets):
        raise FormatError(
            f"ebi {wanted.key}: {entry.accession} has {len(entry.image_sets)} image "
            f"sets, not {wanted.image_set}; correct the item (--item, "
            "ingest.ebi.items)",
            key=wanted.key,
        )
    return entry.image_sets[wanted.image_set - 1]


def find_files(
    web: Web, entry_url: str, *, wanted: Wanted, image_set: ImageSet
) -> tuple[Found, ...]:
    """The files that are the item's volume, in their natural order.

    Raises
    ------
    FormatError
        The image set has none that can be read, or has several volumes.
    """
    folder = "/".join(filter(None, (entry_url.rstrip("/"), image_set.directory)))
    # EMPIAR's pattern begins at the entry, the search at the set's folder.
    pattern = image_set.pattern.removeprefix(f"{image_set.directory}/")
    found = crawl(web, folder, pattern=pattern)
    if pattern and not found:
        found = crawl(web, folder)  # the pattern is people's words, too
    files = sorted(
        _of_one_kind(found, wanted=wanted, image_set=image_set),
        key=lambda file: natural_order(file.path),
    )
    if wanted.file is not None:
        if wanted.file > len(files):
            raise FormatError(
                f"ebi {wanted.key}: the image set has {len(files)} files; correct "
                "ingest.ebi.items",
                key=wanted.key,
            )
        return (files[wanted.file - 1],)
    _check_one_volume(web, files, wanted=wanted)
    return tuple(files)


def natural_order(path: str) -> tuple[tuple[int, int | str], ...]:
    """Sorts `slice_2` before `slice_10`."""
    pieces = (piece for piece in _DIGITS.split(path.lower()) if piece)
    return tuple((0, int(p)) if p.isdigit() else (1, p) for p in pieces)


def several_volumes(key: str, number: int, *, name: str) -> FormatError:
    """The error for an image set of which each file is a volume."""
    first = key if key.count(".") else f"{key}.1"
    return FormatError(
        f"ebi {key}: the image set has {number} volumes, such as {name}, expected one "
        f"volume or one section a file; name one of them, {first}.1 to "
        f"{first}.{number}, in ingest.ebi.items",
        key=key,
    )


def _of_one_kind(
    found: Sequence[Found], *, wanted: Wanted, image_set: ImageSet
) -> list[Found]:
    """The files of the format that the image set states, else of the most frequent."""
    kinds: dict[str, list[Found]] = {}
    for file in found:
        kind = _KINDS.get(_suffix(file.path))
        if kind:
            kinds.setdefault(kind, []).append(file)
    for stated in image_set.formats:
        # OME-TIFF has the suffixes of TIFF.
        kind = _KINDS.get(f".{stated.lower().removeprefix('ome-')}", "")
        if kind in kinds:
            return kinds[kind]
    if kinds:
        return max(kinds.values(), key=len)
    counted = Counter(_suffix(file.path) or "no suffix" for file in found)
    listed = ", ".join(f"{n} {suffix}" for suffix, n in counted.most_common(5))
    stated = f" (stated: {', '.join(image_set.formats)})" if image_set.formats else ""
    raise FormatError(
        f"ebi {wanted.key}: its image set holds {listed or 'no files'}{stated}, "
        "expected DM3, DM4, MRC or TIFF; choose another image set or entry",
        key=wanted.key,
    )


def _check_one_volume(web: Web, files: Sequence[Found], *, wanted: Wanted) -> None:
    """Look into the first of several MRC files before all of them are fetched."""
    if len(files) < 2 or _KINDS[_suffix(files[0].path)] != "MRC":
        return
    header = web.first_bytes(files[0].url, _MRC_HEADER_BYTES)
    if len(header) < _MRC_HEADER_BYTES:
        return  # the reader will say so
    # MRC2014: 0x11 in byte 213 is big-endian, NZ begins at byte 9.
    order = "<" if header[212:213] != b"\x11" else ">"
    (sections,) = struct.unpack_from(f"{order}i", header, 8)
    if sections > 1:
        raise several_volumes(wanted.key, len(files), name=files[0].path)


def _suffix(path: str) -> str:
    """`.dm3`, and both of `.tiff.bz2`."""
    name = path.rpartition("/")[2].lower()
    last = f".{name.rpartition('.')[2]}" if "." in name else ""
    if last in _KINDS:
        return last
    found = _SUFFIX.search(name)
    return found[0] if found else ""


_UNITS = {
    "nm": 1.0,
    "nanometer": 1.0,
    "nanometre": 1.0,
    # U+00B5 and U+03BC, micro sign and Greek mu, look the same.
    "µm": 1000.0,
    "μm": 1000.0,
    "um": 1000.0,
    "micron": 1000.0,
    "micrometer": 1000.0,
    "micrometre": 1000.0,
    "å": 0.1,
    "angstrom": 0.1,
    "ångström": 0.1,
}
_UNIT = (
    r"(?:nanomet(?:er|re)s?|micromet(?:er|re)s?|microns?|angstroms?|ångströms?"
    # Not before ² or ³: an area or a volume is no distance.
    r"|nm|µm|μm|um|å)(?![a-z²³\d])"
)
# No digit or comma before: `1,050 nm` is not 50 nm.
_VALUE = rf"(?<![\d.,])(?P<value>\d+(?:\.\d+)?)\s*-?\s*(?P<unit>{_UNIT})"
_NUMBER = rf"\d+(?:\.\d+)?\s*(?:{_UNIT})?"
_CUT = r"(?:section|slice|cut|slab)s?"
_IS = (
    r"(?:\s*\([^)]*\))?\s*(?:of|was|is|were|:|=|~|≈)?"
    r"\s*(?:about|approximately|ca\.?|~)?\s*"
)
_PHRASES = tuple(
    re.compile(phrase, re.IGNORECASE)
    for phrase in (
        rf"{_VALUE}\s*(?:per|/|each)\s*{_CUT}\b",
        rf"\b{_CUT}(?:ing)?\s*thickness{_IS}{_VALUE}",
        rf"{_VALUE}(?:[\s-]*thi(?:ck(?:ness)?|n))?\s*-?{_CUT}\b",
        rf"{_VALUE}\s*(?:{_CUT}\s*)?(?:in|along|for)\s*(?:the\s*)?z\b",
        rf"\bz(?:[\s-]*(?:resolution|steps?|spacing|axis|size|dimension|interval))?"
        rf"{_IS}{_VALUE}",
        # Of three lengths z is the last one.
        rf"{_NUMBER}\s*[x×*]\s*{_NUMBER}\s*[x×*]\s*{_VALUE}",
        rf"\b{_CUT}\s*of\s*{_VALUE}",
        rf"{_VALUE}\s*isotropic",
        rf"\bisotropic\s*(?:voxels?|pixels?|resolution)?\s*(?:size)?{_IS}{_VALUE}",
    )
)


def thickness_nm(words: str) -> float | None:
    """How far apart sections are, if `words` say so, and say only one length."""
    found = set(_lengths_nm(words))
    return found.pop() if len(found) == 1 else None


def _lengths_nm(words: str) -> Iterator[float]:
    text = " ".join(words.split())
    for phrase in _PHRASES:
        for match in phrase.finditer(text):
            unit = match["unit"].lower()
            factor = _UNITS.get(unit) or _UNITS[unit.removesuffix("s")]
            length = float(match["value"]) * factor
            if length > 0:
                # 0.05 µm and 50 nm must be one length, also as floats.
                yield round(length, 6)
