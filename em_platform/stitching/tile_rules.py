"""The rules that one tile is judged by: live, while it is imaged, and in the checks.

Each rule holds one value of a tile against one limit of `stitching.quality`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from em_platform.config.stitching import QualitySettings
from em_platform.model import Severity
from em_platform.model.sentences import apart


@dataclass(frozen=True, slots=True, kw_only=True)
class TileRule:
    """One value of each tile against one limit, and how to say it.

    `value` names the statistic that is judged, as `TileStats` has it.
    """

    name: str
    fault: str
    value: str
    limit: float
    good: str
    bad: str
    figures: str
    advice: str
    digits: str = ".3f"
    is_maximum: bool = False
    severity: Severity = Severity.WARN

    def fails(self, value: float) -> bool:
        """Whether a tile with this value breaks the rule."""
        return value > self.limit if self.is_maximum else value < self.limit

    def figures_of(self, value: float) -> str:
        """The value and its limit in words."""
        digits = self.digits
        return self.figures.format(
            apart(value, self.limit, digits), f"{self.limit:{digits}}"
        )


def focus_rule(limits: QualitySettings, *, usual: float) -> TileRule:
    """Sharp enough; `usual` is the median score of the montage's tiles (0: unknown)."""
    return TileRule(
        name="tiles_are_in_focus",
        fault="out_of_focus",
        value="focus",
        limit=max(limits.min_focus, limits.min_relative_focus * usual),
        good="in focus",
        bad="Out of focus",
        figures="focus score {}, at least {} expected",
        advice="focus and image them again",
        severity=Severity.ERROR,
    )


def contrast_rule(limits: QualitySettings) -> TileRule:
    """Grey levels spread: the tile shows specimen."""
    return TileRule(
        name="tiles_have_contrast",
        fault="no_contrast",
        value="std",
        limit=limits.min_std,
        good="rich in contrast",
        bad="Almost uniform",
        figures="standard deviation {} grey levels, at least {} expected",
        digits=".1f",
        advice="they show resin, a hole or no beam; look at them",
    )


def saturation_rule(limits: QualitySettings) -> TileRule:
    """Few pixels are at the ends of the grey scale."""
    return TileRule(
        name="tiles_are_not_saturated",
        fault="saturated",
        value="saturated_fraction",
        limit=limits.max_saturated_fraction,
        is_maximum=True,
        good="within the grey scale",
        bad="Saturated",
        figures="{} of its pixels pure black or white, at most {} expected",
        digits=".2%",
        advice="correct the exposure or stitching.tile.grey_range",
    )


def drift_rule(limits: QualitySettings) -> TileRule:
    """The beam is as bright as before; the value is relative to the usual mean."""
    return TileRule(
        name="beam_is_steady",
        fault="beam_drift",
        value="mean",
        limit=limits.max_mean_drift,
        is_maximum=True,
        good="as bright as usual",
        bad="Brightness has changed",
        figures="mean {} from the usual one, at most {} expected",
        digits=".0%",
        advice="check the beam's spread and centre, and the specimen for contamination",
    )


# Rules on one statistic alone: quality control applies them live, and Dagster in the
# checks of `tile_statistics`, so that a new one is written here and has its limit in
# QualitySettings, and no third file changes (docs/how-to/add-a-qc-rule.md).
PLAIN_RULES: tuple[Callable[[QualitySettings], TileRule], ...] = (saturation_rule,)


def plain_rules(limits: QualitySettings) -> tuple[TileRule, ...]:
    """The rules of `PLAIN_RULES` with their limits."""
    return tuple(rule(limits) for rule in PLAIN_RULES)


def edge_fails(points: int, limits: QualitySettings) -> bool:
    """Whether so few matched points leave an edge of two tiles open."""
    return points < limits.min_points_per_edge


def usual_of(values: Sequence[float]) -> float:
    """What is usual in a montage: the median, 0 where nothing is known."""
    return float(np.median(values)) if len(values) else 0.0


def saturated_fraction(histogram: Sequence[int]) -> float:
    """Share of pixels in the first and the last bin."""
    total = sum(histogram)
    return (histogram[0] + histogram[-1]) / total if total else 0.0
