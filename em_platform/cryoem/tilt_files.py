"""What is written of an aligned tilt series: stack, alignment files, STAR, plot."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from em_platform.cryoem.alignment_files import (
    AlignedImage,
    write_aln,
    write_angles,
    write_tilt_com,
    write_xf,
)
from em_platform.cryoem.halves import half_paths, needed_halves
from em_platform.cryoem.image_files import write_json, write_star
from em_platform.cryoem.stage import StageResult
from em_platform.cryoem.tilt_series import Images, TiltSeries
from em_platform.formats.mrc_stack import MrcStack
from em_platform.model import JsonObject, Model
from em_platform.storage import atomic

if TYPE_CHECKING:
    from em_platform.cryoem.image_files import StarBlock

_THIN = 4


class AlignedTilt(Model):
    """One image that counts; as IMOD and AreTomo count angles and shifts."""

    section: int  # of the stack, from 0
    angle_deg: float
    dx_px: float
    dy_px: float
    rotation_deg: float
    correlation: float | None  # None: the program does not say
    residual_px: float | None  # nor an image that shows nothing to measure it by
    pre_exposure: float | None
    x_shift_a: float | None
    y_shift_a: float | None


class LeftOut(Model):
    """One image that does not count, and why."""

    section: int
    angle_deg: float
    reason: str


def left_out(series: TiltSeries, reasons: Mapping[int, str]) -> tuple[LeftOut, ...]:
    """The images of a series that do not count, by the reason for each."""
    return tuple(
        LeftOut(
            section=series.section_of(i),
            angle_deg=round(series.images[i].angle_deg, 4),
            reason=reason,
        )
        for i, reason in sorted(reasons.items())
    )


class AlignedSeries(StageResult):
    """The alignment; `stack` is the one aligned, in this folder or where it was."""

    stack: str
    even: str | None = None
    odd: str | None = None
    """Stacks of its halves, where they were asked for."""
    tilts: tuple[AlignedTilt, ...]
    excluded: tuple[LeftOut, ...]
    specimen: Literal["film", "rod"]
    rotation_deg: float
    tilt_offset_deg: float  # used, or with --tilt-cor 0 only found
    tilt_offset_error_deg: float | None = None
    tilt_offset: str = ""
    """How the built-in engine found it, or why it uses none."""
    thickness_px: float | None  # None where the series does not say
    thickness_a: float | None
    thickness_error_a: float | None = None
    residual_px: float | None
    alignment_quality: float | None
    """Mean correlation of an image with its prediction; of AreTomo, its score."""
    pixel_size_a: float | None
    xf: str
    tlt: str
    aln: str
    tilt_com: str
    star: str
    plot: str


def file_names(name: str) -> dict[str, str]:
    """What the files of a series are called, by the fields of the result."""
    return {
        "xf": f"{name}.xf",
        "tlt": f"{name}.tlt",
        "aln": f"{name}.aln",
        "tilt_com": "tilt.com",
        "star": f"{name}_aligned.star",
        "plot": f"{name}_xy_shift_plot.json",
    }


def stack_of(
    series: TiltSeries, images: Images, folder: Path, *, pixel_size: float | None
) -> str:
    """The stack of a series; of images in several files one is written first.

    Raises
    ------
    StorageError
        It could not be written.
    """
    first = series.images[0]
    if first.section is not None:
        return str(first.file.absolute())
    name = _stack_name(series)
    _write_stack(folder / name, series, images, pixel_size)
    orders = [
        i if each.order is None else each.order for i, each in enumerate(series.images)
    ]
    lines = [
        f"{each.angle_deg:g}  {order + 1}"
        for each, order in zip(series.images, orders, strict=True)
    ]
    angles = folder / f"{Path(name).stem}_TLT.txt"
    atomic.write_bytes(angles, ("\n".join(lines) + "\n").encode())
    return name


def half_stacks(
    series: TiltSeries, folder: Path, *, pixel_size: float | None
) -> dict[str, str]:
    """The stacks of `even` and `odd` of a series, as `stack_of` has that of both.

    Raises
    ------
    FormatError
        An image, or the stack that is there, has no halves beside it.
    StorageError
        One could not be written.
    """
    first = series.images[0]
    if first.section is not None:
        there = needed_halves(first.file.absolute())
        return {half: str(path) for half, path in there.items()}
    halves = [needed_halves(each.file) for each in series.images]
    made = half_paths(folder / _stack_name(series))
    for half, path in made.items():
        files = zip(series.images, halves, strict=True)
        own = [replace(image, file=each[half]) for image, each in files]
        alone = replace(series, images=tuple(own))
        _write_stack(path, alone, Images(alone), pixel_size)
    return {half: path.name for half, path in made.items()}


def _stack_name(series: TiltSeries) -> str:
    return f"{series.name.removesuffix('_stack')}_stack.mrc"


def _write_stack(
    path: Path, series: TiltSeries, images: Images, pixel_size: float | None
) -> None:
    shape = len(series.images), *images.shape
    pixel_nm = (pixel_size or series.pixel_size_a or 10.0) / 10
    with (
        atomic.whole_file(path) as own,
        MrcStack(own, shape, pixel_nm=pixel_nm) as stack,
    ):
        stack.finish([stack.write(i, images(i)) for i in range(shape[0])])


def write_files(
    folder: Path, result: AlignedSeries, *, name: str, shape: tuple[int, int, int]
) -> None:
    """Write the files that the result names; `shape` is that of the stack.

    Raises
    ------
    StorageError
        One could not be written.
    """
    images = [
        AlignedImage(
            section=tilt.section,
            angle_deg=tilt.angle_deg,
            dx_px=tilt.dx_px,
            dy_px=tilt.dy_px,
            rotation_deg=tilt.rotation_deg,
        )
        for tilt in result.tilts
    ]
    sections = shape[0]
    stated = {tilt.section: tilt.angle_deg for tilt in result.tilts}
    stated |= {each.section: each.angle_deg for each in result.excluded}
    # A stack with older images of the same angle has more sections.
    angles = [stated.get(i, 0.0) for i in range(max(sections, max(stated) + 1))]
    sections = len(angles)
    excluded = [(each.section, each.angle_deg) for each in result.excluded]
    # Where nobody knows, a common share of the image.
    thickness_px = result.thickness_px or min(shape[1:]) / _THIN
    write_xf(folder / result.xf, images, sections=sections)
    write_angles(folder / result.tlt, angles)
    write_aln(
        folder / result.aln,
        images,
        shape=(sections, *shape[1:]),
        excluded=excluded,
        offset_deg=result.tilt_offset_deg,
        thickness_px=result.thickness_px,
    )
    write_tilt_com(
        folder / result.tilt_com,
        name=name,
        shape=shape,
        thickness_px=thickness_px,
        excluded=[section for section, _ in excluded],
    )
    write_star(folder / result.star, {name: _star_table(result)})
    write_json(folder / result.plot, _plot(result))


def _star_table(result: AlignedSeries) -> "StarBlock":
    """Rows of RELION 5's tilt series star (cryoem-services write the same columns)."""
    import pandas as pd

    rows = []
    for tilt in result.tilts:
        row: dict[str, object] = {
            "rlnMicrographName": f"{tilt.section + 1:06d}@{result.stack}",
            "rlnTomoXTilt": 0.0,
            "rlnTomoYTilt": tilt.angle_deg,
            "rlnTomoZRot": tilt.rotation_deg,
            "rlnTomoNominalStageTiltAngle": tilt.angle_deg,
            "rlnTomoNominalTiltAxisAngle": tilt.rotation_deg,
        }
        if tilt.x_shift_a is not None:
            row["rlnTomoXShiftAngst"] = tilt.x_shift_a
            row["rlnTomoYShiftAngst"] = tilt.y_shift_a
        if tilt.pre_exposure is not None:
            row["rlnMicrographPreExposure"] = tilt.pre_exposure
        rows.append(row)
    return pd.DataFrame(rows)


def _plot(result: AlignedSeries) -> JsonObject:
    """Shifts by image, as cryoem-services plot them."""
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": axis,
                "x": [tilt.angle_deg for tilt in result.tilts],
                "y": [getattr(tilt, field) for tilt in result.tilts],
            }
            for axis, field in (("x", "dx_px"), ("y", "dy_px"))
        ],
        "layout": {
            "title": {"text": "Shift of the specimen"},
            "xaxis": {"title": {"text": "tilt (deg)"}},
            "yaxis": {"title": {"text": "shift (px)"}},
        },
    }
