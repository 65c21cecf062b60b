"""CTFFIND 4 and 5: the answers to their questions, and what they print and write."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from em_platform.cryoem.programs.arguments import Fields
from em_platform.errors import FormatError

PROGRAMS = {4: "ctffind", 5: "ctffind5"}
"""Version -> its name on PATH."""

_QUESTIONS = (
    *("input_image", "output_image", "pixel_size", "voltage", "spher_aber"),
    *("ampl_contrast", "ampl_spectrum", "min_res", "max_res"),
    *("min_defocus", "max_defocus", "defocus_step"),
    *("astigmatism_known", "slow_search", "astigmatism_restrain"),
    "additional_phase_shift",
)
_OF_THICKNESS = (
    *("brute_force_1d", "refinement_2d", "node_low_res", "node_high_res"),
    *("node_rounded_square", "node_downweight"),
)
# Ice's first ring is at 1/3.7 per Å; upstream sums the spectrum there.
_ICE = (0.25, 0.28)
# CTFFIND's `_avrot.txt` has six lines for each image; of these are frequency and sum.
_FREQUENCY, _SPECTRUM = 0, 1


@dataclass(frozen=True, kw_only=True)
class CtffindFit:
    """One image's fit; defoci and resolution in Å, angles in degrees."""

    defocus_u: float
    defocus_v: float
    azimuth: float
    score: float
    resolution: float
    phase_shift: float = 0.0
    """Additional, in radians."""


def ctffind_answers(fields: Fields) -> str:
    """What goes to CTFFIND's standard input, a line for each question."""
    names = [*_QUESTIONS]
    if fields.get("ctffind_version", 4) == 5:
        names += ["determine_tilt", "determine_thickness"]
        if str(fields["determine_thickness"]).lower() == "yes":
            names += _OF_THICKNESS
    return "\n".join(str(fields[name]) for name in [*names, "expert_options"])


def fit_of_output(output: str) -> CtffindFit:
    """The fit, from what CTFFIND prints.

    Raises
    ------
    FormatError
        A number is missing.
    """
    places = {
        "defocus_u": ("Estimated defocus values", 4),
        "defocus_v": ("Estimated defocus values", 6),
        "azimuth": ("Estimated azimuth", 4),
        "score": ("Score", 2),
        "resolution": ("Thon rings", 8),
    }
    found: dict[str, float] = {}
    for line in output.splitlines():
        for name, (begin, place) in places.items():
            if line.startswith(begin):
                try:
                    found[name] = float(line.split()[place])
                except (IndexError, ValueError):
                    continue  # reported below, as missing
    if missing := sorted(places.keys() - found.keys()):
        raise FormatError(
            f"CTFFIND: no {', '.join(missing)} was found in what it printed, the lines "
            "of a fit were expected; see its log"
        )
    return CtffindFit(**found)


def fits_of_table(path: Path) -> list[CtffindFit]:
    """The fit of each image, from CTFFIND's `.txt`.

    Raises
    ------
    FormatError
        It has no lines of seven numbers.
    """
    try:
        lines = path.read_text().splitlines()
        rows = [
            [float(word) for word in line.split()[:7]]
            for line in lines
            if line.strip() and not line.startswith("#")
        ]
        fits = [
            CtffindFit(
                defocus_u=u, defocus_v=v, azimuth=azimuth, phase_shift=phase,
                score=score, resolution=resolution,
            )
            for _, u, v, azimuth, phase, score, resolution in rows
        ]  # fmt: skip
    except (OSError, ValueError) as error:
        raise FormatError(
            f"CTFFIND: {path} cannot be read ({error}), lines of seven numbers were "
            "expected; run the fit again"
        ) from error
    if not fits:
        raise FormatError(
            f"CTFFIND: {path} has no fit, a line of seven numbers was expected; run "
            "the fit again"
        )
    return fits


def ice_ring_density(path: Path) -> float:
    """The summed rotational average where ice has its ring, from `_avrot.txt`.

    Raises
    ------
    FormatError
        It has no such table.
    """
    try:
        rows = [
            np.array(line.split(), float)
            for line in path.read_text().splitlines()
            if line.strip() and not line.startswith("#")
        ]
        frequency, spectrum = rows[_FREQUENCY], rows[_SPECTRUM]
        ring = (frequency > _ICE[0]) & (frequency < _ICE[1])
        return float(np.abs(spectrum[ring]).sum())
    except (OSError, ValueError, IndexError) as error:
        raise FormatError(
            f"CTFFIND: {path} cannot be read ({error}), lines of frequencies and of "
            "their mean power were expected; run the fit again"
        ) from error
