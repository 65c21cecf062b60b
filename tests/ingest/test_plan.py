"""The documented order of the sources, and what the machine's memory does to it."""

from collections.abc import Iterator

import pytest

from em_platform.config import load_settings
from em_platform.config.ingest import Mode
from em_platform.ingest.plan import Lane, Load, loads, plan, startable

ALL = ("ebi", "epfl", "flyem", "idr", "openorganelle")


def work(*names: str) -> tuple[Load, ...]:
    return loads(load_settings(environment={}), names or ALL)


def steps(
    lanes: tuple[Lane, ...],
    among: tuple[Load, ...],
    *,
    budget_mb: float = 1e9,
    most: int = 9,
) -> Iterator[tuple[str, ...]]:
    """What starts together, when always all that runs ends before the next look."""
    table = {load.source: load for load in among}
    finished: set[str] = set()
    while len(finished) < len(table):
        now = startable(
            lanes,
            table,
            running=(),
            finished=finished,
            budget_mb=budget_mb,
            most=most,
        )
        yield now
        finished |= set(now)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("staged", [("idr", "flyem", "ebi"), ("openorganelle",), ("epfl",)]),
        (
            "background",
            [("epfl", "idr"), ("flyem",), ("ebi",), ("openorganelle",)],
        ),
        ("parallel", [ALL]),
        ("sequential", [(name,) for name in ALL]),
    ],
)
def test_each_mode_has_its_documented_order(
    mode: Mode, expected: list[tuple[str, ...]]
) -> None:
    assert list(steps(plan(mode, work()), work())) == expected


def test_the_background_source_goes_on_while_the_others_take_turns() -> None:
    table = {load.source: load for load in work()}
    lanes = plan("background", work())
    after_idr = startable(
        lanes, table, running=("epfl",), finished=("idr",), budget_mb=1e9, most=9
    )
    assert after_idr == ("flyem",)


def test_memory_bounds_what_runs_at_once() -> None:
    # ebi 1024 + flyem 1536 + idr 1024 MB; epfl 10240, openorganelle 7680.
    started = list(steps(plan("parallel", work()), work(), budget_mb=4000))
    assert started == [("ebi",), ("epfl",), ("flyem", "idr"), ("openorganelle",)]


def test_a_source_beyond_the_budget_runs_by_itself_and_not_never() -> None:
    started = list(steps(plan("parallel", work("epfl")), work("epfl"), budget_mb=10))
    assert started == [("epfl",)]


def test_no_more_sources_run_at_once_than_are_allowed() -> None:
    assert list(steps(plan("parallel", work()), work(), most=2)) == [
        ("ebi", "epfl"),
        ("flyem", "idr"),
        ("openorganelle",),
    ]


def test_a_source_that_is_switched_off_takes_no_part() -> None:
    settings = load_settings(
        environment={"EM_INGEST__EPFL__ENABLED": "false", "EBI_MEMORY_LIMIT": "2g"}
    )
    found = loads(settings, ALL)
    assert [load.source for load in found] == ["ebi", "flyem", "idr", "openorganelle"]
    assert found[0].memory_mb == 2048


@pytest.mark.parametrize("mode", ["staged", "background", "parallel", "sequential"])
def test_a_mode_with_one_source_is_just_that_source(mode: Mode) -> None:
    assert list(steps(plan(mode, work("idr")), work("idr"))) == [("idr",)]
