"""One process's work on tiles: it takes a step, does it, says so and notes it."""

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from em_platform.acquisition.frame_paths import checked_frame, frames_folder
from em_platform.acquisition.live_products import LiveMatch, read_tile, write_matches
from em_platform.acquisition.pipeline.frame import (
    Message,
    ProcessedFrame,
    preview_and_mini,
    process_frame,
    results,
    write_processed,
)
from em_platform.acquisition.pipeline.journal import MOST_ATTEMPTS, Journal
from em_platform.acquisition.pipeline.journaled import Job, JournaledTile
from em_platform.acquisition.pipeline.lens_in_force import LensInForce
from em_platform.acquisition.pipeline.live_recipes import LiveRecipes
from em_platform.acquisition.pipeline.match_messages import match, template_matches
from em_platform.acquisition.pipeline.matching import MeasuredPair, measure_neighbours
from em_platform.config import Settings
from em_platform.config.acquisition import PipelineSettings
from em_platform.config.stitching import MatchSettings
from em_platform.errors import BrokerUnavailable, DataError, StorageError
from em_platform.formats import tiff_parts
from em_platform.imaging.tile import process_tile
from em_platform.imaging.valid import valid_region
from em_platform.messaging.bus import Bus
from em_platform.model import LensModel, Shift, Size, Tile
from em_platform.stitching.match import measure_pair
from em_platform.stitching.neighbours import Neighbours, Strip
from em_platform.storage.own_faults import OwnFaults

log = logging.getLogger(__name__)

_RETRY_S = 1.0  # far less than the usual lease, renewed at each try
_FLUSH_S = 2.0  # then the lease is renewed, and it is asked again


class TileWorker:
    """Does the steps of tiles; everything it needs to know is in the journal.

    `stopping` ends a wait for the broker; what was taken is then given back.
    """

    def __init__(
        self,
        bus: Bus,
        journal: Journal,
        settings: Settings,
        *,
        lens: LensInForce,
        stopping: threading.Event,
        rotation_rad: float = 0.0,
    ) -> None:
        self._bus = bus
        self._journal = journal
        self._settings = settings
        self._pipeline = settings.acquisition.pipeline
        self._stopping = stopping
        self._rotation_rad = rotation_rad
        self._frames = frames_folder(settings)
        self._recipes = LiveRecipes(settings, lens)
        self._logged: set[str] = set()
        self._faults = OwnFaults("pipeline's journal")

    def do(self, job: Job) -> None:
        """One step of one tile, from the pixels to the mark in the journal.

        Raises
        ------
        StorageError
            The disk does not take what was made; nothing was published.
        """
        if job.step == "process":
            self._process(job.tile)
        else:
            self._match(job)

    def _process(self, tile: JournaledTile) -> None:
        try:
            # A frame over which processes end must not end them for ever.
            if tile.attempts >= MOST_ATTEMPTS:
                raise DataError(
                    f"pipeline: {tile.attempts} attempts at {tile.path} were broken "
                    "off, one was expected to do; look at the log and at that frame, "
                    "and image it again"
                )
            checked_frame(
                self._frames, tile.path, str(tile.body["montage_id"]), tile.tile_id
            )
            done = self._processed(tile)
        except DataError as error:
            # Its statistics are not published, but an empty list of matches: nobody
            # waits for it then.
            log.warning("%s", error)
            self._journal.processed(tile, shape=None, failure=str(error))
            return
        # Noted after it is published: a kill in between sends twice, never not at all.
        if self._publish(tile, results(tile, done, self._pipeline)):
            self._record_step(lambda: self._journal.processed(tile, shape=done.shape))

    def _processed(self, tile: JournaledTile) -> ProcessedFrame:
        done = process_frame(tile, self._recipes)
        if tile.montage:
            write_processed(tile, done)
        return done

    def _match(self, job: Job) -> None:
        tile, neighbours = job.tile, job.neighbours
        # Its empty lists are how quality control learns that it is unreadable.
        if tile.failure:
            neighbours = ()
        elif tile.attempts >= MOST_ATTEMPTS:
            log.warning(
                "pipeline: %d attempts at the matches of %s were broken off, one was "
                "expected to do; they are left out, look at the log",
                tile.attempts,
                tile.tile_id,
            )
            neighbours = ()
        lens = self._lens_for(tile)
        measured = measure_neighbours(
            tile,
            neighbours,
            settings=self._settings.stitching.match,
            pixel_nm=self._settings.acquisition.pixel_nm,
            rotation_rad=self._rotation_rad,
            lens=lens,
            remake=self._processed,
        )
        # Before anything is published: on a full disk the step is done again whole.
        # Not beside what could not be read: its path may be that of another.
        if not tile.failure:
            self._keep(tile, measured)
        templates = [template_matches(each) for each in measured]
        matches = [match(each, lens) for each in measured]
        fields = tile.fields()
        messages: list[Message] = [
            ("tile.template_matches", fields | {"matches": templates}),
            ("tile.matches", fields | {"matches": matches}),
        ]
        if self._publish(tile, messages):
            self._record_step(lambda: self._journal.done(tile))

    def _keep(self, tile: JournaledTile, measured: Sequence[MeasuredPair]) -> None:
        """Put the matches beside the frame, for all that would measure the same."""
        recipe = self._recipes.known(tile)
        # No tile has shown anything yet: there is nothing to prove a match by.
        if recipe is None:
            return
        live = {
            each.tile_id: read_tile(each.path, recipe.tile)
            for each in (tile, *(one.neighbour for one in measured))
        }
        found = [
            LiveMatch(nominal=one.nominal, sha256=(a.sha256, b.sha256), match=one.kept)
            for one in measured
            # Without the proof of both tiles nobody could adopt the match.
            if (a := live[one.kept.a]) and (b := live[one.kept.b])
        ]
        settings = self._settings.stitching.match
        write_matches(tile.path, found, recipe=recipe.tile, settings=settings)

    def _publish(self, tile: JournaledTile, messages: Sequence[Message]) -> bool:
        """Publish all, and wait until the broker has them; False where we may not.

        The tile may have been given to another process, which then says it.
        """
        if not self._journal.renew(tile):
            log.warning(
                "pipeline: %s took longer than pipeline.lease_s and was given to "
                "another process; raise it",
                tile.tile_id,
            )
            return False
        sending: list[Callable[[], None]] = [
            partial(self._bus.publish, topic, **fields) for topic, fields in messages
        ]
        sending.append(partial(self._bus.flush, _FLUSH_S))
        # `all` stops at the first that fails: nothing overtakes it.
        return all(self._persist(tile, send) for send in sending)

    def _persist(self, tile: JournaledTile, send: Callable[[], None]) -> bool:
        """Try until the broker is back; False at the end of this process."""
        while True:
            try:
                send()
            except BrokerUnavailable as error:
                self._warn_once(str(error))
                if self._stopping.wait(_RETRY_S) or not self._journal.renew(tile):
                    return False
            else:
                return True

    def _record_step(self, note: Callable[[], bool]) -> None:
        """Note what is published, however long the journal is locked.

        Else the whole step would be done, and published, once more.
        """
        while True:
            try:
                note()
            except StorageError as error:
                if self._stopping.wait(self._faults.pause_s(error)):
                    raise
            else:
                self._faults.over()
                return

    def _lens_for(self, tile: JournaledTile) -> LensModel | None:
        """The montage's; none for the frames from which a lens is measured."""
        if tile.body.get("lens_correction") or tile.shape is None:
            return None
        recipe = self._recipes.known(tile)
        return None if recipe is None else recipe.tile.lens

    def _warn_once(self, sentence: str) -> None:
        """Say a sentence once."""
        if sentence not in self._logged:
            self._logged.add(sentence)
            log.warning("%s", sentence)


_WARM_UP_PX = 256  # as large as a patch of the focus score, which runs too then


def warm_up(settings: PipelineSettings) -> None:
    """Run each step once on noise."""
    noise = np.random.default_rng(0).integers(
        0, 255, (_WARM_UP_PX, _WARM_UP_PX), np.uint8
    )
    # Numba compiles anew for each type of pixel.
    for raw in (noise, noise.astype(np.uint16)):
        valid_region(raw)
        tile = process_tile(raw, tile_id="warm-up")
    preview_and_mini(tile.half, settings, longer_px=_WARM_UP_PX)
    tiff_parts(tile.image)  # which loads tifffile
    process_tile(noise, tile_id="warm-up", grey_range=(0.0, 255.0))
    size = Size(height_px=_WARM_UP_PX, width_px=_WARM_UP_PX)
    one, other = (
        Tile(tile_id=n, uri="", row=0, column=0, y_px=0, x_px=0, size=size)
        for n in ("a", "b")
    )
    pair = Neighbours(
        a=one,
        b=other,
        side="right",
        nominal=Shift(dy_px=0, dx_px=0),
        overlap_height_px=_WARM_UP_PX,
        overlap_width_px=_WARM_UP_PX,
    )
    strip = Strip(corner=(0, 0), image=noise, mask=None)
    measure_pair(pair, strip, b=strip, settings=MatchSettings())
