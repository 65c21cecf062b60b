"""Entities of a small TEM DB, made by the published client."""

from datetime import UTC, datetime
from typing import Any

import pytest
from temdb.client import NotFoundError, TEMdbClient, TEMdbClientError
from temdb.models import (
    AcquisitionCreate,
    AcquisitionParams,
    AcquisitionTaskCreate,
    BlockCreate,
    Calibration,
    CuttingSessionCreate,
    DatasetCreate,
    HardwareParams,
    Matcher,
    MicroscopeCreate,
    ROICreate,
    ROIPayload,
    SectionCreate,
    SpecimenCreate,
    SubstrateCreate,
    TileCreate,
)

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
