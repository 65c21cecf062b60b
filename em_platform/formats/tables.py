"""What files of tables hold: SerialEM's mdoc, STAR of RELION, `.cs` of cryoSPARC."""

from math import isfinite
from pathlib import Path
from typing import Any

from em_platform.errors import FormatError
from em_platform.formats.mdoc import parse_mdoc
from em_platform.formats.source import local_path, open_source, read_text
from em_platform.model import Model
from em_platform.model.volume import Tag

_KINDS = {".mdoc": "mdoc", ".star": "STAR", ".cs": "cryoSPARC"}
# Three million particles; gemmi holds them in memory.
_MOST_STAR_BYTES = 1 << 30
_NUMPY = b"\x93NUMPY"
# Of a `.cs`, whose header names a hundred columns; numpy reads it as an expression.
_MOST_HEADER = 1 << 16


class Table(Model):
    """One table of a file."""

    name: str
    rows: int
    columns: tuple[str, ...]


class TableFile(Model):
    """The tables of a file, and what else it states."""

    uri: str
    format: str
    tables: tuple[Table, ...]
    tags: dict[str, Tag]


def is_table_file(uri: str) -> bool:
    """Whether a file holds tables and no image, by its name."""
    return Path(uri).suffix.lower() in _KINDS


def inspect_tables(uri: str) -> TableFile:
    """The tables of a file; of large ones only what describes them is kept.

    Raises
    ------
    FormatError
        It cannot be read as what its name says.
    """
    kind = _KINDS[Path(uri).suffix.lower()]
    if kind == "mdoc":
        return _of_mdoc(uri)
    path = local_path(uri)
    if path is None:
        raise FormatError(
            f"{uri}: found the URL of a {kind} file, expected a file of this computer; "
            "download it",
            uri=uri,
        )
    source = open_source(uri)
    try:
        if kind == "STAR" and source.length > _MOST_STAR_BYTES:
            raise ValueError(f"it has more than {_MOST_STAR_BYTES} bytes")
        if kind == "cryoSPARC" and source.read(0, len(_NUMPY)) != _NUMPY:
            raise ValueError("it does not begin as an array of numpy")
        tables, tags = _of_star(path) if kind == "STAR" else _of_cs(path)
    except (OSError, ValueError, RuntimeError, EOFError) as error:
        raise FormatError(
            f"{uri}: cannot be read as a {kind} file "
            f"({str(error).splitlines()[0][:200]}), expected tables; copy it again",
            uri=uri,
        ) from error
    return TableFile(uri=uri, format=kind, tables=tuple(tables), tags=tags)


def _of_mdoc(uri: str) -> TableFile:
    mdoc = parse_mdoc(read_text(uri), uri)
    rows = [_stated(section) for section in mdoc.section_data]
    if not rows:
        raise FormatError(
            f"{uri}: found no image, expected an mdoc of SerialEM; copy it again from "
            "the microscope",
            uri=uri,
        )
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    table = Table(name="images", rows=len(rows), columns=columns)
    tags: dict[str, Tag] = {k: _tag(v) for k, v in _stated(mdoc.global_data).items()}
    titles = tuple(" ".join(str(each).split()) for each in mdoc.titles)
    if titles:
        tags["titles"] = titles
    if tilts := [row["TiltAngle"] for row in rows if "TiltAngle" in row]:
        tags["tilts"] = f"{min(tilts):g} to {max(tilts):g} degrees"
    return TableFile(uri=uri, format="mdoc", tables=(table,), tags=tags)


def _stated(part: Any) -> dict[str, Any]:
    return {k: v for k, v in part.model_dump().items() if v is not None}


def _tag(value: Any) -> Tag:
    return value if isinstance(value, int | float) and isfinite(value) else str(value)


def _of_star(path: str) -> tuple[list[Table], dict[str, Tag]]:
    from gemmi import cif

    tables: list[Table] = []
    tags: dict[str, Tag] = {}
    for block in cif.read_file(path):
        for item in block:
            if item.loop is not None:
                columns = tuple(tag.removeprefix("_") for tag in item.loop.tags)
                rows = item.loop.length()
                tables.append(Table(name=block.name, rows=rows, columns=columns))
            elif item.pair is not None:
                name, value = item.pair
                tags[f"{block.name} {name.removeprefix('_')}"] = cif.as_string(value)
    if not tables and not tags:
        raise ValueError("it has no table")
    return tables, tags


def _of_cs(path: str) -> tuple[list[Table], dict[str, Tag]]:
    import numpy as np

    # A map: of the particles only how many there are is of interest.
    array = np.load(
        path, mmap_mode="r", allow_pickle=False, max_header_size=_MOST_HEADER
    )
    if array.dtype.names is None or array.ndim != 1:
        raise ValueError(f"it holds {array.ndim}-D {array.dtype} and no named columns")
    columns = tuple(_column(name, array.dtype[name]) for name in array.dtype.names)
    return [Table(name="dataset", rows=len(array), columns=columns)], {}


def _column(name: str, dtype: Any) -> str:
    kind = "text" if dtype.base.kind in "SU" else dtype.base.name
    return f"{name} ({' x '.join([kind, *map(str, dtype.shape)])})"
