"""What a report says of a session of which all is known."""

import json
from collections import Counter

import pytest

from em_platform.acquisition.session.report import (
    PER_TILE,
    LiveReport,
    MontageRun,
    TileRun,
    percentile,
    report_of,
    wait_of,
)
from em_platform.config import AcquisitionSettings

SAVED_NS = 1_700_000_000_000_000_000
ONCE = Counter(dict.fromkeys(PER_TILE, 1))


def tile(latency_ms: int = 50, *, passed: bool = True) -> TileRun:
    verdict_ms = SAVED_NS // 1_000_000 + latency_ms
    return TileRun(
        saved_ns=SAVED_NS, verdict_ms=verdict_ms, passed=passed, messages=Counter(ONCE)
    )


def montage(**changes: object) -> MontageRun:
    names = ("a", "b", "c", "d")
    run = MontageRun(
        montage_id="m-1",
        acquisition_id="m-1-x",
        state="completed",
        total=4,
        begun_ms=1000,
        ended_ms=3000,
        completed=names,
        uploaded=True,
        tiles={name: tile(10 * number) for number, name in enumerate(names, start=1)},
    )
    for name, value in changes.items():
        setattr(run, name, value)
    return run


def report(*runs: MontageRun, gone: str = "", **more: float) -> LiveReport:
    there = {name: name not in gone for run in runs for name in run.tiles}
    return report_of(runs, there=there, frame_px=1_000_000, cores=2, **more)  # type: ignore[arg-type]


def test_a_good_session_has_its_rates_and_latencies() -> None:
    found = report(montage(), stop_ms=12.0)
    assert found.is_good
    assert (found.tiles_imaged, found.tiles_lost) == (4, 0)
    assert (found.tiles_per_s, found.mpix_per_s, found.mpix_per_s_per_core) == (2, 2, 1)
    assert (found.verdict_p50_ms, found.verdict_p99_ms) == (20, 40)
    assert found.stop_ms == 12.0
    (made,) = found.montages
    assert (made.tiles, made.passed, made.failed, made.seconds) == (4, 4, 0, 2.0)


def test_its_json_has_the_published_figures_beside_ours() -> None:
    content = json.loads(report(montage()).model_dump_json())
    assert content["published"]["tiles_per_s"] == 3.07
    assert content["published"]["mpix_per_s"] == 93.0
    assert content["montages"][0]["acquisition_id"] == "m-1-x"
    assert LiveReport.model_validate(content) == report(montage())


def test_the_rate_is_over_the_seconds_of_all_montages() -> None:
    found = report(montage(), montage(montage_id="m-2", begun_ms=0, ended_ms=6000))
    assert found.tiles_per_s == 1.0


def test_a_frame_that_is_nowhere_is_lost() -> None:
    found = report(montage(), gone="c")
    assert (found.tiles_lost, found.montages[0].lost) == (1, 1)
    assert not found.is_good


def test_a_tile_without_a_verdict_is_not_good() -> None:
    run = montage()
    del run.tiles["d"]
    found = report_of([run], there=dict.fromkeys("abcd", True), frame_px=1, cores=1)
    assert (found.montages[0].tiles, found.montages[0].unjudged) == (4, 1)
    assert not found.is_good


def test_a_repeated_message_that_changes_nothing_is_counted_and_no_fault() -> None:
    run = montage()
    run.tiles["a"].repeats = 2
    assert report(run).montages[0].repeats == 2
    assert report(run).is_good


def test_messages_that_contradict_each_other_are_counted_and_not_good() -> None:
    run = montage()
    run.tiles["a"].messages["qc.tile"] = 3
    assert report(run).montages[0].duplicates == 2
    assert not report(run).is_good


def test_a_tile_that_fails_is_a_finding_and_no_fault_of_the_session() -> None:
    run = montage()
    run.tiles["b"].passed = False
    found = report(run)
    assert (found.montages[0].passed, found.montages[0].failed) == (3, 1)
    assert found.is_good


@pytest.mark.parametrize("state", ["error", "cancelled"])
def test_a_montage_that_was_stopped_loses_nothing_and_is_not_good(state: str) -> None:
    run = montage(state=state, completed=None, uploaded=False, reason="STOP_NOW")
    found = report(run, gone="abcd")
    assert (found.tiles_lost, found.tiles_imaged) == (0, 4)
    assert found.montages[0].reason == "STOP_NOW"
    assert not found.is_good


def test_a_montage_that_is_not_uploaded_is_not_good() -> None:
    assert not report(montage(uploaded=False)).is_good


def test_a_session_without_a_montage_has_no_rates_and_is_not_good() -> None:
    found = report()
    assert (found.tiles_per_s, found.verdict_p99_ms) == (0.0, None)
    assert not found.is_good


@pytest.mark.parametrize(
    ("percent", "expected"), [(50, 50), (99, 99), (100, 100), (1, 1), (0, 1)]
)
def test_a_percentile_is_one_of_the_values(percent: float, expected: float) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_settled_means_imaged_judged_and_uploaded_or_ended() -> None:
    assert montage().is_settled
    assert montage(state="error", uploaded=False).is_settled
    for unfinished in (
        montage(uploaded=False),
        montage(completed=None),
        montage(completed=("a", "z")),
        montage(state="in_progress"),
    ):
        assert not unfinished.is_settled


SETTINGS = AcquisitionSettings()


def run(state: str, **fields: object) -> MontageRun:
    return MontageRun(
        montage_id="m-1", acquisition_id="m-1-x", state=state, total=4, **fields
    )


JUDGED = {"a": TileRun(passed=True)}


@pytest.mark.parametrize(
    ("montage_run", "what"),
    [
        (None, "the start of m-1"),
        (run("in_progress", imaged=2), "tile 3 of 4 of m-1-x"),
        (run("completed"), "montage.complete of m-1-x"),
        (
            run("completed", completed=("a", "b"), tiles=JUDGED),
            "the verdicts on 1 tiles of m-1-x",
        ),
        (run("completed", completed=("a",), tiles=JUDGED), "the upload of m-1-x"),
    ],
)
def test_a_wait_names_its_reason(montage_run: MontageRun | None, what: str) -> None:
    wait = wait_of("m-1", montage_run, SETTINGS)
    assert wait.what == what
    assert ".log" in wait.see


def test_a_wait_is_as_long_as_the_service_takes_that_owes_the_answer() -> None:
    short = SETTINGS.model_copy(update={"request_timeout_s": 0.5, "request_tries": 2})
    assert wait_of("m-1", None, short).limit_s < wait_of("m-1", None, SETTINGS).limit_s
