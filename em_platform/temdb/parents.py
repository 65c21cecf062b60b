"""Finds the parents of an acquisition, and creates those that are missing.

Specimen > block > cutting session > section (on a substrate) > ROI > task; microscope
and dataset. A task that was not planned has the id of its montage.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
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

from em_platform.model import AcquisitionUpload
from em_platform.temdb.conversion import Lineage, status_of

# A section's id of TEM DB: `<media>_S<number>`.
_SECTION = re.compile(r"(.+)_S(\d+)")
_MADE_BY = "made for an acquisition whose parents were not in TEM DB"
_MEDIA = "unknown"
# The most that upstream gives in one page of most lists.
_PAGE = 100
# Others may take a region's number between the look and the call.
_TRIES = 4


class Parents:
    """The parents of acquisitions, over one client."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def ensure(self, upload: AcquisitionUpload) -> Lineage:
        """All parents of `upload`; those that were missing are made."""
        client, label = self._client, upload.instrument.microscope
        microscope = await _ensured(
            client.microscope, MicroscopeCreate(label=label), label
        )
        # A lens belongs to its microscope: such a run needs no specimen and no region.
        if upload.kind == "lens_correction":
            name = upload.task_id or upload.montage_id
            new = AcquisitionTaskCreate(task_id=name, kind="lens_correction")
            task = await _ensured(client.acquisition_task, new, name)
            dataset = await self._dataset(f"lens-{label}", None)
            media = _MEDIA
        else:
            task = await self._task(upload)
            dataset = await self._dataset(task.specimen_id, task.specimen_id)
            roi = await client.roi.get(task.roi_id)
            substrate = await client.substrate.get(roi.substrate_media_id)
            media = str(substrate.media_type)
        return Lineage(
            task_id=task.task_id,
            roi_id=task.roi_id,
            media_type=media,
            dataset_id=str(dataset.dataset_id),
            microscope_id=microscope.microscope_id,
        )

    async def _task(self, upload: AcquisitionUpload) -> Any:
        name = upload.task_id or upload.montage_id

        async def make() -> Any:
            roi = await self._planned_roi(upload)
            if roi is not None:
                planned = await self._client.acquisition_task.list(
                    roi_id=roi.roi_id, kind="montage", skip_completed=False
                )
                if planned:
                    # The newest plan; the server leaves out those that are superseded.
                    return planned[-1]
            else:
                roi = await self._roi(upload, await self._section(upload))
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
                if roi.roi_id != upload.montage_id:
                    with suppress(TEMdbClientError):
                        await self._client.roi.delete(roi.roi_id)
                raise

        tasks = self._client.acquisition_task
        return await _found_or_made(lambda: tasks.get(name), make)

    async def _section(self, upload: AcquisitionUpload) -> Any:
        media_id, number = _place_of(upload)
        name = f"{media_id}_S{number}"
        sections = self._client.section
        # By its medium: to get a section takes its cutting session, not known here.
        async for section in _entries(sections.list_by_media, media_id):
            if section.section_id == name:
                return section
        session_id = await self._cutting_session(_specimen_of(upload))
        substrate = SubstrateCreate(media_id=media_id, media_type=_MEDIA)
        await _ensured(self._client.substrate, substrate, media_id)
        new = SectionCreate(
            cutting_session_id=session_id, media_id=media_id, section_number=number
        )
        return await _ensured(sections, new, session_id, name)

    async def _cutting_session(self, specimen_id: str) -> str:
        # Named after the specimen, so that its next montage finds the same ones.
        block_id, session_id = f"{specimen_id}-block", f"{specimen_id}-cutting"
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
        client = self._client
        # Parents first: the server refuses a child whose parent is missing.
        await _ensured(client.specimen, specimen, specimen_id)
        await _ensured(client.block, block, specimen_id, block_id)
        await _ensured(
            client.cutting_session, session, specimen_id, block_id, session_id
        )
        return session_id

    async def _planned_roi(self, upload: AcquisitionUpload) -> Any | None:
        """The region that the coordinator took from TEM DB: its montage has its id."""
        if ".ROI" not in upload.montage_id:
            return None
        try:
            return await self._client.roi.get(upload.montage_id)
        except NotFoundError:
            return None

    async def _roi(self, upload: AcquisitionUpload, section: Any) -> Any:
        """The region of this montage; a new one gets the section's next number."""
        for attempt in range(_TRIES):
            listed = _entries(self._client.roi.list_by_section, section.section_id)
            rois = [roi async for roi in listed]
            for roi in rois:
                payload = roi.roi_payload
                marks = (payload.roi_parameters if payload else None) or {}
                # The server makes a region's id; only its payload says whose it is.
                if marks.get("montage_id") == upload.montage_id:
                    return roi
            number = 1 + max((roi.roi_number for roi in rois), default=0)
            try:
                return await self._client.roi.create(
                    _new_roi(upload, section, number=number)
                )
            except TEMdbClientError as error:  # another one took the number
                if status_of(error) not in (400, 409) or attempt + 1 == _TRIES:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _dataset(self, name: str, specimen_id: str | None) -> Any:
        datasets = self._client.dataset
        # TEM DB wants a class; the smallest is for up to 100 million tiles.
        new = DatasetCreate(name=name, specimen_id=specimen_id, size_class="small")
        return await _found_or_made(
            lambda: datasets.get_by_name(name), lambda: datasets.create(new)
        )


def _specimen_of(upload: AcquisitionUpload) -> str:
    return upload.specimen_id or "unassigned"


def _place_of(upload: AcquisitionUpload) -> tuple[str, int]:
    """The medium and the number of the section that the montage shows."""
    # TEM DB's sections begin at 1; an aperture may be 0, or not known.
    number = 1 + max(0, upload.aperture_id or 0)
    if upload.section_id is None:
        return f"{_specimen_of(upload)}-media", number
    named = _SECTION.fullmatch(upload.section_id)
    if named and int(named[2]) > 0:
        return named[1], int(named[2])
    return upload.section_id, number


def _new_roi(upload: AcquisitionUpload, section: Any, *, number: int) -> Any:
    return ROICreate(
        roi_number=number,
        section_id=section.section_id,
        specimen_id=section.specimen_id,
        block_id=section.block_id,
        substrate_media_id=section.media_id,
        section_number=section.section_number,
        payload=ROIPayload(
            vertices=[[v["x"], v["y"]] for v in upload.roi.get("vertices", ())] or None,
            roi_parameters={"montage_id": upload.montage_id},
        ),
    )


async def _entries(
    listing: Callable[..., Awaitable[Any]], of: str
) -> AsyncIterator[Any]:
    """The entries of one list, page by page as far as they are read."""
    skip = 0
    while True:
        page = await listing(of, skip=skip, limit=_PAGE)
        for entry in page:
            yield entry
        skip += len(page)
        if len(page) < _PAGE:
            return


async def _ensured(entities: Any, new: Any, *key: str) -> Any:
    """The entity of that key, created where it is missing."""
    return await _found_or_made(
        lambda: entities.get(*key), lambda: entities.create(new)
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
        # Upstream answers 400 where a name is taken, ours 409.
        if status_of(error) not in (400, 409):
            raise
        return await find()  # another process created it meanwhile
