"""How Dagster shows a thing: pictures, tables, times."""

import base64
import time
from collections.abc import Sequence
from importlib.metadata import version
from types import TracebackType
from typing import Self

import dagster as dg
from dagster._core.definitions.metadata import RawMetadataValue

from em_platform.formats.source import local_path
from em_platform.model import Failure, Montage
from em_platform.model.dataset import DagsterProvenance, DatasetRecord

Metadata = dict[str, RawMetadataValue]

# A picture lies in Dagster's event table; a larger one would slow the page.
_PICTURE_LIMIT_BYTES = 300_000
# Dagster shows a table whole: more rows hide what follows it.
_MOST_ROWS = 50
_UNITS = ("B", "kB", "MB", "GB", "TB")


class Stopwatch:
    """How long the block took, in all and for the pixels of a montage."""

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        self.seconds = 0.0
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds = time.perf_counter() - self._start

    def metadata(self, montage: Montage) -> Metadata:
        """Seconds, and millions of tile pixels a second."""
        mpix = montage.pixels / 1e6
        rate = mpix / self.seconds if self.seconds else 0.0
        return {"seconds": round(self.seconds, 2), "Mpix/s": round(rate, 1)}


def step_of(context: dg.AssetExecutionContext) -> DagsterProvenance:
    """Which step of which run makes the asset."""
    return DagsterProvenance(
        run_id=context.run.run_id,
        asset_key=context.asset_key.to_user_string(),
        partition=context.partition_key if context.has_partition_key else "",
        code_version=version("em-platform"),
    )


def picture(image: bytes, title: str) -> dg.MetadataValue:
    """A PNG or JPEG that the page shows where the value stands."""
    if len(image) > _PICTURE_LIMIT_BYTES:
        return dg.MetadataValue.text(f"{len(image)} bytes are too many to show here")
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    # Within the text: Dagster's page loads no pictures from our store.
    text = base64.b64encode(image).decode("ascii")
    return dg.MetadataValue.md(f"![{title}](data:image/{kind};base64,{text})")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> dg.MetadataValue:
    """A Markdown table of at most 50 rows."""
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in rows[:_MOST_ROWS]:
        cells = (str(cell).replace("|", "/") for cell in row)  # a bar ends a cell
        lines.append(f"| {' | '.join(cells)} |")
    if len(rows) > _MOST_ROWS:
        lines.append(f"| and {len(rows) - _MOST_ROWS} more |")
    return dg.MetadataValue.md("\n".join(lines))


def failure_table(failures: Sequence[Failure]) -> dg.MetadataValue:
    """The items that were excluded, each with its one sentence."""
    if not failures:
        return dg.MetadataValue.text("none")
    return table(("item", "what happened"), [(f.item, f.sentence) for f in failures])


def record_summary(record: DatasetRecord, url: str) -> Metadata:
    """What the record says, and where it lies."""
    remarks = record.metadata.quality.validation_errors
    return {
        "description": record.metadata.core.description,
        "remarks": dg.MetadataValue.md("\n".join(f"- {text}" for text in remarks))
        if remarks
        else "none",
        "path": place(url),
        "record": dg.MetadataValue.json(record.model_dump(mode="json")),
    }


def place(url: str) -> dg.MetadataValue:
    """Where a thing lies: a path where that is on this machine."""
    local = local_path(url)
    if local is None:
        return dg.MetadataValue.url(url)
    return dg.MetadataValue.path(local)


def short(value: float) -> float:
    """Four digits that mean something."""
    return float(f"{value:.4g}")  # round() counts places, not digits that matter


def human_bytes(size: int | None) -> str:
    """`1.5 MB`; a thousand of one unit is one of the next."""
    if size is None:
        return "not known"
    value = float(size)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} B" if unit == "B" else f"{value:.3g} {unit}"
