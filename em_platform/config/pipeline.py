"""Settings of the online pipeline."""

from pydantic import Field

from em_platform.model import Model


class PipelineSettings(Model):
    """How many `processes` share the tiles, and the pictures that they make of each.

    `preview_scale` and `mini_scale` are the sizes of `tile.preview` and `tile.mini`
    relative to the frame, of which the longer side has at least `preview_min_px` and
    `mini_min_px` where the frame has as many. `clahe` raises the local contrast of
    these two pictures and of nothing else. `flip` mirrors frames left to right before
    anything is done, for a camera that sees the specimen from behind.

    A tile is given to another process when its own has not finished it for `lease_s`,
    at once when that has ended. Of a montage that is over, the journal keeps the tiles
    for `keep_s` more.
    """

    processes: int = Field(default=2, gt=0)
    preview_scale: float = Field(default=0.1, gt=0, le=1)
    preview_min_px: int = Field(default=256, gt=0)
    mini_scale: float = Field(default=0.03, gt=0, le=1)
    mini_min_px: int = Field(default=32, gt=0)
    clahe: bool = False
    flip: bool = False
    lease_s: float = Field(default=30.0, gt=0)
    keep_s: float = Field(default=3600.0, ge=0)
