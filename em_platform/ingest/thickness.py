"""The distance of sections where it stands only in somebody's words."""

import re
from collections.abc import Iterator

_UNITS = {
    "nm": 1.0,
    "nanometer": 1.0,
    "nanometre": 1.0,
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
    r"|nm|µm|μm|um|å)(?![a-z²³\d])"
)
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
                yield round(length, 6)
