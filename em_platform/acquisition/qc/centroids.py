"""Has an aperture moved: its middle as found before, and as found now."""

import math
from typing import Any

from em_platform.acquisition.qc.verdict import GOOD, Status, Verdict
from em_platform.config import QualitySettings

Place = tuple[int, int]


class Centroids:
    """Remembers where the middle of each aperture was in this session."""

    def __init__(self, limits: QualitySettings) -> None:
        self._limits = limits
        self._places: dict[int, Place] = {}
        self._apertures: dict[str, int] = {}

    def forget(self) -> None:
        """A new session: another specimen may be in the holder."""
        self._places.clear()

    def take(self, topic: str, message: Any) -> Verdict:
        """Take `roi.current` or `calibration.centroid`; what the scope is to do."""
        if topic == "roi.current":
            if message.aperture_id is not None:
                self._apertures = {message.montage_id: message.aperture_id}
            return GOOD
        return self._compare(message.aperture_id, (message.x, message.y))

    def take_complete(self, message: Any) -> Verdict:
        """Take `montage.complete`, where the aperture of its montage is known."""
        aperture = self._apertures.get(message.montage_id)
        found = tuple(message.aperture_centroid)
        if aperture is None or found == (0, 0):  # nobody looked for it
            return GOOD
        return self._compare(aperture, found)

    def _compare(self, aperture: int, found: Place) -> Verdict:
        before = self._places.setdefault(aperture, found)
        verdict = judge_centroid(aperture, before, found=found, limits=self._limits)
        self._places[aperture] = found
        return verdict


def judge_centroid(
    aperture: int, before: Place, *, found: Place, limits: QualitySettings
) -> Verdict:
    """Whether an aperture's middle, in nm, is where it was."""
    shift_nm = math.dist(before, found)
    if shift_nm <= limits.max_centroid_shift_nm:
        return GOOD
    return Verdict(
        status=Status.STOP_AT_END,
        reason=(
            f"Aperture {aperture}: its middle was found {shift_nm / 1000:.1f} µm from "
            f"before, at most {limits.max_centroid_shift_nm / 1000:g} µm expected; see "
            "that the specimen lies fast and calibrate the stage."
        ),
    )
