"""Settings of the live quality control; its limits are those of stitching.quality."""

from typing import Literal

from pydantic import Field

from em_platform.model import Model

TileFault = Literal[
    "beam_drift",
    "contaminated",
    "incomplete",
    "no_beam",
    "no_contrast",
    "out_of_focus",
    "saturated",
    "unmatched_edge",
]
"""What can be wrong with a tile while it is imaged."""


class QcSettings(Model):
    """When single faults add up to a stop.

    The verdict is said every `period_s` and when it changes. A fault that `max_faulty`
    of the last `window` tiles show is persistent: the scope stops at the end; faults in
    `harmless` never are. `critical_tiles` dark tiles in a row stop it now. A tile whose
    statistics or matches are `tile_wait_s` behind those of later tiles is judged
    without them. A failed check of Dagster stops the scope while its
    montage ended less than `feedback_s` ago.
    """

    period_s: float = Field(default=1.0, gt=0)
    window: int = Field(default=20, gt=0)
    max_faulty: int = Field(default=5, gt=0)
    harmless: tuple[TileFault, ...] = ()
    critical_tiles: int = Field(default=3, gt=0)
    tile_wait_s: float = Field(default=15.0, gt=0)
    feedback_s: float = Field(default=3600.0, ge=0)


class MontageFitSettings(Model):
    """How often a growing montage is fitted, and how its map is drawn.

    The fit and its pictures follow new tiles after `period_s` at the earliest. The last
    matches of a montage are waited for `wait_s`. The longer side of the montage's
    picture has at most `minimap_px`.
    """

    period_s: float = Field(default=2.0, gt=0)
    wait_s: float = Field(default=30.0, gt=0)
    minimap_px: int = Field(default=1024, ge=64, le=4096)
