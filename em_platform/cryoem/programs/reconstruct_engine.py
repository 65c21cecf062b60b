"""The tomogram of an aligned tilt series by AreTomo or IMOD, laid out as our own.

Both write a volume slice by slice across the tilt axis: sections along y, rows along z.
At height z the specimen appears x cos(tilt) + z sin(tilt) from the axis, as built in.
AreTomo's rows rise with z (`GBackProj.cu` of AreTomo3); those of IMOD's tilt fall,
which is why it is turned about x and not flipped (`tilt.f90`, trimvol's option -rx).
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from em_platform.cryoem.alignment_files import (
    SeriesAlignment,
    tilt_lines,
    write_aln,
    write_angles,
    write_xf,
)
from em_platform.cryoem.movies import Movie, is_packed, open_movie
from em_platform.cryoem.programs import aretomo, imod
from em_platform.cryoem.programs.arguments import Parameters
from em_platform.cryoem.programs.run import Ran, run_program, scratch
from em_platform.cryoem.stage import ResultFields, report_progress
from em_platform.cryoem.tomogram_file import (
    make_room,
    write_header,
    write_slab,
)
from em_platform.errors import FormatError, ToolFailed
from em_platform.formats.mrc_stack import PartMark
from em_platform.storage import atomic

if TYPE_CHECKING:
    from em_platform.cryoem.methods.backprojection import Geometry

_SLAB_BYTES = 64 << 20


def run(
    parameters: Parameters,
    folder: Path,
    *,
    alignment: SeriesAlignment,
    geometry: "Geometry",
    aln: Path,
) -> ResultFields:
    """Write the tomogram; fields of the result that the program decides.

    Parameters
    ----------
    geometry
        The volume that is asked for, in binned pixels.
    aln
        The file of the alignment; one of AreTomo has local shifts, too.
    """
    name = parameters.stack_file.name.rpartition(".")[0]
    if is_packed(parameters.stack_file):
        raise FormatError(
            f"{parameters.stack_file}: it is gzipped, a plain MRC was expected for "
            f"{parameters.engine}; unpack it by gunzip"
        )
    tomogram, log = f"{name}_Vol.mrc", folder / f"{name}_Vol.log"
    pixel_size_a = parameters.pixel_size * parameters.out_bin
    with scratch(folder) as inside:
        stack = inside / f"{name}.mrc"
        stack.symlink_to(parameters.stack_file.absolute())
        if parameters.engine == "imod":
            ran, made = _by_imod(parameters, stack, alignment, geometry, log)
        else:
            ran, made = _by_aretomo(parameters, stack, alignment, geometry, aln, log)
        # A name of ours: the next step is to look the same.
        volume = made.rename(inside / "volume.mrc")
        falls = parameters.engine == "imod"
        shape = _turn(
            open_movie(volume),
            folder / tomogram,
            falls=falls,
            # AreTomo does it itself.
            factor=-1.0 if falls and parameters.flip_int else 1.0,
            pixel_size_a=pixel_size_a,
            program=ran.program,
        )
    return {
        "program": ran.program,
        "tomogram": tomogram,
        "size_x": shape[2],
        "size_y": shape[1],
        "size_z": shape[0],
        "pixel_size_a": pixel_size_a,
    }


def _by_aretomo(
    parameters: Parameters,
    stack: Path,
    alignment: SeriesAlignment,
    geometry: "Geometry",
    aln: Path,
    log: Path,
) -> tuple[Ran, Path]:
    beside = stack.with_suffix(".aln")
    count, height, width = open_movie(stack).shape
    if aln.suffix == ".aln":
        shutil.copyfile(aln, beside)
    else:
        write_aln(
            beside,
            alignment.images,
            shape=(count, height, width),
            excluded=alignment.excluded,
            offset_deg=alignment.offset_deg,
            thickness_px=alignment.thickness_px or 0.0,
        )
    angles = stack.with_name(f"{stack.stem}_TLT.txt")
    degrees = _angles(alignment, count)
    angles.write_text(aretomo.angles_file(degrees, order=[*range(1, count + 1)]))
    fields = parameters.model_dump() | {
        "stack_file": stack,
        "vol_z": geometry.shape[0] * parameters.out_bin,
        # None, not 0, is what AreTomo's own default stands for.
        "flip_int": 1 if parameters.flip_int else None,
        "align_file": beside,
        "extra_vol": None,
        "flip_vol": 0,
        "tilt_axis": f"{geometry.axis_deg:g}",
        "refine_flag": -1,  # the axis stays as it was found
        "tilt_cor": -1,  # so do the angles
    }
    volume = stack.with_name(f"{stack.stem}_Vol.mrc")
    if parameters.engine == "aretomo3":
        command = aretomo.aretomo3_command(fields, step=2)
    else:
        command = aretomo.aretomo2_command(fields, output=volume, angles=angles)
    ran = run_program(
        command,
        log=log,
        makes=[volume],
        folder=stack.parent,
        time_limit_s=parameters.time_limit_s,
    )
    return ran, volume


def _by_imod(
    parameters: Parameters,
    stack: Path,
    alignment: SeriesAlignment,
    geometry: "Geometry",
    log: Path,
) -> tuple[Ran, Path]:
    shape = open_movie(stack).shape
    name = stack.stem
    xf, aligned = stack.with_suffix(".xf"), stack.with_suffix(".ali")
    write_xf(xf, alignment.images, sections=shape[0])
    write_angles(stack.with_suffix(".tlt"), _angles(alignment, shape[0]))
    there = {image.section for image in alignment.images}
    lines = tilt_lines(
        name=name,
        shape=shape,
        thickness_px=geometry.shape[0] * parameters.out_bin,
        excluded=[section for section in range(shape[0]) if section not in there],
        binning=parameters.out_bin,
        radial=(parameters.cutoff, parameters.falloff),
    )
    command = imod.newstack_command(
        stack,
        aligned,
        xf=xf,
        binning=parameters.out_bin,
        size=(geometry.shape[2], geometry.shape[1]),
    )
    limit = parameters.time_limit_s
    volume = stack.with_suffix(".rec")
    ran = run_program(
        command, log=log, makes=[aligned], folder=stack.parent, time_limit_s=limit
    )
    ran = run_program(
        imod.tilt_command(),
        log=log,
        makes=[volume],
        answers="\n".join(lines) + "\n",
        folder=stack.parent,
        time_limit_s=limit,
    )
    return ran, volume


def _angles(alignment: SeriesAlignment, count: int) -> list[float]:
    """One for each section of the stack; of one that nobody knows its neighbours'."""
    known = {image.section: image.angle_deg for image in alignment.images}
    known |= dict(alignment.excluded)
    sections = sorted(known)
    degrees = [known[section] for section in sections]
    return [float(angle) for angle in np.interp(range(count), sections, degrees)]


def _turn(
    volume: Movie,
    path: Path,
    *,
    falls: bool,
    factor: float,
    pixel_size_a: float,
    program: str,
) -> tuple[int, int, int]:
    """Write a volume `(y, z, x)` as `(z, y, x)`, some y at a time; its shape."""
    height, deep, width = volume.shape
    shape = deep, height, width
    rows = max(1, _SLAB_BYTES // (4 * deep * width))
    marks: list[PartMark] = []
    with atomic.whole_file(path) as own:
        make_room(own, shape)
        for first in range(0, height, rows):
            last = min(first + rows, height)
            slab = np.empty((deep, last - first, width), np.float32)
            for y in range(first, last):
                section = np.asarray(volume.frame(y), np.float32) * factor
                slab[:, y - first] = section[::-1] if falls else section
            if not np.isfinite(slab).all():
                raise ToolFailed(
                    f"{program}: it wrote voxels that are no numbers (NaN or "
                    "infinite), grey levels were expected; look at the tilt series"
                )
            marks.append(write_slab(own, shape, first, slab))
            report_progress("turn", last, height)
        write_header(own, shape, marks, pixel_size_a=pixel_size_a)
    return shape
