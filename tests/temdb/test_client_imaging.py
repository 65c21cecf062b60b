"""The published temdb-client over HTTP: what was imaged."""

import asyncio
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from temdb.client import NotFoundError, TEMdbClient, TEMdbClientError
from temdb.models import (
    AcquisitionTaskCreate,
    AcquisitionTaskUpdate,
    AcquisitionUpdate,
    DatasetCreate,
    DatasetUpdate,
    LensCorrectionCreate,
    LensCorrectionUpdate,
    MicroscopeCreate,
    MicroscopeUpdate,
    SectionUpdate,
    StorageLocationCreate,
)

Call = Callable[[Callable[[TEMdbClient], Any]], Any]


def test_datasets_microscopes_and_lenses(call: Call, lab: Any) -> None:
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
        assert (await lab.status_of(client.dataset.create(deeper)))[0] == 400
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
                    started_at=lab.START + timedelta(days=day),
                )
            )
        current = await client.lens_correction.get_current(
            str(scope.microscope_id), 2000
        )
        assert current.started_at == lab.START + timedelta(days=3)
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

    call(act)


def test_the_state_of_a_task_follows_from_its_runs(call: Call, lab: Any) -> None:
    async def act(client: TEMdbClient) -> None:
        await lab.make_parents(client)
        tasks, runs = client.acquisition_task, client.acquisition
        await tasks.create(lab.new_task("T1", tags=["x"], metadata={"a": 1}))
        states = [(await tasks.get("T1")).status]
        await lab.make_run(client, "A1")
        states.append((await tasks.get("T1")).status)
        await runs.update("A1", AcquisitionUpdate(status="failed"))
        states.append((await tasks.get("T1")).status)
        await lab.make_run(client, "A2", start_time=lab.START + timedelta(hours=1))
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
        assert (await lab.status_of(tasks.delete("T1")))[0] == 409

    call(act)


def test_a_scope_is_given_only_what_it_can_image_now(call: Call, lab: Any) -> None:
    async def act(client: TEMdbClient) -> None:
        await lab.make_parents(client)
        tasks = client.acquisition_task
        for name in ("T1", "T2", "T3"):
            await tasks.create(lab.new_task(name))
        await tasks.create(AcquisitionTaskCreate(task_id="L1", kind="lens_correction"))
        await lab.make_run(client, "A1")

        async def names(**wanted: Any) -> list[str]:
            return [each.task_id for each in await tasks.list(**wanted)]

        assert await names() == ["T1", "T2", "T3", "L1"]
        assert await names(imageable=True) == ["T2", "T3", "L1"]
        assert await names(imageable=True, loaded_media_ids=["OTHER"]) == ["L1"]
        assert await names(media_id="WAF1", kind="montage") == ["T1", "T2", "T3"]
        new = await tasks.supersede("T2", lab.new_task("T2-r2"))
        assert new.status == "pending"
        assert (await tasks.get("T2")).superseded_by == "T2-r2"
        assert await names(kind="montage") == ["T1", "T3", "T2-r2"]
        assert "T2" in await names(current_only=False)
        status, _ = await lab.status_of(tasks.supersede("T2", lab.new_task("T9")))
        assert status == 409
        await client.acquisition.update("A1", AcquisitionUpdate(status="complete"))
        assert await names(kind="montage") == ["T3", "T2-r2"]
        gone = SectionUpdate(condition="destroyed")
        await client.section.update("CUT1", "WAF1_S1", gone)
        assert await names() == ["L1"]
        assert len(await names(skip_destroyed=False)) == 3

    call(act)


def test_a_tilt_series_is_one_group_of_tasks(call: Call, lab: Any) -> None:
    async def act(client: TEMdbClient) -> None:
        await lab.make_parents(client)
        tasks = client.acquisition_task
        series = [
            lab.new_task(f"T{angle}", tilt_angle_deg=angle) for angle in (10, -10, 0)
        ]
        made = await tasks.create_batch(series, group=True)
        group = {each.task_group_id for each in made}
        assert len(group) == 1
        found = await tasks.list(task_group_id=str(group.pop()))
        assert [each.tilt_angle_deg for each in found] == [-10, 0, 10]
        again = [lab.new_task("T50"), lab.new_task("T0")]
        assert (await lab.status_of(tasks.create_batch(again)))[0] == 409
        with pytest.raises(NotFoundError):
            await tasks.get("T50")  # all or none

    call(act)


def test_how_a_run_ended_is_written_once(call: Call, lab: Any) -> None:
    async def act(client: TEMdbClient) -> None:
        await lab.make_parents(client)
        await client.acquisition_task.create(lab.new_task("T1"))
        run = await lab.make_run(client, "A1")
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
            "PATCH", "acquisitions/A1", json={"end_time": lab.START.isoformat()}
        )
        assert (await lab.status_of(lonely))[0] == 422

    call(act)


def test_quality_and_transfer_are_axes_of_their_own(call: Call, lab: Any) -> None:
    async def act(client: TEMdbClient) -> None:
        await lab.make_parents(client)
        await client.acquisition_task.create(lab.new_task("T1"))
        await lab.make_run(client, "A1")
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
        assert (await lab.status_of(nonsense))[0] == 422

    call(act)


def test_runs_are_listed_by_filters_order_and_cursor(call: Call, lab: Any) -> None:
    async def act(client: TEMdbClient) -> None:
        await lab.make_parents(client)
        await client.acquisition_task.create(lab.new_task("T1"))
        for number in range(7):
            await lab.make_run(
                client,
                f"A{number}",
                start_time=lab.START + timedelta(hours=number // 2),
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
        late = lab.START + timedelta(hours=2)
        assert await names(start_date=late) == ["A4", "A5", "A6"]
        assert await names(end_date=lab.START) == ["A0", "A1"]
        assert await names(roi_id="elsewhere") == []
        assert (
            len(await client.roi.list_acquisitions(lab.ROI_ID, status="complete")) == 1
        )
        few = await client._async_request(
            "GET", "acquisitions", params={"fields": ["acquisition_id"], "limit": 1}
        )
        assert set(few["acquisitions"][0]) == {"id", "acquisition_id"}
        assert (await lab.status_of(runs.list(sort_by="password")))[0] == 422
        assert (await lab.status_of(runs.list(cursor="nonsense")))[0] == 422

    call(act)


def test_a_run_that_replaces_another_names_it(call: Call, lab: Any) -> None:
    async def act(client: TEMdbClient) -> None:
        await lab.make_parents(client)
        await client.acquisition_task.create(lab.new_task("T1"))
        first = await lab.make_run(client, "A1")
        second = await lab.make_run(client, "A2", replaces_acquisition_id=first.id)
        assert second.replaces_acquisition_id == "A1"
        assert (await lab.status_of(client.acquisition.delete("A1")))[0] == 409

    call(act)


def test_tiles_are_added_once_however_often_they_are_sent(call: Call, lab: Any) -> None:
    async def act(client: TEMdbClient) -> None:
        await lab.make_parents(client)
        await client.acquisition_task.create(lab.new_task("T1"))
        await lab.make_run(client, "A1")
        runs = client.acquisition
        one = await runs.add_tile("A1", lab.new_tile(0, supertile_id="s"))
        assert uuid.UUID(one.tile_id).version == 7
        assert one.raster_position == {"row": 0, "col": 0}
        assert (await lab.status_of(runs.add_tile("A1", lab.new_tile(0))))[0] == 409
        tiles = [
            lab.new_tile(n, matcher=[lab.new_match(3, "left")]) for n in range(1200)
        ]
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
        assert (await lab.status_of(runs.delete("A1")))[0] == 409

    call(act)


def test_places_and_the_whole_lineage_of_a_run(call: Call, lab: Any) -> None:
    async def act(client: TEMdbClient) -> None:
        await lab.make_parents(client)
        await client.acquisition_task.create(lab.new_task("T1"))
        await lab.make_run(client, "A1")
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
        assert listed["acquisitions"][0]["roi"]["roi_id"] == lab.ROI_ID
        plain = await runs.get_complete_metadata("A1")
        assert plain["acquisition"]["montage_id"] == "M1"

    call(act)
