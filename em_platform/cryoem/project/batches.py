"""Particles of many micrographs in tables of so many each: `particles_splitN.star`.

Names and order are those of cryoem-services' SelectParticles. Particles that come twice
stand where they stood, so a message may come again.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from em_platform.cryoem.project.jobs import check_job
from em_platform.cryoem.project.lock import project_lock
from em_platform.cryoem.project.rows import particle_rows
from em_platform.cryoem.project.tables import (
    Row,
    list_particles,
    optics_row,
    put_particles,
    stack_of,
)
from em_platform.cryoem.stage import RelionOptions

_NUMBER = re.compile(r"particles_split(\d+)\.star")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """Where the particles of a micrograph came to stand."""

    folder: Path
    last: int
    """Number of the batch that is being filled; 0 where there is none."""
    full: tuple[int, ...]
    """Batches after which the next one begins with one of these particles."""
    before: int
    after: int
    """Particles of the last batch up to the first of these, and to the last one."""

    def table(self, number: int) -> Path:
        """The file of a batch."""
        return table_of(self.folder, number)


def table_of(folder: Path, number: int) -> Path:
    """The file of a batch in the folder of its job."""
    return folder / f"particles_split{number}.star"


def batch_number(table: Path) -> int:
    """The number of a batch by its file; 1 where that has another name."""
    found = _NUMBER.fullmatch(table.name)
    return int(found[1]) if found else 1


def add_to_batches(
    extracted: Path,
    *,
    project: Path,
    folder: Path,
    size: int,
    options: RelionOptions,
    box_px: int,
) -> Batches:
    """Put the particles of a micrograph into batches; what was full stays as it is.

    Parameters
    ----------
    extracted
        Their table, within the project.
    folder
        Of the job that selects.
    size
        Particles of a batch.

    Raises
    ------
    FormatError
        A table cannot be read.
    OutputRefused
        The job is another program's, or elsewhere.
    OutputBusy
        Another program has the project all the time (retryable).
    """
    rows = particle_rows(extracted, project)
    stacks = {stack_of(row["ImageName"]) for row in rows}
    optics = optics_row(options, particles=box_px)
    check_job(folder, project)
    folder.mkdir(parents=True, exist_ok=True)
    with project_lock(project):
        numbers = sorted(map(batch_number, folder.glob("particles_split*.star")))
        there = {n: list_particles(table_of(folder, n), stacks) for n in numbers}
        # Those that have some of them already, from an earlier message.
        wanted: dict[int, list[Row]] = {
            number: [] for number, listing in there.items() if listing.images
        }
        place = {
            name: number
            for number, listing in there.items()
            for _, name in listing.images
        }
        last = numbers[-1] if numbers else 0
        room = size - there[last].total if last else 0
        for row in rows:
            if (at := place.get(str(row["ImageName"]))) is None:
                if room <= 0:
                    last, room = last + 1, size
                at, room = last, room - 1
            wanted.setdefault(at, []).append(row)
        for number, some in wanted.items():
            table = table_of(folder, number)
            put_particles(table, some, stacks=stacks, optics=optics)
            there[number] = list_particles(table, stacks)
    begun = [n for n in wanted if n > 1 and there[n].first_stack in stacks]
    mine = [at for at, _ in there[last].images] if last else []
    return Batches(
        folder=folder,
        last=last,
        full=tuple(number - 1 for number in sorted(begun)),
        before=mine[0] if mine else 0,
        after=mine[-1] + 1 if mine else 0,
    )
