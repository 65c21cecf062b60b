"""From an upload to its review in TEM DB, and back to the microscope's queue."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from em_platform.acquisition.montages.review import BY, verdict
from em_platform.definitions import defs
from em_platform.model import AcquisitionUpload, Check, Severity
from em_platform.partitions import montages
from em_platform.storage import Store, layout
from em_platform.temdb.register import Register

pytestmark = [
    pytest.mark.usefixtures("cheap_runs"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:dagster"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

KEY = "m-1-t1"
Upload = Callable[[Path], AcquisitionUpload]
ImageMontage = Callable[..., Path]


def run(instance: dg.DagsterInstance, job: str, **more: Any) -> Any:
    instance.add_dynamic_partitions(str(montages.name), [KEY, "another-one"])
    return defs.resolve_job_def(job).execute_in_process(
        instance=instance, raise_on_error=False, **more
    )


def on_montage(instance: dg.DagsterInstance, job: str) -> Any:
    return run(instance, job, partition_key=KEY)


def failed(result: dg.ExecuteInProcessResult) -> set[str]:
    found = result.get_asset_check_evaluations()
    return {check.check_name for check in found if not check.passed}


def sentence_of(result: dg.ExecuteInProcessResult) -> str:
    [event] = [e for e in result.all_events if e.is_step_failure]
    return str(event.step_failure_data.user_failure_data.description)


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_good_montage_passes_its_review_in_temdb(
    instance: dg.DagsterInstance,
    image_montage: ImageMontage,
    upload: Upload,
    temdb: Register,
    store: Store,
) -> None:
    upload(image_montage("m-1"))
    assert on_montage(instance, "stitch_montages").success
    for _ in range(2):
        result = on_montage(instance, "review_acquisitions")
        assert result.success
        assert failed(result) == set()
    known = temdb.run_of(KEY)
    assert known is not None
    assert (known.qc_state, known.qc_by) == ("qc_pass", BY)
    assert known.places == (
        store.url(layout.uploaded_acquisition(KEY)),
        store.url(layout.mosaic(KEY)),
    )
    [tiles] = result.asset_materializations_for_node("uploaded_tiles")
    assert tiles.metadata["tiles"].value == 4
    assert tiles.metadata["bytes"].value > 4 * 256 * 256
    [observed] = instance.fetch_observations(
        dg.AssetKey("temdb_tasks"), limit=1
    ).records
    assert observed.asset_observation is not None
    counted = observed.asset_observation.metadata
    assert counted == {"complete": dg.MetadataValue.int(1)}


def test_what_a_person_has_said_in_temdb_stays(
    instance: dg.DagsterInstance,
    image_montage: ImageMontage,
    upload: Upload,
    temdb: Register,
) -> None:
    upload(image_montage("m-1"))
    temdb.set_qc(KEY, "qc_fail", by="Zoe")
    assert on_montage(instance, "stitch_montages").success
    assert on_montage(instance, "review_acquisitions").success
    known = temdb.run_of(KEY)
    assert known is not None
    assert (known.qc_state, known.qc_by) == ("qc_fail", "Zoe")


def test_a_montage_without_a_planned_tile_fails_in_temdb(
    instance: dg.DagsterInstance,
    image_montage: ImageMontage,
    upload: Upload,
    temdb: Register,
) -> None:
    upload(image_montage("m-1", left_out={(1, 1)}))
    assert on_montage(instance, "stitch_montages").success
    result = on_montage(instance, "review_acquisitions")
    [review] = result.asset_materializations_for_node("acquisition_review")
    assert "Missing: 1 of 4 tiles" in str(review.metadata["failed"].value)
    known = temdb.run_of(KEY)
    assert known is not None
    assert known.qc_state == "qc_fail"


def test_a_tile_that_is_not_what_was_imaged_fails_its_montage(
    instance: dg.DagsterInstance,
    image_montage: ImageMontage,
    upload: Upload,
    temdb: Register,
    store: Store,
) -> None:
    folder = image_montage("m-1")
    upload(folder)
    assert on_montage(instance, "stitch_montages").success
    store.remove(layout.uploaded_tile(KEY, f"{KEY}_000_001"))
    result = on_montage(instance, "review_acquisitions")
    assert failed(result) == {"uploaded_tiles_are_whole"}
    known = temdb.run_of(KEY)
    assert known is not None
    assert known.qc_state == "qc_fail"


def test_frames_that_left_the_disk_are_read_where_aloha_put_them(
    instance: dg.DagsterInstance,
    image_montage: ImageMontage,
    upload: Upload,
    store: Store,
) -> None:
    folder = image_montage("m-1")
    upload(folder)
    assert on_montage(instance, "stitch_montages").success
    mosaic = store.local_path(layout.mosaic(KEY))
    assert mosaic is not None
    before = fingerprint(mosaic)
    for path in [*folder.glob("*.tiff"), *folder.glob(f"{KEY}_*.json")]:
        path.unlink()
    # The montage that is kept still names the frames; then it is looked up anew.
    assert on_montage(instance, "stitch_montages").success
    assert fingerprint(mosaic) == before
    result = on_montage(instance, "stitch_montages")
    assert failed(result) == set()
    assert fingerprint(mosaic) == before


def test_a_montage_is_reviewed_once_it_is_stitched_and_uploaded(
    instance: dg.DagsterInstance,
    image_montage: ImageMontage,
    upload: Upload,
    tick_uploads: Callable[[], Any],
) -> None:
    folder = image_montage("m-1")
    assert isinstance(tick_uploads(), dg.SkipReason)
    assert on_montage(instance, "stitch_montages").success
    assert isinstance(tick_uploads(), dg.SkipReason)  # not uploaded
    upload(folder)
    wanted = tick_uploads()
    assert [r.partition_key for r in wanted.run_requests] == [KEY]
    assert on_montage(instance, "review_acquisitions").success
    assert isinstance(tick_uploads(), dg.SkipReason)


@pytest.fixture
def tick_uploads(instance: dg.DagsterInstance, home: Path) -> Callable[[], Any]:
    """One tick of the sensor that looks for uploads."""
    from em_platform.resources.acquisition import TemdbResource
    from em_platform.resources.storage import Configuration, Storage
    from em_platform.sensors.transfer import upload_complete_sensor

    def tick() -> Any:
        resources = {
            "storage": Storage(configuration=Configuration()),
            "temdb": TemdbResource(configuration=Configuration()),
        }
        with dg.build_sensor_context(instance=instance, resources=resources) as context:
            return upload_complete_sensor(context)

    return tick


def test_reviews_wait_while_temdb_is_away(
    instance: dg.DagsterInstance,
    image_montage: ImageMontage,
    upload: Upload,
    tick_uploads: Callable[[], Any],
    free_port: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upload(image_montage("m-1"))
    assert on_montage(instance, "stitch_montages").success
    with monkeypatch.context() as away:
        away.setenv("EM_TEMDB__PORT", str(free_port()))
        waits = tick_uploads()
    assert isinstance(waits, dg.SkipReason)
    assert "TEM DB does not answer; 1 reviews wait" in str(waits.skip_message)
    assert len(tick_uploads().run_requests) == 1


def test_a_review_that_lost_temdb_is_tried_again_after_a_while(
    instance: dg.DagsterInstance,
    image_montage: ImageMontage,
    upload: Upload,
    tick_uploads: Callable[[], Any],
    free_port: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("em_platform.assets.checks._SOURCE_PAUSES_S", (0.1,) * 3)
    upload(image_montage("m-1"))
    assert on_montage(instance, "stitch_montages").success
    first = tick_uploads()
    with monkeypatch.context() as away:
        away.setenv("EM_TEMDB__PORT", str(free_port()))
        result = on_montage(instance, "review_acquisitions")
        assert not result.success
    assert isinstance(tick_uploads(), dg.SkipReason)  # it waits
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 31)
    second = tick_uploads()
    keys = {first.run_requests[0].run_key, second.run_requests[0].run_key}
    assert keys == {f"{KEY} 0", f"{KEY} 1"}
    monkeypatch.undo()


def test_a_montage_that_was_not_uploaded_cannot_be_reviewed(
    instance: dg.DagsterInstance, image_montage: ImageMontage
) -> None:
    image_montage("m-1")
    assert on_montage(instance, "stitch_montages").success
    result = on_montage(instance, "review_acquisitions")
    assert not result.success
    assert "upload.json could not be read" in sentence_of(result)


@pytest.mark.parametrize(
    ("severities", "expected"),
    [
        ([], "qc_pass"),
        ([Severity.WARN], "needs_review"),
        ([Severity.WARN, Severity.ERROR], "qc_fail"),
    ],
)
def test_the_worst_failed_check_decides(
    severities: list[Severity], expected: str
) -> None:
    good = Check(name="g", passed=True, severity=Severity.ERROR, sentence="")
    bad = [Check(name="b", passed=False, severity=s, sentence="") for s in severities]
    assert verdict([good, *bad]) == expected
