"""What `em-platform ingest` prints: bars, outcomes, plans."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from em_platform.config import Settings
from em_platform.ingest.modes import ItemOutcome, Report, SourceEvent
from em_platform.model import Model
from em_platform.model.ingest import Estimate
from em_platform.model.sentences import counted
from em_platform.storage import layout


class IngestReport(Model):
    """What one call has done."""

    mode: str
    outcomes: tuple[ItemOutcome, ...]
    invalid_records: int = 0
    is_catalog_good: bool = True
    """Whether its records are valid, or `catalog.strict` does not ask for that."""
    catalog_error: str = ""
    """Why there is no new catalog."""

    @property
    def is_good(self) -> bool:
        """Whether all is complete, and the catalog as it should be."""
        good = all(outcome.is_good for outcome in self.outcomes)
        return good and self.is_catalog_good and not self.catalog_error


@contextmanager
def shown(console: Console) -> Iterator[Report]:
    """A line a source, with its bar while something is fetched."""
    columns = (
        TextColumn("{task.description:32}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    # transient: at the end the bars go, and the lines of the outcomes stay.
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def report_progress(news: SourceEvent) -> None:
            if news.source not in tasks:
                tasks[news.source] = progress.add_task(news.source, total=None)
            progress.update(
                tasks[news.source],
                description=f"{news.source}/{news.key} {news.step}",
                total=news.total_bytes or None,
                completed=news.came_bytes,
            )
            if news.outcome is not None:
                # As it is: a sentence may have brackets, and a path is to be copied.
                progress.console.print(
                    _line(news.outcome), markup=False, soft_wrap=True
                )

        yield report_progress


def _line(outcome: ItemOutcome) -> str:
    name = f"{outcome.source}/{outcome.key}".rstrip("/")
    if outcome.status != "complete":
        return f"{name}: {outcome.status}: {outcome.sentence}"
    if outcome.was_there:
        return f"{name}: was there, nothing was fetched"
    fetched = outcome.fetched_bytes
    how = f"fetched {size(fetched)}" if fetched else "read in place"
    return f"{name}: complete in {outcome.seconds:.1f} s, {how}"


def print_report(report: IngestReport, console: Console) -> None:
    """A line an item, then what is wrong with any."""
    table = Table("item", "status", "z y x", "type", "voxel (nm)", "volume")
    for column in table.columns:
        column.overflow = "fold"  # an ellipsis would cut what one has to read
    for each in report.outcomes:
        table.add_row(
            f"{each.source}/{each.key}",
            each.status,
            " ".join(map(str, each.shape or ())),
            each.dtype,
            " ".join(f"{edge:.4g}" for edge in each.voxel_size_nm or ()),
            size(each.volume_bytes) if each.volume_bytes else "",
        )
    console.print(table)
    for each in report.outcomes:
        for label, sentences in (
            ("ERROR", each.failed_checks),
            ("warning", each.warnings),
        ):
            for sentence in sentences:
                text = f"{each.source}/{each.key}: {label}: {sentence}"
                console.print(text, markup=False, soft_wrap=True)
    if report.catalog_error:
        text = f"the catalog was not made: {report.catalog_error}"
        console.print(text, markup=False, soft_wrap=True)
    if report.invalid_records:
        console.print(
            f"{counted(report.invalid_records, 'record')} of the catalog not valid; "
            f"see {layout.CATALOG}/validation_report.html"
        )


def print_plan(
    plan: Sequence[Estimate | ItemOutcome],
    settings: Settings,
    *,
    as_json: bool,
    console: Console,
) -> bool:
    """Print it; whether every item could be asked for and has room on the disk."""
    estimates = [each for each in plan if isinstance(each, Estimate)]
    # The volumes may lie in a bucket, so only what is fetched is counted.
    needed = sum(e.fetch_bytes or 0 for e in estimates if not e.already_there)
    # The folder itself is made by the first transfer.
    free = shutil.disk_usage(_nearest(settings.raw_folder)).free
    room = free - settings.ingest.transfer.reserve_gb * 2**30
    if as_json:
        click.echo(f"[{', '.join(each.model_dump_json() for each in plan)}]")
    else:
        table = Table("item", "to fetch", "voxels", "what it is")
        for column in table.columns:
            column.overflow = "fold"
        for each in plan:
            table.add_row(f"{each.source}/{each.key}".rstrip("/"), *_cells(each))
        console.print(table)
        # Below it and whole: in a cell of 28 letters nobody reads a sentence.
        for each in plan:
            if isinstance(each, ItemOutcome) and each.sentence:
                name = f"{each.source}/{each.key}".rstrip("/")
                text = f"{name}: {each.sentence}"
                console.print(text, markup=False, soft_wrap=True)
    if estimates and not as_json:
        console.print(
            f"{size(needed)} to fetch, {size(free)} free at {settings.raw_folder}",
            markup=False,
            soft_wrap=True,
        )
    if needed > room:
        console.print("there is too little room; free space, or set storage elsewhere")
    refused = any(getattr(each, "status", "") == "failed" for each in plan)
    return needed <= room and not refused


def _cells(each: Estimate | ItemOutcome) -> tuple[str, str, str]:
    if isinstance(each, ItemOutcome):
        return "", "", "see below" if each.sentence else ""
    fetch = "nothing, it is there" if each.already_there else size(each.fetch_bytes)
    return fetch, size(each.volume_bytes), each.title


def _nearest(folder: Path) -> Path:
    """The folder itself, or the first above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def size(count: int | None) -> str:
    """Bytes with the unit that suits them."""
    if count is None:
        return "not known"
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"
