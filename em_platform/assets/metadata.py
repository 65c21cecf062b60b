"""How Dagster shows a thing: pictures, tables, times."""

import base64
import re
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, Self

import dagster as dg
from dagster._core.definitions.metadata import RawMetadataValue

from em_platform.formats.source import local_path
from em_platform.imaging.thumbnail import thumbnail
from em_platform.model import Failure, Montage
from em_platform.model.dataset import DagsterProvenance, DatasetRecord
from em_platform.storage import Store

Metadata = dict[str, RawMetadataValue]

# A picture lies in Dagster's history, once a montage and for ever: 2.7 kB as text.
_THUMBNAIL_BYTES = 2_000
# Dagster shows a table whole: more rows hide what follows it.
_MOST_ROWS = 50
# What may begin markup within a line; an underscore within a word does not.
_MARKUP = re.compile(r"[\\`*\[\]<>&|~]|(?<![^\W_])_|_(?![^\W_])")
# At the start of a line: headings, lists, rules; 1.5 and -3 are none.
_BLOCK = re.compile(r"^(?:#{1,6}(?=\s|$)|[+-](?=[\s-]|$)|\d+[.)](?=\s|$))")
_UNITS = ("B", "kB", "MB", "GB", "TB")


class Stopwatch:
    """How long the block took, in all and for the pixels of a montage."""

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        self.seconds = 0.0
        return self

    def __exit__(self, *_: object) -> None:
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


def tag_run(context: dg.AssetExecutionContext, montage: Montage) -> None:
    """Name on the run what was imaged, so that it is found.

    Here and not where it is launched: then each way of launching has them. By which
    settings stands in the montage's record, under `parameters`.
    """
    known = {
        "em/microscope": montage.microscope,
        "em/specimen": montage.specimen_id,
        "em/section": montage.section_id,
        "em/magnification": montage.magnification,
    }
    tags = {name: str(value) for name, value in known.items() if value is not None}
    if not tags.items() <= context.run.tags.items():
        context.instance.add_run_tags(context.run.run_id, tags)


def plain(text: object) -> str:
    """`text` as Markdown that shows it as it is, on one line.

    Names come from files, messages and public sources: one that is Markdown must load
    no picture from elsewhere, and show no link in the place of a name.
    """
    line = " ".join(str(text).split())
    line = _MARKUP.sub(r"\\\g<0>", line)
    return _BLOCK.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", line)


def code(text: str) -> dg.MetadataValue:
    """`text` as Markdown that shows it as code, on one line."""
    line = " ".join(text.split())
    # CommonMark 6.1: code ends at as many backticks as it began with.
    runs = (len(run) for run in re.findall("`+", line))
    fence = "`" * (1 + max(runs, default=0))
    blank = " " if len(fence) > 1 else ""
    return dg.MetadataValue.md(f"{fence}{blank}{line}{blank}{fence}")


def bullets(lines: Sequence[str]) -> str:
    """A Markdown list of what the lines say."""
    return "\n".join(f"- {plain(line)}" for line in lines)


def picture(image: bytes, title: str) -> dg.MetadataValue:
    """A PNG or JPEG as a thumbnail that the page shows where the value stands."""
    small = thumbnail(image, limit_bytes=_THUMBNAIL_BYTES)
    # Within the text: Dagster's page loads no pictures from our store.
    text = base64.b64encode(small).decode("ascii")
    return dg.MetadataValue.md(f"![{plain(title)}](data:image/webp;base64,{text})")


def picture_file(
    label: str, image: bytes, *, shows: str, store: Store, name: str
) -> Metadata:
    """The picture as a file in the store; its thumbnail, and where the file lies."""
    store.write_bytes(name, image)
    return {label: picture(image, shows), f"{label}, full size": place(store.url(name))}


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> dg.MetadataValue:
    """A table of at most 50 rows; columns of numbers hold numbers, others text."""
    shown = [list(row) for row in rows[:_MOST_ROWS]]
    if len(rows) > _MOST_ROWS:
        more: list[object] = [""] * (len(columns) - 1)
        shown.append([f"and {len(rows) - _MOST_ROWS} more", *more])
    kinds = [_kind([row[at] for row in shown]) for at in range(len(columns))]
    schema = dg.TableSchema(
        [
            dg.TableColumn(name, type=_KINDS[kind])
            for name, kind in zip(columns, kinds, strict=True)
        ]
    )
    made = (zip(columns, kinds, row, strict=True) for row in shown)
    records = [dg.TableRecord({n: kind(cell) for n, kind, cell in row}) for row in made]
    return dg.MetadataValue.table(records, schema=schema)


def _kind(cells: Sequence[object]) -> Callable[[Any], str | int | float]:
    if cells and all(type(cell) is int for cell in cells):
        return int
    if cells and all(type(cell) in (int, float) for cell in cells):
        return float
    return _one_line


def _one_line(cell: object) -> str:
    return " ".join(str(cell).split())


_KINDS = {int: "int", float: "float", _one_line: "string"}


def failure_table(failures: Sequence[Failure]) -> dg.MetadataValue:
    """The items that were excluded, each with its one sentence."""
    if not failures:
        return dg.MetadataValue.text("none")
    return table(("item", "what happened"), [(f.item, f.sentence) for f in failures])


def record_summary(record: DatasetRecord, url: str) -> Metadata:
    """What the record says in short, and where the whole of it lies."""
    remarks = record.metadata.quality.validation_errors
    return {
        "description": record.metadata.core.description,
        "status": str(record.status),
        "remarks": dg.MetadataValue.md(bullets(remarks)) if remarks else "none",
        "path": place(url),
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
