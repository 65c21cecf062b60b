"""How the result of a stage looks on a terminal."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from em_platform.cli.catalog_output import print_table
from em_platform.cryoem.stage import StageResult
from em_platform.model.check import Check

_UNITS = {"a": "Å", "nm": "nm", "px": "px", "deg": "°", "s": "s"}
"""What the last word of a field's name says."""
_LABELS = {
    "astigmatism_deg": "astigmatism direction",
    "image_command": "kind of picture",
    "tilt_offset": "tilt offset's reason",
}
"""Of fields that would have the name of another without their units, or say little."""


def print_result(
    result: StageResult, checks: Sequence[Check], folder: Path, *, as_json: bool
) -> None:
    """The verdict and a table, or both as a line of JSON."""
    found = result.model_dump(mode="json")
    if as_json:
        verdict = {"is_good": all(each.passed for each in checks)} if checks else {}
        click.echo(json.dumps({**found, **verdict}, ensure_ascii=False))
        return
    click.echo(f"{folder}: {_verdict(checks)}" if checks else str(folder))
    print_table(("result", "value", "unit"), _rows(found))


def _verdict(checks: Sequence[Check]) -> str:
    """Whether it is good, and the sentences of what decides that."""
    failed = [each.sentence for each in checks if not each.passed]
    sentences = failed or [each.sentence for each in checks]
    return f"{'not good' if failed else 'good'}: {'; '.join(sentences)}"


def _rows(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and unit of what is one number or one word."""
    rows = []
    for name, value in found.items():
        if name == "files":
            value = ", ".join(map(str, value))
        if not isinstance(value, int | float | str) or value == "":
            continue
        words, _, last = name.rpartition("_")
        unit = _UNITS.get(last, "") if words else ""
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        if isinstance(value, bool):
            shown = "yes" if value else "no"
        label = _LABELS.get(name, words if unit else name)
        rows.append((label.replace("_", " "), shown, unit))
    return rows
