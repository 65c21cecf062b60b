"""The published temdb-client: create, list, update of every resource over HTTP."""

import asyncio
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temdb.client import NotFoundError, TEMdbClient, TEMdbClientError
from temdb.models import (
    AcquisitionCreate,
    AcquisitionParams,
    AcquisitionTaskCreate,
    AcquisitionTaskUpdate,
    AcquisitionUpdate,
    Aperture,
    BlockCreate,
    BlockUpdate,
    Calibration,
    CuttingSessionCreate,
    CuttingSessionUpdate,
    DatasetCreate,
    DatasetUpdate,
    HardwareParams,
    LensCorrectionCreate,
    LensCorrectionUpdate,
    Matcher,
    MicroscopeCreate,
    MicroscopeUpdate,
    ReferencePoints,
    ROICreate,
    ROIPayload,
    ROIUpdate,
    SectionCreate,
    SectionMetrics,
    SectionQuality,
    SectionUpdate,
    SpecimenCreate,
    SpecimenUpdate,
    StorageLocationCreate,
    SubstrateCreate,
    SubstrateMetadata,
    SubstrateUpdate,
    TileCreate,
)
from temdb.models.section import OpticalImage

START = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
ROI_ID = "SPEC1.BLK1.WAF1_S1.WAF1.ROI001"


async def make_section(client: TEMdbClient, number: int = 1) -> str:
    section = await client.section.create(
        SectionCreate(cutting_session_id="CUT1", media_id="WAF1", section_number=number)
    )
    return section.section_id


async def make_parents(client: TEMdbClient) -> None:
    """SPEC1 > BLK1 > CUT1 > WAF1_S1 on WAF1 > ROI 1."""
    await client.specimen.create(SpecimenCreate(specimen_id="SPEC1"))
    await client.block.create(BlockCreate(block_id="BLK1", specimen_id="SPEC1"))
    await client.cutting_session.create(
        CuttingSessionCreate(
            cutting_session_id="CUT1",
            block_id="BLK1",
            start_time=START,
            sectioning_device="ATUM",
            media_type="wafer",
        )
    )
    await client.substrate.create(SubstrateCreate(media_id="WAF1", media_type="wafer"))
    await make_section(client)
    await make_roi(client, 1)


async def make_roi(client: TEMdbClient, number: int, parent: str | None = None) -> Any:
    return await client.roi.create(
        ROICreate(
            roi_number=number,
            section_id="WAF1_S1",
            specimen_id="SPEC1",
            block_id="BLK1",
            substrate_media_id="WAF1",
            section_number=1,
            parent_roi_id=parent,
            payload=ROIPayload(vertices=[[0, 0], [1, 0], [1, 1]], scale_y=2.0),
        )
    )


def new_task(task_id: str, **more: Any) -> AcquisitionTaskCreate:
    lineage = {"specimen_id": "SPEC1", "block_id": "BLK1", "roi_id": ROI_ID}
    return AcquisitionTaskCreate(task_id=task_id, **(lineage | more))


async def make_run(
    client: TEMdbClient, name: str, *, task: str = "T1", **more: Any
) -> Any:
    try:
        scope = await client.microscope.get("TEM-01")
        dataset = await client.dataset.get_by_name("DS1")
    except NotFoundError:
        scope = await client.microscope.create(MicroscopeCreate(label="TEM-01"))
        dataset = await client.dataset.create(
            DatasetCreate(name="DS1", specimen_id="SPEC1", size_class="small")
        )
    given = {
        "roi_id": ROI_ID,
        "dataset_id": str(dataset.dataset_id),
        "start_time": START,
        "calibration_info": Calibration(pixel_size=3.9, rotation_angle=181.4),
    } | more
    magnification = given.pop("magnification", 2000)
    return await client.acquisition.create(
        AcquisitionCreate(
            acquisition_id=name,
            montage_id="M1",
            acquisition_task_id=task,
            microscope_id=scope.microscope_id,
            hardware_settings=HardwareParams(
                scope_id="TEM-01",
                camera_model="cam",
                camera_serial="1",
                camera_bit_depth=12,
                media_type="wafer",
            ),
            acquisition_settings=AcquisitionParams(
                magnification=magnification,
                spot_size=1,
                exposure_time=100,
                tile_size=[512, 512],
                tile_overlap=56.0,
                saved_bit_depth=8,
            ),
            **given,
        )
    )


def new_tile(index: int, **more: Any) -> TileCreate:
    given = {
        "stage_position": {"x": index * 1000.0, "y": 0.0},
        "raster_position": {"row": index // 4, "col": index % 4},
        "focus_score": 0.9,
        "min_value": 1,
        "max_value": 250,
        "mean_value": 120,
        "std_value": 20,
        "image_path": f"s3://bucket/a/{index}.zarr",
    }
    return TileCreate(raster_index=index, **(given | more))


def new_match(quality: float, position: str, **more: Any) -> Matcher:
    given = {
        "row": 0,
        "col": 0,
        "dX": 1.0,
        "dY": 2.0,
        "dXsd": 0.1,
        "dYsd": 0.1,
        "distance": 2.2,
        "rotation": 0.0,
        "pX": [1.0],
        "pY": [1.0],
        "qX": [2.0],
        "qY": [3.0],
    }
    return Matcher(match_quality=quality, position=position, **(given | more))


async def status_of(call: Any) -> tuple[int, str]:
    """The HTTP status and sentence of a call that is refused."""
    with pytest.raises(TEMdbClientError) as error:
        await call
    response = error.value.__cause__.response  # type: ignore[union-attr]
    detail = response.json()["detail"]
    assert isinstance(detail, str)
    return response.status_code, detail


Talk = Callable[[Callable[[TEMdbClient], Any]], Any]


def test_health_and_what_it_is(talk: Talk) -> None:
    async def act(client: TEMdbClient) -> None:
        assert (await client.health_check())["status"] == "ok"
        assert (await client.get_api_info())["api"] == "v2"

    talk(act)


def test_specimens_and_their_pictures(talk: Talk) -> None:
    async def act(client: TEMdbClient) -> None:
        made = await client.specimen.create(
            SpecimenCreate(
                specimen_id="SPEC1",
                specimen_images={"s3://b/one.png", "s3://b/two.png"},
                functional_imaging_metadata={"cells": [1, 2]},
            )
        )
        assert made.created_at is not None
        assert await status_of(
            client.specimen.create(SpecimenCreate(specimen_id="SPEC1"))
        ) == (
            409,
            "TEM DB: specimen SPEC1 exists already; update it, or choose another id",
        )
        long = SpecimenUpdate(description="d" * 5000)  # compressed on its way
        assert (await client.specimen.update("SPEC1", long)).description == "d" * 5000
        more = await client.specimen.add_image("SPEC1", "s3://b/three.png")
        assert {str(uri) for uri in more.specimen_images} == {
            "s3://b/one.png",
            "s3://b/three.png",
            "s3://b/two.png",
        }
        less = await client.specimen.remove_image("SPEC1", "s3://b/one.png")
        assert len(less.specimen_images) == 2
        await client.specimen.create(SpecimenCreate(specimen_id="SPEC2"))
        found = await client.specimen.list(skip=1, limit=1)
        assert [each.specimen_id for each in found] == ["SPEC2"]
        await client.specimen.delete("SPEC2")
        with pytest.raises(NotFoundError):
            await client.specimen.get("SPEC2")
        kept = await client.specimen.get("SPEC1")
        assert kept.functional_imaging_metadata == {"cells": [1, 2]}
        assert kept.updated_at > kept.created_at

    talk(act)


def test_blocks_and_cutting_sessions(talk: Talk) -> None:
    async def act(client: TEMdbClient) -> None:
        await make_parents(client)
        changed = BlockUpdate(microCT_info={"voxel_um": 1.5}, description="a block")
        await client.block.update("SPEC1", "BLK1", changed)
        block = await client.block.get("SPEC1", "BLK1")
        assert (block.microCT_info, block.description) == (
            {"voxel_um": 1.5},
            "a block",
        )
        assert len(await client.block.list_all(specimen_id="SPEC1")) == 1
        assert len(await client.block.list_by_specimen("SPEC1")) == 1
        assert len(await client.specimen.list_blocks("SPEC1")) == 1
        assert await client.block.list_all(specimen_id="other") == []
        [cut] = await client.block.get_cut_sessions("SPEC1", "BLK1")
        assert (cut.specimen_id, cut.start_time) == ("SPEC1", START)
        sessions = client.cutting_session
        end = START + timedelta(hours=2)
        await sessions.update("CUT1", CuttingSessionUpdate(end_time=end, operator="Z"))
        assert (await sessions.get("SPEC1", "BLK1", "CUT1")).end_time == end
        assert len(await sessions.list_all(operator="Z")) == 1
        assert await sessions.list_all(operator="Y") == []
        assert len(await sessions.list_by_block("SPEC1", "BLK1")) == 1
        assert len(await sessions.list_sections("SPEC1", "BLK1", "CUT1")) == 1
        status, sentence = await status_of(client.block.delete("SPEC1", "BLK1"))
        assert status == 409
        assert "has cutting sessions" in sentence

    talk(act)


def test_sections_are_found_by_all_that_they_lie_on(talk: Talk) -> None:
    async def act(client: TEMdbClient) -> None:
        await make_parents(client)
        assert await make_section(client, 2) == "WAF1_S2"
        sections = client.section
        await sections.update(
            "CUT1",
            "WAF1_S2",
            SectionUpdate(
                barcode="B-7",
                aperture_index=5,
                section_metrics=SectionMetrics(quality=SectionQuality.THIN),
            ),
        )
        picture = {"overview": OpticalImage(image_path="s3://b/o.png")}
        created = await sections.create(
            SectionCreate(
                cutting_session_id="CUT1",
                media_id="WAF1",
                section_number=3,
                optical_image=picture,
            )
        )
        assert str(created.optical_image["overview"].image_path) == "s3://b/o.png"
        thin = await sections.list_all(quality=SectionQuality.THIN)
        assert [each.section_id for each in thin] == ["WAF1_S2"]
        assert len(await sections.list_by_session("CUT1")) == 3
        assert len(await sections.list_by_block("BLK1")) == 3
        assert len(await sections.list_by_specimen("SPEC1")) == 3
        assert len(await sections.list_by_media("WAF1")) == 3
        assert len(await sections.list_by_media("WAF1", relative_position=5)) == 1
        assert len(await sections.list_by_barcode("B-7")) == 1
        assert len(await client.substrate.list_related_sections("WAF1", limit=2)) == 2
        await sections.delete("CUT1", "WAF1_S3")
        with pytest.raises(NotFoundError):
            await sections.get("CUT1", "WAF1_S3")

    talk(act)


def test_destroyed_follows_from_the_condition(talk: Talk) -> None:
    async def act(client: TEMdbClient) -> None:
        await make_parents(client)
        changed = SectionUpdate(condition="destroyed", condition_reason="beam")
        gone = await client.section.update("CUT1", "WAF1_S1", changed)
        assert (gone.destroyed, gone.condition_reason) == (True, "beam")
        refused = client._async_request(
            "PATCH",
            "sections/sessions/CUT1/sections/WAF1_S1",
            json={"destroyed": True},
        )
        status, sentence = await status_of(refused)
        assert status == 422
        assert "read-only" in sentence

    talk(act)


def test_substrates_keep_points_and_apertures(talk: Talk) -> None:
    async def act(client: TEMdbClient) -> None:
        await client.substrate.create(
            SubstrateCreate(
                media_id="WAF1",
                media_type="wafer",
                refpoint=ReferencePoints(origin=(0, 0, 0), end=(1, 0, 0)),
                metadata=SubstrateMetadata(name="first", created=START),
                apertures=[Aperture(uid="a", index=1, tuid="t-1")],
            )
        )
        changed = SubstrateUpdate(status="in_use", metadata=SubstrateMetadata(user="u"))
        await client.substrate.update("WAF1", changed)
        found = await client.substrate.get("WAF1")
        assert (found.status, found.metadata.user) == ("in_use", "u")
        assert found.refpoint.end == (1, 0, 0)
        assert found.apertures[0].tracking_uid == "t-1"
        await client.substrate.create(SubstrateCreate(media_id="T1", media_type="tape"))
        tapes = await client.substrate.list(media_type="tape", status="new")
        assert [each.media_id for each in tapes] == ["T1"]
        await client.substrate.delete("T1")

    talk(act)


def test_regions_are_nested_and_named_by_where_they_lie(talk: Talk) -> None:
    async def act(client: TEMdbClient) -> None:
        await make_parents(client)
        part = await make_roi(client, 3, parent=ROI_ID)
        assert part.roi_id == f"{ROI_ID}.ROI0003"
        assert part.hierarchy_level == 2
        top = await client.roi.get(ROI_ID)
        assert top.is_parent
        assert (await client.roi.get(top.id)).roi_id == ROI_ID
        await client.roi.update(ROI_ID, ROIUpdate(payload=ROIPayload(scale_y=3.0)))
        payload = (await client.roi.get(ROI_ID)).roi_payload
        assert (payload.scale_y, len(payload.vertices)) == (3.0, 3)
        [child] = (await client.roi.get_children(ROI_ID)).children
        assert child.roi_id == part.roi_id
        path = await client._async_request("GET", f"rois/{part.roi_id}/hierarchy")
        assert [step["roi_id"] for step in path["hierarchy_path"]] == [
            ROI_ID,
            part.roi_id,
        ]
        assert len(await client.roi.list_by_section("WAF1_S1")) == 2
        assert len(await client.roi.list_all(cutting_session_id="CUT1")) == 2
        assert len(await client.roi.list_all(is_parent_roi=True)) == 1
        assert (await status_of(client.roi.delete(ROI_ID)))[0] == 409
        await client.roi.delete(part.roi_id)

    talk(act)


def test_datasets_microscopes_and_lenses(talk: Talk) -> None:
    async def act(client: TEMdbClient) -> None:
        large = await client.dataset.create_with_estimate(
            "D1", estimated_roi_count=1000, tiles_per_roi=500_000
        )
        assert large.size_class == "medium"
        assert large.dataset_id.version == 7
        part = await client.dataset.create(
            DatasetCreate(
                name="D1a", size_class="small", parent_dataset_id=large.dataset_id
            )
        )
        deeper = DatasetCreate(
            name="D1aa", size_class="small", parent_dataset_id=part.dataset_id
        )
        assert (await status_of(client.dataset.create(deeper)))[0] == 400
        done = await client.dataset.update(
            str(part.dataset_id), DatasetUpdate(status="collected")
        )
        assert done.collected_at is not None
        assert (await client.dataset.get_by_name("D1a")).status == "collected"
        assert len(await client.dataset.list(status="collecting")) == 1
        scope = await client.microscope.create(MicroscopeCreate(label="TEM-01"))
        by_id = await client.microscope.get(str(scope.microscope_id))
        assert by_id.label == "TEM-01"
        changed = MicroscopeUpdate(location="room 1")
        await client.microscope.update(str(scope.microscope_id), changed)
        assert (await client.microscope.get("TEM-01")).location == "room 1"
        assert len(await client.microscope.list()) == 1
        for day in (1, 3, 2):
            lens = await client.lens_correction.create(
                LensCorrectionCreate(
                    microscope_id=scope.microscope_id,
                    magnification=2000,
                    started_at=START + timedelta(days=day),
                )
            )
        current = await client.lens_correction.get_current(
            str(scope.microscope_id), 2000
        )
        assert current.started_at == START + timedelta(days=3)
        solved = LensCorrectionUpdate(shared_transform={"type": "leaf"})
        await client.lens_correction.update(str(lens.lc_id), solved)
        found = await client.lens_correction.get(str(lens.lc_id))
        assert found.shared_transform == {"type": "leaf"}
        days = [
            each.started_at.day
            for each in await client.lens_correction.list(magnification=2000)
        ]
        assert days == [4, 3, 2]
        with pytest.raises(NotFoundError):
            await client.lens_correction.get_current(str(scope.microscope_id), 100)

    talk(act)


def test_the_state_of_a_task_follows_from_its_runs(talk: Talk) -> None:
    async def act(client: TEMdbClient) -> None:
        await make_parents(client)
        tasks, runs = client.acquisition_task, client.acquisition
        await tasks.create(new_task("T1", tags=["x"], metadata={"a": 1}))
        states = [(await tasks.get("T1")).status]
        await make_run(client, "A1")
        states.append((await tasks.get("T1")).status)
        await runs.update("A1", AcquisitionUpdate(status="failed"))
        states.append((await tasks.get("T1")).status)
        await make_run(client, "A2", start_time=START + timedelta(hours=1))
        await runs.update("A2", AcquisitionUpdate(status="complete"))
        states.append((await tasks.get("T1")).status)
        await runs.update("A2", AcquisitionUpdate(qc_state="qc_fail", updated_by="me"))
        states.append((await tasks.get("T1")).status)
        await runs.update("A2", AcquisitionUpdate(qc_state="qc_pass"))
        states.append((await tasks.get("T1")).status)
        assert states == [
            "pending",
            "acquired",
            "failed",
            "acquired",
            "needs_review",
            "complete",
        ]
        related = await tasks.list_related_acquisitions("T1")
        assert [run.acquisition_id for run in related] == ["A1", "A2"]
        changed = AcquisitionTaskUpdate(metadata={"b": 2}, tilt_angle_deg=1.5)
        found = await tasks.update("T1", changed)
        assert (found.metadata, found.tilt_angle_deg) == ({"b": 2}, 1.5)
        assert (await status_of(tasks.delete("T1")))[0] == 409

    talk(act)


def test_a_scope_is_given_only_what_it_can_image_now(talk: Talk) -> None:
    async def act(client: TEMdbClient) -> None:
        await make_parents(client)
        tasks = client.acquisition_task
        for name in ("T1", "T2", "T3"):
            await tasks.create(new_task(name))
        await tasks.create(AcquisitionTaskCreate(task_id="L1", kind="lens_correction"))
        await make_run(client, "A1")

        async def names(**wanted: Any) -> list[str]:
            return [each.task_id for each in await tasks.list(**wanted)]

        assert await names() == ["T1", "T2", "T3", "L1"]
        assert await names(imageable=True) == ["T2", "T3", "L1"]
        assert await names(imageable=True, loaded_media_ids=["OTHER"]) == ["L1"]
        assert await names(media_id="WAF1", kind="montage") == ["T1", "T2", "T3"]
        new = await tasks.supersede("T2", new_task("T2-r2"))
        assert new.status == "pending"
        assert (await tasks.get("T2")).superseded_by == "T2-r2"
        assert await names(kind="montage") == ["T1", "T3", "T2-r2"]
        assert "T2" in await names(current_only=False)
        status, _ = await status_of(tasks.supersede("T2", new_task("T9")))
        assert status == 409
        await client.acquisition.update("A1", AcquisitionUpdate(status="complete"))
        assert await names(kind="montage") == ["T3", "T2-r2"]
        gone = SectionUpdate(condition="destroyed")
        await client.section.update("CUT1", "WAF1_S1", gone)
        assert await names() == ["L1"]
        assert len(await names(skip_destroyed=False)) == 3

    talk(act)


def test_a_tilt_series_is_one_group_of_tasks(talk: Talk) -> None:
    async def act(client: TEMdbClient) -> None:
        await make_parents(client)
        tasks = client.acquisition_task
        series = [new_task(f"T{angle}", tilt_angle_deg=angle) for angle in (10, -10, 0)]
        made = await tasks.create_batch(series, group=True)
        group = {each.task_group_id for each in made}
        assert len(group) == 1
        found = await tasks.list(task_group_id=str(group.pop()))
        assert [each.tilt_angle_deg for each in found] == [-10, 0, 10]
        again = [new_task("T50"), new_task("T0")]
        assert (await status_of(tasks.create_batch(again)))[0] == 409
        with pytest.raises(NotFoundError):
            await tasks.get("T50")  # all or none

    talk(act)


def test_how_a_run_ended_is_written_once(talk: Talk) -> None:
    async def act(client: TEMdbClient) -> None:
        await make_parents(client)
        await client.acquisition_task.create(new_task("T1"))
        run = await make_run(client, "A1")
        assert (run.status, run.end_time) == (None, None)
        assert (run.qc_state, run.transfer_state) == ("pending", "not_started")
        assert run.run_id.version == 7
        runs = client.acquisition
        answers = await asyncio.gather(
            *(
                runs.update("A1", AcquisitionUpdate(status=status))
                for status in ("complete", "aborted", "failed")
            ),
            return_exceptions=True,
        )
        won = [each for each in answers if not isinstance(each, Exception)]
        lost = [each for each in answers if isinstance(each, TEMdbClientError)]
        assert (len(won), len(lost)) == (1, 2)
        codes = {error.__cause__.response.status_code for error in lost}
        assert codes == {409}
        found = await runs.get("A1")
        assert found.status == won[0].status
        assert found.end_time is not None
        lonely = client._async_request(
            "PATCH", "acquisitions/A1", json={"end_time": START.isoformat()}
        )
        assert (await status_of(lonely))[0] == 422

    talk(act)


def test_quality_and_transfer_are_axes_of_their_own(talk: Talk) -> None:
    async def act(client: TEMdbClient) -> None:
        await make_parents(client)
        await client.acquisition_task.create(new_task("T1"))
        await make_run(client, "A1")
        runs = client.acquisition
        await runs.update(
            "A1", AcquisitionUpdate(transfer_state="in_progress", updated_by="aloha")
        )
        found = await runs.update(
            "A1", AcquisitionUpdate(qc_state="needs_review", updated_by="Z")
        )
        assert (found.transfer_state, found.transfer_state_updated_by) == (
            "in_progress",
            "aloha",
        )
        assert (found.qc_state, found.qc_state_updated_by) == ("needs_review", "Z")
        assert found.qc_state_updated_at >= found.transfer_state_updated_at
        assert found.status is None
        nonsense = client._async_request(
            "PATCH", "acquisitions/A1", json={"qc_state": "splendid"}
        )
        assert (await status_of(nonsense))[0] == 422

    talk(act)


def test_runs_are_listed_by_filters_order_and_cursor(talk: Talk) -> None:
    async def act(client: TEMdbClient) -> None:
        await make_parents(client)
        await client.acquisition_task.create(new_task("T1"))
        for number in range(7):
            await make_run(
                client,
                f"A{number}",
                start_time=START + timedelta(hours=number // 2),
                magnification=2000 + number % 2,
                montage_set_name=f"set{number % 3}",
            )
        runs = client.acquisition
        await runs.update("A6", AcquisitionUpdate(status="complete"))
        seen: list[str] = []
        cursor: str | None = None
        while True:
            page = await runs.list(cursor=cursor, limit=3)
            seen += [run.acquisition_id for run in page.acquisitions]
            assert page.metadata["total_count"] == 7
            cursor = page.metadata["next_cursor"]
            if cursor is None:
                break
        assert seen == ["A6", "A5", "A4", "A3", "A2", "A1", "A0"]

        async def names(**wanted: Any) -> list[str]:
            page = await runs.list(sort_order=1, sort_by="acquisition_id", **wanted)
            return [run.acquisition_id for run in page.acquisitions]

        assert await names(magnification=2001) == ["A1", "A3", "A5"]
        assert await names(status="complete") == ["A6"]
        assert len(await names(status="in_flight")) == 6
        assert await names(montage_set_name="set2") == ["A2", "A5"]
        late = START + timedelta(hours=2)
        assert await names(start_date=late) == ["A4", "A5", "A6"]
        assert await names(end_date=START) == ["A0", "A1"]
        assert await names(roi_id="elsewhere") == []
        assert len(await client.roi.list_acquisitions(ROI_ID, status="complete")) == 1
        few = await client._async_request(
            "GET", "acquisitions", params={"fields": ["acquisition_id"], "limit": 1}
        )
        assert set(few["acquisitions"][0]) == {"id", "acquisition_id"}
        assert (await status_of(runs.list(sort_by="password")))[0] == 422
        assert (await status_of(runs.list(cursor="nonsense")))[0] == 422

    talk(act)


def test_a_run_that_replaces_another_names_it(talk: Talk) -> None:
    async def act(client: TEMdbClient) -> None:
        await make_parents(client)
        await client.acquisition_task.create(new_task("T1"))
        first = await make_run(client, "A1")
        second = await make_run(client, "A2", replaces_acquisition_id=first.id)
        assert second.replaces_acquisition_id == "A1"
        assert (await status_of(client.acquisition.delete("A1")))[0] == 409

    talk(act)


def test_tiles_are_added_once_however_often_they_are_sent(talk: Talk) -> None:
    async def act(client: TEMdbClient) -> None:
        await make_parents(client)
        await client.acquisition_task.create(new_task("T1"))
        await make_run(client, "A1")
        runs = client.acquisition
        one = await runs.add_tile("A1", new_tile(0, supertile_id="s"))
        assert uuid.UUID(one.tile_id).version == 7
        assert one.raster_position == {"row": 0, "col": 0}
        assert (await status_of(runs.add_tile("A1", new_tile(0))))[0] == 409
        tiles = [new_tile(n, matcher=[new_match(3, "left")]) for n in range(1200)]
        first = await runs.add_tiles_bulk("A1", tiles)
        assert (first["inserted"], first["skipped_existing"]) == (1199, 1)
        again = await runs.add_tiles_bulk("A1", tiles)
        assert (again["inserted"], again["total_received"]) == (0, 1200)
        assert await runs.get_tile_count("A1") == {"tile_count": 1200}
        found = await runs.get_all_tiles("A1")
        assert [tile.raster_index for tile in found] == list(range(1200))
        assert found[0].supertile_id == "s"  # the first writer's tile stays
        assert found[7].matcher[0].match_quality == 3
        assert str(found[7].image_path) == "s3://bucket/a/7.zarr"
        same = await runs.get_tile("A1", found[7].tile_id)
        assert same == found[7]
        await runs.delete_tile("A1", found[7].tile_id)
        with pytest.raises(NotFoundError):
            await runs.get_tile("A1", found[7].tile_id)
        assert (await status_of(runs.delete("A1")))[0] == 409

    talk(act)


def test_places_and_the_whole_lineage_of_a_run(talk: Talk) -> None:
    async def act(client: TEMdbClient) -> None:
        await make_parents(client)
        await client.acquisition_task.create(new_task("T1"))
        await make_run(client, "A1")
        runs = client.acquisition
        assert await runs.get_current_storage_location("A1") is None
        assert await runs.get_minimap_uri("A1") == {"minimap_uri": None}
        for path in ("file:///ssd/A1", "s3://bucket/A1"):
            kind = path.split(":")[0]
            await runs.add_storage_location(
                "A1", StorageLocationCreate(location_type=kind, base_path=path)
            )
        current = await runs.get_current_storage_location("A1")
        assert current.base_path == "s3://bucket/A1"
        minimap = await runs.get_minimap_uri("A1")
        assert minimap == {"minimap_uri": "s3://bucket/A1/minimap.png"}
        places = (await runs.get("A1")).storage_locations
        assert [place.is_current for place in places] == [False, True]
        full = await runs.get_with_full_metadata("A1")
        assert full.acquisition.acquisition_id == "A1"
        assert full.task["task_id"] == "T1"
        assert full.section["section_id"] == "WAF1_S1"
        assert full.cutting_session["sectioning_device"] == "ATUM"
        assert full.substrate["media_id"] == "WAF1"
        assert (full.block["block_id"], full.specimen["specimen_id"]) == (
            "BLK1",
            "SPEC1",
        )
        listed = await runs.list_with_full_metadata(specimen_id="SPEC1")
        assert listed["acquisitions"][0]["roi"]["roi_id"] == ROI_ID
        plain = await runs.get_complete_metadata("A1")
        assert plain["acquisition"]["montage_id"] == "M1"

    talk(act)


def test_what_a_model_does_not_know_is_refused(talk: Talk) -> None:
    async def act(client: TEMdbClient) -> None:
        extra = {"specimen_id": "S", "colour": "grey"}
        refused = client._async_request("POST", "specimens", json=extra)
        status, sentence = await status_of(refused)
        assert status == 422
        assert "colour" in sentence
        lonely = CuttingSessionCreate(
            cutting_session_id="C",
            block_id="nowhere",
            start_time=START,
            sectioning_device="d",
            media_type="m",
        )
        with pytest.raises(NotFoundError):
            await client.cutting_session.create(lonely)

    talk(act)
