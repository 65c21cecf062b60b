"""Lengths as files write them, in nm.

Microscopes write the same unit in many ways: two code points look like µ, Å is a letter
or a sign, and ImageJ escapes both. What is no length (1/nm, eV, degrees, pixels) has no
value in nm.
"""

import math
import unicodedata

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
