"""The CTF of a micrograph by CTFFIND, with the result of our own."""

from pathlib import Path
from typing import Any

from em_platform.cryoem.programs.ctffind import (
    PROGRAMS,
    ctffind_answers,
    fits_of_table,
    ice_ring_density,
)
from em_platform.cryoem.programs.run import run_program

_DEG = 57.29577951308232


def fit_ctf(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The fields of the stage's result; `ctffind_version` chooses the program.

    Raises
    ------
    ToolMissing
        It is not installed.
    ToolFailed
        It failed, did not end in time, or wrote nothing.
    FormatError
        What it wrote cannot be read.
    """
    image = Path(fields["input_image"]).absolute()
    stem = Path(fields["output_image"] or image).name.removesuffix(".gz")
    stem = stem.rpartition(".")[0] or stem
    diagnostic = folder / f"{stem}_ctf.mrc"
    table = diagnostic.with_suffix(".txt")
    profile = folder / f"{stem}_ctf_avrot.txt"
    own = {**fields, "input_image": str(image), "output_image": str(diagnostic)}
    run_program(
        [PROGRAMS[fields["ctffind_version"]]],
        log=folder / f"{stem}_ctffind4.log",  # upstream's name, of either version
        makes=[diagnostic, table],
        # Its last answer needs its newline, too.
        answers=ctffind_answers(own) + "\n",
        folder=folder,
        time_limit_s=fields["time_limit_s"],
    )
    fit = fits_of_table(table)[-1]
    return {
        "defocus_u_a": fit.defocus_u,
        "defocus_v_a": fit.defocus_v,
        "astigmatism_deg": fit.azimuth,
        "astigmatism_a": fit.defocus_u - fit.defocus_v,
        "phase_shift_deg": fit.phase_shift * _DEG,
        "fit_resolution_a": fit.resolution,
        "score": fit.score,
        "ice_ring_density": ice_ring_density(profile) if profile.is_file() else None,
        "pixel_size_a": fields["pixel_size"],
        "box_px": fields["ampl_spectrum"],
        "diagnostic": diagnostic.name,
        "picture": "",
        "table": table.name,
        "profile": profile.name if profile.is_file() else "",
    }
