"""Benchmark: a Dagster run after a live session, with and without what was made live.

    python benchmarks/bench_adoption.py [--quick] [--repeats N] [--json FILE]

Real pipeline processes make the tiles and matches of a montage; then `tiles`,
`tile_statistics` and `tile_matches`, and the whole job with fit, mosaic and record, are
run by Dagster: as they are, and with the proofs of the live products deleted, so that
all is computed. Each run is a process of its own; its CPU seconds, Dask workers
included, count from after its imports. Adopted and computed are counted and compared.
A third of the CPU was promised against 0b24fff, which this file cannot run; that
figure stands in docs/benchmarks.md.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench_pipeline import PIXEL_NM, Scene, make_scene, running, save, wait_for
from timing import Cost, arguments, finish, report

from em_platform.acquisition.recorder import ledger_of
from em_platform.config import export, load_settings
from em_platform.messaging.topics import fitting

NAME = "bench-20260102t030405"
LAST = {"tiles and matches": "tile_matches", "all with mosaic and record": ""}
RUN = """
import json, sys
import dagster as dg
from em_platform.definitions import defs
from em_platform.partitions import montages
from em_platform.stitching.compute import own_usage

key, last = sys.argv[1:]
chosen = [dg.AssetKey(n) for n in ("raw_tiles", "tiles", "tile_statistics", last)]
instance = dg.DagsterInstance.ephemeral()
instance.add_dynamic_partitions(str(montages.name), [key])
before = own_usage().cpu_seconds
result = defs.resolve_job_def("stitch_montages").execute_in_process(
    partition_key=key, instance=instance, asset_selection=chosen if last else None
)
counts = {
    name: value.value
    for event in result.get_asset_materialization_events()
    for name, value in event.materialization.metadata.items()
    if name.endswith((" adopted", " computed"))
}
print(json.dumps([own_usage().cpu_seconds - before, counts]))
"""
"""Run the job up to an asset; prints CPU seconds, and what was adopted and computed."""


def image(home: Path, scene: Scene) -> None:
    """A session: frames, what the pipeline makes of them, and the record of it."""
    with running(home, scene, processes=2) as (bus, received, _):
        for index in range(len(scene.bodies)):
            body = fitting("tile.raw", save(home, scene, index))
            beside = Path(body.path).with_suffix(".json")
            beside.write_text(body.model_dump_json())
            bus.publish("tile.raw", **body.model_dump())
        wait_for(lambda: len(received.matches_at) == len(scene.bodies))
    end = fitting("montage.complete", complete(scene))
    folder = home / "frames" / NAME
    (folder / f"{NAME}.complete.json").write_text(end.model_dump_json())
    with ledger_of(load_settings()) as ledger:
        ledger.reconcile_montage(folder)


def complete(scene: Scene) -> dict[str, Any]:
    """The fields of `montage.complete`."""
    return {
        "montage_id": NAME,
        "acquisition_id": NAME,
        "tiles": {
            body["tile_id"]: {
                "raster_index": index,
                "stage_position": body["stage_position"],
                "raster_position": [body["column"], body["row"]],
            }
            for index, body in enumerate(scene.bodies)
        },
        "start_time": "2026-01-02T03:04:05Z",
        "pixel_size": float(PIXEL_NM),
        "rotation_angle": 0.0,
        "aperture_centroid": [0, 0],
    }


def run_job(last: str) -> tuple[float, dict[str, int]]:
    """CPU seconds of one run, and what it adopted and computed."""
    command = [sys.executable, "-c", RUN, NAME, last]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    cpu_s, counts = json.loads(done.stdout.splitlines()[-1])
    return cpu_s, counts


def measure(home: Path, scene: Scene, *, repeats: int) -> list[dict[str, Any]]:
    """Both jobs with the live products, then without the proofs of these."""
    costs: dict[str, dict[str, Cost]] = {title: {} for title in LAST}
    counts: dict[str, dict[str, int]] = {}
    for how in ("adopting", "computing"):
        if how == "computing":
            for path in (home / "frames" / NAME).glob("*.sealed"):
                path.unlink()
        for title, last in LAST.items():
            runs = [run_job(last) for _ in range(repeats)]
            best = min(cpu_s for cpu_s, _ in runs)
            costs[title][how] = Cost(cpu_s=best, wall_s=0.0)
            counts[how] = runs[0][1]
    tiles = len(scene.bodies)
    assert counts["adopting"]["tiles adopted"] == tiles, counts
    assert counts["adopting"]["pairs computed"] == 0, counts
    assert counts["computing"]["tiles computed"] == tiles, counts
    figures = {f"{how}: {k}": str(v) for how in counts for k, v in counts[how].items()}
    return [
        report(
            f"{title}, {tiles} tiles of {scene.side} px",
            costs[title],
            accuracy=figures,
            wanted={},
        )
        for title in LAST
    ]


def main() -> int:
    given = arguments(__doc__, repeats=2)
    side, rows, columns = (1024, 3, 4) if given.quick else (2048, 6, 8)
    scene = make_scene(side, rows=rows, columns=columns, overlap=0.11, name=NAME)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        fixed = {
            "home": str(home),
            "acquisition.pixel_nm": str(PIXEL_NM),
            "stitching.match.search_px": str(scene.match.search_px),
        }
        os.environ.update(export(fixed))
        image(home, scene)
        reports = measure(home, scene, repeats=given.repeats)
    return finish(reports, path=given.json)


if __name__ == "__main__":
    sys.exit(main())
