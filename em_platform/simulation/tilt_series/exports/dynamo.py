"""Tables and volume lists for Dynamo, and a motive list for novaSTA, AV3 and STOPGAP.

Formats: Dynamo's wiki on tables (columns) and on .doc volume tables; the motive list of
AV3 (Förster et al., PNAS 102, 4729 (2005)) in an EM file (Hegerl, J. Struct. Biol. 116,
30 (1996)). Both count voxels from 1.
"""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from em_platform.simulation.tilt_series.exports.finished import (
    Finished,
    classes,
    corner_px,
)
from em_platform.simulation.tilt_series.exports.project import Entry, lines
from em_platform.simulation.tilt_series.truth import zxz_deg

_COLUMNS = 35
_MOTL_ROWS = 20
_EM_PC, _EM_FLOAT = 6, 5


def dynamo(stacks: Sequence[Finished], target: Path) -> dict[str, Entry]:
    """One table of all particles, and the tomograms by their numbers.

    The tomograms are not made here: `tomograms.doc` names them as `NAME_rec.mrc`, as
    IMOD does.
    """
    rows, tag = [], 0
    for each in stacks:
        kinds = classes(each)
        least, most = (
            extreme(tilt.nominal_deg for tilt in each.truth.tilts)
            for extreme in (min, max)
        )
        for particle in each.particles():
            tag += 1
            phi, theta, psi = zxz_deg(particle.turn).tolist()
            row = np.zeros(_COLUMNS)
            row[[0, 1, 2]] = tag, 1, 1
            # Its angles turn the particle back to the reference.
            row[[6, 7, 8]] = _upright(-psi, -theta, -phi)
            row[[12, 13, 14]] = 1, least, most
            row[[19, 21]] = each.number, kinds[particle.name]
            row[23:26] = corner_px(particle, each) + 1
            row[30] = tag
            rows.append(" ".join(f"{value:.7g}" for value in row.tolist()))
    names = [f"{each.number} {each.name}_rec.mrc" for each in stacks]
    return {"particles.tbl": lines(rows), "tomograms.doc": lines(names)}


def motl(stacks: Sequence[Finished], target: Path) -> dict[str, Entry]:
    """A motive list of each stack and one of all, 20 numbers a particle."""
    found: dict[str, Entry] = {}
    all_rows = []
    for each in stacks:
        kinds = classes(each)
        rows = []
        for number, particle in enumerate(each.particles(), 1):
            phi, theta, psi = zxz_deg(particle.turn).tolist()
            row = np.zeros(_MOTL_ROWS, np.float32)
            row[[0, 3, 4]] = 1, number, each.number
            row[7:10] = corner_px(particle, each) + 1
            row[[16, 17, 18, 19]] = phi, psi, theta, kinds[particle.name]
            rows.append(row)
        found[f"motl_{each.name}.em"] = em_file(rows)
        all_rows += rows
    return {**found, "motl_all.em": em_file(all_rows)}


def em_file(rows: Sequence[np.ndarray]) -> bytes:
    """An EM file of a table: 512 bytes, then its numbers, the fields fastest."""
    header = bytearray(512)
    header[0], header[3] = _EM_PC, _EM_FLOAT
    struct.pack_into("<3i", header, 4, _MOTL_ROWS, len(rows), 1)
    table = np.asarray(rows, "<f4").reshape(len(rows), _MOTL_ROWS)
    return bytes(header) + table.tobytes()


def _upright(tdrot: float, tilt: float, narot: float) -> tuple[float, float, float]:
    """The same rotation with a tilt of 0 to 180 degrees, as Dynamo writes it."""
    if tilt < 0:
        tdrot, tilt, narot = tdrot + 180, -tilt, narot + 180
    return _around(tdrot), tilt, _around(narot)


def _around(angle_deg: float) -> float:
    return (angle_deg + 180) % 360 - 180
