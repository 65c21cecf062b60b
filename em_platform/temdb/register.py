"""Registers imaged montages in a TEM DB; every call may be repeated.

It uses the published temdb-client, so that any TEM DB will do. Calls block:
make them from a thread, not from a coroutine.
"""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from pydantic import ValidationError
from temdb.client import NotFoundError, TEMdbClient, TEMdbClientError
from temdb.models import AcquisitionTaskCreate, AcquisitionUpdate

from em_platform.errors import SourceRefused, SourceUnavailable
from em_platform.model import AcquisitionUpload, UploadedTile
from em_platform.temdb.conversion import (
    acquisition_create,
    added_place,
    known_run,
    refused,
    status_of,
    strange_answer,
    tile_create,
)
from em_platform.temdb.known_run import (
    KnownRun,
    QcState,
    RunStatus,
    TaskState,
    TransferState,
)
from em_platform.temdb.parents import Parents

P = ParamSpec("P")
T = TypeVar("T")

# As many as the server gives and takes at once without a long wait: 1000 tiles take
# 0.4 s (docs/explanations/temdb.md). A page of upstream has 100 tasks at most.
_TILES_A_CALL = 1000
_TASKS_A_CALL = 100
# A task that was imaged again: `m-1-r2`.
_AGAIN = re.compile(r"(.+)-r(\d+)")

# Every failure raises an error; the client would log it, too.
# By a filter: each new client sets the logger's level anew.
logging.getLogger("temdb_client.async").addFilter(lambda _: False)
logging.getLogger("httpx").setLevel(logging.WARNING)


def _over_client(
    act: Callable[Concatenate["Register", Any, P], Awaitable[T]],
) -> Callable[Concatenate["Register", P], T]:
    """The method as a blocking call over a client of its own, its errors as ours."""

    @wraps(act)
    def call(self: "Register", /, *args: P.args, **kwargs: P.kwargs) -> T:
        url = self.base_url

        # A client of each call's own: its connections belong to one event loop.
        async def ask() -> T:
            async with TEMdbClient(
                url, api_key=self.token, timeout=self.timeout_s
            ) as client:
                try:
                    return await act(self, client, *args, **kwargs)
                except TEMdbClientError as error:
                    raise refused(error, url) from error
                except ValidationError as error:
                    raise strange_answer(error, url) from error

        return asyncio.run(ask())

    return call


class Register:
    """One TEM DB, by its base URL (without `/api/v2`) and token.

    Raises
    ------
    SourceUnavailable
        It is down, slow, or cannot serve now; retry.
    SourceRefused
        A wrong token, or the call contradicts what is registered.
    """

    def __init__(self, base_url: str, token: str, *, timeout_s: float = 30.0) -> None:
        self.base_url = base_url.rstrip("/")
        self.token = token
        self.timeout_s = timeout_s

    def answers(self) -> bool:
        """Whether anything answers at the URL; it may still refuse."""
        try:
            self._health()
        except SourceUnavailable:
            return False
        except SourceRefused:
            return True
        return True

    @_over_client
    async def _health(self, client: Any) -> None:
        await client.health_check()

    @_over_client
    async def ensure_acquisition(self, client: Any, upload: AcquisitionUpload) -> None:
        """Make the acquisition and all its parents that are not there."""
        known = await _found(client, upload.acquisition_id)
        if known is None:
            parents = await Parents(client).ensure(upload)
            replaced = await _replaced(client, upload)
            wanted = acquisition_create(upload, parents, replaced=replaced)
            try:
                known = await client.acquisition.create(wanted)
            except TEMdbClientError as error:
                # Another process has registered it meanwhile; upstream answers 400.
                if status_of(error) not in (400, 409):
                    raise
                known = await client.acquisition.get(upload.acquisition_id)
        if known.montage_id != upload.montage_id:
            raise SourceRefused(
                f"TEM DB: acquisition {upload.acquisition_id} belongs to "
                f"montage {known.montage_id} there, not to "
                f"{upload.montage_id}; image it under another id"
            )

    @_over_client
    async def put_tiles(
        self, client: Any, acquisition_id: str, tiles: Sequence[UploadedTile]
    ) -> int:
        """Add tiles; how many were new. One that is there stays as it is."""
        added = 0
        for first in range(0, len(tiles), _TILES_A_CALL):
            part = [tile_create(t) for t in tiles[first : first + _TILES_A_CALL]]
            answer = await client.acquisition.add_tiles_bulk(acquisition_id, part)
            added += int(answer["inserted"])
        return added

    @_over_client
    async def finish(
        self,
        client: Any,
        acquisition_id: str,
        *,
        status: RunStatus,
        error_message: str | None = None,
        ended_at: datetime | None = None,
    ) -> None:
        """Register how the run ended; the same twice changes nothing."""
        known = await client.acquisition.get(acquisition_id)
        if known.status is None:
            update = AcquisitionUpdate(
                status=status,
                end_time=ended_at or datetime.now(UTC),
                error_message=error_message,
            )
            try:
                known = await client.acquisition.update(acquisition_id, update)
            except TEMdbClientError as error:
                # It has ended since the look above; how is compared below.
                if status_of(error) != 409:
                    raise
                known = await client.acquisition.get(acquisition_id)
        if known.status != status:
            raise SourceRefused(
                f"TEM DB: acquisition {acquisition_id} has ended as {known.status}, "
                f"which is written once; it cannot become {status}"
            )

    @_over_client
    async def set_transfer(
        self,
        client: Any,
        acquisition_id: str,
        state: TransferState,
        *,
        by: str = "aloha",
    ) -> None:
        """Register the state of the upload, and who reports it."""
        await _set(client, acquisition_id, "transfer_state", state, by=by)

    @_over_client
    async def set_qc(
        self,
        client: Any,
        acquisition_id: str,
        state: QcState,
        *,
        by: str = "em-platform",
    ) -> None:
        """Register the result of the review, and who reports it."""
        await _set(client, acquisition_id, "qc_state", state, by=by)

    @_over_client
    async def add_place(
        self,
        client: Any,
        acquisition_id: str,
        url: str,
        *,
        holds: str,
        is_current: bool = True,
    ) -> None:
        """Register where the acquisition is stored; the same place is not added twice.

        `holds` names what is stored there: tiles, mosaic.
        """
        known = await client.acquisition.get(acquisition_id)
        places = added_place(
            known.storage_locations or [], url, holds=holds, is_current=is_current
        )
        if places is not None:
            update = AcquisitionUpdate(storage_locations=places)
            await client.acquisition.update(acquisition_id, update)

    @_over_client
    async def supersede(self, client: Any, acquisition_id: str) -> str:
        """Replace the task of this run by a new one, to reimage it; its id.

        The id is also the montage id of the new run. A task that is superseded gives
        the id of its successor.
        """
        run = await client.acquisition.get(acquisition_id)
        task = await client.acquisition_task.get(run.acquisition_task_id)
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
            made = await client.acquisition_task.supersede(task.task_id, new)
        except TEMdbClientError as error:
            # Asked twice: the successor's id follows from the task's, so it is found.
            if status_of(error) not in (400, 409):
                raise
            made = await client.acquisition_task.get(new.task_id)
        return str(made.task_id)

    @_over_client
    async def run_of(self, client: Any, acquisition_id: str) -> KnownRun | None:
        """One acquisition as it is registered; None where there is none."""
        known = await _found(client, acquisition_id)
        if known is None:
            return None
        # Counted now: the run's own figure is written when it ends.
        count = await client.acquisition.get_tile_count(acquisition_id)
        return known_run(known, tiles=count["tile_count"])

    @_over_client
    async def runs_of(self, client: Any, task_id: str) -> tuple[str, ...]:
        """The acquisitions of one task, the oldest first; none of an unknown one."""
        tasks = client.acquisition_task
        try:
            runs = await tasks.list_related_acquisitions(task_id)
        except NotFoundError:
            return ()
        return tuple(run.acquisition_id for run in runs)

    @_over_client
    async def task_counts(self, client: Any) -> Mapping[TaskState, int]:
        """How many present tasks are in each state."""
        counts: Counter[TaskState] = Counter()
        skip = 0
        while True:
            # By default the server leaves out what need not be imaged any more.
            tasks = await client.acquisition_task.list(
                skip=skip,
                limit=_TASKS_A_CALL,
                skip_destroyed=False,
                skip_completed=False,
            )
            counts.update(task.status for task in tasks)
            skip += len(tasks)
            if len(tasks) < _TASKS_A_CALL:
                return counts


async def _set(
    client: Any, acquisition_id: str, field: str, state: str, *, by: str
) -> None:
    known = await client.acquisition.get(acquisition_id)
    # A write sets who and when anew, so the same state is not written twice.
    if getattr(known, field) != state:
        update = AcquisitionUpdate(**{field: state}, updated_by=by)
        await client.acquisition.update(acquisition_id, update)


async def _found(client: Any, acquisition_id: str) -> Any | None:
    try:
        return await client.acquisition.get(acquisition_id)
    except NotFoundError:
        return None


async def _replaced(client: Any, upload: AcquisitionUpload) -> int | None:
    """The number by which the client names the run that this one replaces."""
    if upload.replaces_acquisition_id is None:
        return None
    replaced = await _found(client, upload.replaces_acquisition_id)
    return None if replaced is None else int(replaced.id)


def _next_id(task_id: str) -> str:
    """`m-1` becomes `m-1-r2`, and that `m-1-r3`."""
    found = _AGAIN.fullmatch(task_id)
    stem, number = (found[1], int(found[2])) if found else (task_id, 1)
    return f"{stem}-r{number + 1}"
