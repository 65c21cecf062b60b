"""What is on the disk and in the store of one run of a montage."""

import json
import logging
import time

from em_platform.acquisition.frame_paths import (
    complete_body_path,
    frame_path,
    frames_folder,
)
from em_platform.acquisition.recorder import ledger_of
from em_platform.acquisition.recorder.events import is_preliminary
from em_platform.acquisition.session.report import MontageRun
from em_platform.config import Settings
from em_platform.errors import StorageError
from em_platform.model import AcquisitionUpload
from em_platform.storage import layout, store_of

log = logging.getLogger(__name__)

_LOOK_S = 2.0  # between two questions to the ledger


class RunFiles:
    """What no message brings, or one brought before the session log listened."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._frames = frames_folder(settings)
        self._looked_s = 0.0

    def completed(self, run: MontageRun) -> tuple[str, ...] | None:
        """The tiles of its `montage.complete`; None where it is not written."""
        path = complete_body_path(self._frames, run.montage_id, run.acquisition_id)
        try:
            return tuple(json.loads(path.read_bytes())["tiles"])
        except OSError:
            return None

    def is_uploaded(self, run: MontageRun) -> bool:
        """Whether aloha has verified it, into a store of this home."""
        return store_of(self._settings).exists(layout.upload(run.acquisition_id))

    def missing(self, run: MontageRun) -> str:
        """One sentence on what an uploaded montage lacks; empty where all was made."""
        upload = self._upload(run)
        return "" if upload is None else upload.what_is_missing

    def verdicts(self, run: MontageRun) -> dict[str, bool]:
        """Tile -> whether it passed; empty where it was asked for just now."""
        if time.monotonic() - self._looked_s < _LOOK_S:
            return {}
        self._looked_s = time.monotonic()
        try:
            with ledger_of(self._settings) as ledger:
                found = ledger.verdicts(run.montage_id, run.acquisition_id)
                return {
                    tile_id: each.passed
                    for tile_id, each in found.items()
                    if not is_preliminary(each.model_dump(mode="json"))
                }
        except StorageError as error:
            log.warning("%s", error)
            return {}

    def there(self, run: MontageRun) -> dict[str, bool]:
        """Tile -> whether its frame is on the disk or uploaded.

        Of all tiles that `montage.complete` names: those that were imaged before
        it was subscribed to are there as well.
        """
        unsent = self._unsent(run) if run.uploaded else frozenset(run.tile_ids)
        return {
            tile_id: tile_id not in unsent
            or frame_path(self._frames, run.montage_id, tile_id).is_file()
            for tile_id in run.tile_ids
        }

    def _unsent(self, run: MontageRun) -> frozenset[str]:
        """Tiles that had no frame when their montage was uploaded."""
        upload = self._upload(run)
        return (
            frozenset(each.item for each in upload.failures) if upload else frozenset()
        )

    def _upload(self, run: MontageRun) -> AcquisitionUpload | None:
        if self._settings.acquisition.buffer.url:
            return None  # its record is in a store of another computer
        name = layout.upload(run.acquisition_id)
        return store_of(self._settings).read(name, AcquisitionUpload)
