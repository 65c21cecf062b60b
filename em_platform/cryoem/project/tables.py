"""The tables of a job: a row for each micrograph, tilt, tomogram or particle.

A row is known by its first column, so that a message that comes twice changes it and
adds none. Names of columns are RELION's.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gemmi import cif

from em_platform.cryoem.methods.star_text import table, word
from em_platform.cryoem.optics import optics_of
from em_platform.cryoem.project.growing import (
    Index,
    add_lines,
    fits,
    read_index,
    write_table,
)
from em_platform.cryoem.stage import RelionOptions
from em_platform.errors import FormatError, RecordError

Row = dict[str, str | float]


def microscope(options: RelionOptions) -> Row:
    """The columns of what all optics of a project have."""
    found = optics_of(options)
    return {
        "Voltage": found.voltage,
        "SphericalAberration": found.spher_aber,
        "AmplitudeContrast": found.ampl_contrast,
    }


@contextmanager
def plain_numbers() -> Iterator[None]:
    """Let a value of a report that is no number, or is not there, be one sentence.

    Raises
    ------
    RecordError
        One is such.
    """
    try:
        yield
    except (TypeError, ValueError, OverflowError, KeyError) as error:
        raise RecordError(
            f"project: a value of relion_options or results is no number "
            f"({str(error)[:120]}), one was expected; correct the message"
        ) from error


@plain_numbers()
def optics_row(options: RelionOptions, *, particles: int | None = None) -> Row:
    """The only optics group; of particles with their box."""
    pixel = float(options.get("pixel_size") or 1.0)
    scaled = float(options.get("pixel_size_downscaled") or pixel)
    row: Row = {
        "OpticsGroupName": "opticsGroup1",
        "OpticsGroup": 1,
        "MicrographOriginalPixelSize": pixel,
        **microscope(options),
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
    StorageError
        It could not be written.
    """
    table = _Table(path=path, block=block, optics=optics, group_of=str)
    _put(table, rows, groups={cif.as_string(_key(row)) for row in rows})


def put_particles(
    path: Path, rows: Sequence[Row], *, stacks: set[str], optics: Row
) -> None:
    """Put particles of some stacks into a table; others of them are no more, and go.

    Raises
    ------
    FormatError
        What is there is no table.
    StorageError
        It could not be written.
    """
    table = _Table(path=path, block="particles", optics=optics, group_of=stack_of)
    _put(table, rows, groups=stacks, drop_others=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a table has of some stacks."""

    total: int
    """Rows of the whole table."""
    first_stack: str
    """The stack of the first row; empty where there is none."""
    images: tuple[tuple[int, str], ...]
    """Number of the row, from 0, and name of each image of these stacks."""


def list_particles(path: Path, stacks: set[str]) -> Listing:
    """Find the particles of some stacks in a table.

    Raises
    ------
    FormatError
        What is there is no table.
    """
    if (index := read_index(path)) is not None:
        found = []
        for run in (run for stack in stacks for run in index.runs(stack)):
            text = "\n".join((index.head.decode(), *index.lines(run)))
            _, known = _rows(cif.read_string(text), "particles")
            names = [cif.as_string(row["ImageName"]) for row in known.values()]
            found += list(enumerate(names, run.first))
        last = index.last
        return Listing(
            total=last.first + last.lines,
            first_stack=index.first_group,
            images=tuple(sorted(found)),
        )
    names = [str(row["ImageName"]) for row in rows_of(path, "particles")]
    return Listing(
        total=len(names),
        first_stack=stack_of(names[0]) if names else "",
        images=tuple(
            (n, name) for n, name in enumerate(names) if stack_of(name) in stacks
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """A file with one table, and by what its rows belong together."""

    path: Path
    block: str
    optics: Row | None
    group_of: Callable[[str], str]
    """From the first column: what comes and goes with one message."""

    def head(self, columns: Sequence[str]) -> str:
        """What stands before the rows."""
        text = "\n# version 30001\n\n"
        if self.optics is not None:
            values = [[word(each) for each in self.optics.values()]]
            text += table("optics", list(self.optics), values, prefix="_rln")
            text += "\n# version 30001\n\n"
        # A table ends at an empty line, and this one is to grow.
        return text + table(self.block, columns, [], prefix="_rln").removesuffix("\n")


def _put(
    table: _Table, rows: Sequence[Row], *, groups: set[str], drop_others: bool = False
) -> None:
    new = {
        _key(row): {name: word(value) for name, value in row.items()} for row in rows
    }
    index = read_index(table.path)
    if index is not None and _added(table, index, new, groups):
        return
    columns, known = _read(table.path, table.block)
    if drop_others:
        known = {
            key: row
            for key, row in known.items()
            if key in new or table.group_of(cif.as_string(key)) not in groups
        }
    for key, row in new.items():
        columns += [name for name in row if name not in columns]
        known[key] = known.get(key, {}) | row
    lines = [
        (table.group_of(cif.as_string(key)), _line(row, columns))
        for key, row in known.items()
    ]
    write_table(table.path, table.head(columns), columns, lines)


def _added(
    table: _Table, index: Index, new: Mapping[str, dict[str, str]], groups: set[str]
) -> bool:
    """Put rows at the end of a table that has none of their groups, or all as they are.

    False, and nothing done, where that is not all that is to change.
    """
    columns = index.columns
    is_known = all(row.keys() <= set(columns) for row in new.values())
    if not is_known or table.head(columns).encode() != index.head:
        return False
    lines = [
        (table.group_of(cif.as_string(key)), _line(row, columns))
        for key, row in new.items()
    ]
    fresh: list[tuple[str, str]] = []
    for group in sorted(groups.union(its for its, _ in lines)):
        mine = [line for its, line in lines if its == group]
        there = [line for run in index.runs(group) for line in index.lines(run)]
        if there and there != mine:
            return False
        if not there:
            fresh += [(group, line) for line in mine]
    if not fits(line for _, line in fresh):
        return False
    if fresh:
        add_lines(index, fresh)
    return True


def _key(row: Row) -> str:
    return word(next(iter(row.values())))


def _line(row: Mapping[str, str], columns: Sequence[str]) -> str:
    return " ".join(row.get(name, "None") for name in columns)


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
        return _rows(cif.read_file(str(path)), block)
    except (OSError, ValueError, RuntimeError, TypeError, StopIteration) as error:
        raise FormatError(
            f"project: {path} has no table {block} ({str(error)[:120]}), one was "
            "expected; move the file away, and the next message makes it anew"
        ) from error


def _rows(
    document: cif.Document, block: str
) -> tuple[list[str], dict[str, dict[str, str]]]:
    found = document.find_block(block)
    loop = next(item.loop for item in found if item.loop is not None)
    columns = [tag.removeprefix("_rln") for tag in loop.tags]
    values, width = list(loop.values), len(columns)
    starts: Iterable[int] = range(0, len(values), width)
    rows = [dict(zip(columns, values[i : i + width], strict=True)) for i in starts]
    return columns, {row[columns[0]]: row for row in rows}
