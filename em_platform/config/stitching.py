"""Settings of matching, solving, rendering, and the limits that the checks apply."""

from typing import Literal

from pydantic import Field

from em_platform.model import Model


class TileSettings(Model):
    """How a raw frame becomes an 8-bit tile.

    `flat_field` is `estimate` (from the montage's own tiles), `none`, or `acquired`
    (bright and dark frames beside the tiles). `grey_range` maps these raw grey levels
    to 0..255; empty means 8-bit input as it is, else the percentiles of a sample.
    """

    flat_field: Literal["none", "estimate", "acquired"] = "none"
    grey_range: tuple[float, float] | None = None
    percentiles: tuple[float, float] = (0.1, 99.9)


class MatchSettings(Model):
    """How the shift of two neighbours is measured.

    `search_px` bounds how far a tile may lie from its nominal place.
    """

    search_px: int = Field(default=128, gt=0)
    patches: int = Field(default=10, gt=0)
    min_overlap_px: int = Field(default=32, gt=0)
    min_score: float = 0.3
    min_peak_z: float = 8.0
    min_points: int = 3


class SolveSettings(Model):
    """How all shifts become one place a tile."""

    model: Literal["translation", "affine"] = "translation"
    stage_weight: float = 1e-4
    outlier_px: float = 2.0


class RenderSettings(Model):
    """How the mosaic is written: OME-Zarr 0.5, sharded, with a pyramid."""

    chunk_px: int = 512
    shard_px: int = 4096
    compression_level: int = 1
    background: int = 0


class QualitySettings(Model):
    """The limits that the checks apply (rules of the Allen TileQC and asap-modules)."""

    min_focus: float = 0.05
    min_std: float = 5.0
    max_saturated_fraction: float = 0.02
    max_unmatched_edges: int = 0
    max_seam_px: float = 4.0
    max_disconnected_tiles: int = 0
    max_distortion: float = 0.005


class StitchingSettings(Model):
    """How tiles become one image, and when it is good."""

    tile: TileSettings = TileSettings()
    match: MatchSettings = MatchSettings()
    solve: SolveSettings = SolveSettings()
    render: RenderSettings = RenderSettings()
    quality: QualitySettings = QualitySettings()
