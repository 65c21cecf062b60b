"""What microscopes write between an MRC file's header and its images.

FEI's headers of EPU and Velox (FEI1, FEI2), and FEI's older one of 32 numbers an image,
which states the pixel's size where the header itself has only 1 Å. Sources: FEI's
"MRC2014 extended header" tables as given in mrcfile's documentation, and Agard's list.
"""

import struct
from datetime import UTC, datetime, timedelta

from em_platform.formats.length_units import nm_of, rounded
from em_platform.formats.source import Source
from em_platform.model.volume import Tag

_HEADER_BYTES = 1024
_AGARD_FLOATS = 16
_DAY_ZERO = datetime(1899, 12, 30, tzinfo=UTC)


def extended_tags(
    source: Source, *, kind: str, size: int, order: str
) -> tuple[dict[str, Tag], float | None]:
    """Tags of the first image and its pixel's length in nm, where they are written.

    `kind` is the header's four letters, `size` its bytes.
    """
    content = source.read(_HEADER_BYTES, min(size, 1024))
    if kind in ("FEI1", "FEI2") and len(content) >= 172:
        return _fei(content[:172], order)
    label = source.read(224, 80)
    if kind not in ("SERI", "CCP4") and b"Fei Company" in label and len(content) >= 128:
        return _agard(content[: _AGARD_FLOATS * 4], order)
    return {}, None


def _fei(content: bytes, order: str) -> tuple[dict[str, Tag], float | None]:
    record = struct.unpack(f"{order}iiId16s16s16s16s11d", content)
    days, microscope, software = record[3], _text(record[4]), _text(record[6])
    voltage_v, _, alpha_deg, beta_deg = record[8:12]
    tags: dict[str, Tag] = {}
    if microscope:
        tags["microscope"] = microscope
    if software:
        tags["software"] = f"{software} {_text(record[7])}".strip()
    if 0 < voltage_v < 1e7:
        tags["voltage_v"] = rounded(voltage_v)
    for name, angle in (("tilt_deg", alpha_deg), ("beta_tilt_deg", beta_deg)):
        if 0 < abs(angle) <= 180:
            tags[name] = rounded(angle)
    if 20_000 < days < 80_000:
        moment = _DAY_ZERO + timedelta(days=days)
        tags["imaging_date"] = moment.date().isoformat()
        tags["imaging_time"] = moment.time().isoformat("seconds")
    return tags, nm_of(record[17], "m")


def _agard(content: bytes, order: str) -> tuple[dict[str, Tag], float | None]:
    values = struct.unpack(f"{order}{_AGARD_FLOATS}f", content)
    tags: dict[str, Tag] = {}
    for name, place in (("magnification", 12), ("voltage_v", 13)):
        if 0 < values[place] < 1e9:
            tags[name] = rounded(values[place])
    if 0 < abs(values[0]) <= 180:
        tags["tilt_deg"] = rounded(values[0])
    return tags, nm_of(values[11], "m")


def _text(content: bytes) -> str:
    return content.split(b"\0")[0].decode("latin-1").strip()
