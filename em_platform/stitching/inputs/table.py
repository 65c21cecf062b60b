"""A CSV or JSON table: `file` and `x_px, y_px` or `x_nm, y_nm`; x right, y down.

Optional columns: `row`, `column`, `mask`, `pixel_nm`. A JSON table is a list of such
objects, or an object with `tiles` (and `pixel_nm`) such as this platform's own report.
"""

import csv
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from pydantic import JsonValue, TypeAdapter, ValidationError

from em_platform.errors import ConfigError, FormatError
from em_platform.formats import join_uri
from em_platform.model import Failure
from em_platform.model.modality import modality_of
from em_platform.stitching.tile_list import (
    InputOptions,
    ListedTile,
    TileFolder,
    TileList,
    pixel_size,
)

Row: TypeAlias = Mapping[str, JsonValue]
"""Column -> what the table has there; a CSV has texts."""

_UNITS = ("px", "nm")


def claims(name: str, content: Any) -> bool:
    """Whether this is a table with a file and a place in each line."""
    if isinstance(content, str):
        return name.endswith((".csv", ".tsv")) and _unit(_columns(content)) is not None
    rows = content.get("tiles") if isinstance(content, dict) else content
    first = rows[0] if isinstance(rows, list) and rows else None
    return isinstance(first, dict) and _unit(first) is not None


def read(
    place: TileFolder, name: str, *, content: Any, options: InputOptions
) -> TileList:
    """The lines of a table; a line without a usable place or file is a failure."""
    uri = place.uri(name)
    try:
        rows, pixel_nm = _rows(content)
    except csv.Error as error:
        raise FormatError(
            f"{uri}: cannot be read as a table ({error}), expected columns file and "
            "x_px, y_px or x_nm, y_nm; correct the list"
        ) from error
    unit = _unit(rows[0]) if rows else None
    if unit is None:
        raise FormatError(
            f"{uri}: found no lines with a file and a place, expected columns file and "
            "x_px, y_px or x_nm, y_nm; correct the list"
        )
    pixel_nm = options.pixel_nm or pixel_nm or _first_number(rows, "pixel_nm")
    if unit == "nm" and not pixel_nm:
        raise ConfigError(
            f"{uri}: found places in nm and no pixel size, expected both; give "
            "--pixel-nm or a column pixel_nm"
        )
    nm = pixel_nm if unit == "nm" and pixel_nm else 1.0
    tiles: list[ListedTile] = []
    failures = _reported_failures(content)
    # In a text the header is line 1.
    for line, row in enumerate(rows, start=2 if isinstance(content, str) else 1):
        if not row.get("file"):
            failures.append(_no_file(uri, line))
            continue
        tiles.append(_tile(place, row, unit=unit, nm=nm))
    stated = content if isinstance(content, dict) else rows[0] if rows else {}
    return TileList(
        uri=uri,
        tiles=tuple(tiles),
        failures=tuple(failures),
        pixel_nm=pixel_nm,
        modality=modality_of(stated.get("modality")),
    )


def _rows(content: Any) -> tuple[list[Row], float | None]:
    if isinstance(content, str):
        lines = _lines(content)
        header = lines[0] if lines else ""
        reader = csv.DictReader(lines, delimiter=_delimiter(header))
        # csv puts cells beyond the header under None.
        return [{_clean(k): v for k, v in row.items() if k} for row in reader], None
    if isinstance(content, dict):
        rows: list[Row]
        rows = [row if isinstance(row, dict) else {} for row in content["tiles"]]
        return rows, pixel_size(content.get("pixel_nm"))
    return [row if isinstance(row, dict) else {} for row in content], None


def _reported_failures(content: Any) -> list[Failure]:
    """What the stitch excluded whose report is read: the places alone hide it."""
    found = content.get("failures") if isinstance(content, dict) else None
    try:
        return TypeAdapter(list[Failure]).validate_python(found)
    except ValidationError:  # a list of another program
        return []


def _lines(text: str) -> list[str]:
    return [x for x in text.splitlines() if x.strip() and not x.startswith("#")]


def _columns(text: str) -> list[str]:
    # The header is enough; a table may be long.
    lines = _lines(text[:4096])
    return [_clean(c) for c in lines[0].split(_delimiter(lines[0]))] if lines else []


def _delimiter(header: str) -> str:
    # Spreadsheets write ; where the comma is the decimal sign.
    return max(",;\t", key=header.count)


def _clean(column: str) -> str:
    return column.strip().strip('"').strip().lower()


def _unit(columns: Iterable[str]) -> str | None:
    there = set(columns)
    if "file" not in there:
        return None
    return next((u for u in _UNITS if {f"x_{u}", f"y_{u}"} <= there), None)


def _tile(place: TileFolder, row: Row, *, unit: str, nm: float) -> ListedTile:
    name = str(row["file"]).strip().replace("\\", "/")
    x, y = number(row.get(f"x_{unit}")), number(row.get(f"y_{unit}"))
    column = row.get("column", row.get("col"))
    mask = str(row.get("mask") or "").strip()
    return ListedTile(
        name=name,
        uri=join_uri(place.folder, name),
        x_px=x / nm,
        y_px=y / nm,
        row=_whole(row.get("row")),
        column=_whole(column),
        stage_nm=(y, x) if unit == "nm" and math.isfinite(x + y) else None,
        mask_uri=join_uri(place.folder, mask) if mask else None,
    )


def number(value: Any) -> float:
    """A number from a text or JSON field; NaN where there is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _whole(value: Any) -> int | None:
    found = number(value)
    return round(found) if math.isfinite(found) else None


def _first_number(rows: list[Row], column: str) -> float | None:
    found = (pixel_size(row.get(column)) for row in rows)
    return next((value for value in found if value is not None), None)


def _no_file(uri: str, line: int) -> Failure:
    return Failure(
        item=f"line {line}",
        error="FormatError",
        sentence=f"{uri}: line {line} names no file, expected one; complete the line",
    )
