from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from em_platform.partitions import montages
from em_platform.schedules import nightly_stitch_montages, unfinished_montages


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


def test_the_nightly_schedule_asks_for_each_once_a_night(
    known: dg.DagsterInstance,
) -> None:
    night = datetime(2026, 5, 1, 3, tzinfo=UTC)
    context = dg.build_schedule_context(instance=known, scheduled_execution_time=night)
    [request] = list(nightly_stitch_montages(context))
    assert (request.partition_key, request.run_key) == ("failed", "2026-05-01 failed")


def test_a_night_without_work_says_so(instance: dg.DagsterInstance) -> None:
    night = datetime(2026, 5, 1, 3, tzinfo=UTC)
    context = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=night
    )
    [skipped] = list(nightly_stitch_montages(context))
    assert isinstance(skipped, dg.SkipReason)
