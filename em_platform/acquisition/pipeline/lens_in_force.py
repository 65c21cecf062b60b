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
    """What was last said on the bus, else what the store holds."""

    def __init__(self, settings: Settings) -> None:
        acquisition = settings.acquisition
        self._store = store_of(settings)
        self._name = layout.lens(acquisition.microscope, acquisition.magnification)
        self._heard = ""

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
        self._heard = lens.model_dump_json()

    def text(self) -> str:
        """The present model as JSON; empty where there is none."""
        if self._heard:
            return self._heard
        try:
            if not self._store.exists(self._name):
                return ""
            return self._store.read(self._name, LensModel).model_dump_json()
        except (StorageError, DataError) as error:
            log.warning("%s; matches are not corrected for the lens", error)
            return ""


def lens_of(text: str) -> LensModel | None:
    """The model that `LensInForce.text` gave."""
    return LensModel.model_validate_json(text) if text else None
