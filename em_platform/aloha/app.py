"""Aloha's HTTP interface."""

import asyncio
import errno
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Hashable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from functools import partial
from io import BytesIO, FileIO
from typing import Any, BinaryIO, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from em_platform.aloha.acquisitions import Acquisitions
from em_platform.aloha.body import TooLarge, receive, refuse_other_bytes
from em_platform.aloha.journal import TileRow
from em_platform.config import AlohaSettings
from em_platform.errors import (
    AcquisitionStopped,
    DataError,
    FormatError,
    PlatformError,
    RecordError,
    SourceRefused,
    SourceUnavailable,
    StorageError,
)
from em_platform.messaging.limits import within_limits
from em_platform.model import AcquisitionUpload, StoredTile
from em_platform.ome_zarr import plain_errors
from em_platform.processes.web import is_bearer

_RETRY_AFTER_S = 5  # a full disk or a restarted database is not back sooner
# Full, over the quota, too large a file, read-only: as in storage.atomic.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
# FormatError and RecordError before DataError, whose kinds they are.
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (TooLarge, 413),
    (FormatError, 422),
    (RecordError, 422),
    (DataError, 409),
    (AcquisitionStopped, 409),
    (SourceUnavailable, 503),
    (SourceRefused, 502),
    (StorageError, 503),
)
"""The first that fits counts."""


class NotAnnounced(PlatformError):
    """Nothing is known of what was asked for."""


def answer_to(error: Exception) -> tuple[int, dict[str, str]]:
    """Status and headers with which an error is answered."""
    if isinstance(error, NotAnnounced):
        return 404, {}
    if isinstance(error, StorageError) and _is_full(error):
        return 507, {"Retry-After": str(_RETRY_AFTER_S)}
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    if status == 503:
        return status, {"Retry-After": str(_RETRY_AFTER_S)}
    return status, {}


def _is_full(error: StorageError) -> bool:
    cause: BaseException | None = error
    # Our sentence hides the number, the error that it came from has it.
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
            return True
        cause = cause.__cause__
    return bool(error.facts.get("full"))


log = logging.getLogger(__name__)

T = TypeVar("T")

_HEALTH = "/api/v1/health"
_CUT = 499  # what nginx logs where the client left; nobody receives it


def make_app(
    acquisitions: Acquisitions,
    *,
    token: str,
    settings: AlohaSettings,
    waiters: Executor,
    workers: Executor,
) -> FastAPI:
    """The application.

    `workers` make pyramids, `waiters` ask the journal, the store and the TEM database.
    """
    app = FastAPI(title="aloha", docs_url=None, redoc_url=None, openapi_url=None)
    desk = _Desk(acquisitions, settings, waiters, workers)
    base = "/api/v1/acquisitions/{acquisition_id}"
    app.get(_HEALTH)(_health)
    app.get(base)(desk.show)
    app.put(base)(desk.announce)
    app.put(base + "/tiles/{tile_id}")(desk.take)
    app.post(base + "/complete")(desk.complete)
    app.post(base + "/abort")(desk.abort)
    app.exception_handler(PlatformError)(_refuse)
    app.exception_handler(ClientDisconnect)(_cut)

    app.add_middleware(TokenAuth, token=token, open_paths=frozenset((_HEALTH,)))
    return app


async def _health() -> dict[str, str]:
    return {"status": "ok"}


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    status, headers = answer_to(error)
    log.warning("%s %s: %d: %s", request.method, request.url.path, status, error)
    return JSONResponse({"detail": str(error)}, status_code=status, headers=headers)


async def _cut(request: Request, _: Exception) -> JSONResponse:
    sentence = (
        f"aloha: {request.url.path}: the sender left amid the body; what had come is "
        "deleted, it is to send all of it again"
    )
    log.warning("%s", sentence)
    return JSONResponse({"detail": sentence}, status_code=_CUT)


class _Desk:
    """One method a request."""

    def __init__(
        self,
        acquisitions: Acquisitions,
        settings: AlohaSettings,
        waiters: Executor,
        workers: Executor,
    ) -> None:
        self._acquisitions = acquisitions
        self._limit_bytes = round(settings.tile_limit_mb * 1e6)
        self._waiters = waiters
        self._workers = workers
        # An acquisition is ended once at a time, a tile stored once at a time.
        self._locks = KeyLocks()

    async def show(self, acquisition_id: str) -> dict[str, Any]:
        """How far an acquisition is, and which of its tiles are stored."""
        journal = self._acquisitions.journal
        state = await self._apart(journal.state, acquisition_id)
        if state is None:
            raise NotAnnounced(_never_announced(acquisition_id))
        rows = await self._apart(journal.tiles, acquisition_id)
        stored = [row.tile_id for row in rows if row.uri is not None]
        return {
            "acquisition_id": acquisition_id,
            "state": state,
            "tiles": len(rows),
            "stored": stored,
        }

    async def announce(self, acquisition_id: str, request: Request) -> dict[str, Any]:
        """Take note of an acquisition; which of its tiles are stored already."""
        upload = _read_upload(acquisition_id, await self._whole_body(request))
        async with self._locks.of(acquisition_id):
            await self._apart(self._acquisitions.announce, upload)
        return await self.show(acquisition_id)

    async def take(
        self, acquisition_id: str, tile_id: str, request: Request
    ) -> StoredTile:
        """Take the TIFF of an announced tile."""
        wanted = await self._apart(self._acquisitions.wanted, acquisition_id, tile_id)
        # `show` answers 404 where not even the acquisition is known.
        if wanted is None:
            await self.show(acquisition_id)
            raise RecordError(
                f"aloha: acquisition {acquisition_id}: tile {tile_id} came, which is "
                "not among the announced ones; announce it first"
            )
        # Read all the same: other bytes under this id must be refused.
        if wanted.stored is not None:
            await self._receive(request, wanted, None)
            return wanted.stored
        # A name of its own: two senders may bring the same tile at once.
        file = self._acquisitions.scratch / f"{uuid.uuid4().hex}.tiff"
        try:
            with plain_errors(str(file)), file.open("wb") as target:
                await self._receive(request, wanted, target)
            # Locked only now: the bodies of many senders come side by side.
            async with self._locks.of(acquisition_id, tile_id):
                return await _in(
                    self._workers, self._acquisitions.take, acquisition_id, wanted, file
                )
        finally:
            file.unlink(missing_ok=True)  # also when the sender left amid the body

    async def complete(self, acquisition_id: str) -> dict[str, int]:
        """Verify that all is there, and register it."""
        async with self._locks.of(acquisition_id):
            await self.show(acquisition_id)
            tiles = await self._apart(self._acquisitions.complete, acquisition_id)
        return {"tiles": tiles}

    async def abort(self, acquisition_id: str, request: Request) -> dict[str, str]:
        """Delete what was taken, and register the acquisition as aborted."""
        reason = request.query_params.get("reason", "") or "aborted by the operator"
        async with self._locks.of(acquisition_id):
            await self.show(acquisition_id)
            await self._apart(self._acquisitions.abort, acquisition_id, reason)
        return {"state": "aborted"}

    async def _receive(
        self, request: Request, wanted: TileRow, target: BinaryIO | FileIO | None
    ) -> None:
        """Take the body of `wanted`; into `target` if there is one."""
        received = await receive(
            request.stream(), target, limit_bytes=self._limit_bytes
        )
        refuse_other_bytes(
            received, wanted.tile_id, sha256=wanted.sha256, length=wanted.bytes
        )

    async def _apart(self, act: Callable[..., T], *values: Any) -> T:
        return await _in(self._waiters, act, *values)

    async def _whole_body(self, request: Request) -> bytes:
        with BytesIO() as whole:
            await receive(request.stream(), whole, limit_bytes=self._limit_bytes)
            return whole.getvalue()


async def _in(pool: Executor, act: Callable[..., T], *values: Any) -> T:
    loop = asyncio.get_running_loop()
    # Not in the loop, which is to take the bodies of others meanwhile.
    return await loop.run_in_executor(pool, partial(act, *values))


def _read_upload(acquisition_id: str, body: bytes) -> AcquisitionUpload:
    try:
        upload = within_limits(AcquisitionUpload.model_validate_json(body))
    except ValidationError as error:
        # Without the input, which may be thousands of tiles.
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise RecordError(
            f"aloha: the announcement of {acquisition_id} is no AcquisitionUpload "
            f"({error.error_count()} errors, first: {place}: {first['msg']}); correct "
            "it and announce again"
        ) from error
    if upload.acquisition_id != acquisition_id:
        raise RecordError(
            f"aloha: the announcement of {upload.acquisition_id} came to the address "
            f"of {acquisition_id}; send it to its own"
        )
    return upload


def _never_announced(acquisition_id: str) -> str:
    return (
        f"aloha: no acquisition {acquisition_id} is announced; "
        f"PUT /api/v1/acquisitions/{acquisition_id} first"
    )


_SENTENCE = (
    "aloha: no token or a wrong one was shown, 'Authorization: Bearer <token>' was "
    "expected; the token is aloha.token, else it stands in tokens/aloha under home"
)


class TokenAuth:
    """Answers 401 before a body is read; `open_paths` need no token."""

    def __init__(self, app: ASGIApp, *, token: str, open_paths: frozenset[str]) -> None:
        self._app = app
        self._token = token
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or refuse."""
        if scope["type"] == "http" and scope["path"] not in self._open_paths:
            shown = Headers(scope=scope).get("authorization")
            if not is_bearer(shown, self._token):
                refusal = JSONResponse(
                    {"detail": _SENTENCE},
                    status_code=401,
                    headers={"WWW-Authenticate": "Bearer"},
                )
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


class KeyLocks:
    """Locks by key in one event loop; a key that nobody waits for is forgotten."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, asyncio.Lock] = {}
        self._users: dict[Hashable, int] = {}

    @asynccontextmanager
    async def of(self, *key: Hashable) -> AsyncIterator[None]:
        """Hold the lock of `key` during the block."""
        # No await up to the count: nobody can forget the lock in between.
        lock = self._locks.setdefault(key, asyncio.Lock())
        self._users[key] = self._users.get(key, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]
