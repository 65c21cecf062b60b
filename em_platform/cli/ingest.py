"""`em-platform ingest`: public sources into OME-Zarr and the catalog."""

import logging
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import click
from rich.console import Console

from em_platform.cli.console_output import print_messages
from em_platform.cli.ingest_report import (
    IngestReport,
    print_plan,
    print_report,
    shown,
)
from em_platform.config import Settings, load_settings
from em_platform.config.ingest import Mode
from em_platform.errors import ConfigError, PlatformError
from em_platform.ingest.modes import Ingest, ItemOutcome, SourceEvent
from em_platform.ingest.sources import SOURCES, open_source
from em_platform.model.ingest import Estimate
from em_platform.processes.single_instance import claim_home
from em_platform.storage import layout, store_of

_REPORT = f"{layout.CATALOG}/last_ingest.json"
_PATIENCE_S = 20.0  # to end in order; then by force, as nobody waits any more
"""What an item may take to write down where it is, when nobody waits for it."""


@click.command()
@click.option(
    "--mode",
    type=click.Choice(get_args(Mode)),
    help="Order of the sources (default: ingest.mode, EM_EXECUTION_MODE).",
)
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="NAME",
    help=f"Only this one; may be repeated: {', '.join(SOURCES)}.",
)
@click.option(
    "--item",
    "items",
    multiple=True,
    metavar="SOURCE/KEY",
    help="Only this item, such as ebi/11759; may be repeated.",
)
@click.option(
    "--dry-run", is_flag=True, help="List what would be fetched, and how much."
)
@click.option("--list", "lists", is_flag=True, help="List the items of the sources.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--worker", hidden=True, help="Be the process of one source.")
def command(
    mode: Mode | None,
    sources: tuple[str, ...],
    items: tuple[str, ...],
    dry_run: bool,
    lists: bool,
    as_json: bool,
    worker: str | None,
) -> None:
    """Fetch public data, write volumes, and record them in the catalog.

    Items that are complete are not fetched again; interrupted downloads resume. The
    status is 0 when every item is complete, no check of severity ERROR failed, and the
    catalog is valid.
    """
    settings = load_settings()
    keys = chosen(sources, items, settings=settings)
    # Who only looks leaves nothing behind.
    if not (lists or dry_run):
        claim_home(settings)
    if worker is not None:
        sys.exit(_be_worker(worker, keys.get(worker, ()), settings))
    print_messages()
    console = Console(stderr=as_json)
    if lists or dry_run:
        plan = _planned(keys, settings, dry_run=dry_run)
        good = print_plan(plan, settings, as_json=as_json, console=console)
        sys.exit(0 if good else 1)
    sys.exit(_ingest(mode or settings.ingest.mode, keys, settings, as_json=as_json))


def chosen(
    sources: Sequence[str], items: Sequence[str], *, settings: Settings
) -> dict[str, tuple[str, ...]]:
    """Source -> its wanted items, none meaning all that it lists.

    Raises
    ------
    ConfigError
        No such source, or an item without its source.
    """
    keys: dict[str, tuple[str, ...]] = dict.fromkeys(sources, ())
    for item in items:
        name, slash, key = item.partition("/")
        if not slash or not key:
            raise ConfigError(
                f"ingest: item {item!r} was found, SOURCE/KEY was expected; write it "
                "as ebi/11759"
            )
        keys[name] = (*keys.get(name, ()), key)
    keys = keys or dict.fromkeys(settings.ingest.sources, ())
    unknown = [name for name in keys if name not in SOURCES]
    if unknown:
        raise ConfigError(
            f"ingest: no source {unknown[0]!r}, expected one of {', '.join(SOURCES)}; "
            "correct --source, --item or ingest.sources (EM_SERVICES)"
        )
    return keys


def _be_worker(name: str, keys: Sequence[str], settings: Settings) -> int:
    from em_platform.ingest.worker import ingest_source

    def report_progress(news: SourceEvent) -> None:
        try:
            # The parent shows each line as it comes.
            print(news.model_dump_json(), flush=True)
        except BrokenPipeError:
            raise KeyboardInterrupt from None  # nobody listens any more

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    # A pipe is the parent's, and ends with it; a terminal is a person's.
    if stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        outcomes = ingest_source(name, keys, settings=settings, report=report_progress)
    except KeyboardInterrupt:
        # 128 and the number of SIGINT, as shells have it.
        return 130
    return 0 if all(outcome.is_good for outcome in outcomes) else 1


def _end_with_parent() -> None:
    """Stop as by Ctrl-C when the parent process is gone; no worker runs on alone."""
    while os.read(sys.stdin.fileno(), 1024):
        continue
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(_PATIENCE_S)
    os._exit(130)


def _ingest(
    mode: Mode, keys: dict[str, tuple[str, ...]], settings: Settings, *, as_json: bool
) -> int:
    console = Console(stderr=as_json)
    with shown(console) as report_progress:
        work = Ingest(settings=settings, keys=keys, report=report_progress)
        with _until_signalled(work):
            outcomes = work.run(mode)
    report = _concluded(IngestReport(mode=mode, outcomes=tuple(outcomes)), settings)
    if as_json:
        click.echo(report.model_dump_json(indent=1))
    else:
        print_report(report, console)
    if work.stopping.is_set():
        return 130
    return 0 if report.is_good else 1


def _concluded(report: IngestReport, settings: Settings) -> IngestReport:
    """The report with what became of the catalog; it lies beside it as well."""
    from em_platform.catalog.consolidate import consolidate

    store = store_of(settings)
    try:
        if settings.ingest.consolidate:
            made = consolidate(store, settings.catalog)
            of_catalog = {
                "invalid_records": made.invalid,
                "is_catalog_good": made.is_good,
            }
            report = report.model_copy(update=of_catalog)
        store.write(_REPORT, report, IngestReport)
    except PlatformError as error:
        # What was ingested is reported all the same.
        return report.model_copy(update={"catalog_error": str(error)})
    return report


@contextmanager
def _until_signalled(work: Ingest) -> Iterator[None]:
    def stop(*_: Any) -> None:
        # A mark only: each item ends in order, and notes where it is.
        work.stopping.set()

    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _planned(
    keys: dict[str, tuple[str, ...]], settings: Settings, *, dry_run: bool
) -> list[Estimate | ItemOutcome]:
    """Each item's estimate, or what stands in its way."""
    from em_platform.ingest.steps import estimate

    store = store_of(settings)
    found: list[Estimate | ItemOutcome] = []
    for name, wanted in keys.items():
        try:
            source = open_source(name, settings)
            listed = wanted or source.list()
        except PlatformError as error:
            found.append(_failed(name, "", error))
            continue
        for key in listed:
            try:
                if dry_run:
                    found.append(estimate(source, key, store, settings=settings))
                else:
                    found.append(ItemOutcome(source=name, key=key, status="listed"))
            except PlatformError as error:
                found.append(_failed(name, key, error))
    return found


def _failed(name: str, key: str, error: PlatformError) -> ItemOutcome:
    return ItemOutcome(source=name, key=key, status="failed", sentence=str(error))
