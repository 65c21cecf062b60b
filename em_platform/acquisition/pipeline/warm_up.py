"""Compile and load what the first tile needs, before it comes."""

import numpy as np

from em_platform.config.acquisition import PipelineSettings
from em_platform.config.stitching import MatchSettings
from em_platform.imaging.tile import process_tile
from em_platform.imaging.valid import valid_region
from em_platform.model import Shift, Size, Tile
from em_platform.stitching.match import measure_pair
from em_platform.stitching.neighbours import Neighbours, Strip

_SIDE = 256


def warm_up(settings: PipelineSettings) -> None:
    """Run each step once on noise."""
    from em_platform.acquisition.pipeline.pictures import preview_and_mini

    noise = np.random.default_rng(0).integers(0, 255, (_SIDE, _SIDE), np.uint8)
    for raw in (noise, noise.astype(np.uint16)):
        valid_region(raw)
        tile = process_tile(raw, tile_id="warm-up")
    preview_and_mini(tile.half, settings, longer_px=_SIDE)
    process_tile(noise, tile_id="warm-up", grey_range=(0.0, 255.0))
    size = Size(height_px=_SIDE, width_px=_SIDE)
    one, other = (
        Tile(tile_id=n, uri="", row=0, column=0, y_px=0, x_px=0, size=size)
        for n in ("a", "b")
    )
    pair = Neighbours(
        a=one,
        b=other,
        side="right",
        nominal=Shift(dy_px=0, dx_px=0),
        overlap_height_px=_SIDE,
        overlap_width_px=_SIDE,
    )
    strip = Strip(corner=(0, 0), image=noise, mask=None)
    measure_pair(pair, strip, b=strip, settings=MatchSettings())
