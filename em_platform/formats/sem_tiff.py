"""What scanning electron microscopes write into TIFFs: pixel size and settings.

FEI and Thermo Fisher (tags 34680, 34682), Zeiss (34118), Tescan (50431, or a `.hdr`
file beside the image), Olympus SIS cameras (33560), OpenFIBSEM (JSON in the image's
description), Hitachi and JEOL (a `.txt` file beside the image). Rows that a microscope
adds below the picture, its info bar, stay in it: `info_bar_rows` says how many.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from em_platform.formats.header_values import nm_of, number_of, rounded
from em_platform.formats.tiff_directory import Directory, TiffScale
from em_platform.model.modality import Modality
from em_platform.model.volume import Tag

FEI_TAGS, ZEISS_TAG, TESCAN_TAG, OLYMPUS_TAG = (34682, 34680), 34118, 50431, 33560
_ZEISS_SCREEN_PX = 1024
_MEASURE = re.compile(r"^[=:]?\s*([-+.\deE]+)\s*(\S*)")
_THOUSANDS = {"K": 1e3}  # Zeiss writes 25 K X for 25,000
_VOLTS = {"kV": 1e3, "V": 1.0}
_MICROSECONDS = {"ns": 1e-3, "µs": 1.0, "us": 1.0, "ms": 1e3, "s": 1e6}


def sem_scale(directory: Directory) -> TiffScale | None:
    """What a microscope says in a directory; None where none wrote this file."""
    for code in FEI_TAGS:
        if code in directory:
            rows = directory.number(257)
            return fei_scale(sections_of(directory.text(code)), rows=rows)
    if ZEISS_TAG in directory:
        # Zeiss writes µ as Windows does.
        text = directory.content(ZEISS_TAG).decode("cp1252", "replace")
        return zeiss_scale(text, columns=directory.number(256))
    if TESCAN_TAG in directory or "TESCAN" in directory.text(271).upper():
        text = directory.content(TESCAN_TAG).decode("latin-1")
        beside = _text_beside(directory, (".hdr", "-tif.hdr", "-png.hdr"))
        return tescan_scale(sections_of(beside), tag=text)
    if OLYMPUS_TAG in directory:
        return _olympus(directory)
    description = directory.text(270)
    if description.startswith("{"):
        return openfibsem_scale(description)
    # Last, so that files beside are looked for only where the image says nothing.
    beside = _text_beside(directory, (".txt",))
    if beside.lstrip("\ufeff").startswith("[SemImageFile]"):
        return hitachi_scale(sections_of(beside)["SemImageFile"])
    if "$CM_MAG" in beside:
        return jeol_scale(beside)
    return None


def sections_of(text: str) -> dict[str, dict[str, str]]:
    """The pairs of an INI text by section; lines that are no pair are left out."""
    found: dict[str, dict[str, str]] = {}
    section = found.setdefault("", {})
    for line in text.lstrip("\ufeff").splitlines():
        line = line.strip().strip("\0")
        if line.startswith("[") and line.endswith("]"):
            section = found.setdefault(line[1:-1], {})
        elif "=" in line:
            name, _, value = line.partition("=")
            section[name.strip()] = value.strip()
    return found


def fei_scale(sections: Mapping[str, Mapping[str, str]], *, rows: int) -> TiffScale:
    """What FEI and Thermo Fisher write; lengths in m, times in s."""
    beam = sections.get("Beam", {})
    column = sections.get(beam.get("Beam", ""), {})
    scan = sections.get(beam.get("Scan", ""), {}) or sections.get("Scan", {})
    stage, user = sections.get("Stage", {}), sections.get("User", {})
    system, image = sections.get("System", {}), sections.get("Image", {})
    # Rows that were not scanned are the info bar.
    bar = rows - int(number_of(image.get("ResolutionY")))
    return _sem(
        "FEI",
        _plane(scan.get("PixelHeight"), scan.get("PixelWidth")),
        microscope=system.get("SystemType", "") or system.get("Type", ""),
        voltage_v=abs(number_of(column.get("HV", "") or beam.get("HV", ""))),
        working_distance_mm=_scaled(
            column.get("WD", "") or stage.get("WorkingDistance", ""), 1e3
        ),
        detector=sections.get("Detectors", {}).get("Name", ""),
        dwell_time_us=_scaled(scan.get("Dwell", "") or scan.get("Dwelltime", ""), 1e6),
        beam=beam.get("Beam", ""),
        imaging_date=_iso(user.get("Date", ""), "%m/%d/%Y", "%d.%m.%Y"),
        imaging_time=user.get("Time", ""),
        info_bar_rows=bar if 0 < bar < rows else 0,
    )


def zeiss_scale(text: str, *, columns: int) -> TiffScale:
    """What Zeiss writes: numbers first, then a name and a line `label = value` each.

    The fourth number is the size in m of a pixel of the screen, 1,024 wide, whatever
    the image's width; `AP_IMAGE_PIXEL_SIZE` is that of the image, with fewer digits.
    """
    lines = text.splitlines()
    fields = {
        name: re.split("[=:]", line, maxsplit=1)[1].strip()
        for name, line in pairwise(lines)
        if name[:3] in ("AP_", "DP_", "SV_") and re.search("[=:]", line)
    }
    size = nm_of(number_of(lines[3]) if len(lines) > 3 else 0.0, "m")
    if size is not None and columns > 0:
        size = rounded(size * _ZEISS_SCREEN_PX / columns)
    stated = _measured_nm(fields.get("AP_IMAGE_PIXEL_SIZE", ""))
    # Closer than 1 % the difference is rounding, and the first has more digits.
    if stated and (size is None or abs(size / stated - 1) > 0.01):
        size = stated
    return _sem(
        "Zeiss",
        (0.0, size, size) if size else None,
        microscope=fields.get("DP_SEM", "") or fields.get("SV_SERIAL_NUMBER", ""),
        voltage_v=_measured(fields.get("AP_ACTUALKV", ""), _VOLTS),
        working_distance_mm=_scaled(_measured_nm(fields.get("AP_WD", "")), 1e-6),
        detector=fields.get("DP_DETECTOR_CHANNEL", ""),
        magnification=_measured(fields.get("AP_MAG", ""), _THOUSANDS, otherwise=1.0),
        dwell_time_us=_measured(fields.get("DP_DWELL_TIME", ""), _MICROSECONDS),
        imaging_date=_iso(fields.get("AP_DATE", ""), "%d %b %Y"),
        imaging_time=fields.get("AP_TIME", ""),
    )


def tescan_scale(sections: Mapping[str, Mapping[str, str]], *, tag: str) -> TiffScale:
    """What Tescan writes, in its tag or beside the image; lengths in m, times in s."""
    fields: dict[str, str] = {}
    for name, value in re.findall(r"(?m)([A-Za-z]\w*)=([^\r\n\0]*)", tag):
        fields.setdefault(name, value)
    for section in ("SEM", "FIB", "MAIN"):
        fields |= sections.get(section, {})
    return _sem(
        "Tescan",
        _plane(fields.get("PixelSizeY"), fields.get("PixelSizeX")),
        microscope=fields.get("Device", ""),
        voltage_v=number_of(fields.get("HV", "") or fields.get("AcceleratorVoltage")),
        working_distance_mm=_scaled(fields.get("WD"), 1e3),
        detector=fields.get("Detector", "") or fields.get("Detector0", ""),
        magnification=number_of(fields.get("Magnification")),
        dwell_time_us=_scaled(fields.get("DwellTime"), 1e6),
        imaging_date=_iso(fields.get("Date", ""), "%Y-%m-%d"),
        imaging_time=fields.get("Time", ""),
        info_bar_rows=int(number_of(fields.get("ImageStripSize"))),
    )


def openfibsem_scale(description: str) -> TiffScale | None:
    """What OpenFIBSEM writes as JSON; None where it is other JSON."""
    try:
        fields = _mapping(json.loads(description))
    except (ValueError, RecursionError):  # a text of others that nests without end
        return None
    if not isinstance(size := fields.get("pixel_size"), dict):
        return None
    image = _mapping(fields.get("image"))
    state = _mapping(fields.get("microscope_state"))
    beam_name = str(image.get("beam_type", "ELECTRON")).upper()
    beam = _mapping(state.get("ion_beam" if "ION" == beam_name else "electron_beam"))
    clock = number_of(state.get("timestamp"))
    return _sem(
        "OpenFIBSEM",
        _plane(size.get("y"), size.get("x")),
        microscope=str(_mapping(fields.get("system")).get("name") or ""),
        voltage_v=number_of(beam.get("voltage")),
        working_distance_mm=_scaled(beam.get("working_distance"), 1e3),
        dwell_time_us=_scaled(image.get("dwell_time"), 1e6),
        beam=beam_name.lower(),
        imaging_date=datetime.fromtimestamp(clock, UTC).date().isoformat()
        if 0 < clock < 4e9  # a clock after 2096 is damage
        else "",
    )


def hitachi_scale(fields: Mapping[str, str]) -> TiffScale:
    """What Hitachi writes into the text beside the image; the pixel's size in nm."""
    size = nm_of(number_of(fields.get("PixelSize")), "nm")
    return _sem(
        "Hitachi",
        (0.0, size, size) if size else None,
        microscope=fields.get("InstructName", "") or fields.get("InstrumentName", ""),
        voltage_v=number_of(fields.get("AcceleratingVoltage", "").split(" ")[0]),
        # From µm.
        working_distance_mm=_scaled(
            fields.get("WorkingDistance", "").split(" ")[0], 1e-3
        ),
        detector=fields.get("SignalName", ""),
        magnification=number_of(fields.get("Magnification")),
        imaging_date=_iso(fields.get("Date", ""), "%m/%d/%Y", "%Y/%m/%d"),
        imaging_time=fields.get("Time", ""),
    )


def jeol_scale(text: str) -> TiffScale:
    """What JEOL writes into the text beside: a bar's length, and its pixels."""
    pairs = (line.lstrip("$").split(maxsplit=1) for line in text.splitlines())
    fields = {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}
    bar_nm = _measured_nm(fields.get("SM_MICRON_MARKER", ""))
    bar_px = number_of(fields.get("SM_MICRON_BAR"))
    size = rounded(bar_nm / bar_px) if bar_nm and bar_px > 0 else None
    return _sem(
        "JEOL",
        (0.0, size, size) if size else None,
        microscope=fields.get("CM_INSTRUMENT", ""),
        voltage_v=_scaled(fields.get("CM_ACCEL_VOLT"), 1e3),  # from kV
        working_distance_mm=number_of(fields.get("SM_WD")),
        detector=fields.get("CM_SIGNAL", ""),
        magnification=number_of(fields.get("CM_MAG")),
        imaging_date=_iso(fields.get("CM_DATE", ""), "%Y/%m/%d", "%m/%d/%Y"),
        imaging_time=fields.get("CM_TIME", ""),
    )


def _olympus(directory: Directory) -> TiffScale:
    """Olympus SIS: tifffile reads its records; lengths in m."""
    stated = _mapping(directory.page.tags.valueof(OLYMPUS_TAG))
    return _sem(
        "Olympus SIS",
        _plane(stated.get("pixelsizey"), stated.get("pixelsizex")),
        microscope=directory.text(271),
        detector=directory.text(272),
        imaging_date=_iso(directory.text(306)[:10], "%Y:%m:%d"),
        imaging_time=directory.text(306)[11:],
        magnification=number_of(stated.get("magnification")),
    )


def _sem(
    dialect: str, voxel_nm: tuple[float, float, float] | None, **tags: Tag
) -> TiffScale:
    """What a microscope says; values that are empty or 0 say nothing."""
    filled = {name: value for name, value in tags.items() if value}
    modality = _modality(dialect, filled)
    if modality is not None:
        filled["modality"] = modality
    return TiffScale(dialect=dialect, voxel_size_nm=voxel_nm, tags=filled)


def _modality(dialect: str, tags: Mapping[str, Tag]) -> Modality | None:
    """In the catalog's word; None of a camera that any microscope may have."""
    if dialect == "Olympus SIS":
        return None
    if "STEM" in str(tags.get("detector", "")).upper():
        return "STEM"
    # Only these have an ion beam too.
    has_ions = dialect == "OpenFIBSEM" or tags.get("beam") == "IBeam"
    return "FIB-SEM" if has_ions else "SEM"


def _plane(y_m: Any, x_m: Any) -> tuple[float, float, float] | None:
    y, x = nm_of(abs(number_of(y_m)), "m"), nm_of(abs(number_of(x_m)), "m")
    return (0.0, y, x) if y and x else None


def _text_beside(directory: Directory, endings: tuple[str, ...]) -> str:
    if directory.source.path is None:
        return ""
    stem = Path(directory.source.path).with_suffix("")
    for ending in endings:
        path = stem.with_name(stem.name + ending)
        with suppress(OSError):
            # Such a text has some kB: a larger file is something else.
            if path.is_file() and path.stat().st_size < 1 << 20:
                return path.read_text("utf-8", "replace")
    return ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _scaled(value: Any, factor: float) -> float:
    return rounded(number_of(value) * factor)


def _measured_nm(text: str) -> float | None:
    found = _MEASURE.match(text)
    return nm_of(number_of(found[1]), found[2]) if found else None


def _measured(
    text: str, factors: Mapping[str, float], *, otherwise: float = 0.0
) -> float:
    """A number times the factor of its unit, 0.0 where there is none."""
    found = _MEASURE.match(text)
    factor = factors.get(found[2], otherwise) if found else 0.0
    return rounded(number_of(found[1]) * factor) if found else 0.0


def _iso(text: str, *forms: str) -> str:
    for form in forms:
        with suppress(ValueError):
            day: date = datetime.strptime(text.strip(), form).date()
            return day.isoformat()
    return ""
