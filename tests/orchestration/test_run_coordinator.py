"""Every run has its part, its priority and its time, however it was launched."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.test_utils import create_run_for_test

from em_platform.definitions import defs
from em_platform.ingest.sources import SOURCES
from em_platform.resources.run_coordinator import PlatformRunCoordinator, run_tags

TIMES = {"live": 60, "montage": 120}


@pytest.fixture
def instance(tmp_path: Path, repository: Path) -> Iterator[dg.DagsterInstance]:
    shipped = yaml.safe_load((repository / "dagster.yaml").read_text())
    kept = {name: shipped[name] for name in ("run_coordinator", "concurrency")}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(kept))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def tags_of(*assets: str, **given: str) -> dict[str, str]:
    keys = [dg.AssetKey(name.split("/")) for name in assets]
    tags = {name.replace("__", "/"): value for name, value in given.items()}
    return run_tags(tags, keys, TIMES)


@pytest.mark.parametrize(
    ("assets", "part"),
    [
        (("mosaic",), "montage"),
        (("raw_tiles", "tiles", "dataset_record"), "montage"),
        (("uploaded_tiles", "acquisition_review"), "review"),
        (("mosaic", "acquisition_review"), "montage"),
        (("lens_correction",), "lens"),
        (("metadata_catalog",), "catalog"),
        (("ebi/raw", "ebi/volume"), "ingest"),
        ((), "other"),
    ],
)
def test_a_run_from_an_assets_page_has_the_part_of_its_assets(
    assets: tuple[str, ...], part: str
) -> None:
    assert tags_of(*assets)["em/part"] == part


def test_a_run_from_an_assets_page_names_its_source() -> None:
    assert tags_of("ebi/raw")["em/source"] == "ebi"


def test_live_goes_before_lens_review_by_hand_backlog_and_backfill() -> None:
    order = [
        tags_of(em__part="live"),
        tags_of("lens_correction"),
        tags_of("acquisition_review"),
        tags_of("mosaic"),
        tags_of(em__part="montage", dagster__priority="10"),
        tags_of("mosaic", dagster__backfill="abc"),
    ]
    priorities = [int(tags["dagster/priority"]) for tags in order]
    assert priorities == sorted(priorities, reverse=True)
    assert len(set(priorities)) == len(priorities)


def test_what_was_tagged_stays_and_the_time_is_that_of_the_part() -> None:
    asked = tags_of("mosaic", dagster__max_runtime="5", dagster__priority="7")
    assert (asked["dagster/max_runtime"], asked["dagster/priority"]) == ("5", "7")
    assert tags_of("mosaic")["dagster/max_runtime"] == "120"
    assert tags_of(em__part="live")["dagster/max_runtime"] == "60"
    assert "dagster/max_runtime" not in tags_of("lens_correction")


def test_the_queue_tags_a_run_and_sets_the_pools_that_nobody_has_set(
    instance: dg.DagsterInstance,
) -> None:
    assert isinstance(instance.run_coordinator, PlatformRunCoordinator)
    instance.event_log_storage.set_concurrency_slots("review", 4)
    run = create_run_for_test(
        instance,
        job_name="__ASSET_JOB",
        asset_selection=frozenset({dg.AssetKey("mosaic")}),
        # One that is queued already: only a platform of processes can queue another.
        status=dg.DagsterRunStatus.STARTED,
    )
    context = dg.SubmitRunContext(run, workspace=None)  # type: ignore[arg-type]
    queued = instance.run_coordinator.submit_run(context)
    assert queued.tags["em/part"] == "montage"
    assert queued.tags["dagster/max_runtime"] == "43200"
    pools = {p.name: p.limit for p in instance.event_log_storage.get_pool_limits()}
    assert pools == {"montage": 3, "chimera": 2, "cryoem": 2, "review": 4}


@pytest.mark.parametrize("name", ["dagster.yaml", "docker/dagster.yaml"])
def test_every_part_has_a_limit_and_live_runs_always_find_a_slot(
    name: str, repository: Path
) -> None:
    shipped = yaml.safe_load((repository / name).read_text())
    runs = shipped["concurrency"]["runs"]
    limits = {
        each["value"]: each["limit"]
        for each in runs["tag_concurrency_limits"]
        if each["key"] == "em/part"
    }
    parts = {"live", "montage", "lens", "review", "ingest", "simulation", "cryoem"}
    assert set(limits) == parts
    # Beside all of them there is room for the catalog and for acts by hand.
    assert sum(limits.values()) + 2 <= runs["max_concurrent_runs"]
    config = shipped["run_coordinator"]["config"]
    assert config["pools"]["montage"] > limits["montage"]
    assert set(config["max_runtime_s"]) == {*limits, "catalog", "other"}


def test_what_a_montage_costs_waits_in_pools_and_runs_in_one_process() -> None:
    graph = defs.get_repository_def().asset_graph
    pools = {}
    for key in graph.get_all_asset_keys():
        definition = graph.get(key).assets_def
        if definition.is_executable:
            pools[key.to_user_string()] = definition.op.pool
    assert {name for name, pool in pools.items() if pool == "montage"} == {
        *("tiles", "tile_statistics", "tile_matches", "montage_fit", "mosaic"),
        "dataset_record",
    }
    assert pools["acquisition_review"] == pools["uploaded_tiles"] == "review"
    assert pools["lens_correction"] == "lens"
    assert all(pools[f"{source}/raw"] == f"ingest_{source}" for source in SOURCES)
    implicit = defs.get_repository_def().get_job("__ASSET_JOB")
    assert implicit.executor_def is dg.in_process_executor
