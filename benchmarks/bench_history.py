"""Benchmark: what a montage leaves in Dagster's history, and its pages with 10,000.

    python benchmarks/bench_history.py [--quick] [--repeats N] [--json FILE]

Montages of 16 tiles go through the whole job with the dagster.yaml that is shipped. The
bytes that each adds to Dagster's folder are counted as the run ends, and once its step
log is packed; all files count. Then the history of one is repeated under other names,
and the web server shows lineage, partitions, checks and runs in a headless browser: the
least seconds until a page shows its content, and the CPU seconds of server and browser
meanwhile. Status 1 where a montage costs more than 150 kB or a page takes over 3 s.
"""

import contextlib
import functools
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import dagster as dg
import numpy as np
import psutil
import requests
from playwright.sync_api import Page, sync_playwright
from timing import arguments, computer

from em_platform.config import export
from em_platform.formats import write_tiff
from em_platform.partitions import montages
from em_platform.processes import free_port
from em_platform.resources.run_logs import PackedRunLogs
from em_platform.sensors.history import pack_ended

MOST_KB, MOST_S = 150, 3.0
SIDE, TILE_PX, STEP_PX = 4, 1024, 896
REPOSITORY = Path(__file__).resolve().parent.parent
# Name -> path of the page, a text of its content, and which of those with this text.
PAGES = {
    "lineage": ("/asset-groups", "ingest_openorganelle", 1),
    "lineage of mosaic": ("/assets/mosaic?view=lineage", "montage_fit", 0),
    "partitions of mosaic": (
        "/assets/mosaic?view=partitions",
        r"Materialized \({shown}\)",
        0,
    ),
    "one montage of mosaic": (
        "/assets/mosaic?view=partitions&partition=last",
        "open it with",
        0,
    ),
    "checks of tile_statistics": (
        "/assets/tile_statistics?view=checks",
        "Target materialization",
        0,
    ),
    "overview of mosaic": ("/assets/mosaic?view=overview", "open it with", 0),
    "runs": ("/runs", "stitch_montages", 0),
}


def drop(home: Path, name: str, seed: int) -> None:
    """A folder of 16 tiles, cut from one image of grains, in the inbox."""
    folder = home / "inbox" / name
    folder.mkdir(parents=True)
    edge = TILE_PX + (SIDE - 1) * STEP_PX
    noise = np.random.default_rng(seed).normal(128, 600, (edge, edge))
    grain = cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 5)
    image = np.clip(grain, 0, 255).astype(np.uint8)
    lines = ["file,x_px,y_px"]
    for row, column in np.ndindex(SIDE, SIDE):
        y, x = row * STEP_PX, column * STEP_PX
        tile = f"t{row}{column}.tiff"
        write_tiff(folder / tile, image[y : y + TILE_PX, x : x + TILE_PX])
        lines.append(f"{tile},{x + 3},{y - 2 * column}")
    (folder / "tiles.csv").write_text("\n".join(lines) + "\n")


def bytes_below(folder: Path) -> int:
    """What all files take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def run_montages(instance: dg.DagsterInstance, home: Path, *, keys: list[str]) -> None:
    """Takes montages through the whole job."""
    from em_platform.definitions import defs

    job = defs.resolve_job_def("stitch_montages")
    for index, key in enumerate(keys):
        drop(home, key, seed=index)
        instance.add_dynamic_partitions(str(montages.name), [key])
        assert job.execute_in_process(partition_key=key, instance=instance).success


def repeat(folder: Path, key: str, *, number: int) -> None:
    """What the history holds of one montage, once more under `number` names.

    Its rows are copied with ids of their own, their run and montage renamed. Step logs
    are not: no page reads those of many runs.
    """
    names = [(f"copy-{n:05d}", str(uuid.uuid4())) for n in range(number)]
    with contextlib.closing(sqlite3.connect(folder / "history" / "runs.db")) as runs:
        query = "SELECT run_id FROM runs WHERE partition = ?"
        [(run_id,)] = runs.execute(query, (key,)).fetchall()
        was = (key, run_id)
        for name in names:
            copy_rows(runs, "runs", was, name, {})
            copy_rows(runs, "run_tags", was, name, {})
        runs.commit()
    path = folder / "history" / "runs" / "index.db"
    with contextlib.closing(sqlite3.connect(path)) as index:
        for name in names:
            ids = copy_rows(index, "event_logs", was, name, {})
            copy_rows(index, "asset_event_tags", was, name, ids)
            copy_rows(index, "asset_check_executions", was, name, ids)
            copy_rows(index, "dynamic_partitions", was, name, {})
        index.commit()


@functools.cache
def rows_of(
    database: sqlite3.Connection, table: str, key: str, run_id: str
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The columns of a table, and the rows of that montage."""
    columns = [name for _, name, *_ in database.execute(f"PRAGMA table_info({table})")]
    wanted, mine = {
        "dynamic_partitions": ("partition = ?", key),
        "asset_event_tags": (
            "event_id IN (SELECT id FROM event_logs WHERE run_id = ?)",
            run_id,
        ),
    }.get(table, ("run_id = ?", run_id))
    rows = database.execute(f"SELECT * FROM {table} WHERE {wanted}", (mine,)).fetchall()
    assert rows, table
    return columns, rows


def copy_rows(
    database: sqlite3.Connection,
    table: str,
    was: tuple[str, str],
    now: tuple[str, str],
    ids: dict[int, int],
) -> dict[int, int]:
    """The rows of one montage under another name; old ids and new ones.

    Columns that name an event by its id follow `ids`.
    """
    columns, rows = rows_of(database, table, *was)
    made: dict[int, int] = {}
    for row in rows:
        cells = dict(zip(columns, row, strict=True))
        own = cells.pop("id", None)
        for name, cell in cells.items():
            if isinstance(cell, str):
                cells[name] = renamed(cell, was, now, ids or made)
            elif name.endswith(("storage_id", "event_id")) and cell is not None:
                cells[name] = ids[cell]
        places = ", ".join("?" * len(cells))
        insert = f"INSERT INTO {table} ({', '.join(cells)}) VALUES ({places})"
        done = database.execute(insert, [*cells.values()])
        if own is not None:
            made[own] = int(done.lastrowid or 0)
    return made


def renamed(
    text: str, was: tuple[str, str], now: tuple[str, str], ids: dict[int, int]
) -> str:
    """A cell as it would be of the other montage."""
    for old, new in zip(was, now, strict=True):
        text = text.replace(old, new)
    if "storage_id" in text:
        text = re.sub(
            r'("storage_id": )(\d+)',
            lambda found: f"{found[1]}{ids.get(int(found[2]), int(found[2]))}",
            text,
        )
    return text


@contextlib.contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """Dagster's own web server on that history; its address."""
    port = free_port("127.0.0.1")
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "dagster_webserver", "-h", "127.0.0.1"]
    command += ["-p", str(port), "-w", str(REPOSITORY / "workspace.yaml")]
    with (folder / "web.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=REPOSITORY)
    try:
        until = time.monotonic() + 120
        while True:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{url}/server_info", timeout=5).ok:
                    break
            assert time.monotonic() < until, (folder / "web.log").read_text()
            time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        server.wait()


def cpu_seconds() -> float:
    """User and system seconds of the web server, its code server and the browser."""
    used = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used += times.user + times.system
    return used


def cost_of_page(page: Page, url: str, text: str, which: int) -> tuple[float, float]:
    """Wall and CPU seconds until the page shows the text."""
    page.goto("about:blank")
    cpu, begun = cpu_seconds(), time.perf_counter()
    page.goto(url)
    found = page.get_by_text(re.compile(text)).filter(visible=True)
    found.nth(which).wait_for(timeout=120_000)
    return time.perf_counter() - begun, cpu_seconds() - cpu


def measure_pages(folder: Path, *, shown: int, repeats: int) -> dict[str, float]:
    """The least wall seconds of each page; the first time loads the program."""
    with web_server(folder) as url, sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        made = {}
        for name, (path, pattern, which) in PAGES.items():
            text = pattern.replace("{shown}", f"{shown:,}".replace(",", ",?"))
            costs = [
                cost_of_page(page, url + path, text, which) for _ in range(repeats + 1)
            ]
            walls, cpus = zip(*costs, strict=True)
            made[name] = min(walls[1:])
            print(
                f"  {name:28} {made[name]:6.2f} s, CPU {min(cpus[1:]):.2f} s; the "
                f"first time {walls[0]:.2f} s, CPU {cpus[0]:.2f} s",
                flush=True,
            )
        browser.close()
    return made


def growth(instance: dg.DagsterInstance, home: Path, *, number: int) -> list[float]:
    """kB that a montage adds as its run ends, and once its step log is packed."""
    folder, logs = home / "dagster", instance.event_log_storage
    assert isinstance(logs, PackedRunLogs)
    # What is there once, such as the snapshot of the job, does not count.
    run_montages(instance, home, keys=["first"])
    pack_ended(instance, logs, quiet_s=0)
    empty = bytes_below(folder)
    keys = [f"real-{index}" for index in range(number)]
    run_montages(instance, home, keys=keys)
    plain = bytes_below(folder)
    assert pack_ended(instance, logs, quiet_s=0) == number
    packed = bytes_below(folder)
    return [(size - empty) / number / 1000 for size in (plain, packed)]


def main() -> int:
    given = arguments(__doc__, repeats=3)
    number, copies = (2, 500) if given.quick else (16, 10_000)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        dagster_home = home / "dagster"
        dagster_home.mkdir()
        shipped = (REPOSITORY / "dagster.yaml").read_bytes()
        (dagster_home / "dagster.yaml").write_bytes(shipped)
        fixed = {"home": str(home), "stitching.match.search_px": "32"}
        os.environ.update(export(fixed) | {"DAGSTER_HOME": str(dagster_home)})
        with dg.DagsterInstance.get() as instance:
            plain_kb, packed_kb = growth(instance, home, number=number)
            print(f"\na montage of {SIDE**2} tiles in the history  [{computer()}]")
            print(f"  as its run ends {plain_kb:.0f} kB, packed {packed_kb:.0f} kB")
            repeat(dagster_home, "real-0", number=copies)
            # The newest of all is a real one again.
            run_montages(instance, home, keys=["last"])
        shown = copies + number + 2
        print(
            f"\npages with {shown} montages, {bytes_below(dagster_home) / 1e6:.0f} MB"
        )
        pages = measure_pages(dagster_home, shown=shown, repeats=given.repeats)
    kept = packed_kb <= MOST_KB and max(pages.values()) <= MOST_S
    if given.json:
        figures = {"kB": packed_kb, "kB before packing": plain_kb, "pages (s)": pages}
        given.json.write_text(json.dumps(figures))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
