"""The published temdb-client over HTTP: what was prepared."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from temdb.client import NotFoundError, TEMdbClient
from temdb.models import (
    Aperture,
    BlockUpdate,
    CuttingSessionCreate,
    CuttingSessionUpdate,
    ReferencePoints,
    ROIPayload,
    ROIUpdate,
    SectionCreate,
    SectionMetrics,
    SectionQuality,
    SectionUpdate,
    SpecimenCreate,
    SpecimenUpdate,
    SubstrateCreate,
    SubstrateMetadata,
    SubstrateUpdate,
)
from temdb.models.section import OpticalImage

Call = Callable[[Callable[[TEMdbClient], Any]], Any]


def test_health_and_what_it_is(call: Call, lab: Any) -> None:
    async def act(client: TEMdbClient) -> None:
        assert (await client.health_check())["status"] == "ok"
        assert (await client.get_api_info())["api"] == "v2"

    call(act)


def test_specimens_and_their_pictures(call: Call, lab: Any) -> None:
    async def act(client: TEMdbClient) -> None:
        made = await client.specimen.create(
            SpecimenCreate(
                specimen_id="SPEC1",
                specimen_images={"s3://b/one.png", "s3://b/two.png"},
                functional_imaging_metadata={"cells": [1, 2]},
            )
        )
        assert made.created_at is not None
        assert await lab.status_of(
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

    call(act)


def test_blocks_and_cutting_sessions(call: Call, lab: Any) -> None:
    async def act(client: TEMdbClient) -> None:
        await lab.make_parents(client)
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
        assert (cut.specimen_id, cut.start_time) == ("SPEC1", lab.START)
        sessions = client.cutting_session
        end = lab.START + timedelta(hours=2)
        await sessions.update("CUT1", CuttingSessionUpdate(end_time=end, operator="Z"))
        assert (await sessions.get("SPEC1", "BLK1", "CUT1")).end_time == end
        assert len(await sessions.list_all(operator="Z")) == 1
        assert await sessions.list_all(operator="Y") == []
        assert len(await sessions.list_by_block("SPEC1", "BLK1")) == 1
        assert len(await sessions.list_sections("SPEC1", "BLK1", "CUT1")) == 1
        status, sentence = await lab.status_of(client.block.delete("SPEC1", "BLK1"))
        assert status == 409
        assert "has cutting sessions" in sentence

    call(act)


def test_sections_are_found_by_all_their_parents(call: Call, lab: Any) -> None:
    async def act(client: TEMdbClient) -> None:
        await lab.make_parents(client)
        assert await lab.make_section(client, 2) == "WAF1_S2"
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

    call(act)


def test_destroyed_follows_from_the_condition(call: Call, lab: Any) -> None:
    async def act(client: TEMdbClient) -> None:
        await lab.make_parents(client)
        changed = SectionUpdate(condition="destroyed", condition_reason="beam")
        gone = await client.section.update("CUT1", "WAF1_S1", changed)
        assert (gone.destroyed, gone.condition_reason) == (True, "beam")
        refused = client._async_request(
            "PATCH",
            "sections/sessions/CUT1/sections/WAF1_S1",
            json={"destroyed": True},
        )
        status, sentence = await lab.status_of(refused)
        assert status == 422
        assert "read-only" in sentence

    call(act)


def test_substrates_keep_points_and_apertures(call: Call, lab: Any) -> None:
    async def act(client: TEMdbClient) -> None:
        await client.substrate.create(
            SubstrateCreate(
                media_id="WAF1",
                media_type="wafer",
                refpoint=ReferencePoints(origin=(0, 0, 0), end=(1, 0, 0)),
                metadata=SubstrateMetadata(name="first", created=lab.START),
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

    call(act)


def test_regions_are_nested_and_named_by_their_place(call: Call, lab: Any) -> None:
    async def act(client: TEMdbClient) -> None:
        await lab.make_parents(client)
        part = await lab.make_roi(client, 3, parent=lab.ROI_ID)
        assert part.roi_id == f"{lab.ROI_ID}.ROI0003"
        assert part.hierarchy_level == 2
        top = await client.roi.get(lab.ROI_ID)
        assert top.is_parent
        assert (await client.roi.get(top.id)).roi_id == lab.ROI_ID
        await client.roi.update(lab.ROI_ID, ROIUpdate(payload=ROIPayload(scale_y=3.0)))
        payload = (await client.roi.get(lab.ROI_ID)).roi_payload
        assert (payload.scale_y, len(payload.vertices)) == (3.0, 3)
        [child] = (await client.roi.get_children(lab.ROI_ID)).children
        assert child.roi_id == part.roi_id
        path = await client._async_request("GET", f"rois/{part.roi_id}/hierarchy")
        assert [step["roi_id"] for step in path["hierarchy_path"]] == [
            lab.ROI_ID,
            part.roi_id,
        ]
        assert len(await client.roi.list_by_section("WAF1_S1")) == 2
        assert len(await client.roi.list_all(cutting_session_id="CUT1")) == 2
        assert len(await client.roi.list_all(is_parent_roi=True)) == 1
        assert (await lab.status_of(client.roi.delete(lab.ROI_ID)))[0] == 409
        await client.roi.delete(part.roi_id)

    call(act)


def test_what_a_model_does_not_know_is_refused(call: Call, lab: Any) -> None:
    async def act(client: TEMdbClient) -> None:
        extra = {"specimen_id": "S", "colour": "grey"}
        refused = client._async_request("POST", "specimens", json=extra)
        status, sentence = await lab.status_of(refused)
        assert status == 422
        assert "colour" in sentence
        lonely = CuttingSessionCreate(
            cutting_session_id="C",
            block_id="nowhere",
            start_time=lab.START,
            sectioning_device="d",
            media_type="m",
        )
        with pytest.raises(NotFoundError):
            await client.cutting_session.create(lonely)

    call(act)
