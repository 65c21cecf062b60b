"""What was not heard of tiles while the service was down, taken from the frames."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from em_platform.acquisition.frame_paths import frame_path, montage_folder
from em_platform.acquisition.live_products import recipe_of_tile
from em_platform.acquisition.qc.parts import Part, fields_of
from em_platform.acquisition.qc.watch import Watch
from em_platform.acquisition.recorder.events import RAW
from em_platform.acquisition.recorder.reconcile import scan_folder
from em_platform.errors import DataError, DeviceError
from em_platform.messaging.topics import fitting
from em_platform.stitching.tile_rules import saturated_fraction

log = logging.getLogger(__name__)


def tiles_on_disk(frames: Path, watch: Watch) -> Iterator[dict[str, Any]]:
    """The fields of the acquisition's tiles that lie on disk and were not heard of."""
    known = watch.pending.keys() | watch.judged.keys()
    montages = {p.fields["montage_id"] for p in watch.pending.values()}
    for montage_id in montages | watch.montage_ids:
        try:
            folder = montage_folder(frames, montage_id)
        except DeviceError:
            continue  # another system's id: its frames lie elsewhere
        if not folder.is_dir():
            continue
        for said in scan_folder(folder, recorded=known, is_complete=lambda _: True):
            if said.topic == RAW and watch.owns(said.body["tile_id"]):
                yield fields_of(fitting(RAW, said.body))


def measure_frame(frames: Path, fields: dict[str, Any]) -> Part | None:
    """The statistics of a tile's processed frame; None where there is none.

    They are of the valid box of its montage's recipe, as the pipeline's are. Its edges
    are left to the montage fit, which measures what was not heard.
    """
    tile_id = fields["tile_id"]
    try:
        raw = frame_path(frames, fields["montage_id"], tile_id)
    except DeviceError:
        return None
    recipe = recipe_of_tile(str(raw), tile_id, fields["montage_id"])
    if recipe is None:
        return None
    # Only needed after a restart, and slow to load.
    from em_platform.acquisition.live_products import measured_tile

    try:
        stats = measured_tile(str(raw), tile_id, recipe)
    except DataError as error:
        log.warning("%s", error)
        return None
    if stats is None:
        return None
    return {
        "mean": round(stats.mean),
        "std": round(stats.std),
        "focus": stats.focus,
        "saturated_fraction": saturated_fraction(stats.histogram),
        "edges": [],
    }
