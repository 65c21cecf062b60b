"""Particles sorted into 2-D classes by RELION, with the files that it writes.

The command is that of cryo-EM services' Class2D by expectation maximisation, in one
process; RELION from 3.1 knows it.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from em_platform.cryoem.methods.averages2d import Average
from em_platform.cryoem.methods.class_files import class_picture
from em_platform.cryoem.methods.mapped_mrc import mapped_volume
from em_platform.cryoem.methods.particle_star import (
    Particles,
    read_particles,
    star_of,
)
from em_platform.cryoem.methods.star_text import word
from em_platform.cryoem.programs.arguments import Fields, Parameters, flagged
from em_platform.cryoem.programs.run import run_program, scratch
from em_platform.cryoem.stage import ResultFields
from em_platform.errors import FormatError
from em_platform.storage import atomic

# In the order of upstream's parameters, which is that of its commands.
_SEARCH = {
    "oversampling": "--oversampling",
    "psi_step": "--psi_step",
    "offset_range": "--offset_range",
    "offset_step": "--offset_step",
}
_RUN = {
    "seed": "--random_seed",
    "threads": "--j",
    "gpus": "--gpu",
    "class2d_nr_iter": "--iter",
}


def class2d_command(fields: Fields, *, star: Path, start: Path) -> list[str]:
    """The command of `relion_refine`; the files that it makes begin with `start`."""
    words = ["relion_refine", "--i", str(star), "--o", str(start)]
    words += ["--particle_diameter", f"{fields['mask_a']:g}"]
    words += ["--dont_combine_weights_via_disc", "--preread_images"]
    words += ["--pool", "100", "--pad", "2"]
    if fields["do_ctf"]:
        words.append("--ctf")
    words += ["--tau2_fudge", f"{fields['tau_fudge']:g}"]
    words += ["--K", str(fields["class2d_nr_classes"])]
    words += ["--flatten_solvent", "--zero_mask", *flagged(fields, _SEARCH)]
    return [*words, "--norm", "--scale", *flagged(fields, _RUN)]


def run(
    parameters: Parameters,
    folder: Path,
    *,
    tables: list[Particles],
    classes: int,
    mask_a: float,
) -> ResultFields:
    """The fields of the stage's result; numbers of classes are RELION's.

    Parameters
    ----------
    tables
        The particles, sorted together.
    mask_a
        Diameter of the mask, in Å.
    """
    last = f"run_it{parameters.class2d_nr_iter:03d}"
    ends = ("_classes.mrcs", "_data.star", "_model.star")
    has_ctf = all(table.defocus_a is not None for table in tables)
    with scratch(folder) as inside:
        star = inside / "particles.star"
        star.write_bytes(_joined(tables))
        fields = parameters.model_dump() | {
            "mask_a": mask_a,
            "class2d_nr_classes": classes,
            "do_ctf": parameters.do_ctf and has_ctf,
        }
        made = [inside / f"{last}{end}" for end in ends]
        ran = run_program(
            class2d_command(fields, star=star, start=inside / "run"),
            log=folder / "run.log",
            makes=made,
            folder=inside,
            time_limit_s=parameters.time_limit_s,
        )
        for path in made:
            path.replace(folder / path.name)
    stack, data, model = (folder / path.name for path in made)
    averages = _averages(stack, data, model)
    total = sum(each.particles for each in averages)
    by_size = sorted(enumerate(averages, 1), key=lambda each: -each[1].particles)
    atomic.write_bytes(folder / "classes.jpeg", class_picture(averages))
    return {
        "program": ran.program,
        "particles": total,
        "classes": tuple(
            {
                "number": number,
                "particles": each.particles,
                "share": each.particles / total,
                "resolution_a": each.resolution_a,
            }
            for number, each in by_size
            if each.particles
        ),
        "averages": stack.name,
        "data_star": data.name,
        "model_star": model.name,
        "picture": "classes.jpeg",
    }


def _joined(tables: list[Particles]) -> bytes:
    """One table, whose images are found from anywhere."""
    first = tables[0].columns
    shared = [
        name for name in first if all(name in table.columns for table in tables[1:])
    ]
    rows = []
    for table in tables:
        at = {name: place for place, name in enumerate(table.columns)}
        for (number, stack), row in zip(table.images, table.rows, strict=True):
            kept = [row[at[name]] for name in shared]
            image = f"{number + 1:06d}@{stack.absolute()}"
            kept[shared.index("ImageName")] = word(image)
            rows.append(kept)
    return star_of(shared, rows, optics=tables[0].optics)


def _averages(stack: Path, data: Path, model: Path) -> list[Average]:
    """The average of each class in RELION's order, with its particles.

    Raises
    ------
    FormatError
        A file is not as RELION writes it, or they do not belong together.
    """
    table = read_particles(data)
    images, _ = mapped_volume(stack)
    try:
        place = table.columns.index("ClassNumber")
        sizes = Counter(int(row[place]) for row in table.rows)
        resolutions = _resolutions(model)
        return [
            Average(
                image=np.asarray(image, np.float32),
                # RELION's word for none is infinite, or 999.
                resolution_a=found if 0 < found < 999 else None,
                particles=sizes[number],
            )
            for number, (image, found) in enumerate(
                zip(images, resolutions, strict=True), 1
            )
        ]
    except ValueError as error:
        raise FormatError(
            f"RELION: {data.name} and {model.name} cannot be read ({error}), classes "
            f"of all particles were expected; see run.log"
        ) from error


def _resolutions(model: Path) -> list[float]:
    from gemmi import cif

    block = cif.read_file(str(model)).find_block("model_classes")
    if block is None:
        raise ValueError("there is no table model_classes")
    return [float(each) for each in block.find_loop("_rlnEstimatedResolution")]
