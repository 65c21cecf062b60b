"""One process's work on tiles: it takes a step, does it, says so and notes it."""

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial

from em_platform.acquisition.live_products import LiveMatch, read_tile, write_matches
from em_platform.acquisition.pipeline.frame import (
    Message,
    ProcessedFrame,
    process_frame,
    results,
    write_processed,
)
from em_platform.acquisition.pipeline.journal import MOST_ATTEMPTS, Journal
from em_platform.acquisition.pipeline.lens_in_force import LensInForce
from em_platform.acquisition.pipeline.live_recipes import LiveRecipes
from em_platform.acquisition.pipeline.match_messages import match, template_matches
from em_platform.acquisition.pipeline.matching import MeasuredPair, measure_neighbours
from em_platform.acquisition.pipeline.noted import Job, NotedTile
from em_platform.config import Settings
from em_platform.errors import BrokerUnavailable, DataError
from em_platform.messaging.bus import Bus
from em_platform.model import LensModel

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_FLUSH_S = 2.0


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
        self._recipes = LiveRecipes(settings, lens)
        self._told: set[str] = set()

    def do(self, job: Job) -> None:
        """One step of one tile, from the pixels to the note in the journal.

        Raises
        ------
        StorageError
            The disk does not take what was made; nothing was said of it.
        """
        if job.step == "process":
            self._process(job.tile)
        else:
            self._match(job)

    def _process(self, tile: NotedTile) -> None:
        try:
            if tile.attempts >= MOST_ATTEMPTS:
                raise DataError(
                    f"pipeline: {tile.attempts} attempts at {tile.path} were broken "
                    "off, one was expected to do; look at the log and at that frame, "
                    "and image it again"
                )
            done = self._processed(tile)
        except DataError as error:
            # Its statistics are not said; its empty list of matches follows, so that
            # nobody waits for them.
            log.warning("%s", error)
            self._journal.processed(tile, shape=None, failure=str(error))
            return
        if self._say(tile, results(tile, done, self._pipeline)):
            self._journal.processed(tile, shape=done.shape)

    def _processed(self, tile: NotedTile) -> ProcessedFrame:
        done = process_frame(tile, self._recipes)
        if tile.montage:
            write_processed(tile, done)
        return done

    def _match(self, job: Job) -> None:
        tile, neighbours = job.tile, job.neighbours
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
        self._keep(tile, measured)
        templates = [template_matches(each) for each in measured]
        matches = [match(each, lens) for each in measured]
        fields = tile.fields()
        said: list[Message] = [
            ("tile.template_matches", fields | {"matches": templates}),
            ("tile.matches", fields | {"matches": matches}),
        ]
        if self._say(tile, said):
            self._journal.done(tile)

    def _keep(self, tile: NotedTile, measured: Sequence[MeasuredPair]) -> None:
        """Put the matches beside the frame, for all that would measure the same."""
        recipe = self._recipes.known(tile)
        if recipe is None:
            return
        live = {
            each.tile_id: read_tile(each.path, recipe.tile)
            for each in (tile, *(one.neighbour for one in measured))
        }
        found = [
            LiveMatch(nominal=one.nominal, sha256=(a.sha256, b.sha256), match=one.kept)
            for one in measured
            if (a := live[one.kept.a]) and (b := live[one.kept.b])
        ]
        settings = self._settings.stitching.match
        write_matches(tile.path, found, recipe=recipe.tile, settings=settings)

    def _say(self, tile: NotedTile, said: Sequence[Message]) -> bool:
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
            partial(self._bus.publish, topic, **fields) for topic, fields in said
        ]
        sending.append(partial(self._bus.flush, _FLUSH_S))
        return all(self._persist(tile, send) for send in sending)

    def _persist(self, tile: NotedTile, send: Callable[[], None]) -> bool:
        """Try until the broker is back; False at the end of this process."""
        while True:
            try:
                send()
            except BrokerUnavailable as error:
                self._complain(str(error))
                if self._stopping.wait(_RETRY_S) or not self._journal.renew(tile):
                    return False
            else:
                return True

    def _lens_for(self, tile: NotedTile) -> LensModel | None:
        """The montage's; none for the frames from which a lens is measured."""
        if tile.body.get("lens_correction") or tile.shape is None:
            return None
        recipe = self._recipes.known(tile)
        return None if recipe is None else recipe.tile.lens

    def _complain(self, sentence: str) -> None:
        """Say a sentence once."""
        if sentence not in self._told:
            self._told.add(sentence)
            log.warning("%s", sentence)
