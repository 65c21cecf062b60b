"""SerialEM's metadata of a tilt series (.mdoc), written.

Source of the keys and units: bio3d.colorado.edu/SerialEM/hlp/html/about_formats.htm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MdocTilt:
    """One image of the series; angles in degrees, `(x, y)` where there are two."""

    tilt_deg: float
    stage_um: tuple[float, float]
    dose_e_per_nm2: float
    prior_dose_e_per_nm2: float
    underfocus_nm: float
    target_underfocus_nm: float
    axis_deg: float
    """Of the tilt axis from the image's x axis."""
    image_shift_um: tuple[float, float]
    exposure_s: float
    taken_at: datetime
    least_largest_mean: tuple[float, float, float]
    frames: str = ""
    """File of the movie; empty: none."""
    frame_count: int = 1


def tilt_mdoc(
    tilts: Sequence[MdocTilt],
    *,
    image_file: str,
    size_px: tuple[int, int],
    pixel_nm: float,
    voltage_kv: float,
) -> str:
    """The text of the file; `size_px` is `(x, y)`.

    SerialEM counts underfocus as negative, doses in e/A^2 and the tilt axis from the
    image's y axis.
    """
    axis = tilts[0].axis_deg - 90 if tilts else 0.0
    lines = [
        "DataMode = 2",
        f"ImageSize = {size_px[0]} {size_px[1]}",
        f"ImageFile = {image_file}",
        f"PixelSpacing = {10 * pixel_nm:.6g}",
        f"Voltage = {voltage_kv:g}",
        "",
        f"[T =     Tilt axis angle = {axis:.2f}, binning = 1  spot = 1  camera = 0]",
    ]
    for index, tilt in enumerate(tilts):
        lines += ["", f"[ZValue = {index}]", *_section(tilt, pixel_nm)]
    return "\n".join([*lines, ""])


def _section(tilt: MdocTilt, pixel_nm: float) -> list[str]:
    least, largest, mean = tilt.least_largest_mean
    values = {
        "TiltAngle": f"{tilt.tilt_deg:.4f}",
        "StagePosition": f"{tilt.stage_um[0]:.5f} {tilt.stage_um[1]:.5f}",
        "PixelSpacing": f"{10 * pixel_nm:.6g}",
        "ExposureDose": f"{tilt.dose_e_per_nm2 / 100:.5f}",
        "PriorRecordDose": f"{tilt.prior_dose_e_per_nm2 / 100:.5f}",
        "Defocus": f"{-tilt.underfocus_nm / 1000:.5f}",
        "TargetDefocus": f"{-tilt.target_underfocus_nm / 1000:.5f}",
        "RotationAngle": f"{tilt.axis_deg:.2f}",
        "ImageShift": f"{tilt.image_shift_um[0]:.6f} {tilt.image_shift_um[1]:.6f}",
        "ExposureTime": f"{tilt.exposure_s:.4f}",
        "DateTime": f"{tilt.taken_at:%d-%b-%Y  %H:%M:%S}",
        "MinMaxMean": f"{least:.6g} {largest:.6g} {mean:.6g}",
    }
    if tilt.frames:
        values["SubFramePath"] = tilt.frames
        values["NumSubFrames"] = str(tilt.frame_count)
    return [f"{name} = {value}" for name, value in values.items()]
