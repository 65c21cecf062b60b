"""How long a new live montage waits while hundreds of others do: judged, reviewed.

A platform of real processes, and so many montages (500; 30 with --quick) in its inbox
and in Dagster's queue. Then one montage is recorded as imaged now, and uploaded through
aloha's own code. Measured is the time from its record to its mosaic's
record (all checks judged) and to its review in TEM DB.

    python benchmarks/bench_queue.py
"""

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

LIMIT_S = 60.0
"""Within so long a live montage is judged and reviewed."""

_TILE_PX, _STEP_PX, _SIDE = 256, 192, 2
_LIVE = "live-1"
_KEY = f"{_LIVE}-t1"
_PATIENCE_S = 3600.0


def main() -> int:
    # So that what it has started ends with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--waiting", type=int, help="montages in the inbox")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    waiting = given.waiting or (30 if given.quick else 500)
    with tempfile.TemporaryDirectory() as folder, platform(Path(folder)) as home:
        seconds = measured(home, waiting)
    for what, took_s in seconds.items():
        print(f"{what:28} {took_s:6.1f} s")
    if given.json:
        given.json.write_text("[]")
    return 1 if max(seconds.values()) > LIMIT_S else 0


@contextmanager
def platform(folder: Path) -> Iterator[Path]:
    """`em-platform up` and TEM DB in a home of their own."""
    from em_platform.processes import free_port

    host, home = "127.0.0.1", folder / "home"
    os.environ |= {
        "EM_HOME": str(home),
        "EM_BROKER__PORT": str(free_port(host)),
        "EM_WEB__PORT": str(free_port(host)),
        "EM_TEMDB__PORT": str(free_port(host)),
        "EM_ACQUISITION__INBOX_QUIET_S": "1",
        "EM_STITCHING__MATCH__SEARCH_PX": "32",
        "DAGSTER_HOME": str(home / "dagster"),
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
    with (folder / "output").open("wb") as output:
        started = [
            subprocess.Popen(
                (sys.executable, "-m", "em_platform", *words),
                stdout=output,
                stderr=output,
            )
            for words in (("up",), ("service", "temdb"))
        ]
        try:
            until((home / "dagster" / "dagster.yaml").is_file)
            yield home
        except BaseException:
            print((folder / "output").read_text()[-2000:])
            raise
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(60)


def measured(home: Path, waiting: int) -> dict[str, float]:
    """Seconds from the record of the live montage to each of its results."""
    import dagster as dg

    tiles = tiles_of_an_image()
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        drop(home / "inbox" / "waiting-000", tiles)
        until(lambda: bool(instance.get_runs(limit=1)))
        [first] = instance.get_runs(limit=1)
        for number in range(1, waiting):
            name = f"waiting-{number:03d}"
            queue_like(first, name, instance)
            # It seems to be written still, so that the sensor does not ask for it, too.
            drop(home / "inbox" / name, tiles, written_s=time.time() + 1e6)
        queued = dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])
        print(
            f"{instance.get_runs_count(queued)} of {waiting} montages wait", flush=True
        )
        begun = time.monotonic()
        upload(image(home, tiles))
        found: dict[str, float] = {}
        for what, asset in (
            ("judged (catalog record)", "dataset_record"),
            ("reviewed (TEM DB)", "acquisition_review"),
        ):
            key = dg.AssetKey(asset)
            until(
                lambda key=key: _KEY in instance.get_materialized_partitions(key), 0.5
            )  # type: ignore[misc]
            found[what] = time.monotonic() - begun
        print(f"{instance.get_runs_count(queued)} montages wait still", flush=True)
        for run in reversed(of_live_montage(instance)):
            print(run, flush=True)
    return found


def queue_like(first: Any, name: str, instance: Any) -> None:
    """Put a run into the queue as the inbox's sensor did with the first.

    By itself it asks for one to ten a second; the queue is the same.
    """
    import dagster as dg
    from dagster_shared.record import copy

    instance.add_dynamic_partitions("montages", [name])
    tags = first.tags | {"dagster/partition": name, "dagster/run_key": name}
    number = str(uuid.uuid4())
    asked = first.with_status(dg.DagsterRunStatus.NOT_STARTED).with_tags(tags)
    asked = copy(asked, run_id=number)
    instance.add_run(asked)
    event = dg.DagsterEvent.job_enqueue(asked)
    instance.report_dagster_event(event, run_id=number)


def of_live_montage(instance: Any) -> list[str]:
    """How long each run of the live montage waited, started and worked."""
    import dagster as dg

    lines = []
    for record in instance.get_run_records(
        dg.RunsFilter(tags={"dagster/partition": _KEY})
    ):
        run = record.dagster_run
        stats = instance.get_run_stats(run.run_id)
        if None not in (stats.launch_time, stats.start_time, stats.end_time):
            waited = stats.launch_time - stats.enqueued_time
            started = stats.start_time - stats.launch_time
            worked = stats.end_time - stats.start_time
            lines.append(
                f"  {run.job_name}: {waited:.1f} s in the queue, {started:.1f} s to "
                f"start, {worked:.1f} s of work"
            )
    return lines


def until(truth: Callable[[], bool], pause_s: float = 2.0) -> None:
    end = time.monotonic() + _PATIENCE_S
    while not truth():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {_PATIENCE_S:.0f} s; see the logs")
        time.sleep(pause_s)


def tiles_of_an_image() -> list[tuple[int, int, Any]]:
    """Row, column and pixels of tiles that share a quarter of an edge."""
    import cv2
    import numpy as np

    edge = _TILE_PX + (_SIDE - 1) * _STEP_PX
    noise = np.random.default_rng(2).normal(128, 300, (edge, edge))
    grain = cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 3)
    whole = np.clip(grain, 0, 255).astype(np.uint8)
    return [
        (
            row,
            column,
            whole[
                row * _STEP_PX : row * _STEP_PX + _TILE_PX,
                column * _STEP_PX : column * _STEP_PX + _TILE_PX,
            ],
        )
        for row in range(_SIDE)
        for column in range(_SIDE)
    ]


def drop(
    folder: Path, tiles: list[tuple[int, int, Any]], *, written_s: float = 0.0
) -> None:
    """Put the tiles into the inbox, as one who has them in files."""
    from em_platform.formats import write_tiff

    folder.mkdir(parents=True)
    lines = ["file,x_px,y_px"]
    for row, column, pixels in tiles:
        write_tiff(folder / f"t{row}{column}.tiff", pixels)
        lines.append(f"t{row}{column}.tiff,{column * _STEP_PX},{row * _STEP_PX}")
    (folder / "tiles.csv").write_text("\n".join(lines) + "\n")
    if written_s:
        for path in (*folder.iterdir(), folder):
            os.utime(path, (written_s, written_s))


def image(home: Path, tiles: list[tuple[int, int, Any]]) -> Path:
    """Frames and messages of one montage, as the camera and the scope leave them."""
    from em_platform.acquisition.recorder import ledger_of
    from em_platform.config import load_settings
    from em_platform.formats import write_tiff
    from em_platform.messaging.topics import fitting

    folder = home / "frames" / _LIVE
    folder.mkdir(parents=True)
    announced: dict[str, Any] = {}
    for row, column, pixels in tiles:
        tile_id = f"{_KEY}_{row:03d}_{column:03d}"
        path = folder / f"{tile_id}.tiff"
        write_tiff(path, pixels)
        stage = [column * _STEP_PX * 4, row * _STEP_PX * 4]
        raw = {
            **{"tile_id": tile_id, "montage_id": _LIVE, "row": row, "column": column},
            **{"overlap": _TILE_PX - _STEP_PX, "stage_position": stage},
            "path": str(path),
        }
        body = fitting("tile.raw", raw).model_dump_json()
        (folder / f"{tile_id}.json").write_text(body)
        announced[tile_id] = {
            "raster_index": len(announced),
            "stage_position": stage,
            "raster_position": [column, row],
        }
    complete = {
        **{"montage_id": _LIVE, "acquisition_id": _KEY, "tiles": announced},
        **{"start_time": "2026-01-01T00:00:00Z", "pixel_size": 4.0},
        **{"rotation_angle": 0.0, "aperture_centroid": [0, 0]},
    }
    body = fitting("montage.complete", complete).model_dump_json()
    (folder / f"{_KEY}.complete.json").write_text(body)
    with ledger_of(load_settings()) as recorder:
        recorder.reconcile_montage(folder)
    return folder


def upload(folder: Path) -> None:
    """Take the frames into the store, as aloha does."""
    from em_platform.aloha.acquisitions import Acquisitions
    from em_platform.config import load_settings
    from em_platform.model import AcquisitionUpload, Size, UploadedTile
    from em_platform.storage import store_of
    from em_platform.temdb import register_of

    settings = load_settings()
    frames = sorted(folder.glob("*.tiff"))
    announced = AcquisitionUpload(
        acquisition_id=_KEY,
        montage_id=_LIVE,
        aperture_id=7,
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        ended_at=datetime(2026, 1, 1, 1, tzinfo=UTC),
        pixel_nm=4.0,
        tile_size=Size(height_px=_TILE_PX, width_px=_TILE_PX),
        tiles=tuple(
            UploadedTile(
                tile_id=frame.stem,
                raster_index=number,
                row=number // _SIDE,
                column=number % _SIDE,
                stage_x_nm=number,
                stage_y_nm=0,
                sha256=hashlib.sha256(frame.read_bytes()).hexdigest(),
                bytes=frame.stat().st_size,
            )
            for number, frame in enumerate(frames)
        ),
    )
    work = Path(settings.home) / "aloha"
    aloha = Acquisitions(
        work, store_of(settings), register_of(settings), settings.aloha
    )
    aloha.announce(announced)
    for frame in frames:
        wanted = aloha.wanted(_KEY, frame.stem)
        assert wanted is not None
        aloha.take(_KEY, wanted, frame)
    aloha.complete(_KEY)
    aloha.journal.close()


if __name__ == "__main__":
    sys.exit(main())
