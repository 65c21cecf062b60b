"""What the page gets of a montage's stitching, by a real web UI and instance."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import count

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster_webserver.app import create_app_from_workspace_process_context

from em_platform.definitions import defs as platform
from em_platform.errors import SourceUnavailable
from em_platform.jobs import ALL_JOBS
from em_platform.operator.finished import STITCHING_JOBS, result_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
]

SEAM = "a seam of 9 px"

montages = dg.DynamicPartitionsDefinition(name="montages")
checks: dict[str, dg.AssetCheckSeverity] = {}
broken: set[str] = set()
"""What goes wrong in the next run: checks that fail, and assets."""


def made(name: str) -> None:
    if name in broken:
        raise dg.Failure(f"{name} is broken", allow_retries=False)


@dg.asset(partitions_def=montages)
def tiles() -> None:
    made("tiles")


@dg.asset(
    partitions_def=montages,
    deps=[tiles],
    check_specs=[
        dg.AssetCheckSpec("seams_are_closed", asset="mosaic"),
        dg.AssetCheckSpec("mosaic_has_contrast", asset="mosaic"),
    ],
)
def mosaic() -> Iterator[dg.MaterializeResult[None]]:
    made("mosaic")
    results = [
        dg.AssetCheckResult(
            check_name=name,
            passed=name not in checks,
            severity=checks.get(name, dg.AssetCheckSeverity.ERROR),
            description=SEAM,
        )
        for name in ("seams_are_closed", "mosaic_has_contrast")
    ]
    yield dg.MaterializeResult(check_results=results)


@dg.asset(partitions_def=montages, deps=[mosaic])
def acquisition_review() -> None:
    made("acquisition_review")


@dg.asset(partitions_def=montages, key=["idr", "mosaic"])
def volume_of_a_source() -> None:
    made("idr")


SELECTIONS = {
    "stitch_montages": ["tiles", "mosaic"],
    "stitch_tiles": ["mosaic"],
    "process_tiles": ["tiles"],
    "review_acquisitions": ["acquisition_review"],
    "ingest_idr": [dg.AssetKey(["idr", "mosaic"])],
}
definitions = dg.Definitions(
    assets=[tiles, mosaic, acquisition_review, volume_of_a_source],
    jobs=[
        dg.define_asset_job(name, selection=selection)
        for name, selection in SELECTIONS.items()
    ],
)


@pytest.fixture(autouse=True)
def nothing_goes_wrong() -> None:
    checks.clear()
    broken.clear()


@pytest.fixture(scope="module")
def instance(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("home"))) as made:
        yield made


@pytest.fixture(scope="module")
def web_ui(
    instance: dg.DagsterInstance, served: Callable[..., AbstractContextManager[str]]
) -> Iterator[str]:
    """Of all tests, whose runs it tells apart by their montages."""
    with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as context:
        with served(create_app_from_workspace_process_context(context)) as address:
            yield address


_numbers = count(1)


@pytest.fixture
def montage(instance: dg.DagsterInstance) -> str:
    """One that no other test has."""
    key = f"m-{next(_numbers):04d}-20261122t120000"
    instance.add_dynamic_partitions("montages", [key])
    return key


Run = Callable[..., str]


@pytest.fixture
def run(instance: dg.DagsterInstance, montage: str) -> Run:
    """Run a job for the montage; the id of the run."""

    def act(job: str, selection: Sequence[str] = ()) -> str:
        chosen = [dg.AssetKey(name.split("/")) for name in selection]
        resolved = (
            definitions.resolve_implicit_global_asset_job_def()
            if job == "__ASSET_JOB"
            else definitions.resolve_job_def(job)
        )
        result = resolved.execute_in_process(
            instance=instance,
            partition_key=montage,
            asset_selection=chosen or None,
            raise_on_error=False,
        )
        return result.run_id

    return act


def test_the_jobs_that_are_asked_of_are_those_that_make_a_mosaic() -> None:
    makers = {
        job.name
        for job in ALL_JOBS
        if any(
            key.path == ["mosaic"]
            for key in platform.resolve_job_def(
                job.name
            ).asset_layer.selected_asset_keys
        )
    }
    assert {*makers, "__ASSET_JOB"} == set(STITCHING_JOBS)


def test_a_montage_that_was_not_stitched_has_no_result(
    web_ui: str, montage: str, run: Run
) -> None:
    assert result_of(web_ui, montage) is None
    run("process_tiles")
    assert result_of(web_ui, montage) is None


def test_a_good_stitching_has_neither_errors_nor_warnings(
    web_ui: str, montage: str, run: Run
) -> None:
    stitched = run("stitch_montages")
    assert result_of(web_ui, montage) == {
        "run_id": stitched,
        "status": "success",
        "is_over": True,
        "failed": [],
        "warnings": [],
    }


@pytest.mark.parametrize(
    ("job", "selection"),
    [
        ("review_acquisitions", ()),
        ("process_tiles", ()),
        ("ingest_idr", ()),  # its partition may have the name of a montage
        ("__ASSET_JOB", ("idr/mosaic",)),
        ("__ASSET_JOB", ("tiles",)),
        ("stitch_montages", ("tiles",)),
    ],
)
def test_a_later_run_of_something_else_does_not_hide_a_failed_stitching(
    web_ui: str, montage: str, run: Run, job: str, selection: Sequence[str]
) -> None:
    broken.add("mosaic")
    stitched = run("stitch_montages")
    broken.clear()
    for _ in range(3):
        run(job, selection)
    result = result_of(web_ui, montage)
    assert result is not None
    assert (result["run_id"], result["status"]) == (stitched, "failure")
    assert result["failed"] == [
        "mosaic: dagster._core.definitions.events.Failure: mosaic is broken"
    ]


@pytest.mark.parametrize(
    ("job", "selection"),
    [
        ("stitch_montages", ()),
        ("stitch_tiles", ()),
        ("__ASSET_JOB", ("mosaic",)),
        ("__ASSET_JOB", ("tiles", "mosaic", "acquisition_review")),
    ],
)
def test_a_montage_that_is_stitched_again_has_the_newest_result(
    web_ui: str, montage: str, run: Run, job: str, selection: Sequence[str]
) -> None:
    broken.add("mosaic")
    run("stitch_montages")
    broken.clear()
    newest = run(job, selection)
    result = result_of(web_ui, montage)
    assert result is not None
    assert (result["run_id"], result["status"]) == (newest, "success")
    assert result["failed"] == []


def test_what_repeats_the_rest_of_a_stitching_belongs_to_it(
    web_ui: str, montage: str, run: Run, instance: dg.DagsterInstance
) -> None:
    checks["seams_are_closed"] = dg.AssetCheckSeverity.ERROR
    first = run("stitch_montages")
    rest = frozenset({dg.AssetKey("tiles")})
    job = definitions.resolve_job_def("stitch_montages").get_subset(
        asset_selection=rest
    )
    repeated = instance.create_run_for_job(
        job,
        asset_selection=rest,
        root_run_id=first,
        parent_run_id=first,
        tags={"dagster/partition": montage},
        status=dg.DagsterRunStatus.SUCCESS,
    )
    result = result_of(web_ui, montage)
    assert result is not None
    assert result["run_id"] == repeated.run_id
    assert result["failed"] == [f"seams_are_closed: {SEAM}"]


def test_failed_checks_of_severity_warn_and_error_are_reported_apart(
    web_ui: str, montage: str, run: Run
) -> None:
    checks["seams_are_closed"] = dg.AssetCheckSeverity.ERROR
    checks["mosaic_has_contrast"] = dg.AssetCheckSeverity.WARN
    run("stitch_montages")
    result = result_of(web_ui, montage)
    assert result is not None
    assert result["status"] == "success"
    assert result["failed"] == [f"seams_are_closed: {SEAM}"]
    assert result["warnings"] == [f"mosaic_has_contrast: {SEAM}"]


def test_a_stitching_that_runs_is_not_over(
    web_ui: str, montage: str, run: Run, instance: dg.DagsterInstance
) -> None:
    run("stitch_montages")
    job = definitions.resolve_job_def("stitch_tiles")
    active = instance.create_run_for_job(
        job,
        status=dg.DagsterRunStatus.STARTED,
        tags={"dagster/partition": montage},
    )
    run("review_acquisitions")
    result = result_of(web_ui, montage)
    assert result is not None
    assert (result["run_id"], result["is_over"]) == (active.run_id, False)


def test_a_web_ui_that_is_away_may_be_asked_again(
    free_port: Callable[[], int],
) -> None:
    with pytest.raises(SourceUnavailable, match="no answer"):
        result_of(f"http://127.0.0.1:{free_port()}", "m-1")
