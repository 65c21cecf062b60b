"""The CTF of a micrograph by CTFFIND, with the result of our own."""

from pathlib import Path

import PIL.Image

from em_platform.cryoem.methods.pictures import encoded, stretched
from em_platform.cryoem.movies import read_image
from em_platform.cryoem.programs.arguments import Parameters
from em_platform.cryoem.programs.ctffind import (
    PROGRAMS,
    ctffind_answers,
    fits_of_table,
    ice_ring_density,
)
from em_platform.cryoem.programs.run import run_program
from em_platform.cryoem.stage import ResultFields
from em_platform.storage import atomic

_DEG = 57.29577951308232


def run(parameters: Parameters, folder: Path) -> ResultFields:
    """The fields of the stage's result; its version is that of the parameters."""
    fields = parameters.model_dump()
    image = parameters.input_image.absolute()
    stem = (parameters.output_image or image).name.removesuffix(".gz")
    stem = stem.rpartition(".")[0] or stem
    diagnostic = folder / f"{stem}_ctf.mrc"
    table = diagnostic.with_suffix(".txt")
    profile = folder / f"{stem}_ctf_avrot.txt"
    own = {**fields, "input_image": str(image), "output_image": str(diagnostic)}
    ran = run_program(
        [PROGRAMS[parameters.ctffind_version]],
        log=folder / f"{stem}_ctffind4.log",  # upstream's name, of either version
        makes=[diagnostic, table],
        # Its last answer needs its newline, too.
        answers=ctffind_answers(own) + "\n",
        folder=folder,
        time_limit_s=parameters.time_limit_s,
    )
    fit = fits_of_table(table)[-1]
    picture = diagnostic.with_suffix(".png")
    levels = stretched(read_image(diagnostic), of=diagnostic)
    atomic.write_bytes(picture, encoded(PIL.Image.fromarray(levels), ".png"))
    return {
        "program": ran.program,
        "defocus_u_a": fit.defocus_u,
        "defocus_v_a": fit.defocus_v,
        "astigmatism_deg": fit.azimuth,
        "astigmatism_a": fit.defocus_u - fit.defocus_v,
        "phase_shift_deg": fit.phase_shift * _DEG,
        "fit_resolution_a": fit.resolution,
        "score": fit.score,
        "ice_ring_density": ice_ring_density(profile) if profile.is_file() else None,
        "pixel_size_a": parameters.pixel_size,
        "box_px": parameters.ampl_spectrum,
        "diagnostic": diagnostic.name,
        "picture": picture.name,
        "table": table.name,
        "profile": profile.name if profile.is_file() else "",
    }
