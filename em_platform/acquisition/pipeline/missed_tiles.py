"""Tiles on disk of which no message reached the pipeline."""

import logging
import os
import time
from collections import defaultdict
from pathlib import Path

from em_platform.acquisition.frame_paths import PREVIEW
from em_platform.acquisition.pipeline.journal import Journal
from em_platform.acquisition.pipeline.journaled import (
    JournaledTile,
    journaled,
    montage_of,
)
from em_platform.acquisition.recorder.events import RAW, Message
from em_platform.acquisition.recorder.reconcile import (
    COMPLETE_SUFFIX,
    OF_THE_MONTAGE,
    scan_folder,
)
from em_platform.errors import is_own_fault
from em_platform.stitching.sidecar_files import PROCESSED

log = logging.getLogger(__name__)

_RECENT_S = 24 * 3600.0
"""A montage that was completed longer ago is nobody's who waits for its tiles."""


def missed_tiles(
    frames: Path, journal: Journal, *, since_s: float = 0.0
) -> list[JournaledTile]:
    """The tiles beside the frames that the journal does not have.

    In folders that have changed since a time, in seconds since 1970. Of a completed
    montage those that have no processed frame, while it is recent. A montage that the
    journal has forgotten is over.
    """
    found = [
        message
        for folder in recent_folders(frames, since_s)
        if folder.name != PREVIEW
        for message in _in_folder(folder, journal)
    ]
    # The order of imaging; times of files are in ms here, and may be equal.
    found.sort(key=lambda each: (int(each.headers["sent_at"]), each.body["tile_id"]))
    return [journaled(message.body, message.headers) for message in found]


def recent_folders(frames: Path, since_s: float) -> list[Path]:
    """Those of montages in which something has happened since a time."""
    return [
        frames / name
        for name in _names(frames)
        if (_changed_s(frames / name) or 0.0) > since_s and (frames / name).is_dir()
    ]


def is_over(frames: Path, montage_id: str, montage: str) -> bool:
    """Whether a montage is complete, or its frames are gone."""
    folder = frames / montage_id
    return not folder.is_dir() or (folder / f"{montage}{COMPLETE_SUFFIX}").exists()


def _in_folder(folder: Path, journal: Journal) -> list[Message]:
    names = _names(folder)
    of_montage: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if name.endswith(".json") and not name.endswith(OF_THE_MONTAGE):
            tile_id = name.removesuffix(".json")
            # By their names: no body is read of a tile that is known.
            of_montage[_montage(folder, tile_id)].append(tile_id)
    aside: set[str] = set()
    for montage, tile_ids in of_montage.items():
        ended_s = _changed_s(folder / f"{montage}{COMPLETE_SUFFIX}")
        is_old = ended_s is not None and time.time() - ended_s > _RECENT_S
        if is_old or journal.is_pruned(montage):
            aside.update(tile_ids)
            continue
        aside |= journal.existing(montage)
        # A journal that was lost must not do whole montages again.
        if ended_s is not None:
            aside |= {t for t in tile_ids if f"{t}{PROCESSED}" in names}
    # Ends are the recorder's to read: none is open here.
    found = scan_folder(folder, recorded=aside, is_complete=lambda _: True)
    return [message for message in found if message.topic == RAW]


def _montage(folder: Path, stem: str) -> str:
    return montage_of({"tile_id": stem, "montage_id": folder.name})


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()  # no frame was ever saved, or they have just been deleted
    except OSError as error:
        if is_own_fault(error):
            raise
        log.warning("pipeline: %s cannot be looked through (%s)", folder, error)
        return set()


def _changed_s(path: Path) -> float | None:
    """When a file was written, or something last came into a folder."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None
