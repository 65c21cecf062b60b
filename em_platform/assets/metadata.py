"""What a person sees of an asset: numbers, pictures, tables, checks."""

import base64
from collections.abc import Iterable, Sequence

import dagster as dg

from em_platform.model import Check, Failure, Severity

_PICTURE_LIMIT_BYTES = 300_000
"""A picture lies in Dagster's event table; a larger one would slow the page."""


def picture(png: bytes, title: str) -> dg.MetadataValue:
    """A PNG that the page shows where the value stands."""
    if len(png) > _PICTURE_LIMIT_BYTES:
        return dg.MetadataValue.text(f"{len(png)} bytes are too many to show here")
    text = base64.b64encode(png).decode("ascii")
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{text})")


def failure_table(failures: Sequence[Failure]) -> dg.MetadataValue:
    """The items that were set aside, each with its one sentence."""
    if not failures:
        return dg.MetadataValue.text("none")
    lines = ["| item | what happened |", "|---|---|"]
    lines += [f"| {f.item} | {f.sentence.replace('|', '/')} |" for f in failures[:50]]
    if len(failures) > 50:
        lines.append(f"| ... | and {len(failures) - 50} more |")
    return dg.MetadataValue.md("\n".join(lines))


def check_specs(asset: str, **rules: str) -> list[dg.AssetCheckSpec]:
    """The checks of one asset: name -> what it states."""
    return [
        dg.AssetCheckSpec(name, asset=asset, description=text)
        for name, text in rules.items()
    ]


def check_results(checks: Iterable[Check], asset: str) -> list[dg.AssetCheckResult]:
    """Outcomes as Dagster shows them, with the sentence, the value and its limit."""
    return [_check_result(check, asset) for check in checks]


def _check_result(check: Check, asset: str) -> dg.AssetCheckResult:
    error = check.severity is Severity.ERROR
    metadata: dict[str, dg.RawMetadataValue] = {"outcome": check.sentence}
    if check.value is not None:
        metadata["value"] = check.value
    if check.limit is not None:
        metadata["limit"] = check.limit
    if check.items:
        metadata["items"] = dg.MetadataValue.json(list(check.items[:200]))
    return dg.AssetCheckResult(
        passed=check.passed,
        asset_key=asset,
        check_name=check.name,
        severity=dg.AssetCheckSeverity.ERROR if error else dg.AssetCheckSeverity.WARN,
        description=check.sentence,
        metadata=metadata,
    )
