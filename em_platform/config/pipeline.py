"""Settings of the online pipeline."""

from pydantic import Field

from em_platform.model import Model


class PipelineSettings(Model):
    """How many `processes` share the tiles, and the pictures that they make of each.

    `preview_scale` and `mini_scale` are the sizes of `tile.preview` and `tile.mini`
    relative to the frame.
    """

    processes: int = Field(default=2, gt=0)
    preview_scale: float = Field(default=0.1, gt=0, le=1)
    mini_scale: float = Field(default=0.03, gt=0, le=1)
