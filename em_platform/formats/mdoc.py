"""SerialEM's metadata files (.mdoc) of montages and tilt series.

Source of the keys: bio3d.colorado.edu/SerialEM/hlp/html/about_formats.htm.
"""

import logging
import re
import warnings
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from em_platform.errors import FormatError
from em_platform.model.sentences import counted

_FARTHEST_UM = 1e9
"""A kilometre; a place beyond it is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MdocPiece:
    """One image of the stack and where it lies, x to the right, rows as stored."""

    index: int
    x_px: float
    y_px: float
    section: int
    stage_nm: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MdocMontage:
    """What an mdoc says of a montage; `stage_nm` are (y, x)."""

    image_file: str | None
    pixel_nm: float | None
    magnification: int | None
    pieces: tuple[MdocPiece, ...]
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MdocTiltImage:
    """One image of a tilt series, as SerialEM knew it when it was taken."""

    number: int
    """Of the section in the stack; 0 for a file of its own."""
    tilt_deg: float
    frames: str | None
    """The file of its movie, without SerialEM's folders."""
    dose_e_per_a2: float | None
    prior_dose_e_per_a2: float | None
    taken_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MdocTilts:
    """What an mdoc says of a tilt series, or of one image of it."""

    image_file: str | None
    """The stack; None where each image has an mdoc of its own."""
    pixel_a: float | None
    voltage_kv: float | None
    axis_deg: float | None
    """Of the tilt axis from the image's y axis, as IMOD counts it."""
    images: tuple[MdocTiltImage, ...]


_AXIS = re.compile(r"Tilt axis angle = (-?[\d.]+)")


def read_mdoc_tilts(text: str, uri: str) -> MdocTilts:
    """The images of a tilt series, in the order of the file.

    Raises
    ------
    FormatError
        Not an mdoc, one without images, or one without tilt angles.
    """
    mdoc = parse_mdoc(text, uri)
    try:
        return _tilts_of(mdoc, text, uri)
    except (OverflowError, TypeError, ValueError) as error:
        raise FormatError(
            f"{uri}: holds an angle or number that is none ({error}); copy it again "
            "from the microscope",
            uri=uri,
        ) from error


def _tilts_of(mdoc: Any, text: str, uri: str) -> MdocTilts:
    sections, head = mdoc.section_data, mdoc.global_data
    without = sum(section.TiltAngle is None for section in sections)
    if not sections or without:
        raise FormatError(
            f"{uri}: found {counted(len(sections), 'image')}, {without} of them "
            "without a TiltAngle, expected a tilt series; give its mdoc, or angles by "
            "--tilts",
            uri=uri,
        )
    first = sections[0]
    spacing = head.PixelSpacing or first.PixelSpacing
    axis = _AXIS.search(text)
    turned = first.RotationAngle
    return MdocTilts(
        image_file=_last_part(head.ImageFile) if head.ImageFile else None,
        pixel_a=float(spacing) if spacing else None,
        voltage_kv=float(head.Voltage) if head.Voltage else None,
        # RotationAngle counts from x; the title, where there is one, from y.
        axis_deg=float(axis[1]) if axis else turned - 90 if turned else None,
        images=tuple(
            MdocTiltImage(
                number=section.ZValue or 0,
                tilt_deg=float(section.TiltAngle),
                frames=_last_part(section.SubFramePath)
                if section.SubFramePath
                else None,
                dose_e_per_a2=section.ExposureDose or None,
                prior_dose_e_per_a2=section.PriorRecordDose,
                taken_at=_time(section.DateTime),
            )
            for section in sections
        ),
    )


def read_mdoc_montage(text: str, uri: str) -> MdocMontage:
    """The pieces of a montage; places that SerialEM aligned are preferred.

    Raises
    ------
    FormatError
        Not an mdoc, or one without piece coordinates (a tilt series, a movie).
    """
    mdoc = parse_mdoc(text, uri)
    try:
        return _montage_of(mdoc, uri)
    except (IndexError, OverflowError, TypeError, ValueError) as error:
        raise FormatError(
            f"{uri}: holds a place or number that is none ({error}); copy it again "
            "from the microscope",
            uri=uri,
        ) from error


def _montage_of(mdoc: Any, uri: str) -> MdocMontage:
    images = [s for s in mdoc.section_data if s.ZValue is not None]
    pieces = tuple(_piece(s) for s in images if s.PieceCoordinates is not None)
    if not pieces:
        raise FormatError(
            f"{uri}: found {counted(len(images), 'image')} and no PieceCoordinates, "
            "expected a montage; give the mdoc of a montage",
            uri=uri,
        )
    times = [t for t in (_time(s.DateTime) for s in images) if t is not None]
    head = mdoc.global_data
    spacing = head.PixelSpacing or images[0].PixelSpacing
    magnification = images[0].Magnification
    return MdocMontage(
        image_file=_last_part(head.ImageFile) if head.ImageFile else None,
        pixel_nm=spacing / 10 if spacing else None,  # from Å
        magnification=round(magnification) if magnification else None,
        pieces=pieces,
        started_at=min(times, default=None),
        ended_at=max(times, default=None),
    )


def parse_mdoc(text: str, uri: str) -> Any:
    """The mdoc as mdocfile reads it.

    Raises
    ------
    FormatError
        Not an mdoc.
    """
    from mdocfile.data_models import Mdoc

    # It warns of keys that it does not know, which do no harm here.
    logger = logging.getLogger("mdocfile")
    level, logger.level = logger.level, logging.ERROR
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Mdoc.from_string(text)
    except Exception as error:
        # pydantic's errors have a line for each field.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FormatError(
            f"{uri}: cannot be read as an mdoc ({reason}); copy it again from the "
            "microscope",
            uri=uri,
        ) from error
    finally:
        logger.level = level


def _piece(section: Any) -> MdocPiece:
    nominal = section.PieceCoordinates
    placed = section.AlignedPieceCoords or section.AlignedPieceCoordsVS or nominal
    stage = section.StagePosition
    if stage and not all(abs(place) < _FARTHEST_UM for place in stage[:2]):
        stage = None
    return MdocPiece(
        index=section.ZValue,
        x_px=float(placed[0]),
        y_px=float(placed[1]),
        section=int(nominal[2]),
        # Stage positions are x, y in µm.
        stage_nm=(stage[1] * 1000, stage[0] * 1000) if stage else None,
    )


def _last_part(path: object) -> str:
    # SerialEM writes a path of its Windows computer.
    return str(path).replace("\\", "/").rpartition("/")[2]


def _time(text: str | None) -> datetime | None:
    # SerialEM writes the year with two digits or with four.
    for form in ("%d-%b-%y  %H:%M:%S", "%d-%b-%Y  %H:%M:%S"):
        try:
            return datetime.strptime(text or "", form)
        except ValueError:
            continue
    return None
