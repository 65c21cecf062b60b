"""What a job of each type is called, where it stands, and what it writes for others.

Folders and labels: RELION's and pipeliner's (https://gitlab.com/ccpem/ccpem-pipeliner,
`data_structure.py`); numbers: RELION 3.1's `pipeline_jobs.h`.
"""

from dataclasses import dataclass

from em_platform.cryoem.project.pipeline import Dialect

_TOMO = "TomogramGroupMetadata.star.relion"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """The table by which the next job takes what this one made."""

    star: str
    label: str
    number: int
    """Of its type in RELION 3.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobType:
    """One type of job; a kind of experiment without an output has no such job."""

    folder: str
    number: int
    spa: Output | None = None
    tomography: Output | None = None

    def output(self, experiment_type: str) -> Output | None:
        """Of a job of that kind of experiment."""
        return self.tomography if experiment_type == "tomography" else self.spa


def _tomo(star: str) -> Output:
    # RELION 3.1 has no such node: 1, micrographs, is what comes nearest.
    return Output(star=star, label=_TOMO, number=1)


_MOVIES = Output(
    star="movies.star", label="MicrographMovieGroupMetadata.star.relion", number=0
)
_CORRECTED = Output(
    star="corrected_micrographs.star",
    label="MicrographGroupMetadata.star.relion.motioncorr",
    number=1,
)
_FITTED = Output(
    star="micrographs_ctf.star",
    label="MicrographGroupMetadata.star.relion.ctf",
    number=1,
)
_PICKED = Output(
    star="autopick.star",
    label="MicrographCoordsGroup.star.relion.autopick",
    number=2,
)
_PARTICLES = Output(
    star="particles.star", label="ParticleGroupMetadata.star.relion", number=3
)

JOB_TYPES: dict[str, JobType] = {
    "relion.import.movies": JobType(folder="Import", number=0, spa=_MOVIES),
    "relion.importtomo": JobType(
        folder="Import", number=0, tomography=_tomo("tilt_series.star")
    ),
    **dict.fromkeys(
        ("relion.motioncorr.own", "relion.motioncorr.motioncor2"),
        JobType(
            folder="MotionCorr",
            number=1,
            spa=_CORRECTED,
            tomography=_tomo("corrected_tilt_series.star"),
        ),
    ),
    "relion.ctffind.ctffind4": JobType(
        folder="CtfFind",
        number=2,
        spa=_FITTED,
        tomography=_tomo("tilt_series_ctf.star"),
    ),
    **dict.fromkeys(
        ("cryolo.autopick", "relion.autopick.log", "relion.autopick.topaz.pick"),
        JobType(folder="AutoPick", number=4, spa=_PICKED),
    ),
    "relion.extract": JobType(folder="Extract", number=5, spa=_PARTICLES),
    "relion.select.split": JobType(folder="Select", number=7, spa=_PARTICLES),
    **dict.fromkeys(
        ("relion.class2d.em", "relion.class2d.vdam"),
        JobType(folder="Class2D", number=8, spa=_PARTICLES),
    ),
    "relion.excludetilts": JobType(
        folder="ExcludeTiltImages",
        number=21,
        tomography=_tomo("selected_tilt_series.star"),
    ),
    "relion.aligntiltseries.aretomo": JobType(
        folder="AlignTiltSeries",
        number=21,
        tomography=_tomo("aligned_tilt_series.star"),
    ),
    "relion.reconstructtomograms": JobType(
        folder="Tomograms", number=21, tomography=_tomo("tomograms.star")
    ),
    "relion.denoisetomo": JobType(
        folder="Denoise", number=21, tomography=_tomo("tomograms.star")
    ),
}
"""Label of a type -> what is known of it; 21 is RELION 3.1's External."""

_STATUS: dict[Dialect, tuple[str, str]] = {
    "labels": ("Failed", "Succeeded"),
    "relion31": ("3", "2"),
}
_STAR_31 = {"autopick.star": "coords_suffix_autopick.star"}


def type_in(dialect: Dialect, label: str) -> str:
    """A job's type as the dialect writes it."""
    return label if dialect == "labels" else str(JOB_TYPES[label].number)


def node_in(dialect: Dialect, output: Output) -> tuple[str, str]:
    """The name and the type of a job's output as the dialect writes them."""
    if dialect == "labels":
        return output.star, output.label
    # There picks are known by a file that names the suffix of all their tables.
    return _STAR_31.get(output.star, output.star), str(output.number)


def status_in(dialect: Dialect, *, success: bool) -> str:
    """A job's state as the dialect writes it."""
    return _STATUS[dialect][success]
