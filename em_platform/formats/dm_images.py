"""What the tags of a DM file say of its images: which, how large, how long a voxel is.

Works on tags by their path, whoever read them, and does not mind whether the reader
counts lists from 0 or from 1. Names of tags: DigitalMicrograph, as they stand in files
of Gatan 3View, DigiScan and camera systems.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from em_platform.formats.header_values import nm_of, rounded
from em_platform.model.volume import Tag

TagValue = int | float | str
DmTags = Mapping[str, TagValue]
"""Tags by their path, such as `.ImageList.2.Name`."""

_RGBA = 23  # DigitalMicrograph's number of RGBA, as thumbnails are
_IMAGE = re.compile(r"^\.ImageList\.(-?\d+)\.(.+)$")
_FORMATS = ("%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d", "%m-%d-%Y")
_FILETIME_START = datetime(1601, 1, 1)  # Windows counts 100 ns from here


@dataclass(frozen=True, slots=True, kw_only=True)
class DmImage:
    """One image of the file; `sizes`, `scales` and `units` count from x upwards."""

    name: str
    data_type: int
    """DigitalMicrograph's number of the pixels' type."""
    sizes: tuple[int, ...]
    scales: tuple[float, ...]
    units: tuple[str, ...]
    data_offset: int
    data_bytes: int
    thumbnail: bool
    tags: DmTags
    """Those below `ImageTags`, by their path."""


def images_of(tags: DmTags) -> tuple[DmImage, ...]:
    """All images of the file in its order, thumbnails marked."""
    by_number: dict[int, dict[str, TagValue]] = {}
    for path, value in tags.items():
        found = _IMAGE.match(path)
        if found:
            by_number.setdefault(int(found[1]), {})[found[2]] = value
    named = {
        int(_number(value, -1))
        for path, value in tags.items()
        if path.startswith(".Thumbnails.") and path.endswith(".ImageIndex")
    }
    found_images = [by_number[number] for number in sorted(by_number)]
    found_images = [image for image in found_images if "ImageData.DataType" in image]
    return tuple(
        _image(image, thumbnail=_is_thumbnail(image, place, len(found_images), named))
        for place, image in enumerate(found_images)
    )


def voxel_size_of(image: DmImage) -> tuple[float, float, float] | None:
    """z, y, x in nm; None where y or x is no length, z 0 where only z is none.

    A plane cut by a 3View microtome states the thickness of its section.
    """
    scales = [nm_of(s, u) for s, u in zip(image.scales, image.units, strict=True)]
    x, y, z = (*scales, None, None, None)[:3]
    if x is None or y is None:
        return None
    if z is None and (len(image.sizes) < 3 or not image.units[2].strip()):
        z = section_thickness_nm(image.tags)
    return z or 0.0, y, x


def section_thickness_nm(tags: DmTags) -> float | None:
    """What the microtome cut off before each image, None where there was none."""
    if "SBFSEM.Record.Slice thickness" in tags:
        return nm_of(_number(tags["SBFSEM.Record.Slice thickness"]), "nm")
    for number in (2, 3):
        path = f"Meta Data.Dimension info.{number}"
        if f"{path}.Scale" in tags:
            unit = str(tags.get(f"{path}.Units", ""))
            return nm_of(_number(tags[f"{path}.Scale"]), unit)
    return None


def imaging_date_of(tags: DmTags) -> date | None:
    """The day of acquisition, whichever way this computer wrote dates.

    `8/11/2017` may be two days; the system's own clock, which the file has beside it,
    says which is meant.
    """
    clock = _clock(tags)
    text = str(tags.get("DataBar.Acquisition Date", "")).strip()
    dates = [found for form in _FORMATS if (found := _parsed(text, form))]
    if clock is None:
        return dates[0] if dates else None
    return min(dates, key=lambda found: abs(found - clock)) if dates else clock


def tags_of(image: DmImage) -> dict[str, Tag]:
    """The tags that matter to a microscopist, with their unit in the name."""
    numbers = {
        "voltage_v": "Microscope Info.Voltage",
        "magnification": "Microscope Info.Indicated Magnification",
        "working_distance_mm": "Microscope Info.WD (mm)",
        "field_of_view_um": "Microscope Info.Field of View (µm)",
        "exposure_s": "DataBar.Exposure Time (s)",
        "dwell_time_us": "DigiScan.Sample Time",
    }
    words = {
        "microscope": ("Microscope Info.Name", "Session Info.Microscope"),
        "detector": (
            "Session Info.Detector",
            "DataBar.Signal Name",
            "DataBar.Device Name",
        ),
        "operation_mode": ("Microscope Info.Operation Mode",),
        "imaging_mode": ("Microscope Info.Imaging Mode",),
        "illumination_mode": ("Microscope Info.Illumination Mode",),
        "imaging_time": ("DataBar.Acquisition Time",),
        "software": ("GMS Version.Created",),
    }
    found: dict[str, Tag] = {"name": image.name} if image.name else {}
    for name, path in numbers.items():
        value = _number(image.tags.get(path))
        if 0 < value < 1e30:
            found[name] = rounded(value)
    for name, paths in words.items():
        texts = (str(image.tags.get(path, "")).strip() for path in paths)
        text = next((text for text in texts if text), "")
        if text:
            found[name] = text
    if day := imaging_date_of(image.tags):
        found["imaging_date"] = day.isoformat()
    if thickness := section_thickness_nm(image.tags):
        found["section_thickness_nm"] = thickness
    if image.units and not voxel_size_of(image):
        units = tuple(unit.strip() or "none" for unit in reversed(image.units))
        found["axis_units"] = units
    elif len(image.units) == 3 and image.units[2].strip():
        if nm_of(1, image.units[2]) is None:
            found["z_axis"] = f"{image.scales[2]:g} {image.units[2].strip()}"
    return found


def _image(values: DmTags, *, thumbnail: bool) -> DmImage:
    sizes = _listed(values, "ImageData.Dimensions.")
    axes = sorted(
        int(path.split(".")[3])
        for path in values
        if path.startswith("ImageData.Calibrations.Dimension.")
        and path.endswith(".Scale")
    )
    stem = "ImageData.Calibrations.Dimension"
    scales = [_number(values[f"{stem}.{axis}.Scale"]) for axis in axes]
    units = [str(values.get(f"{stem}.{axis}.Units", "")) for axis in axes]
    count = len(sizes)
    prefix = "ImageTags."
    return DmImage(
        name=str(values.get("Name", "")),
        data_type=int(_number(values["ImageData.DataType"])),
        sizes=tuple(int(_number(size)) for size in sizes),
        scales=tuple((scales + [0.0] * count)[:count]),
        units=tuple((units + [""] * count)[:count]),
        data_offset=int(_number(values.get("ImageData.Data.arrayOffset"))),
        data_bytes=int(_number(values.get("ImageData.Data.arraySize"))),
        thumbnail=thumbnail,
        tags={
            path.removeprefix(prefix): value
            for path, value in values.items()
            if path.startswith(prefix)
        },
    )


def _is_thumbnail(image: DmTags, place: int, count: int, named: set[int]) -> bool:
    # The list of thumbnails counts from 0 in every reader: it is a stored value.
    if count == 1:
        return False
    # Without a list, the thumbnail is the first image, in colours.
    rgba = int(_number(image["ImageData.DataType"])) == _RGBA
    return place in named or (not named and place == 0 and rgba)


def _listed(values: DmTags, prefix: str) -> list[TagValue]:
    found = {
        int(path.removeprefix(prefix)): value
        for path, value in values.items()
        if path.startswith(prefix) and path.removeprefix(prefix).isdigit()
    }
    return [found[number] for number in sorted(found)]


def _clock(tags: DmTags) -> date | None:
    ticks = _number(tags.get("DataBar.Acquisition Time (OS)"), 0.0)
    # 1917 to 2234: all else is no clock.
    if not 1e17 < ticks < 2e17:
        return None
    return (_FILETIME_START + timedelta(microseconds=ticks / 10)).date()


def _parsed(text: str, form: str) -> date | None:
    try:
        return datetime.strptime(text, form).date()
    except ValueError:
        return None


def _number(value: TagValue | None, otherwise: float = 0.0) -> float:
    try:
        return otherwise if value is None else float(value)
    except ValueError:
        return otherwise
