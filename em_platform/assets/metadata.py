"""How Dagster shows a thing: pictures, tables, times."""

import base64
import time
from collections.abc import Sequence
from importlib.metadata import version
from types import TracebackType
from typing import Self

import dagster as dg
from dagster._core.definitions.metadata import RawMetadataValue

from em_platform.model import Failure, Montage
from em_platform.model.dataset import DagsterProvenance

Metadata = dict[str, RawMetadataValue]

_PICTURE_LIMIT_BYTES = 300_000
"""A picture lies in Dagster's event table; a larger one would slow the page."""
_MOST_ROWS = 50


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
        size = montage.tile_size
        mpix = len(montage.tiles) * size.height_px * size.width_px / 1e6
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
    text = base64.b64encode(image).decode("ascii")
    return dg.MetadataValue.md(f"![{title}](data:image/{kind};base64,{text})")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> dg.MetadataValue:
    """A Markdown table of at most 50 rows."""
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in rows[:_MOST_ROWS]:
        cells = (str(cell).replace("|", "/") for cell in row)
        lines.append(f"| {' | '.join(cells)} |")
    if len(rows) > _MOST_ROWS:
        lines.append(f"| and {len(rows) - _MOST_ROWS} more |")
    return dg.MetadataValue.md("\n".join(lines))


def failure_table(failures: Sequence[Failure]) -> dg.MetadataValue:
    """The items that were excluded, each with its one sentence."""
    if not failures:
        return dg.MetadataValue.text("none")
    return table(("item", "what happened"), [(f.item, f.sentence) for f in failures])
