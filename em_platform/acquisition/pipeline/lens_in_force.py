"""The lens model with which the matches of a montage are corrected."""

import base64
import binascii
import logging

from pydantic import ValidationError

from em_platform.config import Settings
from em_platform.errors import DataError, StorageError
from em_platform.model import LensModel
from em_platform.storage import layout
from em_platform.storage.store import store_of

log = logging.getLogger(__name__)


class LensInForce:
    """What was last published, else what the store holds.

    Only a model of the present magnification counts: that of the scope where it has
    published one, else that of the settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._store = store_of(settings)
        self._microscope = settings.acquisition.microscope
        self._magnification = settings.acquisition.magnification
        self._received: dict[int, LensModel] = {}

    def receive(self, transform: str) -> None:
        """Take the transform of a `lens_correction.transform` that is ok."""
        try:
            lens = LensModel.model_validate_json(base64.b64decode(transform))
        except (ValidationError, binascii.Error, ValueError):
            log.warning(
                "pipeline: the transform of lens_correction.transform is no lens model "
                "of this platform and is not used; expected base64 of its JSON"
            )
            return
        # Kept for each magnification: the scope may come back to it.
        self._received[lens.magnification] = lens

    def change_magnification(self, magnification: int) -> None:
        """Take what the scope says; it holds for montages that begin from now on."""
        self._magnification = magnification

    def model(self) -> LensModel | None:
        """The present one; None where there is none."""
        # What was published is newer than the store, which Dagster alone writes.
        return self._received.get(self._magnification) or self.stored()

    def stored(self) -> LensModel | None:
        """What the store holds, even if another one was published since."""
        name = layout.lens(self._microscope, self._magnification)
        try:
            if not self._store.exists(name):
                return None
            return self._store.read(name, LensModel)
        # Matches without a lens are worth more than none.
        except (StorageError, DataError) as error:
            log.warning("%s; matches are not corrected for the lens", error)
            return None
