"""One acquisition while it is imaged: which tile is next, and what is on disk of it."""

import json
import os
import time
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, TypedDict

from em_platform.acquisition.coordinator.registry import Begun
from em_platform.acquisition.frame_paths import (
    complete_body_path,
    frame_path,
    montage_folder,
    tile_body_path,
    tile_name,
)
from em_platform.acquisition.raster import Stop
from em_platform.acquisition.roi import created, shared_px, stops_of
from em_platform.errors import StorageError
from em_platform.messaging.topics import Body, fitting
from em_platform.storage.atomic import write_bytes

_UNSURE_S = 5.0
"""Messages that the broker had not confirmed when the process was killed are not older
than this; their tiles are published again, which every subscriber accepts."""


class TileDone(TypedDict):
    """Where a tile was imaged, as `montage.complete` has it."""

    raster_index: int
    stage_position: tuple[int, int]
    raster_position: tuple[int, int]


class Imaging:
    """The stops of one acquisition, those that are done, and how fast it went.

    A tile is done when the body of its `tile.raw` is on disk: an acquisition that was
    interrupted goes on with the first stop that has none.
    """

    def __init__(
        self,
        begun: Begun,
        *,
        frames: Path,
        overlap: float,
    ) -> None:
        roi = created(begun.roi)
        self.begun = begun
        self.stops = stops_of(
            roi,
            begun.frame,
            pixel_nm=begun.pixel_nm,
            overlap=overlap,
            rotation_rad=begun.rotation_rad,
        )
        self.tiles: dict[str, TileDone] = {}
        self.cycles_s: list[float] = []
        self.move_s = 0.0
        self.capture_s = 0.0
        self.place_nm: tuple[int, int] | None = None
        self.tilt = begun.tilt_fields
        self.unsure: list[Body] = []
        self._frames = frames
        self._shared_px = shared_px(roi, begun.frame, overlap=overlap)
        self._waiting = list(reversed(self.stops))  # the next is last: cheap to take
        self._retries: dict[int, int] = {}
        self.exposing = ""
        self.unjudged: set[str] = set()
        # without quality control no verdict is waited for
        self.has_verdicts = False
        # before `find_done`: it looks for bodies by the names of the retries
        self.image_again(begun.superseded)
        self._begun_s = self._cycle_s = self._capture_s = time.monotonic()

    @property
    def montage_id(self) -> str:
        """Of the montage."""
        return str(self.begun.roi["montage_id"])

    @property
    def acquisition_id(self) -> str:
        """Of the acquisition."""
        return self.begun.acquisition_id

    @property
    def seconds(self) -> float:
        """Since its start, in this process."""
        return time.monotonic() - self._begun_s

    @property
    def stop(self) -> Stop | None:
        """Where the next tile is imaged; None when all are done."""
        return self._waiting[-1] if self._waiting else None

    @property
    def following(self) -> Stop | None:
        """Where the tile after the next is imaged."""
        return self._waiting[-2] if len(self._waiting) > 1 else None

    def image_again(self, superseded: Collection[str]) -> None:
        """Put the tiles whose frames are superseded before all others that wait."""
        gone = frozenset(superseded)
        # backwards: the last one put there is imaged first
        for stop in reversed(self.stops):
            name = self._name(stop)
            if name not in gone:
                continue
            # the first name that no rejected frame has, also after several stops
            self._retries[stop.index] = next(
                n for n in count(1) if self._name(stop, retry=n) not in gone
            )
            if self.tiles.pop(name, None) is not None:
                self._waiting.append(stop)

    def unsaved(self) -> list[str]:
        """The tiles that count as imaged and whose frames are not on the disk."""
        return [
            tile_id
            for tile_id in self.tiles
            if not frame_path(self._frames, self.montage_id, tile_id).is_file()
        ]

    def expose(self) -> None:
        """Note that the camera is commanded to expose the next tile."""
        self.exposing = self._name(self._waiting[-1])

    def command(self) -> Body:
        """The fields that `camera.command` and `tile.raw` of the next tile share."""
        stop = self._waiting[-1]
        return {
            "tile_id": self._name(stop),
            "montage_id": self.montage_id,
            "roi_id": (self.begun.roi.get("metadata") or {}).get("roi_id"),
            "row": stop.row,
            "column": stop.column,
            "overlap": self._shared_px,
            "stage_position": self.place_nm,
            **({"lens_correction": True} if self.begun.lens else {}),
        }

    def clock(self, *, moved_s: float) -> None:
        """Note that the stage has arrived after `moved_s`, and the exposure begins."""
        self.move_s = moved_s
        self._capture_s = time.monotonic()

    def rested(self) -> None:
        """Do not count what has passed since the last tile as time it took."""
        self._cycle_s = time.monotonic()

    def imaged(self) -> Body:
        """Note on disk that the next tile is done; the fields of its `tile.raw`.

        Raises
        ------
        StorageError
            Its body cannot be written; the tile is not done.
        """
        stop, fields = self._waiting[-1], self.command()
        path = frame_path(self._frames, self.montage_id, fields["tile_id"])
        raw = {**fields, **self.tilt, "path": str(path)}
        # Written before it is published: a tile that subscribers know is never lost.
        body = fitting("tile.raw", raw).model_dump_json().encode()
        write_bytes(
            tile_body_path(self._frames, self.montage_id, fields["tile_id"]), body
        )
        self._done(stop, fields["tile_id"], fields["stage_position"])
        self.exposing = ""
        self.unjudged.add(fields["tile_id"])
        ended_s = time.monotonic()
        self.capture_s = ended_s - self._capture_s
        self.cycles_s.append(ended_s - self._cycle_s)
        self._cycle_s = ended_s
        return raw

    def find_done(self) -> int:
        """Leave out the tiles that an earlier process imaged; how many those are.

        `unsure` are then the bodies of those that may not have been published.
        """
        found: list[tuple[float, Body]] = []
        for stop in self.stops:
            tile_id = self._name(stop)
            path = tile_body_path(self._frames, self.montage_id, tile_id)
            with suppress(FileNotFoundError):
                body = json.loads(path.read_bytes())
                found.append((path.stat().st_mtime, body))
                self._done(stop, tile_id, body["stage_position"])
        # by the files' own clock: the disk may be another computer's
        newest = max((when for when, _ in found), default=0.0)
        self.unsure = [body for when, body in found if newest - when < _UNSURE_S]
        # perhaps never published, and then without a verdict
        self.unjudged.update(body["tile_id"] for body in self.unsure)
        return len(found)

    def complete(self, centroid_nm: tuple[int, int]) -> Body:
        """Write the body of `montage.complete`; its fields.

        Raises
        ------
        StorageError
            It cannot be written.
        """
        fields = {
            "montage_id": self.montage_id,
            "tiles": self.tiles,
            "acquisition_id": self.acquisition_id,
            "start_time": self.begun.started_at,
            "pixel_size": self.begun.pixel_nm,
            "rotation_angle": self.begun.rotation_rad,
            "aperture_centroid": centroid_nm,
            **self.tilt,
        }
        path = complete_body_path(self._frames, self.montage_id, self.acquisition_id)
        body = fitting("montage.complete", fields).model_dump_json()
        # on the disk before it is published, as with tiles
        write_bytes(path, body.encode())
        return fields

    def link_references(self) -> None:
        """Keep the references that are current now beside the frames."""
        folder = montage_folder(self._frames, self.montage_id)
        # linked, not copied: the references stay those of the start at no cost
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("bright.tiff", "dark.tiff"):
            source = self._frames / "references" / name
            if source.is_file():
                _link(source, folder / name)

    def _name(self, stop: Stop, *, retry: int | None = None) -> str:
        retry = self._retries.get(stop.index, 0) if retry is None else retry
        return tile_name(self.acquisition_id, stop.row, stop.column, retry=retry)

    def _done(self, stop: Stop, tile_id: str, place: Any) -> None:
        if self._waiting[-1] is stop:  # as always but when it resumes
            self._waiting.pop()
        else:
            self._waiting.remove(stop)
        self.tiles[tile_id] = {
            "raster_index": stop.index,
            "stage_position": place,
            "raster_position": (stop.column, stop.row),
        }


def now() -> datetime:
    """The time of day, as it is published and written."""
    return datetime.now(UTC)


def _link(source: Path, target: Path) -> None:
    """Let `target` be the same file as `source`; a reader sees the old or the new."""
    # linked beside and renamed: there is no moment without a reference
    beside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        beside.unlink(missing_ok=True)
        os.link(source, beside)
        beside.replace(target)
    except OSError as error:
        raise StorageError(
            f"coordinator: {source} could not be linked to {target} "
            f"({error.strerror}); check access to the frames' folder, then retry",
            url=str(target),
        ) from error
    finally:
        beside.unlink(missing_ok=True)
