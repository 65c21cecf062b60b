"""Registers imaged montages in a TEM DB; every call may be repeated.

It uses the published temdb-client, so that any TEM DB will do. Calls block:
make them from a thread, not from a coroutine.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from em_platform.config import Settings
from em_platform.errors import SourceRefused, SourceUnavailable
from em_platform.processes.web import token_of
from em_platform.temdb.acquired import (
    AcquiredMontage,
    AcquiredTile,
    KnownRun,
    QcState,
    RunStatus,
    TaskState,
    TransferState,
)

if TYPE_CHECKING:
    from em_platform.temdb.calls import Calls

T = TypeVar("T")


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
        self._base_url = base_url.rstrip("/")
        self._token = token
        self._timeout_s = timeout_s

    def answers(self) -> bool:
        """Whether anything answers at the URL; it may still refuse."""
        try:
            self._ask(lambda calls: calls.look())
        except SourceUnavailable:
            return False
        except SourceRefused:
            return True
        return True

    def ensure_acquisition(self, acquired: AcquiredMontage) -> None:
        """Make the acquisition and all its parents that are not there."""
        self._ask(lambda calls: calls.ensure_acquisition(acquired))

    def put_tiles(self, acquisition_id: str, tiles: Sequence[AcquiredTile]) -> int:
        """Add tiles; how many were new. One that is there stays as it is."""
        return self._ask(lambda calls: calls.put_tiles(acquisition_id, tiles))

    def finish(
        self,
        acquisition_id: str,
        *,
        status: RunStatus,
        error_message: str | None = None,
        ended_at: datetime | None = None,
    ) -> None:
        """Register how the run ended; the same twice changes nothing."""
        self._ask(
            lambda calls: calls.finish(
                acquisition_id, status, error_message=error_message, ended_at=ended_at
            )
        )

    def set_transfer(
        self, acquisition_id: str, state: TransferState, *, by: str = "aloha"
    ) -> None:
        """Register the state of the upload, and who reports it."""
        self._ask(lambda calls: calls.set_transfer(acquisition_id, state, by=by))

    def set_qc(
        self, acquisition_id: str, state: QcState, *, by: str = "em-platform"
    ) -> None:
        """Register the result of the review, and who reports it."""
        self._ask(lambda calls: calls.set_qc(acquisition_id, state, by=by))

    def add_place(
        self, acquisition_id: str, url: str, *, holds: str, is_current: bool = True
    ) -> None:
        """Register where the acquisition is stored; the same place is not added twice.

        `holds` names what is stored there: tiles, mosaic.
        """
        self._ask(
            lambda calls: calls.add_place(
                acquisition_id, url, holds=holds, is_current=is_current
            )
        )

    def supersede(self, acquisition_id: str) -> str:
        """Replace the task of this run by a new one, to reimage it; its id.

        The id is also the montage id of the new run. A task that is superseded gives
        the id of its successor.
        """
        return self._ask(lambda calls: calls.supersede(acquisition_id))

    def run_of(self, acquisition_id: str) -> KnownRun | None:
        """One acquisition as it is registered; None where there is none."""
        return self._ask(lambda calls: calls.run_of(acquisition_id))

    def runs_of(self, task_id: str) -> tuple[str, ...]:
        """The acquisitions of one task, the oldest first; none of an unknown one."""
        return self._ask(lambda calls: calls.runs_of(task_id))

    def task_counts(self) -> Mapping[TaskState, int]:
        """How many present tasks are in each state."""
        return self._ask(lambda calls: calls.task_counts())

    def _ask(self, act: "Callable[[Calls], Awaitable[T]]") -> T:
        # The client needs half a second to import; few of the callers ever ask.
        from em_platform.temdb.calls import connected

        async def ask() -> T:
            async with connected(
                self._base_url, self._token, timeout_s=self._timeout_s
            ) as calls:
                return await act(calls)

        return asyncio.run(ask())


def temdb_url(settings: Settings) -> str:
    """Where TEM DB answers: by `temdb.url`, else where our own service listens."""
    temdb = settings.temdb
    return temdb.url or f"http://{temdb.host}:{temdb.port}"


def temdb_token(settings: Settings) -> str:
    """The token that TEM DB expects."""
    return token_of(settings.home, "temdb", settings.temdb.token.get_secret_value())


def register_of(settings: Settings) -> Register:
    """The register that the settings name."""
    return Register(temdb_url(settings), temdb_token(settings))
