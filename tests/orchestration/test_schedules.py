from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from em_platform.partitions import montages
from em_platform.schedules import hourly_stitch_montages, unfinished_montages


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


@pytest.fixture
def known(instance: dg.DagsterInstance) -> dg.DagsterInstance:
    instance.add_dynamic_partitions(str(montages.name), ["good", "failed", "busy"])
    made = dg.AssetMaterialization("mosaic", partition="good")
    instance.report_runless_asset_event(made)
    tags = {"dagster/partition": "busy"}
    create_run_for_test(instance, tags=tags, status=dg.DagsterRunStatus.STARTED)
    return instance


def add_failed_runs(instance: dg.DagsterInstance, key: str, *, count: int) -> None:
    for _ in range(count):
        create_run_for_test(
            instance,
            tags={"dagster/partition": key},
            status=dg.DagsterRunStatus.FAILURE,
        )


def test_only_montages_without_mosaic_and_without_a_run_are_unfinished(
    known: dg.DagsterInstance,
) -> None:
    add_failed_runs(known, "failed", count=2)
    assert unfinished_montages(known) == ["failed"]


def test_a_montage_that_keeps_failing_is_left_to_a_person(
    known: dg.DagsterInstance,
) -> None:
    add_failed_runs(known, "failed", count=10)
    assert unfinished_montages(known) == []


def asked_at(instance: dg.DagsterInstance, moment: datetime) -> list[str | None]:
    context = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=moment
    )
    found = list(hourly_stitch_montages(context))
    return [each.run_key for each in found if isinstance(each, dg.RunRequest)]


def test_a_failed_montage_is_tried_again_after_one_hour_then_two_then_four(
    known: dg.DagsterInstance,
) -> None:
    now = datetime.now(UTC)
    for runs, hours in ((1, 1), (2, 2), (3, 4)):
        run = create_run_for_test(known, tags={"dagster/partition": "failed"})
        known.report_run_failed(run, "no scheduler answers")
        assert asked_at(known, now + timedelta(hours=hours - 0.6)) == [], runs
        due = now + timedelta(hours=hours)
        assert asked_at(known, due) == [f"{due:%Y-%m-%d %H} failed"]


def test_what_a_check_has_blocked_waits_for_a_person(
    known: dg.DagsterInstance,
) -> None:
    known.add_dynamic_partitions(str(montages.name), ["blocked"])
    for key in ("failed", "blocked"):
        add_failed_runs(known, key, count=1)
        known.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey("tiles"),
                check_name="enough_tiles_are_present",
                passed=key == "failed",
                partition=key,
            )
        )
    assert unfinished_montages(known) == ["failed"]


def test_an_hour_without_work_says_so(instance: dg.DagsterInstance) -> None:
    night = datetime(2026, 5, 1, 3, tzinfo=UTC)
    context = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=night
    )
    [skipped] = list(hourly_stitch_montages(context))
    assert isinstance(skipped, dg.SkipReason)
