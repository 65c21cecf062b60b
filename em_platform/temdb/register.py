"""Tells a TEM DB of montages that were imaged; every call may be made again.

It speaks through the published temdb-client, so that any TEM DB will do. Calls block:
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
    from em_platform.temdb.conversation import Conversation

T = TypeVar("T")


class Register:
    """One TEM DB, by its base URL (without `/api/v2`) and token.

    Raises
    ------
    SourceUnavailable
        It is down, slow, or says that it cannot serve now; ask again.
    SourceRefused
        It says no: a wrong token, or what it was told contradicts what it knows.
    """

    def __init__(self, base_url: str, token: str, *, timeout_s: float = 30.0) -> None:
        self._base_url = base_url.rstrip("/")
        self._token = token
        self._timeout_s = timeout_s

    def answers(self) -> bool:
        """Whether anything answers at the URL; it may still refuse."""
        try:
            self._ask(lambda talk: talk.look())
        except SourceUnavailable:
            return False
        except SourceRefused:
            return True
        return True

    def ensure_acquisition(self, acquired: AcquiredMontage) -> None:
        """Make the acquisition and all its parents that are not there."""
        self._ask(lambda talk: talk.ensure_acquisition(acquired))

    def put_tiles(self, acquisition_id: str, tiles: Sequence[AcquiredTile]) -> int:
        """Add tiles; how many were new. One that is there stays as it is."""
        return self._ask(lambda talk: talk.put_tiles(acquisition_id, tiles))

    def finish(
        self,
        acquisition_id: str,
        *,
        status: RunStatus,
        error_message: str | None = None,
        ended_at: datetime | None = None,
    ) -> None:
        """Say how the run ended; saying the same again changes nothing."""
        self._ask(
            lambda talk: talk.finish(
                acquisition_id, status, error_message=error_message, ended_at=ended_at
            )
        )

    def set_transfer(
        self, acquisition_id: str, state: TransferState, *, by: str = "aloha"
    ) -> None:
        """Say how far the upload is, and who says so."""
        self._ask(lambda talk: talk.set_transfer(acquisition_id, state, by=by))

    def set_qc(
        self, acquisition_id: str, state: QcState, *, by: str = "em-platform"
    ) -> None:
        """Say what came of the review, and who says so."""
        self._ask(lambda talk: talk.set_qc(acquisition_id, state, by=by))

    def add_place(
        self, acquisition_id: str, url: str, *, holds: str, is_current: bool = True
    ) -> None:
        """Say where the acquisition lies; a place that is known is not added again.

        `holds` says what lies there: tiles, mosaic.
        """
        self._ask(
            lambda talk: talk.add_place(
                acquisition_id, url, holds=holds, is_current=is_current
            )
        )

    def supersede(self, acquisition_id: str) -> str:
        """Replace the task of this run by a new one, to image it again; its id.

        The id is also the montage id of the new run. A task that is superseded gives
        the id of its successor.
        """
        return self._ask(lambda talk: talk.supersede(acquisition_id))

    def run_of(self, acquisition_id: str) -> KnownRun | None:
        """What is known of one acquisition; None where there is none."""
        return self._ask(lambda talk: talk.run_of(acquisition_id))

    def runs_of(self, task_id: str) -> tuple[str, ...]:
        """The acquisitions of one task, the oldest first; none of an unknown one."""
        return self._ask(lambda talk: talk.runs_of(task_id))

    def task_counts(self) -> Mapping[TaskState, int]:
        """How many present tasks are in each state."""
        return self._ask(lambda talk: talk.task_counts())

    def _ask(self, act: "Callable[[Conversation], Awaitable[T]]") -> T:
        # The client needs half a second to import; few of the callers ever ask.
        from em_platform.temdb.conversation import conversation

        async def ask() -> T:
            async with conversation(
                self._base_url, self._token, timeout_s=self._timeout_s
            ) as talk:
                return await act(talk)

        return asyncio.run(ask())


def temdb_url(settings: Settings) -> str:
    """Where TEM DB answers: by `temdb.url`, else where our own service listens."""
    temdb = settings.temdb
    return temdb.url or f"http://{temdb.host}:{temdb.port}"


def temdb_token(settings: Settings) -> str:
    """What TEM DB wants to be shown."""
    return token_of(settings.home, "temdb", settings.temdb.token.get_secret_value())


def register_of(settings: Settings) -> Register:
    """The register that the settings name."""
    return Register(temdb_url(settings), temdb_token(settings))
