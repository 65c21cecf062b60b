"""How long a voxel of a TIFF is: ImageJ, OME-TIFF and the plain resolution tags.

A resolution of 1 or 72 per inch is what programs write that know none; it is no size.
"""

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field

from em_platform.formats.length_units import nm_of, rounded
from em_platform.formats.tiff_directory import Directory
from em_platform.model.volume import Tag

_INCH, _CENTIMETRE = 2, 3  # values of ResolutionUnit (TIFF 6.0, tag 296)
# Of screens, scanners and prints; 28.346 a centimetre are 72 an inch.
_EMPTY_PER_INCH = {1.0, 72.0, 96.0, 100.0, 150.0, 200.0, 300.0, 600.0}
_EMPTY_PER_CENTIMETRE = {1.0, 28.346}
_PAIR = re.compile(r"^([A-Za-z ]+?)=(.*)$")
# No microscope has pixels of more than this; such a size is that of a print.
_LONGEST_NM = 2e4


@dataclass(frozen=True, slots=True, kw_only=True)
class TiffScale:
    """What a TIFF says of its axes."""

    dialect: str = ""
    """`ImageJ`, `OME` or nothing."""
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
    z = nm_of(_number(fields.get("spacing", "")), own)
    images = int(_number(fields.get("images", "1")))
    axes = tuple(
        int(_number(fields.get(name, "1"))) for name in ("channels", "slices", "frames")
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
            _number(pixels.get(f"PhysicalSize{axis}", "")),
            # OME's own default.
            pixels.get(f"PhysicalSize{axis}Unit", "µm"),
        )
        for axis in "ZYX"
    )
    channels, planes, times = (int(_number(pixels.get(f"Size{a}", "1"))) for a in "CZT")
    tags: dict[str, Tag] = {}
    image = next((e for e in root.iter() if e.tag.endswith("}Image")), None)
    if image is not None and image.get("Name"):
        tags["name"] = str(image.get("Name"))
    day = next((e for e in root.iter() if e.tag.endswith("}AcquisitionDate")), None)
    if day is not None and day.text:
        tags["imaging_date"] = day.text[:10]
    channels_of = [e for e in root.iter() if e.tag.endswith("}Channel")]
    # Electrons have no colour.
    if any(name in e.attrib for e in channels_of for name in _OF_LIGHT):
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


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
