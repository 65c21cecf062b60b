"""Finds the parents of an acquisition, and creates those that are missing.

Specimen > block > cutting session > section (on a substrate) > ROI > task; microscope
and dataset. A task that was not planned has the id of its montage.
"""

import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from temdb.client import NotFoundError, TEMdbClientError
from temdb.models import (
    AcquisitionTaskCreate,
    BlockCreate,
    CuttingSessionCreate,
    DatasetCreate,
    MicroscopeCreate,
    ROICreate,
    ROIPayload,
    SectionCreate,
    SpecimenCreate,
    SubstrateCreate,
)

from em_platform.temdb.acquired import AcquiredMontage
from em_platform.temdb.conversion import Lineage, status_of

_SECTION = re.compile(r"(.+)_S(\d+)")
_MADE_BY = "made for an acquisition whose parents were not in TEM DB"
_MEDIA = "unknown"
_PAGE = 100
_TRIES = 4


class Parents:
    """The parents of acquisitions, over one client."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def ensure(self, acquired: AcquiredMontage) -> Lineage:
        """All parents of `acquired`; those that were missing are made."""
        microscope = await self._microscope(acquired.microscope)
        if acquired.kind == "lens_correction":
            task = await self._lens_task(acquired)
            dataset = await self._dataset(f"lens-{acquired.microscope}", None)
            media = _MEDIA
        else:
            task = await self._task(acquired)
            dataset = await self._dataset(task.specimen_id, task.specimen_id)
            media = await self._media_type(task.roi_id)
        return Lineage(
            task_id=task.task_id,
            roi_id=task.roi_id,
            media_type=media,
            dataset_id=str(dataset.dataset_id),
            microscope_id=microscope.microscope_id,
        )

    async def _task(self, acquired: AcquiredMontage) -> Any:
        name = acquired.task_id or acquired.montage_id

        async def make() -> Any:
            roi = await self._planned_roi(acquired)
            if roi is not None:
                planned = await self._client.acquisition_task.list(
                    roi_id=roi.roi_id, kind="montage", skip_completed=False
                )
                if planned:
                    return planned[-1]
            else:
                roi = await self._roi(acquired, await self._section(acquired))
            new = AcquisitionTaskCreate(
                task_id=name,
                specimen_id=roi.specimen_id,
                block_id=roi.block_id,
                roi_id=roi.roi_id,
            )
            try:
                return await self._client.acquisition_task.create(new)
            except TEMdbClientError:
                # Of two at once the second one's region is of no use; one that is
                # used the server keeps, and one of the lab's is none of ours.
                if roi.roi_id != acquired.montage_id:
                    with suppress(TEMdbClientError):
                        await self._client.roi.delete(roi.roi_id)
                raise

        tasks = self._client.acquisition_task
        return await _found_or_made(lambda: tasks.get(name), make)

    async def _lens_task(self, acquired: AcquiredMontage) -> Any:
        tasks = self._client.acquisition_task
        name = acquired.task_id or acquired.montage_id
        new = AcquisitionTaskCreate(task_id=name, kind="lens_correction")
        return await _found_or_made(lambda: tasks.get(name), lambda: tasks.create(new))

    async def _section(self, acquired: AcquiredMontage) -> Any:
        media_id, number = _place_of(acquired)
        name = f"{media_id}_S{number}"
        known = await self._known_section(media_id, name)
        if known is not None:
            return known
        session_id = await self._cutting_session(acquired.specimen_id)
        await self._substrate(media_id)
        sections = self._client.section
        new = SectionCreate(
            cutting_session_id=session_id, media_id=media_id, section_number=number
        )
        return await _found_or_made(
            lambda: sections.get(session_id, name), lambda: sections.create(new)
        )

    async def _known_section(self, media_id: str, name: str) -> Any | None:
        skip = 0
        while True:
            page = await self._client.section.list_by_media(
                media_id, skip=skip, limit=_PAGE
            )
            for section in page:
                if section.section_id == name:
                    return section
            skip += len(page)
            if len(page) < _PAGE:
                return None

    async def _cutting_session(self, specimen_id: str) -> str:
        block_id, session_id = f"{specimen_id}-block", f"{specimen_id}-cutting"
        specimens, blocks = self._client.specimen, self._client.block
        sessions = self._client.cutting_session
        specimen = SpecimenCreate(specimen_id=specimen_id, description=_MADE_BY)
        block = BlockCreate(
            block_id=block_id, specimen_id=specimen_id, description=_MADE_BY
        )
        session = CuttingSessionCreate(
            cutting_session_id=session_id,
            block_id=block_id,
            start_time=datetime.now(UTC),
            sectioning_device="unknown",
            media_type=_MEDIA,
        )
        await _found_or_made(
            lambda: specimens.get(specimen_id), lambda: specimens.create(specimen)
        )
        await _found_or_made(
            lambda: blocks.get(specimen_id, block_id), lambda: blocks.create(block)
        )
        await _found_or_made(
            lambda: sessions.get(specimen_id, block_id, session_id),
            lambda: sessions.create(session),
        )
        return session_id

    async def _substrate(self, media_id: str) -> Any:
        substrates = self._client.substrate
        new = SubstrateCreate(media_id=media_id, media_type=_MEDIA)
        return await _found_or_made(
            lambda: substrates.get(media_id), lambda: substrates.create(new)
        )

    async def _planned_roi(self, acquired: AcquiredMontage) -> Any | None:
        """The region that the coordinator took from TEM DB: its montage has its id."""
        if ".ROI" not in acquired.montage_id:
            return None
        try:
            return await self._client.roi.get(acquired.montage_id)
        except NotFoundError:
            return None

    async def _roi(self, acquired: AcquiredMontage, section: Any) -> Any:
        """The region of this montage; a new one gets the section's next number."""
        for attempt in range(_TRIES):
            rois = await self._rois(section.section_id)
            for roi in rois:
                payload = roi.roi_payload
                marks = (payload.roi_parameters if payload else None) or {}
                if marks.get("montage_id") == acquired.montage_id:
                    return roi
            number = 1 + max((roi.roi_number for roi in rois), default=0)
            try:
                return await self._client.roi.create(
                    _new_roi(acquired, section, number=number)
                )
            except TEMdbClientError as error:  # another one took the number
                if status_of(error) not in (400, 409) or attempt + 1 == _TRIES:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _rois(self, section_id: str) -> list[Any]:
        found: list[Any] = []
        while True:
            page = await self._client.roi.list_by_section(
                section_id, skip=len(found), limit=_PAGE
            )
            found += page
            if len(page) < _PAGE:
                return found

    async def _media_type(self, roi_id: str) -> str:
        roi = await self._client.roi.get(roi_id)
        substrate = await self._client.substrate.get(roi.substrate_media_id)
        return str(substrate.media_type)

    async def _microscope(self, label: str) -> Any:
        microscopes = self._client.microscope
        new = MicroscopeCreate(label=label)
        return await _found_or_made(
            lambda: microscopes.get(label), lambda: microscopes.create(new)
        )

    async def _dataset(self, name: str, specimen_id: str | None) -> Any:
        datasets = self._client.dataset
        new = DatasetCreate(name=name, specimen_id=specimen_id, size_class="small")
        return await _found_or_made(
            lambda: datasets.get_by_name(name), lambda: datasets.create(new)
        )


def _place_of(acquired: AcquiredMontage) -> tuple[str, int]:
    """The medium and the number of the section that the montage shows."""
    number = 1 + max(0, acquired.aperture_id or 0)
    if acquired.section_id is None:
        return f"{acquired.specimen_id}-media", number
    named = _SECTION.fullmatch(acquired.section_id)
    if named and int(named[2]) > 0:
        return named[1], int(named[2])
    return acquired.section_id, number


def _new_roi(acquired: AcquiredMontage, section: Any, *, number: int) -> Any:
    return ROICreate(
        roi_number=number,
        section_id=section.section_id,
        specimen_id=section.specimen_id,
        block_id=section.block_id,
        substrate_media_id=section.media_id,
        section_number=section.section_number,
        payload=ROIPayload(
            vertices=[list(vertex) for vertex in acquired.vertices_nm] or None,
            roi_parameters={"montage_id": acquired.montage_id},
        ),
    )


async def _found_or_made(
    find: Callable[[], Awaitable[Any]], make: Callable[[], Awaitable[Any]]
) -> Any:
    try:
        return await find()
    except NotFoundError:
        pass
    try:
        return await make()
    except TEMdbClientError as error:
        if status_of(error) not in (400, 409):
            raise
        return await find()  # another process created it meanwhile
