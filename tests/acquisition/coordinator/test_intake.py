"""Regions of a section come from TEM DB into the queue."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import SecretStr
from temdb.client import TEMdbClient
from temdb.models import (
    BlockCreate,
    CuttingSessionCreate,
    ROICreate,
    ROIPayload,
    SectionCreate,
    SpecimenCreate,
    SubstrateCreate,
)

from em_platform.acquisition.coordinator.intake import region_of, rois_of_section
from em_platform.config import Settings, TemdbSettings
from em_platform.errors import RecordError, SourceUnavailable
from tests.ports import reserve_port

TOKEN = "of-the-test"
SQUARE = [[-200.0, -200.0], [200.0, -200.0], [200.0, 200.0], [-200.0, 200.0]]


def answer(**payload: Any) -> dict[str, Any]:
    return {
        "roi_id": "S.B.S1.M.ROI001",
        "specimen_id": "S",
        "section_id": "S1",
        "roi_payload": payload,
    }


@pytest.fixture
def temdb(serve_temdb: Callable[[str], str]) -> str:
    """The URL of an empty TEM DB."""
    return serve_temdb(TOKEN)


def test_a_polygon_in_optical_pixels_is_one_of_an_overview() -> None:
    fields = region_of(
        answer(
            vertices=SQUARE, optical_pixel_size=250.0, aperture_centroid=[10.0, 20.0]
        ),
        aperture_id=4,
        queue_position=None,
    )
    assert fields["montage_id"] == "S.B.S1.M.ROI001"
    assert fields["aperture_id"] == 4
    assert fields["overview_nm_per_pixel"] == 250.0
    assert fields["aperture_centroid_pixel"] == {"x": 10.0, "y": 20.0}
    assert fields["metadata"] == {"roi_id": "S.B.S1.M.ROI001"}


def test_a_region_without_a_polygon_is_reported() -> None:
    with pytest.raises(RecordError, match="has 0 corners"):
        region_of(answer(), aperture_id=None, queue_position=None)


@pytest.mark.parametrize("corner", [[1.0], None, {"x": 1.0}, ["a", 2.0]])
def test_a_corner_that_is_no_point_is_one_sentence(corner: Any) -> None:
    with pytest.raises(RecordError, match="two numbers x and y were expected"):
        region_of(
            answer(vertices=[*SQUARE[:2], corner]),
            aperture_id=None,
            queue_position=None,
        )


def test_a_temdb_that_is_away_or_refuses_is_reported(temdb: str) -> None:
    for url, token in (
        (temdb, "wrong"),
        (f"http://127.0.0.1:{reserve_port()}", ""),
    ):
        with pytest.raises(SourceUnavailable, match="were not loaded"):
            rois_of_section(url, token, specimen_id="S", section_id="S1")


@pytest.fixture
def settings(settings: Settings, temdb: str) -> Settings:
    """The rig's, with a TEM DB that runs."""
    known = TemdbSettings(url=temdb, token=SecretStr(TOKEN))
    return settings.model_copy(update={"temdb": known})


async def _add_section(url: str) -> None:
    async with TEMdbClient(url, api_key=TOKEN) as client:
        await client.specimen.create(SpecimenCreate(specimen_id="S"))
        await client.block.create(BlockCreate(block_id="B", specimen_id="S"))
        await client.cutting_session.create(
            CuttingSessionCreate(
                cutting_session_id="C",
                block_id="B",
                start_time=datetime(2026, 3, 1, tzinfo=UTC),
                sectioning_device="ATUM",
                media_type="wafer",
            )
        )
        await client.substrate.create(SubstrateCreate(media_id="M", media_type="wafer"))
        await client.section.create(
            SectionCreate(cutting_session_id="C", media_id="M", section_number=1)
        )
        for number in (1, 2):
            await client.roi.create(
                ROICreate(
                    roi_number=number,
                    section_id="M_S1",
                    specimen_id="S",
                    block_id="B",
                    substrate_media_id="M",
                    section_number=1,
                    payload=ROIPayload(vertices=SQUARE),
                )
            )


def test_a_section_without_regions_is_reported_to_the_operator(
    operator: Any, start: Callable[..., Any]
) -> None:
    start()
    operator.publish("roi.load", specimen_id="S", section_id="S1")
    found = operator.wait_montage("error")
    assert found.montage_id == ""
    assert "no region of section S1" in found.error_message


@pytest.mark.parametrize("position", [None, 0, 9])
def test_the_regions_of_a_section_are_imaged_in_their_order(
    operator: Any, start: Callable[..., Any], temdb: str, position: int | None
) -> None:
    asyncio.run(_add_section(temdb))
    start()
    operator.publish(
        "roi.load",
        specimen_id="S",
        section_id="M_S1",
        aperture_id=5,
        queue_position=position,
    )
    operator.wait("stage.aperture.command", lambda m: m.aperture_id == 5)
    operator.wait("roi.queue.status", lambda m: len(m.queue) == 2)
    operator.wait_state("Preview_UpdateImage_Wait", since=operator.mark())
    operator.run("start")
    operator.wait("roi.queue.status", lambda m: m.completed_count == 2)
    done = [m.montage_id for m in operator.all("montage.complete")]
    assert done == ["S.B.M_S1.M.ROI001", "S.B.M_S1.M.ROI002"]
    assert operator.all("tile.raw")[0].roi_id == "S.B.M_S1.M.ROI001"


def test_all_regions_come_page_by_page(
    temdb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("em_platform.acquisition.coordinator.intake._PAGE", 1)
    asyncio.run(_add_section(temdb))
    found = rois_of_section(temdb, TOKEN, specimen_id="S", section_id="M_S1")
    assert [roi["roi_number"] for roi in found] == [1, 2]
