"""What the header of a movie, image or stack states, and SerialEM's mdoc beside it.

Sources: MRC2014 and FEI's extended header by `em_platform.formats`; EER's metadata as
tifffile names them (Thermo Fisher's EER format, tag 65001); SerialEM's keys of mdocs.
"""

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path

from em_platform.cryoem.movies import is_eer, is_packed, open_eer, open_packed
from em_platform.cryoem.series_mdoc import mdoc_naming
from em_platform.cryoem.tilt_name import movie_stem, tilt_name
from em_platform.formats import open_volume, read_text

_TILT_AXIS = re.compile(r"Tilt axis angle = (-?[\d.]+)")
_KEY = re.compile(r"^(\w+) = (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Values that stand in a header; None where it does not state them."""

    pixel_size_a: float | None = None
    voltage_kv: float | None = None
    dose_per_frame: float | None = None
    """Electrons per square ångström."""
    pre_exposure: float | None = None
    """Those before the file, e.g. of the tilts before."""
    tilt_deg: float | None = None
    axis_deg: float | None = None
    """The tilt axis, as SerialEM counts it."""


def read_header(path: Path) -> Header:
    """What the file itself states, else the mdoc beside it or that of its series.

    A pixel of exactly 1 Å is written by programs that know none: an mdoc that says
    something else is believed instead.

    Raises
    ------
    FormatError
        The file cannot be read as an image.
    """
    if path.is_dir():
        # Single images of a tilt series: what the first mdoc says is true of all.
        first = next(iter(sorted(path.glob("*.mdoc"))), None)
        return _of_all(first) if first else Header()
    if path.suffix == ".mdoc":
        return _of_all(path)
    own, beside = _of_image(path), _of_mdoc(path)
    if own.pixel_size_a == 1.0 and beside.pixel_size_a is not None:
        own = replace(own, pixel_size_a=None)
    found = {
        each.name: getattr(beside, each.name)
        for each in fields(Header)
        if getattr(own, each.name) is None
    }
    return replace(own, **found)


def stated_angle(path: Path) -> float | None:
    """The tilt of an image: of its header or mdoc, else of its name."""
    angle = read_header(path).tilt_deg
    named = tilt_name(path)
    return named.angle_deg if angle is None and named else angle


def _of_image(path: Path) -> Header:
    if is_eer(path):
        return _of_eer(path)
    volume = open_packed(path) if is_packed(path) else open_volume(str(path))
    info = volume.info
    voltage, tilt = info.tags.get("voltage_v"), info.tags.get("tilt_deg")
    pixel_nm = info.voxel_size_nm[2] if info.voxel_size_nm else None
    volts = float(voltage) if isinstance(voltage, int | float) else 0.0
    return Header(
        pixel_size_a=round(pixel_nm * 10, 6) if pixel_nm else None,
        # Some headers state it in kV.
        voltage_kv=(volts / 1000 if volts > 10_000 else volts) or None,
        tilt_deg=float(tilt) if isinstance(tilt, int | float) else None,
    )


def _of_eer(path: Path) -> Header:
    with open_eer(path) as tiff:
        found = tiff.eer_metadata or {}
    width = found.get("sensorPixelSize.width")
    unit = found.get("sensorPixelSize.width.unit", "m")
    scale = {"m": 1e10, "nm": 10.0, "pm": 0.01, "A": 1.0}.get(str(unit))
    volts = found.get("accelerationVoltage")
    return Header(
        pixel_size_a=round(width * scale, 6)
        if isinstance(width, float) and width > 0 and scale
        else None,
        voltage_kv=volts / 1000 if isinstance(volts, int | float) and volts else None,
    )


def _of_mdoc(path: Path) -> Header:
    for beside in (Path(f"{path}.mdoc"), path.with_suffix(".mdoc")):
        if beside.is_file() and beside != path:
            return _of_text(beside)
    return _of_series(path)


def _of_all(mdoc: Path) -> Header:
    return replace(_of_text(mdoc), tilt_deg=None, pre_exposure=None)


def _of_text(path: Path) -> Header:
    """What an mdoc says of its first image."""
    text = read_text(str(path))
    values = dict(reversed(_KEY.findall(text)))  # the first of each key
    axis = _TILT_AXIS.search(text)
    exposure, frames = _number(values, "ExposureDose"), _number(values, "NumSubFrames")
    turned = _number(values, "RotationAngle")
    return Header(
        pixel_size_a=_number(values, "PixelSpacing"),
        voltage_kv=_number(values, "Voltage"),
        dose_per_frame=exposure / frames if exposure and frames else None,
        # Where SerialEM measured no dose, it writes 0 for this one, too.
        pre_exposure=_number(values, "PriorRecordDose", may_be_zero=True)
        if exposure
        else None,
        tilt_deg=_number(values, "TiltAngle", may_be_zero=True),
        # RotationAngle counts from x; the title, where there is one, from y.
        axis_deg=float(axis[1]) if axis else round(turned - 90, 4) if turned else None,
    )


def _of_series(path: Path) -> Header:
    """What the mdoc of a series says of a movie; its pixel may be that of its stack."""
    mdoc = mdoc_naming(path)
    if mdoc is None:
        return Header()
    tilt = mdoc.tilts[movie_stem(path)]
    return Header(
        pre_exposure=tilt.pre_exposure, tilt_deg=tilt.angle_deg, axis_deg=mdoc.axis_deg
    )


def _number(
    values: dict[str, str], key: str, *, may_be_zero: bool = False
) -> float | None:
    try:
        found = float(values[key])
    except (KeyError, ValueError):
        return None
    return found if found > 0 or may_be_zero else None
