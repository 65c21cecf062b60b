"""Settings of matching, solving, rendering, and the limits that the checks apply."""

from typing import Literal, Self

from pydantic import Field, model_validator

from em_platform.model import Model


class TileSettings(Model):
    """How a raw frame becomes an 8-bit tile.

    `flat_field` is `auto` (bright and dark frames, where they lie beside the tiles),
    `acquired` (these, which must be there), `estimate` (from the montage's own tiles;
    while it is imaged as `auto`) or `none`. `grey_range` maps these raw grey levels to
    0..255; empty means 8-bit input as it is, else the percentiles of a sample: the
    first tile that shows something while a montage is imaged, else 12 tiles.

    What follows from these is decided once for a montage, and again only when one of
    them has changed.

    `percentiles` of the sample become black and white.
    """

    flat_field: Literal["auto", "none", "estimate", "acquired"] = "auto"
    grey_range: tuple[float, float] | None = None
    percentiles: tuple[float, float] = (0.1, 99.9)

    @model_validator(mode="after")
    def _ranges_rise(self) -> Self:
        low, high = self.percentiles
        if not 0.0 <= low < high <= 100.0:
            raise ValueError(
                f"percentiles {low:g}, {high:g} do not rise from 0 to 100; "
                "choose for instance 0.1, 99.9"
            )
        if self.grey_range is not None and self.grey_range[0] >= self.grey_range[1]:
            raise ValueError(
                f"grey_range {self.grey_range[0]:g}, {self.grey_range[1]:g} does not "
                "rise; give the darker level first"
            )
        return self


class MatchSettings(Model):
    """How the shift of two neighbours is measured.

    `search_px` bounds how far a tile may lie from its nominal place.

    Neighbours that share at least `min_overlap_px` are compared, in `patches` along the
    overlap. A patch counts with a correlation of `min_score`; an edge is matched when
    `min_points` of them agree, or its peak stands `min_peak_z` standard deviations
    above the noise.
    """

    search_px: int = Field(default=128, gt=0)
    patches: int = Field(default=10, gt=0)
    min_overlap_px: int = Field(default=32, gt=0)
    min_score: float = 0.3
    min_peak_z: float = 6.0  # noise reaches 5; above it the patches decide
    min_points: int = 3


class SolveSettings(Model):
    """How all shifts become one place a tile.

    `rigid` also turns tiles, `affine` also scales and shears them; `auto` does so
    only where it closes the seams much better than shifts alone. `stage_weight` is
    the weight of a nominal shift against a perfect match: it places tiles that no match
    connects and is too small to bend the rest. `shape_weight` holds an affine tile's
    scale and shear. A match farther than `outlier_px` from the fit is left out.

    `model` is what may be done to a tile.
    """

    model: Literal["auto", "translation", "rigid", "affine"] = "auto"
    stage_weight: float = Field(default=1e-6, gt=0.0)
    shape_weight: float = Field(default=1e-2, gt=0.0)
    outlier_px: float = Field(default=4.0, gt=0.0)


class RenderSettings(Model):
    """How the mosaic is written: OME-Zarr 0.5, sharded, with a pyramid.

    A shard is one file of many chunks; a chunk is what a viewer loads. Without `levels`
    the pyramid ends where the whole image fits into one chunk. `background` is the grey
    level where no tile lies. `tile_cache_mb` bounds the tiles that a worker remembers.

    Edges are `chunk_px` and `shard_px`; `compression_level` is Zstandard's.
    """

    # 256 KiB of grey levels, which a viewer loads at once.
    chunk_px: int = Field(default=512, gt=0)
    # 64 chunks and 16 MiB a file.
    shard_px: int = Field(default=4096, gt=0, multiple_of=2)
    compression_level: int = Field(default=1, ge=1, le=22)
    background: int = Field(default=0, ge=0, le=255)
    # 32 halvings: 2**32 px are beyond any mosaic.
    levels: int | None = Field(default=None, gt=0, le=32)
    tile_cache_mb: int = Field(default=256, ge=0)

    @model_validator(mode="after")
    def _shards_hold_whole_chunks(self) -> Self:
        # Zarr's sharding codec stores whole chunks only.
        if self.shard_px % self.chunk_px:
            raise ValueError(
                f"shard_px {self.shard_px} is not a multiple of chunk_px "
                f"{self.chunk_px}; choose for instance {8 * self.chunk_px}"
            )
        return self


class QualitySettings(Model):
    """The limits that the checks apply (rules of the Allen TileQC and asap-modules).

    A tile is in focus when its score (imaging.focus) reaches `min_focus`, and
    `min_relative_focus` times the montage's median. Of all pairs of neighbours
    `max_unmatched_fraction` may stay unmatched: resin and vessels have nothing to match
    (0.6 % of the edges of a real montage of the Allen Institute). A seam is open where
    its matched places disagree by `max_seam_px`; a match that the fit left out counts
    when it has `min_seam_points` places. `max_distortion` bounds the median absolute
    deviation of the tiles' scales.

    While a montage is imaged, one tile may have `allowed_match_failures` unmatched
    edges, and its mean may differ from the usual one by `max_mean_drift` (a fraction);
    a uniform tile below the grey level `min_mean` saw no beam. An aperture whose middle
    is found more than `max_centroid_shift_nm` from before has slipped.

    A tile shows something when its standard deviation reaches `min_std`, and is
    saturated above `max_saturated_fraction`. An edge needs `min_points_per_edge`;
    `max_disconnected_tiles` may be without a way to the others.

    Dagster makes no mosaic of a montage of which less than `min_present_fraction` of
    the planned tiles are there, or less than `min_connected_fraction` are connected.

    Where the truth is known, as of a simulated microscope, the fitted places may be
    `max_truth_rmse_px` from the true ones (root of the mean square).
    """

    # At 3 px of blur the score is 0.02 (decision 10).
    min_focus: float = Field(default=0.05, ge=0.0, le=1.0)
    min_relative_focus: float = Field(default=0.4, ge=0.0, le=1.0)
    min_std: float = Field(default=5.0, ge=0.0)  # TileQC's `min_mean_std_dev`
    max_saturated_fraction: float = Field(default=0.02, ge=0.0, le=1.0)
    min_points_per_edge: int = Field(default=3, ge=0)
    max_unmatched_fraction: float = Field(default=0.02, ge=0.0, le=1.0)
    max_seam_px: float = Field(default=4.0, gt=0.0)  # asap-modules' limit
    min_seam_points: int = Field(default=5, gt=0)
    max_disconnected_tiles: int = Field(default=0, ge=0)  # its place is a guess
    max_distortion: float = Field(default=0.005, gt=0.0)  # asap-modules' limit
    min_present_fraction: float = Field(default=0.5, ge=0.0, le=1.0)
    min_connected_fraction: float = Field(default=0.5, ge=0.0, le=1.0)
    allowed_match_failures: int = Field(default=0, ge=0)
    max_mean_drift: float = Field(default=0.35, gt=0.0)
    min_mean: float = Field(default=8.0, ge=0.0)
    max_centroid_shift_nm: float = Field(default=50_000.0, gt=0.0)
    # Fits of good montages are within 0.1 px (docs/benchmarks.md).
    max_truth_rmse_px: float = Field(default=1.0, gt=0.0)


class StitchingSettings(Model):
    """How tiles become one image, and when it is good."""

    tile: TileSettings = TileSettings()
    match: MatchSettings = MatchSettings()
    solve: SolveSettings = SolveSettings()
    render: RenderSettings = RenderSettings()
    quality: QualitySettings = QualitySettings()
