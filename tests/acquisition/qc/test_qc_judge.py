"""The rules of one tile: cases whose faults are known beforehand."""

import pytest

from em_platform.acquisition.qc.judge import TileFacts, Usual, find_faults
from em_platform.config import QualitySettings
from em_platform.stitching.tile_rules import saturated_fraction

LIMITS = QualitySettings()
USUAL = Usual(focus=0.3, mean=120.0, tiles=30)
GOOD = {
    "mean": 118.0,
    "std": 30.0,
    "focus": 0.28,
    "saturated_fraction": 0.001,
    "edges": {(0, 1): 10, (1, 0): 9},
}


def kinds(changes: dict[str, object], **more: object) -> list[str]:
    facts = TileFacts(**{**GOOD, **changes})  # type: ignore[arg-type]
    found = find_faults(facts, LIMITS, **{"usual": USUAL, **more})  # type: ignore[arg-type]
    return sorted(fault.kind for fault in found)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"focus": 0.13}, []),  # 0.4 of the usual 0.3 is 0.12
        ({"focus": 0.11}, ["out_of_focus"]),
        ({"focus": 0.0}, ["out_of_focus"]),
        ({"std": 4.9}, ["no_contrast"]),
        ({"std": 4.9, "focus": 0.0, "edges": {(0, 1): 0}}, ["no_contrast"]),
        ({"std": 0.2, "mean": 0.5, "saturated_fraction": 1.0}, ["no_beam"]),
        ({"std": 0.2, "mean": 8.0}, ["no_contrast"]),
        ({"saturated_fraction": 0.02}, []),
        ({"saturated_fraction": 0.021}, ["saturated"]),
        ({"edges": {}}, []),  # the first tile has no neighbour
        ({"edges": {(0, 1): 3, (1, 0): 3}}, []),
        ({"edges": {(0, 1): 2, (1, 0): 9}}, ["unmatched_edge"]),
        ({"focus": 0.01, "edges": {(0, 1): 0}}, ["out_of_focus"]),  # one cause
        ({"mean": 120 * 1.34}, []),
        ({"mean": 120 * 1.36}, ["beam_drift"]),
        ({"mean": 120 * 0.64}, ["beam_drift"]),
        ({"mean": 120 * 0.29}, ["contaminated"]),
        ({"focus": 0.01, "mean": 200.0}, ["beam_drift", "out_of_focus"]),
        ({"focus": None}, ["incomplete"]),
        ({"edges": None, "saturated_fraction": 0.5}, ["incomplete", "saturated"]),
    ],
)
def test_a_tile_has_just_these_faults(
    changes: dict[str, object], expected: list[str]
) -> None:
    assert kinds(changes) == expected


def test_what_is_usual_counts_only_when_enough_tiles_say_it() -> None:
    few = Usual(focus=0.3, mean=120.0, tiles=4)
    assert kinds({"focus": 0.06, "mean": 20.0}, usual=few) == []
    assert kinds({"focus": 0.04}, usual=few) == ["out_of_focus"]


def test_an_edge_to_a_tile_of_resin_may_stay_open() -> None:
    open_edge = {"edges": {(0, 1): 0, (1, 0): 9}}
    assert kinds(open_edge, plain={(0, 1)}) == []
    assert kinds(open_edge, plain={(1, 0)}) == ["unmatched_edge"]


def test_severity_grows_with_the_distance_from_the_limit() -> None:
    near, far = (
        find_faults(TileFacts(**{**GOOD, "focus": f}), LIMITS, usual=USUAL)[0]  # type: ignore[arg-type]
        for f in (0.11, 0.01)
    )
    assert 0 < near.severity < 0.1
    assert 0.9 < far.severity <= 1
    assert near.confidence == pytest.approx(30 / 33)
    assert far.confidence == 1.0
    assert near.metrics == {"focus": 0.11, "limit": pytest.approx(0.12)}


def test_the_ends_of_the_histogram_are_saturated() -> None:
    assert saturated_fraction([3, 0, 96, 1]) == pytest.approx(0.04)
    assert saturated_fraction([0] * 256) == 0.0
