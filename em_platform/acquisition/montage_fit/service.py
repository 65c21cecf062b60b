"""Fits a montage while it grows, draws its map, and stops where it does not fit.

The bus brings what the pipeline measures, at once; the ledger the same again, with what
the bus did not bring. What is known after a restart is what the ledger has.
"""

import json
import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from em_platform.acquisition.frame_paths import (
    checked_frame,
    frame_path,
    frames_folder,
    owner_of,
)
from em_platform.acquisition.live_products import recipe_of_tile
from em_platform.acquisition.montage_fit.growing import (
    TOPICS,
    LiveMontage,
    as_montage,
    body_of,
    complete_body,
    tile_matches,
    without_points,
)
from em_platform.acquisition.montage_fit.minimaps import focus_map, montage_map
from em_platform.acquisition.montage_fit.remeasure import (
    LensResult,
    measure_lens,
    whole_montage,
)
from em_platform.acquisition.pipeline.lens_in_force import LensInForce
from em_platform.acquisition.recorder.consumer import Consumer
from em_platform.acquisition.recorder.events import COMPLETE, LENS, RAW, safe_id
from em_platform.config import Settings, SolveSettings
from em_platform.errors import (
    DataError,
    DeviceError,
    FormatError,
    MessageRejected,
    ProcessingError,
    StorageError,
)
from em_platform.formats import read_header
from em_platform.messaging.bus import Bus
from em_platform.messaging.topics import Body
from em_platform.model import Check, MontageFit, Severity, Size
from em_platform.stitching.quality import check_fit, check_matches
from em_platform.stitching.recipe import TileRecipe
from em_platform.stitching.solve import solve_montage
from em_platform.storage.atomic import write_bytes

log = logging.getLogger(__name__)

TICK_S = 0.2  # Well below montage_fit.period_s, which says how often it draws
CAMERA = "camera.status"  # For the size of frames that cannot be read
_KEPT = 2  # acquisitions: late messages of the one before still find it
_DONE_KEPT = 16  # more than the ledger is asked for after a restart
_SHARE = 0.1  # of the time may go into fits while the montage grows


class MontageFitService:
    """One handler collects; ticks fit, draw and judge. `growing` is what it has."""

    def __init__(
        self, bus: Bus, settings: Settings, *, name: str = "montage_fit"
    ) -> None:
        self._bus, self._name, self._settings = bus, name, settings
        self._frames = frames_folder(settings)
        self._lock = threading.Lock()
        self._done_path = Path(settings.home).absolute() / "montage_fit" / "done.json"
        self._done_ids = _read_done(self._done_path)
        self._lens = LensInForce(settings)
        self.growing: dict[str, LiveMontage] = {}
        self._drawn: dict[str, int] = {}
        self._sizes: dict[str, Size] = {}
        self._camera: Size | None = None
        self._due_s = 0.0
        # One: two lens fits at once would take the cores of the pipeline.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lens")
        self._lens_fits: dict[str, Future[LensResult]] = {}
        self._lens_failures = 0
        self._consumer = Consumer(
            settings,
            name,
            (*TOPICS, COMPLETE),
            self._on_message,
            is_known=self._is_known,
        )
        bus.subscribe_many((*TOPICS, COMPLETE, LENS, CAMERA), self._on_message)
        self._consumer.resume(_KEPT)

    def tick(self) -> None:
        """Draw what has changed; finish what is complete."""
        self._consumer.tick()
        now_s = time.monotonic()
        with self._lock:
            growing = [each for each in self.growing.values() if not each.is_done]
        for each in growing:
            if each.complete is not None and self._may_finish(each, now_s):
                self._finish(each)
        if now_s < self._due_s:
            return
        for each in growing:
            if (
                not each.is_done
                and self._drawn.get(each.acquisition_id) != each.version
            ):
                self._draw(each)
                spent_s = time.monotonic() - now_s
                period_s = self._settings.acquisition.montage_fit.period_s
                self._due_s = time.monotonic() + max(period_s, spent_s / _SHARE)

    def close(self) -> None:
        """Leave a lens fit that has begun; it is begun anew after the next start."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._consumer.close()

    def _on_message(self, message: Any, headers: Mapping[str, str]) -> None:
        topic = headers["topic"]
        if topic == CAMERA:
            self._camera = Size(height_px=message.height, width_px=message.width)
        elif topic == LENS:
            if message.ok:
                self._lens.receive(message.transform)
        elif topic == COMPLETE:
            self._take_complete(message)
        elif message.montage_id:  # else a frame for the operator's screen
            body = body_of(topic, message)
            if topic == RAW and not self._is_its_frame(body):
                return
            with self._lock:
                self._of(body["tile_id"], body["montage_id"]).take(topic, body)

    def _is_its_frame(self, body: Body) -> bool:
        """Whether a message names the frame of its own tile, and no other file."""
        try:
            checked_frame(
                self._frames, body["path"], body["montage_id"], body["tile_id"]
            )
        except DataError as error:
            log.warning("montage_fit: %s", error)
            return False
        return True

    def _is_known(self, topic: str, tile_id: str) -> bool:
        """Whether a message about a tile came already."""
        with self._lock:
            return any(each.has(topic, tile_id) for each in self.growing.values())

    def _take_complete(self, message: Any) -> None:
        body = complete_body(message)
        # by a tile, as its messages are: another system's names may not agree
        first = next(iter(body["tiles"]), body["acquisition_id"])
        with self._lock:
            growing = self._of(first, body["montage_id"])
            if growing.finish(body, time.monotonic()):
                growing.montage_id = body["montage_id"]
                self._find_frames(growing)

    def _find_frames(self, growing: LiveMontage) -> None:
        """Frames of tiles that were not announced are where the camera puts them."""
        for tile in growing.tiles.values():
            if not tile.path:
                try:
                    path = frame_path(self._frames, growing.montage_id, tile.tile_id)
                except DeviceError:
                    continue  # another system's id, whose frames lie elsewhere
                tile.path = str(path) if path.is_file() else ""

    def _of(self, tile_id: str, montage_id: str) -> LiveMontage:
        own = safe_id(owner_of(tile_id, montage_id))
        if own not in self.growing:
            is_done = own in self._done_ids
            self.growing[own] = LiveMontage(acquisition_id=own, is_done=is_done)
            for old in list(self.growing)[:-_KEPT]:
                del self.growing[old]
        return self.growing[own]

    def _may_finish(self, growing: LiveMontage, now_s: float) -> bool:
        if growing.acquisition_id in self._lens_fits:
            return self._lens_fits[growing.acquisition_id].done()
        if growing.is_lens:  # it is measured from the frames, which are there
            return True
        wait_s = self._settings.acquisition.montage_fit.wait_s
        return growing.has_all() or now_s - growing.complete_s > wait_s

    def _draw(self, growing: LiveMontage) -> None:
        """Solve translations with what is there, and publish the maps."""
        # only to read: fit and pictures of 2,772 tiles take 0.5 s
        with self._lock:
            version = growing.version
            size = self._size_of(growing)
            if size is None:
                return
            montage = as_montage(growing, size)
            matches = without_points(tile_matches(growing, montage))
        # Fast, for a montage that grows; the settings' model is solved at its end.
        light = SolveSettings(model="translation")
        try:
            fit = solve_montage(montage, matches, settings=light)
        except ProcessingError as error:
            log.warning("%s", error)
            return
        self._publish_maps(growing, fit, size)
        # the version before the solve: what came meanwhile is drawn next time
        self._drawn[growing.acquisition_id] = version

    def _publish_maps(self, growing: LiveMontage, fit: MontageFit, size: Size) -> None:
        with self._lock:
            tiles = dict(growing.tiles)
        longest_px = self._settings.acquisition.montage_fit.minimap_px
        try:
            self._bus.publish(
                "montage.minimaps",
                montage_id=growing.montage_id,
                montage=montage_map(tiles, fit, size=size, longest_px=longest_px),
                focus=focus_map(tiles),
            )
        except MessageRejected as error:  # too large: the fit itself goes on
            log.warning("%s, or lower acquisition.montage_fit.minimap_px", error)

    def _finish(self, growing: LiveMontage) -> None:
        """Fit and judge the whole montage; of a lens montage measure the lens, too."""
        if growing.acquisition_id in self._lens_fits:
            self._publish_lens(growing)
            return
        try:
            self._judge(growing)
        except (ProcessingError, DataError) as error:
            log.warning("%s", error)
            # not again: each tick would fail in the same way
            self._done(growing)

    def _judge(self, growing: LiveMontage) -> None:
        size = self._size_of(growing)
        if size is None:
            raise DataError(
                f"montage {growing.acquisition_id}: the size of its frames is not "
                "known, a readable frame or a camera.status was expected; it is not "
                "judged here, see the checks of Dagster"
            )
        if growing.is_lens:
            self._measure_lens(growing, size)
            return
        fit, checks = self._fitted(growing, size)
        self._publish_maps(growing, fit, size)
        self._doubt(growing, checks)
        self._done(growing)

    def _fitted(
        self, growing: LiveMontage, size: Size
    ) -> tuple[MontageFit, tuple[Check, ...]]:
        stitching = self._settings.stitching
        montage, matches = whole_montage(
            growing,
            size,
            microscope=self._settings.acquisition.microscope,
            settings=stitching.match,
            recipe=self._recipe_of(growing, size),
        )
        fit = solve_montage(montage, matches, settings=stitching.solve)
        checks = (
            *check_matches(montage, fit.matches, stitching.quality),
            *check_fit(montage, fit, stitching.quality),
        )
        return fit, checks

    def _recipe_of(self, growing: LiveMontage, size: Size) -> TileRecipe:
        """As the pipeline kept it; where its frames were never seen, plain tiles."""
        for tile in growing.tiles.values():
            if tile.path:
                kept = recipe_of_tile(tile.path, tile.tile_id, growing.montage_id)
                if kept is not None:
                    return kept
        return TileRecipe(size=size, lens=self._lens.model())

    def _doubt(self, growing: LiveMontage, checks: tuple[Check, ...]) -> None:
        """Stop the scope at the end where a rule of severity ERROR is broken."""
        failed = [check for check in checks if not check.passed]
        for check in failed:
            log.warning("montage %s: %s", growing.acquisition_id, check.sentence)
        errors = [c.sentence for c in failed if c.severity is Severity.ERROR]
        if errors:
            self._stop(f"Montage {growing.acquisition_id}: {' '.join(errors)}")

    def _measure_lens(self, growing: LiveMontage, size: Size) -> None:
        """Begin in a thread of its own: it takes seconds."""
        with self._lock:
            montage = as_montage(
                growing, size, microscope=self._settings.acquisition.microscope
            )
            raw = [
                # raw ones: the tiles are made anew from them
                tile.model_copy(update={"uri": growing.tiles[tile.tile_id].path})
                for tile in montage.tiles
                if growing.tiles[tile.tile_id].path
            ]
        self._lens_fits[growing.acquisition_id] = self._thread.submit(
            measure_lens,
            montage.model_copy(update={"tiles": tuple(raw)}),
            settings=self._settings.stitching,
            magnification=self._settings.acquisition.magnification,
        )

    def _publish_lens(self, growing: LiveMontage) -> None:
        """Publish the lens; stop the scope when it could not be measured repeatedly."""
        result = self._lens_fits[growing.acquisition_id].result()
        self._bus.publish(LENS, **result.message(growing.montage_id))
        self._lens_failures = self._lens_failures + 1 if result.reason else 0
        if result.reason:
            log.warning("montage %s: %s", growing.acquisition_id, result.reason)
        # The coordinator images the set again; a stop would outlive its success.
        if self._lens_failures >= self._settings.acquisition.coordinator.lens_tries:
            tries = f"{self._lens_failures} times in a row"
            self._stop(f"The lens was not measured, {tries}: {result.reason}.")
            self._lens_failures = 0
        self._draw(growing)
        self._done(growing)

    def _stop(self, reason: str) -> None:
        self._bus.publish("qc.status", status="STOP_AT_END", reason=reason)

    def _done(self, growing: LiveMontage) -> None:
        growing.is_done = True
        self._lens_fits.pop(growing.acquisition_id, None)
        self._done_ids = [*self._done_ids, growing.acquisition_id][-_DONE_KEPT:]
        try:
            write_bytes(self._done_path, json.dumps(self._done_ids).encode())
        except StorageError as error:  # at worst it is judged once more after a restart
            log.error("%s", error)

    def _size_of(self, growing: LiveMontage) -> Size | None:
        """Of the frames: from the first that can be read, else from the camera."""
        known = self._sizes.get(growing.acquisition_id)
        for tile in () if known else growing.tiles.values():
            if not tile.path:
                continue
            try:
                known = read_header(tile.path).size
            except FormatError:
                continue
            self._sizes = {growing.acquisition_id: known}
            break
        return known or self._camera


def _read_done(path: Path) -> list[str]:
    """The acquisitions whose fit was judged; empty where none was yet."""
    try:
        found: list[str] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        log.error("montage fit: %s cannot be read (%s); starting anew", path, error)
        return []
    return found
