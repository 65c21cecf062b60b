"""The platform's calls to one TEM DB, over the published client."""

import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from temdb.client import NotFoundError, TEMdbClient, TEMdbClientError
from temdb.models import AcquisitionTaskCreate, AcquisitionUpdate

from em_platform.errors import SourceRefused
from em_platform.temdb.acquired import (
    AcquiredMontage,
    AcquiredTile,
    KnownRun,
    TaskState,
)
from em_platform.temdb.client_errors import refused, status_of, strange_answer
from em_platform.temdb.conversion import (
    acquisition_create,
    added_place,
    known_run,
    tile_create,
)
from em_platform.temdb.parents import Parents

_TILES_A_CALL = 1000
_TASKS_A_CALL = 100
_AGAIN = re.compile(r"(.+)-r(\d+)")

# Every failure raises an error; the client would log it, too.
logging.getLogger("temdb_client.async").addFilter(lambda _: False)
logging.getLogger("httpx").setLevel(logging.WARNING)


class Calls:
    """The calls to one TEM DB; `Register` documents each."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def look(self) -> None:
        await self._client.health_check()

    async def ensure_acquisition(self, acquired: AcquiredMontage) -> None:
        known = await self._found(acquired.acquisition_id)
        if known is None:
            parents = await Parents(self._client).ensure(acquired)
            replaced = await self._replaced(acquired)
            wanted = acquisition_create(acquired, parents, replaced=replaced)
            try:
                known = await self._client.acquisition.create(wanted)
            except TEMdbClientError as error:
                if status_of(error) not in (400, 409):
                    raise
                known = await self._client.acquisition.get(acquired.acquisition_id)
        if known.montage_id != acquired.montage_id:
            raise SourceRefused(
                f"TEM DB: acquisition {acquired.acquisition_id} belongs to "
                f"montage {known.montage_id} there, not to "
                f"{acquired.montage_id}; image it under another id"
            )

    async def put_tiles(
        self, acquisition_id: str, tiles: Sequence[AcquiredTile]
    ) -> int:
        added = 0
        for first in range(0, len(tiles), _TILES_A_CALL):
            part = [tile_create(t) for t in tiles[first : first + _TILES_A_CALL]]
            answer = await self._client.acquisition.add_tiles_bulk(acquisition_id, part)
            added += int(answer["inserted"])
        return added

    async def finish(
        self,
        acquisition_id: str,
        status: str,
        *,
        error_message: str | None,
        ended_at: datetime | None,
    ) -> None:
        known = await self._client.acquisition.get(acquisition_id)
        if known.status is None:
            update = AcquisitionUpdate(
                status=status,
                end_time=ended_at or datetime.now(UTC),
                error_message=error_message,
            )
            try:
                known = await self._client.acquisition.update(acquisition_id, update)
            except TEMdbClientError as error:
                if status_of(error) != 409:
                    raise
                known = await self._client.acquisition.get(acquisition_id)
        if known.status != status:
            raise SourceRefused(
                f"TEM DB: acquisition {acquisition_id} has ended as {known.status}, "
                f"which is written once; it cannot become {status}"
            )

    async def set_transfer(self, acquisition_id: str, state: str, *, by: str) -> None:
        known = await self._client.acquisition.get(acquisition_id)
        if known.transfer_state != state:
            update = AcquisitionUpdate(transfer_state=state, updated_by=by)
            await self._client.acquisition.update(acquisition_id, update)

    async def set_qc(self, acquisition_id: str, state: str, *, by: str) -> None:
        known = await self._client.acquisition.get(acquisition_id)
        if known.qc_state != state:
            update = AcquisitionUpdate(qc_state=state, updated_by=by)
            await self._client.acquisition.update(acquisition_id, update)

    async def add_place(
        self, acquisition_id: str, url: str, *, holds: str, is_current: bool
    ) -> None:
        known = await self._client.acquisition.get(acquisition_id)
        places = added_place(
            known.storage_locations or [], url, holds=holds, is_current=is_current
        )
        if places is not None:
            update = AcquisitionUpdate(storage_locations=places)
            await self._client.acquisition.update(acquisition_id, update)

    async def supersede(self, acquisition_id: str) -> str:
        run = await self._client.acquisition.get(acquisition_id)
        task = await self._client.acquisition_task.get(run.acquisition_task_id)
        if task.superseded_by:
            return str(task.superseded_by)
        new = AcquisitionTaskCreate(
            task_id=_next_id(task.task_id),
            specimen_id=task.specimen_id,
            block_id=task.block_id,
            roi_id=task.roi_id,
            kind=task.kind,
            tags=task.tags or [],
            metadata={"replaces_acquisition_id": acquisition_id},
        )
        try:
            made = await self._client.acquisition_task.supersede(task.task_id, new)
        except TEMdbClientError as error:
            if status_of(error) not in (400, 409):
                raise
            made = await self._client.acquisition_task.get(new.task_id)
        return str(made.task_id)

    async def run_of(self, acquisition_id: str) -> KnownRun | None:
        known = await self._found(acquisition_id)
        if known is None:
            return None
        count = await self._client.acquisition.get_tile_count(acquisition_id)
        return known_run(known, tiles=count["tile_count"])

    async def runs_of(self, task_id: str) -> tuple[str, ...]:
        tasks = self._client.acquisition_task
        try:
            runs = await tasks.list_related_acquisitions(task_id)
        except NotFoundError:
            return ()
        return tuple(run.acquisition_id for run in runs)

    async def task_counts(self) -> Mapping[TaskState, int]:
        counts: Counter[TaskState] = Counter()
        skip = 0
        while True:
            tasks = await self._client.acquisition_task.list(
                skip=skip,
                limit=_TASKS_A_CALL,
                skip_destroyed=False,
                skip_completed=False,
            )
            counts.update(task.status for task in tasks)
            skip += len(tasks)
            if len(tasks) < _TASKS_A_CALL:
                return counts

    async def _found(self, acquisition_id: str) -> Any | None:
        try:
            return await self._client.acquisition.get(acquisition_id)
        except NotFoundError:
            return None

    async def _replaced(self, acquired: AcquiredMontage) -> int | None:
        """The number by which the client names the run that this one replaces."""
        if acquired.replaces_acquisition_id is None:
            return None
        replaced = await self._found(acquired.replaces_acquisition_id)
        return None if replaced is None else int(replaced.id)


@asynccontextmanager
async def connected(
    base_url: str, token: str, *, timeout_s: float
) -> AsyncIterator[Calls]:
    """Calls to the TEM DB at `base_url` within the block.

    Raises
    ------
    SourceUnavailable, SourceRefused
        As `Register` documents.
    """
    client = TEMdbClient(base_url, api_key=token, timeout=timeout_s)
    async with client:
        try:
            yield Calls(client)
        except TEMdbClientError as error:
            raise refused(error, base_url) from error
        except ValidationError as error:
            raise strange_answer(error, base_url) from error


def _next_id(task_id: str) -> str:
    """`m-1` becomes `m-1-r2`, and that `m-1-r3`."""
    found = _AGAIN.fullmatch(task_id)
    stem, number = (found[1], int(found[2])) if found else (task_id, 1)
    return f"{stem}-r{number + 1}"
