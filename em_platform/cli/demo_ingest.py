"""The demo's public sources: one item of each, through Dagster, into the catalog."""

import os
import random
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from em_platform.cli.console_output import ConsoleOutput
from em_platform.cli.ingest_report import size
from em_platform.cli.live import export_settings
from em_platform.cli.platform import Platform
from em_platform.cli.runs import (
    ENDED,
    PATIENCE_S,
    PartitionRuns,
    add_partition,
    complaints,
    ingest_runs,
    launch,
    progress,
    run_status,
)
from em_platform.config import Settings
from em_platform.errors import PlatformError
from em_platform.ingest.plan import partition_set
from em_platform.model.dataset import DatasetRecord
from em_platform.model.ingest import RawItem, VolumeItem
from em_platform.model.sentences import counted
from em_platform.processes import listens
from em_platform.standins.world import World, running_world
from em_platform.storage import Store, layout, store_of
from em_platform.storage.atomic import write_bytes

_TICK_S = 1.0  # a run takes seconds to start, so to ask more often shows nothing
_PORTS = range(20_000, 32_000, 25)
"""Where the ports of a world may begin; the system gives higher ones to others."""
_PORTS_OF_A_WORLD = 25  # five sources have 12 servers; some for sources to come
_REPORT = f"{layout.CATALOG}/validation_report.json"

_PIXELS = re.compile(
    r"\.(dm[34]|mrc|tiff?|shard)$"  # files of images
    r"|/raw/0_1_2/|/(subvol|specific)?blocks"  # DVID
    r"|/(c/)?\d+[/.]\d+[/.]\d+$|/\d+-\d+_\d+-\d+_\d+-\d+$"  # chunks
)
"""Paths of the stand-ins that give image data."""


@dataclass(slots=True)
class _Item:
    """One item of the demo, and what is known of it."""

    source: str
    key: str
    runs: PartitionRuns = field(default_factory=PartitionRuns)

    @property
    def name(self) -> str:
        return f"{self.source}/{self.key}"


@contextmanager
def standins_for(settings: Settings, output: ConsoleOutput) -> Iterator[World]:
    """Stand-ins of the public sources, to which this process's children are pointed.

    They have the same ports each time: a source with another address is another source,
    and would be fetched again.
    """
    folder = settings.home.absolute() / "standins"
    port = _port(folder / "port.txt")
    if not any(folder.glob("*/*")):
        output.line("making small copies of five public sources, some seconds, once")
    with running_world(folder, size="demo", port=port) as world:
        os.environ.update(world.environment)
        export_settings(world.settings)
        output.line(f"stand-ins of {', '.join(world.keys)} answer from port {port} on")
        yield world


def ingest_all(platform: Platform, world: World, output: ConsoleOutput) -> bool:
    """Bring one item of each source; whether all of it is there, good and catalogued.

    Dagster's runs are asked for at once; its queue lets in two at a time.
    """
    # What was asked before, as by a sensor, is not what this call fetches.
    world.requests.clear()
    items = [_Item(source, keys[0]) for source, keys in world.keys.items()]
    tags = _ask_for(platform, items)
    output.line(f"asked Dagster for {', '.join(item.name for item in items)}")
    _follow(platform, items, tags, output)
    consolidated = _consolidated(platform, output)
    good = _show(platform, items, output)
    fetched = [
        entry
        for entry in world.requests.all()
        if entry.method == "GET"
        and entry.status in (200, 206)
        and _PIXELS.search(entry.path)
    ]
    sent = sum(entry.bytes_sent for entry in fetched)
    if fetched:
        output.line(f"{len(fetched)} requests fetched {size(sent)} of image data")
    else:
        output.line("nothing was fetched: every item was there already")
    return good and consolidated


def _ask_for(platform: Platform, items: Sequence[_Item]) -> dict[str, str]:
    """Ask Dagster for a run of each item; the tag by which these runs are known."""
    # So that runs of an earlier call are not taken for those of this one.
    tags = {"em/demo": uuid.uuid4().hex}

    def ask_for(item: _Item) -> None:
        add_partition(platform.url, partition_set(item.source), item.key)
        job = f"ingest_{item.source}"
        launch(platform.url, job, partition=item.key, tags=tags)

    with ThreadPoolExecutor() as pool:
        # `list` raises what was raised in a thread.
        list(pool.map(ask_for, items))
    return tags


def _follow(
    platform: Platform,
    items: Sequence[_Item],
    tags: dict[str, str],
    output: ConsoleOutput,
) -> None:
    newest = time.monotonic()
    while not platform.supervisor.stopping.wait(_TICK_S):
        platform.supervisor.tend()
        open_ones = {
            (item.source, item.key): item for item in items if not item.runs.is_over
        }
        if not open_ones:
            return
        found = ingest_runs(platform.url, tags, of=open_ones)
        for name, item in open_ones.items():
            before, item.runs = item.runs, found[name]
            for line in progress(item.name, before, item.runs):
                output.line(line)
                newest = time.monotonic()
        if time.monotonic() > newest + PATIENCE_S:
            output.line(f"nothing new for {PATIENCE_S:.0f} s; see the web UI")
            return


def _consolidated(platform: Platform, output: ConsoleOutput) -> bool:
    """Make the catalog of all records; whether all are valid."""
    run_id = launch(platform.url, "consolidate_catalog")
    deadline, status = time.monotonic() + PATIENCE_S, "QUEUED"
    while status not in ENDED and time.monotonic() < deadline:
        if platform.supervisor.stopping.wait(_TICK_S):
            break
        platform.supervisor.tend()
        status = run_status(platform.url, run_id)
    if status != "SUCCESS":
        output.line(f"the catalog was not consolidated: its run is {status.lower()}")
        return False
    report = store_of(platform.settings).read(_REPORT, dict[str, Any])["summary"]
    output.line(
        f"catalog: {counted(report['total_files'], 'record')}, "
        f"{report['invalid_files']} not valid"
    )
    return not report["invalid_files"]


def _show(platform: Platform, items: Sequence[_Item], output: ConsoleOutput) -> bool:
    """A line an item, and what is wrong with any; whether nothing is."""
    store = store_of(platform.settings)
    names = ("source", "z y x", "voxel (nm)", "copied", "stored", "checks", "record")
    table = Table(*names, box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"  # an ellipsis would cut the key that one has to copy
    troubles: list[str] = []
    for item in items:
        try:
            table.add_row(item.source, *_cells(item, store))
        except PlatformError as error:
            table.add_row(item.source, *("none",) * (len(names) - 1))
            troubles.append(f"{item.name}: {error}")
    output.console.print(table)
    for item in items:
        for line in complaints(item.runs):
            output.line(f"{item.name}: {line}")
    troubles += [
        f"{item.name}: {text}" for item in items for text in _wrong(item, store)
    ]
    for trouble in troubles:
        output.line(trouble)
    return not troubles and all(item.runs.is_good for item in items)


def _cells(item: _Item, store: Store) -> tuple[str, ...]:
    written = store.read(
        layout.ingested(item.source, item.key, "volume"), VolumeItem
    ).written
    raw = store.read(layout.ingested(item.source, item.key, "raw"), RawItem)
    copied = size(raw.fetched_bytes) if raw.fetched_bytes else "nothing"
    record = _record(item, store)
    return (
        " ".join(map(str, written.shape)),
        " ".join(f"{edge:.3g}" for edge in written.voxel_size_nm or ()) or "not stated",
        copied if raw.files else "read in place",  # an array, while it is written
        size(written.size_bytes),
        item.runs.checks_passed,
        str(record.status.value),
    )


def _wrong(item: _Item, store: Store) -> Iterator[str]:
    """What is wrong with the record of an item."""
    try:
        record = _record(item, store)
    except PlatformError as error:
        yield str(error)
        return
    if record.status != "complete":
        reason = f": {record.error.message}" if record.error else ""
        yield f"its record has the status {record.status.value}{reason}"


def _record(item: _Item, store: Store) -> DatasetRecord:
    return store.read(layout.record(item.source, item.key), DatasetRecord)


def _port(note: Path) -> int:
    """The first port of the world, as last time where that is free."""
    last = int(note.read_text()) if note.is_file() else 0
    if last and _are_free(last):
        return last
    tried = random.sample(_PORTS, len(_PORTS))
    port = next(port for port in tried if _are_free(port))
    write_bytes(note, f"{port}\n".encode())
    return port


def _are_free(first: int) -> bool:
    ports = range(first, first + _PORTS_OF_A_WORLD)
    return not any(listens("127.0.0.1", port) for port in ports)
