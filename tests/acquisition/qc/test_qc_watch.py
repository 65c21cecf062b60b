"""Tiles add up: transient, persistent, critical; in any order, once each."""

import random
from typing import Any

import pytest

from em_platform.acquisition.qc.verdict import Status, Verdict
from em_platform.acquisition.qc.watch import Judgement, MontageJudge
from em_platform.acquisition.recorder.events import is_preliminary
from em_platform.config import QcSettings, QualitySettings

SETTINGS = QcSettings(window=20, max_faulty=5, critical_tiles=3, tile_wait_s=10)
GOOD = {"mean": 120, "std": 30, "focus": 0.3, "saturated_fraction": 0.0, "edges": []}
BLURRED = {**GOOD, "focus": 0.01}
DARK = {**GOOD, "mean": 1, "std": 0, "focus": 0.0}


def new_watch(settings: QcSettings = SETTINGS) -> MontageJudge:
    return MontageJudge("m-1", settings=settings, limits=QualitySettings())


def fields(n: int) -> dict[str, Any]:
    return {
        "tile_id": f"m-1_000_{n:03d}",
        "montage_id": "m",
        "roi_id": None,
        "row": 0,
        "column": n,
        "overlap": 10,
        "stage_position": [n, 0],
    }


def feed(watch: MontageJudge, n: int, part: dict[str, Any]) -> Judgement:
    watch.announce(fields(n), 0.0)
    watch.take(fields(n), part, 0.0)
    return watch.judge(fields(n)["tile_id"])


def scopes(judgement: Judgement) -> dict[str, str]:
    return {f["fault_type"]: f["scope"] for f in judgement.fields["faults"]}


def test_a_good_tile_passes() -> None:
    judgement = feed(new_watch(), 0, GOOD)
    assert judgement.fields == {**fields(0), "passed": True, "faults": []}
    assert judgement.verdict == Verdict()


def test_single_faults_are_transient_and_the_fifth_of_twenty_is_persistent() -> None:
    watch = new_watch()
    found = [feed(watch, n, BLURRED if n % 4 == 0 else GOOD) for n in range(17)]
    assert [scopes(j) for j in found if j.faults] == [
        *[{"out_of_focus": "transient"}] * 4,
        {"out_of_focus": "persistent"},
    ]
    assert all(j.verdict.status is Status.GOOD for j in found[:16])
    assert found[16].verdict.status is Status.STOP_AT_END
    assert found[16].verdict.reason == (
        "Montage m-1: 5 of the last 17 tiles are out of focus (m-1_000_016, "
        "m-1_000_012, m-1_000_008 and 2 more; worst: focus score 0.010, at least "
        "0.120 expected); focus and image them again."
    )


def test_faults_that_are_far_apart_do_not_add_up() -> None:
    watch = new_watch()
    for n in range(60):
        judgement = feed(watch, n, BLURRED if n % 6 == 0 else GOOD)
        assert judgement.verdict.status is Status.GOOD


def test_faults_of_different_kinds_do_not_add_up() -> None:
    watch = new_watch()
    bright = {**GOOD, "saturated_fraction": 0.5}
    kinds = [BLURRED, bright] * 4
    found = [feed(watch, n, part) for n, part in enumerate(kinds)]
    assert {j.verdict.status for j in found} == {Status.GOOD}


def test_three_dark_tiles_in_a_row_stop_the_scope_now() -> None:
    watch = new_watch()
    parts = [GOOD, DARK, GOOD, DARK, DARK, DARK]
    found = [feed(watch, n, part) for n, part in enumerate(parts)]
    assert [j.verdict.status for j in found] == [Status.GOOD] * 5 + [Status.STOP_NOW]
    assert scopes(found[5]) == {"no_beam": "critical"}
    assert "check the beam" in found[5].verdict.reason


def test_a_specimen_that_darkens_stops_the_scope_now() -> None:
    watch = new_watch()
    found = [feed(watch, n, GOOD) for n in range(10)]
    found += [feed(watch, n, {**GOOD, "mean": 30}) for n in range(10, 13)]
    assert [j.verdict.status for j in found[10:]] == [
        Status.GOOD,
        Status.GOOD,
        Status.STOP_NOW,
    ]
    assert scopes(found[12]) == {"contaminated": "critical"}


def play(order: list[tuple[int, dict[str, Any]]], tiles: int) -> list[Judgement]:
    """Hand over parts in this order; the verdicts in the order in which they come."""
    watch = new_watch()
    for n in range(tiles):
        watch.announce(fields(n), 0.0)
    found = []
    for n, part in order:
        if watch.take(fields(n), part, 0.0) is not None:
            found += [watch.judge(tile_id) for tile_id in watch.ready(0.0)]
    return found


@pytest.mark.parametrize("seed", range(5))
def test_verdicts_and_faults_do_not_depend_on_the_order_of_arrival(seed: int) -> None:
    chance = random.Random(seed)
    tiles: list[list[dict[str, Any]]] = []
    for n in range(40):
        # Near the limits of what is usual, so that each tile before counts.
        focus, mean = chance.uniform(0.05, 0.3), round(chance.uniform(60, 200))
        edges = [[0, n - 1, chance.choice((0, 30))]] if n else []
        first = {"mean": mean, "std": chance.choice((2, 30, 30, 30)), "focus": focus}
        tiles.append([first, {"saturated_fraction": 0.0}, {"edges": edges}])
    imaged = [(n, part) for n, parts in enumerate(tiles) for part in parts]
    expected = play(imaged, len(tiles))
    assert sum(not judgement.fields["passed"] for judgement in expected) > 10

    left = {n: list(parts) for n, parts in enumerate(tiles)}
    mixed = []
    while left:  # four processes, each of which publishes of its tile in order
        n = chance.choice(sorted(left)[:4])
        mixed.append((n, left[n].pop(0)))
        left = {n: parts for n, parts in left.items() if parts}
    assert mixed != imaged
    assert play(mixed, len(tiles)) == expected


def test_a_tile_waits_for_the_former_but_not_long_and_not_for_a_broken_frame() -> None:
    watch = new_watch()
    for n in range(4):
        watch.announce(fields(n), 0.0)
    watch.take(fields(1), GOOD, 1.0)
    assert watch.ready(1.0) == []
    assert watch.ready(4.5) == ["m-1_000_001"]  # a third of the wait for a tile later
    watch.take(fields(0), {"edges": []}, 2.0)  # its frame could not be read
    assert watch.ready(2.0) == ["m-1_000_001"]
    watch.judge("m-1_000_001")
    watch.take(fields(3), GOOD, 2.0)
    watch.take(fields(2), GOOD, 3.0)
    assert watch.ready(3.0) == ["m-1_000_002", "m-1_000_003"]
    for n in (2, 3):
        watch.judge(f"m-1_000_00{n}")
    assert watch.overdue(3.0) == []
    assert watch.overdue(13.1) == ["m-1_000_000"]


def test_dark_tiles_are_a_row_in_the_order_of_imaging_not_of_arrival() -> None:
    watch = new_watch()
    for n in range(6):
        watch.announce(fields(n), 0.0)
    parts = {0: DARK, 1: GOOD, 2: DARK, 3: GOOD, 4: DARK, 5: GOOD}
    order = [1, 3, 5, 0, 2, 4]  # the dark ones come together, at the end
    found = []
    for n in order:
        watch.take(fields(n), parts[n], 0.0)
        found.append(watch.judge(fields(n)["tile_id"]))
    assert {j.verdict.status for j in found} == {Status.GOOD}


@pytest.mark.parametrize("seed", range(5))
def test_parts_in_any_order_twice_give_the_same_verdicts(seed: int) -> None:
    parts = [{k: v} for k, v in BLURRED.items() if k not in ("mean", "std")]
    parts.append({"mean": 120, "std": 30})
    published = [(n, part) for n in range(12) for part in parts] * 2
    random.Random(seed).shuffle(published)
    watch = new_watch(QcSettings(max_faulty=12, window=12))
    for n in range(12):
        watch.announce(fields(n), 0.0)
    found = []
    for n, part in published:
        pending = watch.take(fields(n), part, 0.0)
        if pending is not None and pending.is_whole:
            found.append(watch.judge(fields(n)["tile_id"]))
    assert sorted(j.tile_id for j in found) == [fields(n)["tile_id"] for n in range(12)]
    assert not watch.pending
    assert found[-1].verdict.status is Status.STOP_AT_END
    assert {j.verdict.status for j in found[:-1]} == {Status.GOOD}


def test_a_harmless_fault_never_stops() -> None:
    watch = new_watch(QcSettings(harmless=("no_contrast",)))
    resin = {**GOOD, "std": 2}
    found = [feed(watch, n, resin) for n in range(30)]
    assert all(scopes(j) == {"no_contrast": "transient"} for j in found)
    assert {j.verdict.status for j in found} == {Status.GOOD}


def test_a_tile_that_waits_is_overdue_only_when_later_ones_are_judged() -> None:
    watch = new_watch()
    watch.announce(fields(0), 0.0)
    watch.take(fields(0), {"focus": 0.3}, 0.0)
    assert watch.overdue(100.0) == []
    feed(watch, 1, GOOD)
    assert watch.overdue(101.0) == []  # from now on it is behind
    assert watch.overdue(110.9) == []
    assert watch.overdue(111.1) == ["m-1_000_000"]
    judgement = watch.judge("m-1_000_000")
    assert [f["fault_type"] for f in judgement.fields["faults"]] == ["incomplete"]
    assert is_preliminary(judgement.fields)


def test_a_slow_pipeline_is_waited_for_until_nothing_more_is_heard() -> None:
    watch = new_watch()
    for n in range(50):
        watch.announce(fields(n), 0.0)
    watch.is_complete = True
    for n in range(49):  # a tile each 5 s
        assert watch.overdue(5.0 * n) == []
        watch.take(fields(n), GOOD, 5.0 * n)
        watch.judge(fields(n)["tile_id"])
    assert watch.overdue(5.0 * 48 + 9.9) == []
    assert watch.overdue(5.0 * 48 + 10.1) == ["m-1_000_049"]


def test_figures_that_come_late_supersede_the_verdict_without_them() -> None:
    """round3 1.3.1: they never stop the scope, and count once when they are there."""
    watch = new_watch()
    for n in range(9):
        watch.announce(fields(n), 0.0)
    found = [watch.judge(fields(n)["tile_id"]) for n in range(8)]
    assert all(is_preliminary(each.fields) for each in found)
    assert {each.verdict.status for each in found} == {Status.GOOD}
    again = []
    for n in range(8):
        watch.take(fields(n), {"focus": 0.3}, 20.0)
        assert watch.ready(20.0) == []
        watch.take(fields(n), {**GOOD, "std": 0.0 if n == 3 else 20.0}, 21.0)
        (ready,) = watch.ready(21.0)
        again.append(watch.judge(ready))
        assert watch.take(fields(n), GOOD, 22.0) is None
    assert [each.fields["passed"] for each in again] == [n != 3 for n in range(8)]
    assert watch.is_settled(fields(3)["tile_id"])
    assert not watch.is_settled(fields(8)["tile_id"])


def test_a_frame_that_cannot_be_read_has_its_last_verdict_when_that_is_known() -> None:
    watch = new_watch()
    watch.announce(fields(0), 0.0)
    assert is_preliminary(watch.judge(fields(0)["tile_id"]).fields)
    watch.is_complete = True
    watch.take(fields(0), {"edges": []}, 20.0)  # without figures, as of no other frame
    (overdue,) = watch.overdue(40.0)
    last = watch.judge(overdue)
    assert [fault["fault_type"] for fault in last.fields["faults"]] == ["incomplete"]
    assert not is_preliminary(last.fields)
    assert watch.is_settled(fields(0)["tile_id"])


@pytest.mark.parametrize(
    "order", [("first", "figures", "second"), ("figures", "first", "second")]
)
def test_a_superseded_verdict_is_adopted_as_it_was_published(
    order: tuple[str, ...],
) -> None:
    """round3 1.3.1: after a restart the ledger tells the same, in any order."""
    watch, tile_id = new_watch(), fields(0)["tile_id"]
    published = {
        "first": {"incomplete": {"severity": 1.0, "confidence": 0.3, "metrics": {}}},
        "second": {"no_contrast": {"severity": 1.0, "confidence": 1.0, "metrics": {}}},
    }
    watch.expect(fields(0), 0.0)
    for what in order:
        assert not watch.is_settled(tile_id)
        if what == "figures":
            watch.take(fields(0), {**GOOD, "std": 0.0}, 1.0)
        else:
            watch.adopt(tile_id, published[what])
    assert watch.is_settled(tile_id)
    assert [fault.kind for fault in watch.judged[tile_id].faults] == ["no_contrast"]
    assert watch.adopt(tile_id, published["first"]) == Verdict()  # delivered twice
    assert watch.is_settled(tile_id)


def test_what_was_not_heard_is_doubted_and_does_not_add_up() -> None:
    watch = new_watch()
    for n in range(8):
        watch.take(fields(n), {"focus": 0.3}, 0.0)  # never announced to us
    found = [watch.judge(fields(n)["tile_id"]) for n in range(8)]
    assert all(scopes(j) == {"incomplete": "transient"} for j in found)
    assert all(j.fields["faults"][0]["confidence"] == 0.3 for j in found)
    assert {j.verdict.status for j in found} == {Status.GOOD}


def test_tiles_before_the_operator_went_on_do_not_count() -> None:
    watch = new_watch()
    for n in range(4):
        feed(watch, n, BLURRED)
    watch.forgive()
    found = [feed(watch, n, BLURRED) for n in range(4, 9)]
    assert [j.verdict.status for j in found] == [Status.GOOD] * 4 + [Status.STOP_AT_END]


def test_a_blurred_tile_explains_the_open_edges_of_its_neighbours() -> None:
    watch = new_watch()
    feed(watch, 0, GOOD)
    feed(watch, 1, {**BLURRED, "edges": [[0, 0, 0]]})
    after = feed(watch, 2, {**GOOD, "edges": [[0, 1, 0]]})
    assert after.fields["passed"]
    other = feed(watch, 3, {**GOOD, "edges": [[0, 2, 0]]})
    assert scopes(other) == {"unmatched_edge": "transient"}


def test_a_focus_that_drifts_slowly_is_held_against_what_was_usual_before() -> None:
    watch = new_watch(QcSettings(harmless=("out_of_focus",)))
    for _ in range(20):
        feed(watch, len(watch.judged), {**GOOD, "focus": 0.3})
    for n in range(200):
        focus = max(0.07, 0.3 - 0.003 * n)
        last = feed(watch, len(watch.judged), {**GOOD, "focus": focus})
    assert last.faults == ("out_of_focus (focus score 0.070, at least 0.120 expected)",)


def test_a_dark_tile_that_is_imaged_again_is_judged_anew() -> None:
    watch = new_watch()
    assert not feed(watch, 0, GOOD).fields["faults"]
    dark = [feed(watch, n, DARK) for n in range(1, 4)]
    assert dark[-1].verdict.status is Status.STOP_NOW
    watch.forgive()
    for n in range(1, 4):
        again = {**fields(n), "tile_id": f"{fields(n)['tile_id']}r1"}
        assert watch.announce(again, 1.0)
        watch.take(again, GOOD, 1.0)
        judgement = watch.judge(again["tile_id"])
        assert judgement.fields["passed"]
        assert judgement.verdict.status is Status.GOOD
