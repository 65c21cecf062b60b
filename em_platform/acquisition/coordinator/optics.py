"""How large the camera's frames are, and how they lie on the stage."""

from collections.abc import Mapping
from typing import Any

from em_platform.acquisition.coordinator.registry import Registry, Scale
from em_platform.acquisition.machines.context import Context
from em_platform.acquisition.roi import rotation_rad
from em_platform.model import Size


class Optics:
    """What was calibrated, else what the settings give."""

    def __init__(self, context: Context, registry: Registry) -> None:
        self.context = context
        self.registry = registry
        self._settings = context.settings.acquisition

    def frame_size(self) -> Size | None:
        """Of the camera's frames, as its last status gives it."""
        status = self.context.latest("camera.status")
        if status is None:
            return None
        return Size(height_px=status.height, width_px=status.width)

    def scale(self, *, survey: bool = False) -> Scale:
        """How the image lies on the stage, calibrated or from the settings."""
        magnification = self._settings.magnification
        wanted = self._settings.coordinator.survey_magnification if survey else None
        scale = Scale(
            pixel_nm=self._settings.pixel_nm,
            rotation_rad=rotation_rad(self.context.settings),
        )
        kept = self.registry.state.scales
        if (known := kept.get(str(magnification))) and known.settings == self._key():
            scale = known
        if wanted is None or wanted == magnification:
            return scale
        if (known := kept.get(str(wanted))) and known.settings == self._key():
            return known
        return scale.model_copy(
            update={"pixel_nm": scale.pixel_nm * magnification / wanted}
        )

    def note_scales(self, message: Any) -> None:
        """Keep what a `` reports."""
        found: dict[str, Scale] = {}
        for table in (message.lowmag, message.mag):
            found |= {
                str(magnification): Scale(
                    pixel_nm=sum(each.nm_per_px) / 2,
                    rotation_rad=each.rotation,
                    settings=self._key(),
                )
                for magnification, each in table.items()
            }
        self.registry.change(scales={**self.registry.state.scales, **found})

    def note_centroid(self, message: Any) -> None:
        """Keep what a `` reports."""
        known: Mapping[int, Any] = self.registry.state.centroids_nm
        place = (message.x, message.y)
        self.registry.change(centroids_nm={**known, message.aperture_id: place})

    def centroid(self, aperture_id: int | None) -> tuple[int, int]:
        """The middle of an aperture on the stage, (x, y) in nm; 0, 0 if unknown."""
        known = self.registry.state.centroids_nm
        return (0, 0) if aperture_id is None else known.get(aperture_id, (0, 0))

    def _key(self) -> str:
        """What a calibration is valid for."""
        acquisition = self._settings
        return (
            f"{acquisition.microscope} {acquisition.magnification} "
            f"{acquisition.pixel_nm:g} {acquisition.simulation.rotation_deg:g}"
        )
