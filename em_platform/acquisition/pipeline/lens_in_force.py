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
    """What was last said on the bus, else what the store holds.

    Only a model of the present magnification counts: that of the scope where it has
    said one, else that of the settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._store = store_of(settings)
        self._microscope = settings.acquisition.microscope
        self._magnification = settings.acquisition.magnification
        self._heard: dict[int, str] = {}

    def hear(self, transform: str) -> None:
        """Take the transform of a `lens_correction.transform` that is ok."""
        try:
            lens = LensModel.model_validate_json(base64.b64decode(transform))
        except (ValidationError, binascii.Error, ValueError):
            log.warning(
                "pipeline: the transform of lens_correction.transform is no lens model "
                "of this platform and is not used; expected base64 of its JSON"
            )
            return
        self._heard[lens.magnification] = lens.model_dump_json()

    def change_magnification(self, magnification: int) -> None:
        """Take what the scope says; it holds for montages that begin from now on."""
        self._magnification = magnification

    def text(self) -> str:
        """The present model as JSON; empty where there is none."""
        magnification = self._magnification
        if magnification in self._heard:
            return self._heard[magnification]
        name = layout.lens(self._microscope, magnification)
        try:
            if not self._store.exists(name):
                return ""
            return self._store.read(name, LensModel).model_dump_json()
        except (StorageError, DataError) as error:
            log.warning("%s; matches are not corrected for the lens", error)
            return ""


def lens_of(text: str) -> LensModel | None:
    """The model that `LensInForce.text` gave."""
    return LensModel.model_validate_json(text) if text else None
