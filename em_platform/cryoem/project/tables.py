"""The tables of a job: a row for each micrograph, tilt, tomogram or particle.

A row is known by its first column, so that a message that comes twice changes it and
adds none. Names of columns are RELION's.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gemmi import cif

from em_platform.cryoem.methods.star_text import table, word
from em_platform.errors import FormatError
from em_platform.storage.atomic import write_bytes

Row = dict[str, str | float]


def optics_row(options: Mapping[str, Any], *, particles: int | None = None) -> Row:
    """The only optics group; of particles with their box."""
    pixel = float(options.get("pixel_size") or 1.0)
    scaled = float(options.get("pixel_size_downscaled") or pixel)
    row: Row = {
        "OpticsGroupName": "opticsGroup1",
        "OpticsGroup": 1,
        "MicrographOriginalPixelSize": pixel,
        "Voltage": float(options.get("voltage") or 300),
        "SphericalAberration": float(options.get("spher_aber") or 2.7),
        "AmplitudeContrast": float(options.get("ampl_contrast") or 0.1),
    }
    if particles is None:
        return row | {"MicrographPixelSize": scaled}
    return row | {
        "ImagePixelSize": scaled,
        "ImageSize": particles,
        "ImageDimensionality": 2,
        "CtfDataAreCtfPremultiplied": 0,
    }


def put_rows(
    path: Path, block: str, rows: Sequence[Row], *, optics: Row | None = None
) -> None:
    """Put rows into a table; those of the same first column are replaced.

    Raises
    ------
    FormatError
        What is there is no table.
    """
    columns, known = _read(path, block)
    _write(path, block, columns, known, rows, optics)


def put_particles(
    path: Path, rows: Sequence[Row], *, stacks: set[str], optics: Row
) -> None:
    """Put particles of some stacks into a table; others of them are no more, and go.

    Raises
    ------
    FormatError
        What is there is no table.
    """
    names = {row["ImageName"] for row in rows}
    columns, known = _read(path, "particles")
    kept = {
        name: row
        for name, row in known.items()
        if name in names or stack_of(name) not in stacks
    }
    _write(path, "particles", columns, kept, rows, optics)


def _write(
    path: Path,
    block: str,
    columns: list[str],
    known: dict[str, dict[str, str]],
    rows: Sequence[Row],
    optics: Row | None,
) -> None:
    for row in rows:
        columns += [name for name in row if name not in columns]
        words = {name: word(value) for name, value in row.items()}
        key = next(iter(words.values()))
        known[key] = known.get(key, {}) | words
    lines = [[row.get(name, "None") for name in columns] for row in known.values()]
    text = "\n# version 30001\n\n"
    if optics is not None:
        values = [[word(each) for each in optics.values()]]
        text += table("optics", list(optics), values, prefix="_rln")
        text += "\n# version 30001\n\n"
    text += table(block, columns, lines, prefix="_rln")
    write_bytes(path, text.encode())


def stack_of(image_name: str | float) -> str:
    """The file of a particle's image."""
    return str(image_name).partition("@")[2]


def rows_of(path: Path, block: str) -> list[Row]:
    """The rows of a table as they stand; none where there is no such file.

    Raises
    ------
    FormatError
        It is no table.
    """
    _, known = _read(path, block)
    return [{k: cif.as_string(v) for k, v in row.items()} for row in known.values()]


def _read(path: Path, block: str) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Columns, and rows by the word of their first column; words stay quoted."""
    if not path.exists():
        return [], {}
    try:
        found = cif.read_file(str(path)).find_block(block)
        loop = next(item.loop for item in found if item.loop is not None)
    except (OSError, ValueError, RuntimeError, TypeError, StopIteration) as error:
        raise FormatError(
            f"project: {path} has no table {block} ({str(error)[:120]}), one was "
            "expected; move the file away, and the next message makes it anew"
        ) from error
    columns = [tag.removeprefix("_rln") for tag in loop.tags]
    values, width = list(loop.values), len(columns)
    starts: Iterable[int] = range(0, len(values), width)
    rows = [dict(zip(columns, values[i : i + width], strict=True)) for i in starts]
    return columns, {row[columns[0]]: row for row in rows}
