"""The alignment of a tilt series by AreTomo or IMOD, with the files of our own.

A program gets a stack of just the images that count, by rising angle. It makes no
tomogram of its own: that is another stage.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from em_platform.cryoem.alignment_files import (
    SeriesAlignment,
    read_alignment,
    write_angles,
)
from em_platform.cryoem.programs import aretomo, imod
from em_platform.cryoem.programs.arguments import Parameters
from em_platform.cryoem.programs.run import Ran, log_place, run_program, scratch
from em_platform.cryoem.tilt_files import (
    AlignedSeries,
    AlignedTilt,
    file_names,
    left_out,
    stack_of,
    write_files,
)
from em_platform.cryoem.tilt_series import Images, TiltSeries
from em_platform.errors import ConfigError, ToolFailed
from em_platform.formats.mrc_stack import MrcStack
from em_platform.storage import atomic

_SUFFIXES = (".mrc", ".st")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What a program has found; sections are those of its own stack."""

    ran: Ran
    alignment: SeriesAlignment
    quality: float | None = None
    residual_px: float | None = None


def run(parameters: Parameters, folder: Path, *, series: TiltSeries) -> AlignedSeries:
    """Write the files of the stage; what a program does not say is None."""
    images = Images(series)
    pixel = parameters.pixel_size or series.pixel_size_a
    if pixel is None:
        raise ConfigError(
            f"{parameters.stack_file}: no pixel size stands in its header, which "
            f"{parameters.engine} needs; give it by --pixel-size-a"
        )
    parameters = parameters.model_copy(update={"pixel_size": pixel})
    count = len(series.images)
    by_user = [
        i for i in range(count) if series.section_of(i) + 1 in parameters.exclude
    ]
    kept = [i for i in range(count) if i not in by_user]
    with scratch(folder) as inside:
        stack = inside / f"{series.name}.mrc"
        is_same = _write_stack(stack, series, images, kept)
        log = folder / f"{series.name}_align.log"
        by = _by_imod if parameters.engine == "imod" else _by_aretomo
        found = by(parameters, series, stack, kept, log)
        aln = stack.with_suffix(".aln")
        own = aln.read_bytes() if is_same and aln.is_file() else None
    if found.alignment.images[-1].section >= len(kept):
        raise ToolFailed(
            f"{found.ran.program}: it aligned an image "
            f"{found.alignment.images[-1].section + 1}, {len(kept)} images were given "
            f"to it; see {log_place(log)}"
        )
    reasons = dict.fromkeys(by_user, "excluded by the user")
    seen = {kept[image.section] for image in found.alignment.images}
    for i in {*kept} - seen:
        reasons[i] = f"left out by {found.ran.program}"
    named = stack_of(series, images, folder, pixel_size=pixel)
    result = _result(series, found, kept, reasons, stack=named, pixel_a=pixel)
    write_files(folder, result, name=series.name, shape=(count, *images.shape))
    if own is not None:
        # With its local shifts, which our own has no place for.
        atomic.write_bytes(folder / result.aln, own)
    return result


def _result(
    series: TiltSeries,
    found: _Found,
    kept: Sequence[int],
    reasons: Mapping[int, str],
    *,
    stack: str,
    pixel_a: float,
) -> AlignedSeries:
    tilts = []
    for image in found.alignment.images:
        i = kept[image.section]
        before = series.images[i].pre_exposure
        tilts.append(
            AlignedTilt(
                section=series.section_of(i),
                angle_deg=round(image.angle_deg, 4),
                dx_px=round(image.dx_px, 3),
                dy_px=round(image.dy_px, 3),
                rotation_deg=round(image.rotation_deg, 4),
                correlation=None,
                residual_px=None,
                pre_exposure=None if before is None else round(before, 4),
                x_shift_a=round(image.dx_px * pixel_a, 3),
                y_shift_a=round(image.dy_px * pixel_a, 3),
            )
        )
    axes = [image.rotation_deg for image in found.alignment.images]
    thickness = found.alignment.thickness_px
    return AlignedSeries(
        program=found.ran.program,
        stack=stack,
        tilts=tuple(tilts),
        excluded=left_out(series, reasons),
        specimen="film",
        rotation_deg=round(float(np.median(axes)), 4),
        tilt_offset_deg=found.alignment.offset_deg,
        thickness_px=thickness,
        thickness_a=None if thickness is None else round(thickness * pixel_a, 1),
        residual_px=found.residual_px,
        alignment_quality=found.quality,
        pixel_size_a=pixel_a,
        **file_names(series.name),
    )


def _by_aretomo(
    parameters: Parameters,
    series: TiltSeries,
    stack: Path,
    kept: Sequence[int],
    log: Path,
) -> _Found:
    images = [series.images[i] for i in kept]
    orders = [i if each.order is None else each.order for i, each in enumerate(images)]
    is_new = parameters.engine == "aretomo3"
    angles = stack.with_name(f"{stack.stem}_TLT.txt")
    angles.write_text(
        aretomo.angles_file(
            [each.angle_deg for each in images],
            # Of those that are left: AreTomo adds up their doses.
            order=[1 + sorted(orders).index(order) for order in orders],
            offset=(parameters.manual_tilt_offset or 0.0) if is_new else 0.0,
        )
    )
    fields = parameters.model_dump() | {
        "stack_file": stack,
        "vol_z": 0,
    }
    if is_new:
        command = aretomo.aretomo3_command(fields)
    else:
        output = stack.with_name(f"{stack.stem}_ali.mrc")
        command = aretomo.aretomo2_command(fields, output=output, angles=angles)
    aln = stack.with_suffix(".aln")
    ran = run_program(
        command,
        log=log,
        makes=[aln],
        folder=stack.parent,
        time_limit_s=parameters.time_limit_s,
    )
    printed = aretomo.output_of(ran.output)
    return _Found(
        ran=ran, alignment=read_alignment(aln), quality=printed.alignment_quality
    )


def _by_imod(
    parameters: Parameters,
    series: TiltSeries,
    stack: Path,
    kept: Sequence[int],
    log: Path,
) -> _Found:
    angles = [series.images[i].angle_deg for i in kept]
    offset = parameters.manual_tilt_offset or 0.0
    write_angles(stack.with_suffix(".rawtlt"), [angle + offset for angle in angles])
    directive = stack.with_name("batchDirective.adoc")
    directive.write_text(
        imod.patch_tracking(
            stack,
            shape=Images(series).shape,
            pixel_size_a=parameters.pixel_size or 0.0,
            axis_deg=parameters.tilt_axis,
        )
    )
    xf = stack.with_suffix(".xf")
    ran = run_program(
        imod.batchruntomo_command(
            directive, cpus=len(os.sched_getaffinity(0)), only_align=True
        ),
        log=log,
        makes=[xf, stack.with_suffix(".tlt")],
        folder=stack.parent,
        time_limit_s=parameters.time_limit_s,
    )
    printed = stack.with_name("align.log")
    text = printed.read_text(errors="replace") if printed.is_file() else ""
    with log.open("a") as file:
        file.write(text)
    return _Found(
        ran=ran, alignment=read_alignment(xf), residual_px=imod.residual_of(text)
    )


def _write_stack(
    path: Path, series: TiltSeries, images: Images, kept: Sequence[int]
) -> bool:
    """The stack for the program; whether it is that of the series as it stands."""
    first = series.images[0].file
    sections = [series.images[i].section for i in kept]
    is_same = (
        first.suffix in _SUFFIXES
        and sections == list(range(len(series.images)))
        and {each.file for each in series.images} == {first}
        and not series.replaced
    )
    if is_same:
        path.symlink_to(first.absolute())
        return True
    shape = len(kept), *images.shape
    pixel_nm = (series.pixel_size_a or 10.0) / 10
    with MrcStack(path, shape, pixel_nm=pixel_nm) as stack:
        stack.finish([stack.write(place, images(i)) for place, i in enumerate(kept)])
    # That of several files is written by the stage in the same order.
    return len(kept) == len(series.images) and None in sections
