"""Tables of particles, as RELION 3.1 and later read and write them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gemmi import cif
from numpy.typing import NDArray

from em_platform.config.cryoem import AMPLITUDE_CONTRAST, CS_MM
from em_platform.cryoem.methods.star_text import table, word
from em_platform.errors import FormatError


@dataclass(frozen=True, slots=True, kw_only=True)
class OpticsGroup:
    """What all particles of an optics group share."""

    voltage_kv: float
    spherical_mm: float
    amplitude_contrast: float
    pixel_size_a: float
    box_px: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Particles:
    """Images, CTFs and the rows of a table of particles.

    Attributes
    ----------
    images
        `(number from 0, stack)` of each.
    defocus_a
        `(n, 3)`: larger and smaller defocus, Å, and the angle of the larger, deg;
        None where the table has none.
    phase_shift_deg
        `(n,)`.
    columns, rows
        As they stand, for a table with more columns.
    """

    images: tuple[tuple[int, Path], ...]
    defocus_a: NDArray[np.float64] | None
    phase_shift_deg: NDArray[np.float64]
    optics: OpticsGroup
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def particle_star(
    points: Iterable[tuple[float, float]],
    *,
    stack: str,
    optics: OpticsGroup,
    common: Mapping[str, str | float],
) -> bytes:
    """Blocks `optics` and `particles` of one micrograph; image names begin at 1."""
    columns = ["CoordinateX", "CoordinateY", "ImageName", "OpticsGroup", *common]
    rows = [
        [f"{x:.3f}", f"{y:.3f}", f"{number:06d}@{stack}", "1"]
        + [word(value) for value in common.values()]
        for number, (x, y) in enumerate(points, 1)
    ]
    return star_of(columns, rows, optics=optics)


def star_of(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, optics: OpticsGroup
) -> bytes:
    """The same blocks of rows that are texts already."""
    shared: dict[str, str | float] = {
        "OpticsGroupName": "opticsGroup1",
        "OpticsGroup": 1,
        "Voltage": optics.voltage_kv,
        "SphericalAberration": optics.spherical_mm,
        "AmplitudeContrast": optics.amplitude_contrast,
        "ImagePixelSize": optics.pixel_size_a,
        "ImageSize": optics.box_px,
        "ImageDimensionality": 2,
    }
    values = [[word(value) for value in shared.values()]]
    text = table("optics", [*shared], values, prefix="_rln")
    return (text + table("particles", columns, rows, prefix="_rln")).encode()


def read_particles(path: Path) -> Particles:
    """The particles of a STAR file with an optics table, or with its columns in each.

    Names of stacks are relative to the file's folder or to one above it, such as that
    of a RELION project.

    Raises
    ------
    FormatError
        There is no such file, or it lacks a column.
    """
    try:
        document = cif.read(str(path))
        found = _read(path, document)
    except (OSError, ValueError, RuntimeError, IndexError) as error:
        raise FormatError(
            f"{path}: cannot be read as particles ({error}); name a particles.star"
        ) from error
    return found


def _read(path: Path, document: cif.Document) -> Particles:
    block = next((b for b in document if len(b.find_loop("_rlnImageName"))), None)
    if block is None:
        raise FormatError(
            f"{path}: found no particles, the column rlnImageName with at least one "
            "row was expected; pick with a lower threshold or name another file"
        )
    columns = tuple(
        tag.removeprefix("_rln")
        for tag in block.find_loop("_rlnImageName").get_loop().tags
    )
    loop = block.find_loop("_rlnImageName").get_loop()
    width = len(columns)
    values = list(loop.values)
    rows = tuple(tuple(values[i : i + width]) for i in range(0, len(values), width))
    place = {name: number for number, name in enumerate(columns)}
    names = [row[place["ImageName"]].partition("@") for row in rows]
    folders: dict[str, Path] = {}
    for _, _, name in names:
        if name not in folders:
            folders[name] = _beside(path, name)

    def column(name: str) -> NDArray[np.float64] | None:
        if name not in place:
            return None
        return np.array([float(row[place[name]]) for row in rows])

    parts = [column(name) for name in ("DefocusU", "DefocusV", "DefocusAngle")]
    known = [part for part in parts if part is not None]
    phase = column("PhaseShift")
    return Particles(
        images=tuple((int(number) - 1, folders[name]) for number, _, name in names),
        defocus_a=np.stack(known, axis=1) if len(known) == len(parts) else None,
        phase_shift_deg=np.zeros(len(rows)) if phase is None else phase,
        optics=_optics(path, document, block),
        columns=columns,
        rows=rows,
    )


def _beside(path: Path, name: str) -> Path:
    for folder in path.absolute().parents:
        if (folder / name).is_file():
            return folder / name
    raise FormatError(
        f"{path}: found no stack {name} beside it or in a folder above, the particles' "
        "images were expected; put it there"
    )


def _optics(path: Path, document: cif.Document, block: cif.Block) -> OpticsGroup:
    def value(name: str, default: float | None = None) -> float:
        for each in (*document, block):
            if len(column := each.find_loop(f"_rln{name}")):
                return float(column[0])
        if default is None:
            raise FormatError(
                f"{path}: found no rln{name}, a table of optics was expected; give a "
                "file of RELION 3.1 or later"
            )
        return default

    return OpticsGroup(
        voltage_kv=value("Voltage", 300),
        spherical_mm=value("SphericalAberration", CS_MM),
        amplitude_contrast=value("AmplitudeContrast", AMPLITUDE_CONTRAST),
        pixel_size_a=value("ImagePixelSize"),
        box_px=int(value("ImageSize", 0)),
    )
