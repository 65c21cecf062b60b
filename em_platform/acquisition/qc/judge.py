"""What is wrong with a tile, or an aperture: the limits of the asset checks."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from em_platform.acquisition.qc.verdict import GOOD, Status, Verdict
from em_platform.acquisition.recorder.events import INCOMPLETE
from em_platform.config import QualitySettings
from em_platform.stitching.tile_rules import (
    TileRule,
    contrast_rule,
    drift_rule,
    edge_fails,
    focus_rule,
    plain_rules,
)

Cell = tuple[int, int]

CRITICAL = frozenset(("no_beam", "contaminated"))
"""Faults that stop the scope at once when several tiles in a row have them."""

EXPLAINS = frozenset(("no_beam", "no_contrast", "out_of_focus"))
"""Faults of a tile whose edges cannot be matched; they are not faults of their own."""

_USUAL_FROM = 5  # fewer tiles do not say what is usual
_DOUBT = 3.0  # so many tiles halve the trust in what is usual
_CONTAMINATED = 2.0  # times the drift allowed, and darker: that is no longer the beam


@dataclass(frozen=True, slots=True, kw_only=True)
class TileFacts:
    """What is known of one tile; None where it did not come.

    `focus` is the score of imaging.focus (higher is sharper). `edges` maps the row and
    column of each neighbour that was imaged before to the number of matched points.
    """

    mean: float | None = None
    std: float | None = None
    focus: float | None = None
    saturated_fraction: float | None = None
    edges: Mapping[Cell, int] | None = None

    @property
    def missing(self) -> tuple[str, ...]:
        """The names of what did not come."""
        parts = {
            "mean and contrast": self.mean,
            "focus": self.focus,
            "histogram": self.saturated_fraction,
            "matches": self.edges,
        }
        return tuple(name for name, value in parts.items() if value is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    """Medians over the montage's tiles with contrast so far; 0 where unknown."""

    focus: float = 0.0
    mean: float = 0.0
    tiles: int = 0

    @property
    def trust(self) -> float:
        """How far they can be trusted, 0..1."""
        return self.tiles / (self.tiles + _DOUBT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong with a tile, in numbers and in words.

    `what` completes "tiles are ...", `figures` gives the value and its limit.
    """

    kind: str
    severity: float
    confidence: float
    what: str
    figures: str
    advice: str
    metrics: Mapping[str, float] = field(default_factory=dict)


def find_faults(
    facts: TileFacts,
    limits: QualitySettings,
    *,
    usual: Usual,
    plain: Collection[Cell] = (),
) -> tuple[Fault, ...]:
    """Everything that is wrong with a tile, as far as it is known.

    A tile without contrast shows no specimen, so that its focus is not judged. Edges of
    a tile that is plain or blurred cannot be matched: they are not judged, nor are
    those that others share with it (`plain`: the cells of such neighbours).
    """
    found = [_incomplete(facts)] if facts.missing else []
    uniform = facts.std is not None and contrast_rule(limits).fails(facts.std)
    if uniform:
        found.append(_uniform(facts, limits))
    else:
        found += _of_specimen(facts, limits, usual=usual, plain=plain)
    # A uniform black or white tile has been named already.
    for rule in () if uniform else plain_rules(limits):
        value: float | None = getattr(facts, rule.value)
        if value is not None and rule.fails(value):
            found.append(_broken(rule, value))
    return tuple(found)


def _of_specimen(
    facts: TileFacts,
    limits: QualitySettings,
    *,
    usual: Usual,
    plain: Collection[Cell],
) -> list[Fault]:
    found = []
    # Below that only the absolute limits count.
    known = usual if usual.tiles >= _USUAL_FROM else Usual()
    focus = focus_rule(limits, usual=known.focus)
    if facts.focus is not None and facts.std is not None and focus.fails(facts.focus):
        # Below the absolute limit it is a fact, else a guess from the other tiles.
        sure = facts.focus < limits.min_focus
        trust = 1.0 if sure else known.trust
        found.append(_broken(focus, facts.focus, trust=trust))
    if facts.mean is not None and known.mean > 0:
        found += _drift(facts.mean, limits, known)
    open_edges = {
        cell: points
        for cell, points in (facts.edges or {}).items()
        if edge_fails(points, limits) and cell not in plain
    }
    blamed = any(fault.kind in EXPLAINS for fault in found)
    if len(open_edges) > limits.allowed_match_failures and not blamed:
        found.append(_unmatched(open_edges, facts.edges or {}, limits))
    return found


def _broken(rule: TileRule, value: float, *, trust: float = 1.0) -> Fault:
    return Fault(
        kind=rule.fault,
        severity=_severity(rule, value),
        confidence=trust,
        what=rule.bad.lower(),
        figures=rule.figures_of(value),
        advice=rule.advice,
        metrics={rule.value: value, "limit": rule.limit},
    )


def _severity(rule: TileRule, value: float) -> float:
    """0 at the limit, 1 at nothing left of it or at infinitely much."""
    if rule.is_maximum:
        return 1.0 - rule.limit / value if value > 0 else 0.0
    return 1.0 - max(0.0, value) / rule.limit if rule.limit > 0 else 0.0


def _uniform(facts: TileFacts, limits: QualitySettings) -> Fault:
    """Without contrast: dark where the beam is gone, else resin or a hole."""
    std = facts.std if facts.std is not None else 0.0
    if facts.mean is None or facts.mean >= limits.min_mean:
        return _broken(contrast_rule(limits), std)
    return Fault(
        kind="no_beam",
        severity=1.0,
        confidence=1.0,
        what="dark and uniform",
        figures=f"mean {facts.mean:.1f} grey levels, at least {limits.min_mean:g} "
        "expected",
        advice="check the beam, the screen and the camera's shutter",
        metrics={"mean": facts.mean, "std": std, "limit": limits.min_mean},
    )


def _drift(mean: float, limits: QualitySettings, usual: Usual) -> list[Fault]:
    rule = drift_rule(limits)
    off = abs(mean / usual.mean - 1.0)
    if not rule.fails(off):
        return []
    metrics = {"mean": mean, "usual_mean": usual.mean, "limit": rule.limit}
    kind, what, advice = rule.fault, "of changed brightness", rule.advice
    if mean < usual.mean * (1.0 - _CONTAMINATED * rule.limit):
        kind, what = "contaminated", "much darker than the others"
        advice = "spread the beam and look at the specimen: it darkens or burns"
    return [
        Fault(
            kind=kind,
            severity=min(1.0, _severity(rule, off)),
            confidence=usual.trust,
            what=what,
            figures=rule.figures_of(off),
            advice=advice,
            metrics=metrics,
        )
    ]


def _unmatched(
    open_edges: Mapping[Cell, int], edges: Mapping[Cell, int], limits: QualitySettings
) -> Fault:
    named = " and ".join(f"row {r}, column {c}" for r, c in sorted(open_edges))
    least = min(open_edges.values())
    return Fault(
        kind="unmatched_edge",
        severity=len(open_edges) / max(1, len(edges)),
        confidence=1.0 - least / max(1, limits.min_points_per_edge),
        what="not matched to their neighbours",
        figures=f"{least} points shared with {named}, "
        f"{limits.min_points_per_edge} needed",
        advice="check the stage, the overlap and the focus",
        metrics={
            "open_edges": float(len(open_edges)),
            "edges": float(len(edges)),
            "points": float(least),
            "limit": float(limits.min_points_per_edge),
        },
    )


def _incomplete(facts: TileFacts) -> Fault:
    missing = facts.missing
    return Fault(
        kind=INCOMPLETE,
        severity=len(missing) / 4,  # of the four of TileFacts.missing
        confidence=1.0,
        what="judged without all their figures",
        figures=f"no {', no '.join(missing)} came",
        advice="see that the pipeline runs",
        metrics={"missing": float(len(missing))},
    )


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
                # Kept, as `montage.complete` does not name the aperture.
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
        # The first one found is compared with itself.
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
