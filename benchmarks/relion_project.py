"""RELION 3.1.3 continues a project that we wrote, from picks and from a selection.

`python -m benchmarks.relion_project [FOLDER]`: the demo's session of single particles
is processed and recorded as Dagster does it, to Class2D; then Debian's RELION picks the
micrographs once more, cuts our picks, and classifies our selection. Needs
`apt-get install relion`; two minutes. With `--dialect labels` the project is only
written, for other judges: `pip install ccpem-pipeliner`, its ProjectGraph.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import starfile

from em_platform.cli.demo_sessions import particle_plan, write_particle_session
from em_platform.config import load_settings
from em_platform.cryoem.project.pipeline import PIPELINE, read_pipeline
from em_platform.cryoem.services.local import place_of
from em_platform.cryoem.sessions.processing import open_sessions
from em_platform.cryoem.sessions.records import (
    project_of,
    record_classes,
    record_movie,
)

MOVIES, SESSION = 3, "particles"
PLAN = particle_plan()
OURS = ("Import", "MotionCorr", "CtfFind", "AutoPick", "Extract", "Select", "Class2D")
JOBS = (
    (
        "AutoPick",
        {
            "Input micrographs for autopick:": "CtfFind/job003/micrographs_ctf.star",
            "OR: use Laplacian-of-Gaussian?": "Yes",
            "Min. diameter for LoG filter (A)": "120",
            "Max. diameter for LoG filter (A)": "180",
        },
    ),
    (
        "Extract",
        {
            "micrograph STAR file: ": "CtfFind/job003/micrographs_ctf.star",
            "Input coordinates: ": "AutoPick/job004/coords_suffix_autopick.star",
            "Particle box size (pix):": "52",
            "Rescale particles?": "No",
        },
    ),
    (
        "Class2D",
        {
            "Input images STAR file:": "Select/job006/particles_split1.star",
            "Number of classes:": "4",
            "Number of iterations:": "5",
            "Mask diameter (A):": "165",
            "Do CTF-correction?": "Yes",
            "Number of threads:": "2",
            "Number of MPI procs:": "1",
        },
    ),
)
"""Type, and options by RELION's own labels, whose blanks at the end count."""


def write_project(home: Path, dialect: str) -> Path:
    """The project of a session, with jobs of our own from Import to Class2D."""
    own = {
        "HOME": str(home),
        "CRYOEM__SETTLE_S": "0",
        "CRYOEM__PROJECT_DIALECT": dialect,
    }
    os.environ.update({f"EM_{name}": value for name, value in own.items()})
    write_particle_session(home / "cryoem" / SESSION, PLAN, movies=MOVIES)
    settings = load_settings()
    place = place_of(settings)
    with open_sessions(settings) as sessions:
        sessions.look(time.time() + 1)
        keys = [movie.key for movie in sessions.ledger.movies(SESSION)]
        for key in keys:
            for step in (
                *(sessions.correct, sessions.fit_ctf, sessions.pick, sessions.extract),
            ):
                step(key)
            record_movie(sessions, key, place)
        sessions.classify(SESSION)
        record_classes(sessions, SESSION, place)
        place.close()
        return project_of(sessions, SESSION)


def continue_by_relion(project: Path) -> None:
    """Run RELION's own jobs in the project, one after the other."""
    for number, (kind, options) in enumerate(JOBS, len(OURS) + 1):
        joined = ";".join(f"{name} == {value}" for name, value in options.items())
        for arguments in (
            ("--addJob", kind, "--addJobOptions", joined),
            ("--RunJobs", f"{kind}/job{number:03}/", "--sec_wait_after", "0"),
        ):
            began = time.monotonic()
            ran = subprocess.run(
                ("relion_pipeliner", *arguments),
                cwd=project,
                capture_output=True,
                text=True,
                check=False,
                timeout=600,
                env={**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1"},
            )
            if ran.returncode != 0:
                sys.exit(f"{kind}: {ran.stdout[-2000:]}{ran.stderr[-2000:]}")
        print(f"{kind}: {time.monotonic() - began:.1f} s")


def judged(project: Path) -> bool:
    """Whether RELION finished its jobs on top of ours, and took our tables."""
    pipeline = read_pipeline(project / PIPELINE)
    assert pipeline is not None
    for process in pipeline.processes.values():
        print(process.name, process.type, process.status)
    edges = [*pipeline.inputs]
    print(*edges, sep="\n")
    # Our picks, cut by RELION, and our selection, classified by it.
    ours = starfile.read(project / "Select/job006/particles_split1.star")["particles"]
    cut = starfile.read(project / "Extract/job009/particles.star")["particles"]
    sorted_ = starfile.read(project / "Class2D/job010/run_it005_data.star")["particles"]
    print(f"{len(ours)} particles of ours, {len(cut)} cut, {len(sorted_)} classified")
    return (
        all(each.status == "2" for each in pipeline.processes.values())
        and ("CtfFind/job003/micrographs_ctf.star", "AutoPick/job008/") in edges
        and ("AutoPick/job004/coords_suffix_autopick.star", "Extract/job009/") in edges
        and ("Select/job006/particles_split1.star", "Class2D/job010/") in edges
        and len(ours) == len(cut) == len(sorted_) >= MOVIES * PLAN.particles
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--dialect", choices=("relion31", "labels"), default="relion31")
    given = parser.parse_args()
    continues = given.dialect == "relion31"
    if continues and shutil.which("relion_pipeliner") is None:
        sys.exit("relion_pipeliner is not installed: apt-get install relion")
    folder = given.folder or Path(tempfile.mkdtemp(prefix="relion-project-"))
    project = write_project(folder.absolute(), given.dialect)
    print(project)
    if continues:
        continue_by_relion(project)
        if not judged(project):
            sys.exit("RELION did not continue the project")


if __name__ == "__main__":
    main()
