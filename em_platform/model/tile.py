"""One camera frame: where it lies, what its pixels say, how it fits its neighbours."""

from pydantic import Field

from em_platform.model.base import Model, Shift, Size


class Tile(Model):
    """One camera frame of a montage and where it nominally lies; never its pixels.

    `y_px, x_px` is the top-left corner in the montage's frame, y down, x to the
    right, from the stage or from the file that lists the tiles.
    """

    tile_id: str = Field(min_length=1)
    uri: str
    row: int
    column: int
    y_px: float
    x_px: float
    size: Size
    stage_y_nm: float | None = None
    stage_x_nm: float | None = None
    mask_uri: str | None = None
    sha256: str | None = None


class TileStats(Model):
    """What one tile's pixels say, in grey levels of the processed 8-bit tile.

    `focus` is the share of power in the band that defocus removes, above the noise
    floor: higher is sharper (see imaging.focus). `histogram` has 256 bins.
    """

    tile_id: str
    minimum: int
    maximum: int
    mean: float
    std: float
    focus: float
    saturated_fraction: float
    histogram: tuple[int, ...]


class TileMatch(Model):
    """The measured place of tile `b` in the frame of tile `a`.

    `shift` is the position of b's corner relative to a's. `a_points, b_points` are
    the centres `(y, x)` of the matched patches in each tile's own pixels. `score` is
    the median normalised cross-correlation of the patches (0..1), `peak_z` the height
    of the coarse correlation peak over its noise, `spread_px` the standard deviation of
    the patch shifts, `residual_px` how far the solved montage is from this match.
    A match that is not `kept` has a `reason`.
    """

    a: str
    b: str
    shift: Shift
    score: float
    points: int
    peak_z: float
    spread_px: float
    a_points: tuple[tuple[float, float], ...] = ()
    b_points: tuple[tuple[float, float], ...] = ()
    residual_px: float | None = None
    kept: bool = True
    reason: str = ""
