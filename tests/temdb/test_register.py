"""The register: the platform's calls to a TEM DB, over HTTP, repeated."""

import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
from temdb.client import TEMdbClient
from temdb.models import AcquisitionTaskCreate

from em_platform.errors import SourceRefused, SourceUnavailable
from em_platform.model import AcquisitionUpload, UsedInstrument
from em_platform.temdb.register import Register
from tests.uploads import START, new_match, new_tile, new_upload

Call = Callable[[Callable[[TEMdbClient], Any]], Any]
SIM = UsedInstrument(microscope="sim", magnification=2000, exposure_us=150_000)


def montage(name: str = "m-1-t1", **more: Any) -> AcquisitionUpload:
    turned = {"instrument": SIM, "pixel_nm": 4.0, "rotation_rad": math.pi / 2}
    return new_upload(name, **(turned | more))


def test_all_parents_that_are_missing_are_made(register: Register, call: Call) -> None:
    roi = {"vertices": [{"x": 0, "y": 0}, {"x": 9, "y": 0}]}
    given = montage(specimen_id="mouse-1", aperture_id=4, roi=roi)
    register.ensure_acquisition(given)

    async def act(client: TEMdbClient) -> Any:
        return await client.acquisition.get_with_full_metadata("m-1-t1")

    full = call(act)
    assert full.specimen["specimen_id"] == "mouse-1"
    assert full.section["section_id"] == "mouse-1-media_S5"
    assert full.task["task_id"] == "m-1"
    assert full.roi["roi_payload"]["vertices"] == [[0, 0], [9, 0]]
    run = full.acquisition
    assert run.calibration_info.rotation_angle == pytest.approx(90)
    assert run.acquisition_settings.exposure_time == 150
    assert run.acquisition_settings.tile_size == [200, 300]
    assert run.start_time == START
    assert run.dataset_id is not None


def test_a_section_that_the_lab_has_entered_is_used(
    register: Register, call: Call
) -> None:
    register.ensure_acquisition(montage("m-1-t1", specimen_id="mouse-1"))
    named = montage("m-2-t1", section_id="mouse-1-media_S1")
    register.ensure_acquisition(named)

    async def act(client: TEMdbClient) -> Any:
        full = await client.acquisition.get_with_full_metadata("m-2-t1")
        return full, await client.roi.list_by_section("mouse-1-media_S1")

    full, rois = call(act)
    assert full.specimen["specimen_id"] == "mouse-1"
    assert [roi.roi_number for roi in rois] == [1, 2]


def test_a_region_that_was_loaded_from_temdb_is_used_with_its_task(
    register: Register, call: Call
) -> None:
    register.ensure_acquisition(montage("m-1-t1", specimen_id="mouse-1"))

    async def plan(client: TEMdbClient) -> str:
        [roi] = await client.roi.list_all()
        await client.acquisition_task.create(
            AcquisitionTaskCreate(
                task_id="PLAN-7",
                specimen_id=roi.specimen_id,
                block_id=roi.block_id,
                roi_id=roi.roi_id,
            )
        )
        return str(roi.roi_id)

    roi_id = call(plan)
    loaded = montage(f"{roi_id}-t1", montage_id=roi_id)
    for _ in range(2):
        register.ensure_acquisition(loaded)

    async def act(client: TEMdbClient) -> Any:
        run = await client.acquisition.get(f"{roi_id}-t1")
        return run.roi_id, run.acquisition_task_id, len(await client.roi.list_all())

    assert call(act) == (roi_id, "PLAN-7", 1)


def test_registering_it_all_twice_changes_nothing(
    register: Register, call: Call
) -> None:
    for _ in range(2):
        register.ensure_acquisition(montage())
        register.put_tiles("m-1-t1", [new_tile(n) for n in range(3)])
        register.add_place("m-1-t1", "file:///store/m-1-t1", holds="tiles")
        register.finish("m-1-t1", status="complete", ended_at=START)
        register.set_transfer("m-1-t1", "complete")
        register.set_qc("m-1-t1", "qc_pass", by="test")
    known = register.run_of("m-1-t1")
    assert known is not None
    assert (known.status, known.transfer_state, known.qc_state) == (
        "complete",
        "complete",
        "qc_pass",
    )
    assert (known.tile_count, known.places) == (3, ("file:///store/m-1-t1",))

    async def act(client: TEMdbClient) -> Any:
        return (
            await client.specimen.list(),
            await client.roi.list_all(),
            (await client.acquisition.get("m-1-t1")).end_time,
        )

    specimens, rois, end_time = call(act)
    assert (len(specimens), len(rois), end_time) == (1, 1, START)


def test_a_larger_focus_score_is_a_sharper_tile(register: Register, call: Call) -> None:
    register.ensure_acquisition(montage())
    unmeasured = new_tile(2, statistics=None)
    given = [new_tile(0, focus=0.2), new_tile(1, matches=(new_match(points=3),))]
    assert register.put_tiles("m-1-t1", given) == 2
    assert register.put_tiles("m-1-t1", [*given, unmeasured]) == 1

    async def act(client: TEMdbClient) -> Any:
        return await client.acquisition.get_all_tiles("m-1-t1")

    blurred, sharp, unknown = call(act)
    assert [t.focus_score for t in (blurred, sharp, unknown)] == [0.2, 0.9, 0]
    assert sharp.matcher[0].match_quality == 3
    assert sharp.matcher[0].position == "left"


def test_a_run_that_ends_sums_up_its_tiles(register: Register, call: Call) -> None:
    register.ensure_acquisition(montage())
    good, bad = new_match(points=3), new_match(points=1)
    tiles = [new_tile(0), new_tile(1, matches=(good,))]
    tiles.append(new_tile(2, focus=0.6, matches=(bad,)))
    register.put_tiles("m-1-t1", tiles)
    register.finish("m-1-t1", status="complete")

    async def act(client: TEMdbClient) -> Any:
        return await client.acquisition.get("m-1-t1")

    run = call(act)
    assert run.tile_count == 3
    assert run.avg_focus_score == pytest.approx(0.8)
    assert run.median_match_quality == 2


def test_a_run_that_has_ended_cannot_end_otherwise(register: Register) -> None:
    register.ensure_acquisition(montage())
    register.finish("m-1-t1", status="aborted", error_message="stopped")
    with pytest.raises(SourceRefused, match="has ended as aborted"):
        register.finish("m-1-t1", status="complete")


def test_imaging_again_is_a_new_task_whose_run_names_the_old_one(
    register: Register, call: Call
) -> None:
    register.ensure_acquisition(montage("m-1-t1"))
    register.finish("m-1-t1", status="complete")
    register.set_qc("m-1-t1", "qc_fail")
    new = register.supersede("m-1-t1")
    assert new == "m-1-r2"
    assert register.supersede("m-1-t1") == new
    again = montage("m-1-r2-t1", replaces_acquisition_id="m-1-t1")
    register.ensure_acquisition(again)
    known = register.run_of("m-1-r2-t1")
    assert known is not None
    assert (known.task_id, known.replaces_acquisition_id) == ("m-1-r2", "m-1-t1")
    assert register.supersede("m-1-r2-t1") == "m-1-r3"

    async def act(client: TEMdbClient) -> Any:
        return (
            await client.acquisition_task.get("m-1"),
            await client.acquisition_task.get("m-1-r2"),
            await client.roi.list_all(),
        )

    old, task, rois = call(act)
    assert (old.superseded_by, old.status) == ("m-1-r2", "needs_review")
    assert task.roi_id == old.roi_id
    assert len(rois) == 1


def test_a_lens_montage_needs_no_specimen(register: Register, call: Call) -> None:
    register.ensure_acquisition(montage("lens-1-t1", kind="lens_correction"))
    assert register.put_tiles("lens-1-t1", [new_tile(0)]) == 1

    async def act(client: TEMdbClient) -> Any:
        return await client.acquisition.get("lens-1-t1"), await client.specimen.list()

    run, specimens = call(act)
    assert (run.kind, run.roi_id, specimens) == ("lens_correction", None, [])


def test_tasks_are_counted_by_state(register: Register) -> None:
    for number in range(3):
        register.ensure_acquisition(montage(f"m-{number}-t1"))
    register.set_qc("m-1-t1", "qc_pass")
    register.set_qc("m-2-t1", "needs_review")
    counts = dict(register.task_counts())
    assert counts == {"acquired": 1, "complete": 1, "needs_review": 1}


def test_an_id_of_another_montage_is_refused(register: Register) -> None:
    register.ensure_acquisition(montage("m-1-t1"))
    with pytest.raises(SourceRefused, match="belongs to montage m-1 there, not to m-2"):
        register.ensure_acquisition(montage("m-1-t1", montage_id="m-2"))


def test_two_that_register_at_once_make_one_of_each(server: str, call: Call) -> None:
    errors: list[Exception] = []

    def ensure(number: int) -> None:
        register = Register(server, "secret-of-the-tests")
        try:
            register.ensure_acquisition(montage(f"m-{number}-t1"))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ensure, args=(n % 3,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []

    async def act(client: TEMdbClient) -> Any:
        rois = await client.roi.list_all()
        runs = await client.acquisition.list()
        return len(await client.specimen.list()), len(rois), len(runs.acquisitions)

    assert call(act) == (1, 3, 3)


def test_a_wrong_token_is_refused_and_said(server: str) -> None:
    with pytest.raises(SourceRefused, match="refused our token"):
        Register(server, "guess").ensure_acquisition(montage())


def test_a_server_that_is_away_may_be_asked_again(
    free_port: Callable[[], int],
) -> None:
    register = Register(f"http://127.0.0.1:{free_port()}", "t")
    with pytest.raises(SourceUnavailable, match="no answer") as error:
        register.run_of("m-1-t1")
    assert error.value.retryable


def test_what_nobody_knows_is_none(register: Register) -> None:
    assert register.run_of("m-9-t9") is None
    with pytest.raises(SourceRefused, match="there is no acquisition m-9-t9"):
        register.put_tiles("m-9-t9", [new_tile(0)])


def test_a_time_without_a_zone_is_utc(register: Register, call: Call) -> None:
    register.ensure_acquisition(montage(started_at=START.replace(tzinfo=None)))

    async def act(client: TEMdbClient) -> Any:
        return (await client.acquisition.get("m-1-t1")).start_time

    assert call(act) == START
