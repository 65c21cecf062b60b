"""Debian's RELION 3.1.3 continues a project that we wrote: AutoPick, Extract, Class2D.

`python -m benchmarks.relion_project [FOLDER]`: particles of two views in synthetic
micrographs of known CTF; RELION picks, cuts and classifies them on top of our jobs
Import, MotionCorr and CtfFind. Needs `apt-get install relion`; about a minute.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mrcfile
import numpy as np

from em_platform.cryoem.project import JobReport, record_job
from em_platform.cryoem.project.pipeline import PIPELINE, read_pipeline

PIXEL_A, SIZE, RADIUS_A = 4.0, 768, 60.0
MICROGRAPHS, PARTICLES = 3, 40
JOBS = (
    (
        "AutoPick",
        {
            "Input micrographs for autopick:": "CtfFind/job003/micrographs_ctf.star",
            "OR: use Laplacian-of-Gaussian?": "Yes",
            "Min. diameter for LoG filter (A)": "100",
            "Max. diameter for LoG filter (A)": "140",
        },
    ),
    (
        "Extract",
        {
            "micrograph STAR file: ": "CtfFind/job003/micrographs_ctf.star",
            "Input coordinates: ": "AutoPick/job004/coords_suffix_autopick.star",
            "Particle box size (pix):": "64",
            "Rescale particles?": "No",
        },
    ),
    (
        "Class2D",
        {
            "Input images STAR file:": "Extract/job005/particles.star",
            "Number of classes:": "2",
            "Number of iterations:": "5",
            "Mask diameter (A):": "160",
            "Do CTF-correction?": "No",
            "Number of threads:": "2",
            "Number of MPI procs:": "1",
        },
    ),
)
"""Type, and options by RELION's own labels, whose blanks at the end count."""


def micrograph(rng: np.random.Generator) -> np.ndarray:
    """`(SIZE, SIZE)`: dark rings and discs on noise, none touching another."""
    image = rng.normal(size=(SIZE, SIZE)).astype(np.float32)
    y, x = np.mgrid[-24:24, -24:24]
    radius = np.hypot(y, x) * PIXEL_A
    views = (radius < RADIUS_A, (radius < RADIUS_A) & (radius > RADIUS_A / 2))
    places = [
        (r, c) for r in range(60, SIZE - 60, 90) for c in range(60, SIZE - 60, 90)
    ]
    for number, place in enumerate(rng.permutation(places)[:PARTICLES]):
        row, column = place + rng.integers(-8, 9, 2)
        image[row - 24 : row + 24, column - 24 : column + 24] -= 1.5 * views[number % 2]
    return image


def write_project(project: Path) -> None:
    """Import, MotionCorr and CtfFind of our own, with their images."""
    rng = np.random.default_rng(3)
    options = {"pixel_size": PIXEL_A, "voltage": 300, "dose_per_frame": 1.0}
    fit = {"defocus_u": 15000, "defocus_v": 15000, "astigmatism_angle": 0}
    motion = {"total_motion": 3.0, "early_motion": 2.0, "late_motion": 1.0}
    for number in range(MICROGRAPHS):
        names = ("Import/job001", "MotionCorr/job002", "CtfFind/job003")
        movie, image, ctf = (
            project / folder / f"Movies/m{number}{suffix}"
            for folder, suffix in zip(names, (".tiff", ".mrc", ".ctf"), strict=True)
        )
        for path in (image, ctf):
            path.parent.mkdir(parents=True, exist_ok=True)
            with mrcfile.new(path, data=micrograph(rng), overwrite=True) as file:
                file.voxel_size = PIXEL_A
        for job_type, taken, made, results in (
            ("relion.import.movies", f"/raw/m{number}.tiff", movie, {}),
            ("relion.motioncorr.own", movie, image, motion),
            (
                "relion.ctffind.ctffind4",
                image,
                ctf,
                {**fit, "cc_value": 0.1, "resolution": 4.0},
            ),
        ):
            report = JobReport(
                job_type=job_type,
                input_file=str(taken),
                output_file=str(made),
                relion_options=options,
                results=results,
            )
            record_job(report, dialect="relion31")


def continue_by_relion(project: Path) -> None:
    """Run RELION's own jobs in the project, one after the other."""
    for number, (kind, options) in enumerate(JOBS, 4):
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
    particles = (project / "Extract/job005/particles.star").read_text()
    found = sum("@Extract" in line for line in particles.splitlines())
    print(f"{found} particles of {MICROGRAPHS * PARTICLES}")
    classes = sorted(project.glob("Class2D/job006/run_it005_classes.mrcs"))
    return (
        all(each.status == "2" for each in pipeline.processes.values())
        and ("CtfFind/job003/micrographs_ctf.star", "AutoPick/job004/") in edges
        and found > MICROGRAPHS * PARTICLES / 2
        and len(classes) == 1
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    given = parser.parse_args()
    if shutil.which("relion_pipeliner") is None:
        sys.exit("relion_pipeliner is not installed: apt-get install relion")
    folder = given.folder or Path(tempfile.mkdtemp(prefix="relion-project-"))
    write_project(folder)
    continue_by_relion(folder)
    if not judged(folder):
        sys.exit("RELION did not continue the project")


if __name__ == "__main__":
    main()
