"""How records look on a terminal."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from em_platform.catalog.record_files import at
from em_platform.catalog.repository import Found
from em_platform.catalog.summary import Judged
from em_platform.model.dataset import voxel_size_zyx
from em_platform.model.sentences import counted

_COLUMNS = ("status", "source", "name", "modality", "shape", "voxel nm", "type", "size")
_UNITS = ("B", "kB", "MB", "GB", "TB")


def print_records(found: Sequence[Found], *, as_json: bool) -> None:
    """One line a record, or all records in full as a JSON list."""
    if as_json:
        records = [each.content for each in found]
        click.echo(json.dumps(records, indent=1, sort_keys=True, ensure_ascii=False))
        return
    print_table(_COLUMNS, [_row(each.content) for each in found])
    # On stderr, so that a pipe gets records only.
    click.echo(counted(len(found), "record"), err=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell."""
    if not rows:
        return
    widths = [max(map(len, each)) for each in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def print_findings(judged: Iterable[Judged], *, warnings: bool) -> None:
    """Every error of every record, below its place."""
    for each in judged:
        lines = [f"  error: {sentence}" for sentence in each.findings.errors]
        if warnings:
            lines += [f"  warning: {sentence}" for sentence in each.findings.warnings]
        if lines:
            click.echo("\n".join((each.found.place, *lines)))


def _row(record: Mapping[str, Any]) -> tuple[str, ...]:
    core = at(record, "metadata", "core")
    return (
        _text(record.get("status")),
        _text(record.get("source")),
        _text(record.get("key") or record.get("source_id")),
        _text(at(core, "modality")),
        _joined(at(core, "volume_shape")),
        _joined(voxel_size_zyx(at(core, "voxel_size_nm"))),
        _text(at(core, "data_type")),
        _size(at(record, "metadata", "technical", "file_size_bytes")),
    )


# Records of other catalogs may hold anything, and are listed all the same.
def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _joined(values: Any) -> str:
    if not isinstance(values, list | tuple):
        return ""
    return "x".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)


def _size(size: Any) -> str:
    if not isinstance(size, int):
        return ""
    value, step = float(size), 0
    while value >= 1000 and step < len(_UNITS) - 1:
        value, step = value / 1000, step + 1
    return f"{value:.3g} {_UNITS[step]}"
