"""What a job of each type is called, where it stands, and what it writes for others.

Folders and labels: RELION's and pipeliner's (https://gitlab.com/ccpem/ccpem-pipeliner,
`data_structure.py`); numbers: RELION 3.1's `pipeline_jobs.h`.
"""

import fnmatch
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from em_platform.cryoem.project.pipeline import Dialect
from em_platform.errors import OutputRefused

# RELION counts jobs by numbers of 32 bits.
JOB = re.compile(
    r"(?P<project>.+)/(?P<folder>[^/]+)/job(?P<number>\d{1,6})(?:/(?P<rest>.+)|/?$)",
    re.ASCII,
)
"""A job of a project, or a file in it."""
NOTE = "em_platform_job.json"
"""In a job's folder: what of it stands in the pipeline, for making that anew."""
# RELION and doppio write one of these into each job.
_OF_OTHERS = ("job.star", "run.job")
_TOMO = "TomogramGroupMetadata.star.relion"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A table by which the next job takes what this one made."""

    star: str
    """Its name; with `*` of those that are not known beforehand."""
    label: str
    """Of its type; empty where only RELION 3.1 knows such a node."""
    number: int
    """Of its type in RELION 3.1."""

    @property
    def is_pattern(self) -> bool:
        """Whether the name stands for any number of tables."""
        return "*" in self.star

    def names(self, found: Iterable[str]) -> list[str]:
        """Its names, where a pattern stands for those of `found` that fit."""
        return fnmatch.filter(found, self.star) if self.is_pattern else [self.star]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobType:
    """One type of job; a kind of experiment without outputs has no such job."""

    folder: str
    number: int
    spa: tuple[Output, ...] = ()
    tomography: tuple[Output, ...] = ()

    def outputs(self, experiment_type: str) -> tuple[Output, ...]:
        """Of a job of that kind of experiment, the usual one first."""
        return self.tomography if experiment_type == "tomography" else self.spa


def _tomo(star: str) -> tuple[Output]:
    # RELION 3.1 has no such node: 1, micrographs, is what comes nearest.
    return (Output(star=star, label=_TOMO, number=1),)


EXTERNAL_31 = 99
"""Of all that RELION 3.1 has no type of."""
_PARTICLES = "ParticleGroupMetadata.star.relion"
_PICKS_31 = "coords_suffix_autopick.star"

JOB_TYPES: dict[str, JobType] = {
    "relion.import.movies": JobType(
        folder="Import",
        number=0,
        spa=(
            Output(
                star="movies.star",
                label="MicrographMovieGroupMetadata.star.relion",
                number=0,
            ),
        ),
    ),
    "relion.importtomo": JobType(
        folder="Import", number=0, tomography=_tomo("tilt_series.star")
    ),
    **dict.fromkeys(
        ("relion.motioncorr.own", "relion.motioncorr.motioncor2"),
        JobType(
            folder="MotionCorr",
            number=1,
            spa=(
                Output(
                    star="corrected_micrographs.star",
                    label="MicrographGroupMetadata.star.relion.motioncorr",
                    number=1,
                ),
            ),
            tomography=_tomo("corrected_tilt_series.star"),
        ),
    ),
    **dict.fromkeys(
        ("relion.motioncorr.tomo.own", "relion.motioncorr.tomo.motioncor2"),
        JobType(
            folder="MotionCorr",
            number=1,
            tomography=_tomo("corrected_tilt_series.star"),
        ),
    ),
    "relion.ctffind.ctffind4": JobType(
        folder="CtfFind",
        number=2,
        spa=(
            Output(
                star="micrographs_ctf.star",
                label="MicrographGroupMetadata.star.relion.ctf",
                number=1,
            ),
        ),
        tomography=_tomo("tilt_series_ctf.star"),
    ),
    "relion.ctffind.tomo.ctffind4": JobType(
        folder="CtfFind", number=2, tomography=_tomo("tilt_series_ctf.star")
    ),
    **dict.fromkeys(
        ("cryolo.autopick", "relion.autopick.log", "relion.autopick.topaz.pick"),
        JobType(
            folder="AutoPick",
            number=4,
            spa=(
                Output(
                    star="autopick.star",
                    label="MicrographCoordsGroup.star.relion.autopick",
                    number=2,
                ),
            ),
        ),
    ),
    "relion.extract": JobType(
        folder="Extract",
        number=5,
        spa=(Output(star="particles.star", label=_PARTICLES, number=3),),
    ),
    "relion.select.split": JobType(
        folder="Select",
        number=7,
        spa=(Output(star="particles_split*.star", label=_PARTICLES, number=3),),
    ),
    **dict.fromkeys(
        ("relion.class2d.em", "relion.class2d.vdam"),
        JobType(
            folder="Class2D",
            number=8,
            spa=(
                Output(
                    star="run_it*_data.star", label=f"{_PARTICLES}.class2d", number=3
                ),
                # RELION from 4 selects classes by an optimiser file, 3.1 by this one.
                Output(star="run_it*_model.star", label="", number=8),
            ),
        ),
    ),
    "relion.excludetilts": JobType(
        folder="ExcludeTiltImages",
        number=EXTERNAL_31,
        tomography=_tomo("selected_tilt_series.star"),
    ),
    "relion.aligntiltseries.aretomo": JobType(
        folder="AlignTiltSeries",
        number=EXTERNAL_31,
        tomography=_tomo("aligned_tilt_series.star"),
    ),
    "relion.reconstructtomograms": JobType(
        folder="Tomograms", number=EXTERNAL_31, tomography=_tomo("tomograms.star")
    ),
    "relion.denoisetomo": JobType(
        folder="Denoise", number=EXTERNAL_31, tomography=_tomo("tomograms.star")
    ),
}
"""Label of a type -> what is known of it."""

_TOMO_TYPES = {
    "relion.motioncorr.own": "relion.motioncorr.tomo.own",
    "relion.motioncorr.motioncor2": "relion.motioncorr.tomo.motioncor2",
    "relion.ctffind.ctffind4": "relion.ctffind.tomo.ctffind4",
}


def type_of(job_type: str, experiment_type: str) -> str:
    """The label of a type; before 2026 a tilt series had that of single particles."""
    is_tomo = experiment_type == "tomography"
    return _TOMO_TYPES.get(job_type, job_type) if is_tomo else job_type


_STATUS: dict[Dialect, tuple[str, str]] = {
    "labels": ("Failed", "Succeeded"),
    "relion31": ("3", "2"),
}


def check_job(job: Path, project: Path) -> None:
    """Refuse to write into the folder of a job that another program made, or elsewhere.

    Raises
    ------
    OutputRefused
        It is such a one, or a link leads out of the project.
    """
    check_inside(job, project)
    if not (job / NOTE).exists() and any((job / each).exists() for each in _OF_OTHERS):
        raise OutputRefused(
            f"project: {job} was made by another program, a job of ours or a new one "
            "was expected; give this job another number"
        )


def check_inside(path: Path, project: Path) -> None:
    """Refuse a path from which a link leads out of its project.

    Raises
    ------
    OutputRefused
        One does.
    """
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(project)):
        raise OutputRefused(
            f"project: a link at {path} leads out of {project}, a folder was expected; "
            "remove the link"
        )


def type_in(dialect: Dialect, label: str) -> str:
    """A job's type as the dialect writes it."""
    return label if dialect == "labels" else str(JOB_TYPES[label].number)


def nodes_in(
    dialect: Dialect, output: Output, found: Iterable[str]
) -> list[tuple[str, str]]:
    """Name and type of each node of an output; none where the dialect has no such.

    `found` are the tables of the job that a pattern may stand for.
    """
    if dialect == "labels":
        names = output.names(found) if output.label else []
        return [(name, output.label) for name in names]
    # There picks are known by a file that names the suffix of all their tables.
    names = [_PICKS_31] if output.star == "autopick.star" else output.names(found)
    return [(name, str(output.number)) for name in names]


def status_in(dialect: Dialect, *, success: bool) -> str:
    """A job's state as the dialect writes it."""
    return _STATUS[dialect][success]
