"""What a micrograph costs the tables of a project, early and late in a session.

Our contenders are the same micrograph in projects of more and more particles: the ratio
to the first one is to stay near 1.
"""

import shutil
import sys
import tempfile
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.timing import arguments, finish, measure, report
from em_platform.cryoem.project import JobReport, record_job
from em_platform.cryoem.project.batches import add_to_batches, table_of
from em_platform.cryoem.project.tables import Row, optics_row, put_particles

PARTICLES = 300
"""Of a micrograph."""
BATCH = 50_000
OPTIONS = {"pixel_size": 1.0, "small_boxsize": 64}
OPTICS = optics_row(OPTIONS, particles=64)


def stack(number: int) -> str:
    return f"Extract/job005/Movies/FoilHole_{number:05}_fractions.mrcs"


def particles(number: int) -> list[Row]:
    """Those of one micrograph, with the columns of `extract`."""
    return [
        {
            "ImageName": f"{n:06}@{stack(number)}",
            **{"CoordinateX": 100.5 + n, "CoordinateY": 200.25 + n, "OpticsGroup": 1},
            **{"CtfMaxResolution": 4.5, "CtfFigureOfMerit": 0.123456},
            **{"DefocusU": 15000.5, "DefocusV": 14000.25, "DefocusAngle": 33.3},
            **{"CtfBfactor": 0, "CtfScalefactor": 1, "PhaseShift": 0},
            "MicrographName": f"MotionCorr/job002/Movies/FoilHole_{number:05}.mrc",
        }
        for n in range(1, PARTICLES + 1)
    ]


def fill(project: Path, micrographs: int) -> None:
    """The tables as they are after so many micrographs."""
    rows = [row for number in range(micrographs) for row in particles(number)]
    folder = project / "Select/job006"
    tables = {project / "Extract/job005/particles.star": rows}
    for number, begin in enumerate(range(0, len(rows), BATCH), 1):
        tables[table_of(folder, number)] = rows[begin : begin + BATCH]
    for path, some in tables.items():
        put_particles(path, some, stacks=set(), optics=OPTICS)


def add(project: Path, numbers: "count[int]") -> None:
    """One more micrograph: NodeCreator's report and SelectParticles."""
    number = next(numbers)
    extracted = (project / stack(number)).with_suffix(".star")
    put_particles(extracted, particles(number), stacks=set(), optics=OPTICS)
    taken = f"{project}/CtfFind/job003/Movies/FoilHole_{number:05}.ctf"
    done = JobReport(
        job_type="relion.extract",
        input_file=taken,
        output_file=str(extracted),
        relion_options=OPTIONS,
        command=f"em-platform cryoem extract FoilHole_{number:05}.mrc",
    )
    record_job(done)
    folder = project / "Select/job006"
    add_to_batches(
        extracted,
        project=project,
        folder=folder,
        size=BATCH,
        options=OPTIONS,
        box_px=64,
    )


def main() -> int:
    given = arguments(__doc__.splitlines()[0])
    sizes = (100, 300) if given.quick else (100, 300, 3300)
    with tempfile.TemporaryDirectory() as name:
        contenders = {}
        for micrographs in sizes:
            project = Path(name) / str(micrographs)
            fill(project, micrographs)
            label = f"behind {micrographs * PARTICLES} particles"
            contenders[label] = partial(add, project, count(micrographs))
        costs = measure(contenders, repeats=given.repeats)
        shutil.rmtree(name)
        Path(name).mkdir()
    title = f"a micrograph with {PARTICLES} particles into the project"
    return finish([report(title, costs)], path=given.json)


if __name__ == "__main__":
    sys.exit(main())
