"""The web application of TEM DB: all routes under /api/v2, errors of one sentence."""

import logging
import zlib
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError
from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from em_platform.config import Settings
from em_platform.processes.web import is_bearer, is_token, serve
from em_platform.storage.database import refuse_damaged_at
from em_platform.storage.tokens import token_of
from em_platform.temdb.database import WITHOUT, Database, database_url, migrate
from em_platform.temdb.routes import (
    acquisitions,
    instruments,
    preparation,
    quality,
    rois,
    runs,
    sections,
    tasks,
    tiles,
)

log = logging.getLogger(__name__)

# The published client asks at the second.
OPEN = frozenset(("/health", "/api/v2/health"))
# 1000 tiles with their matches are 1 MB (docs/explanations/temdb.md); this stops a
# compressed body that would fill the memory.
_MOST_BYTES = 512 * 2**20

_PREFIX = "/api/v2"
# `runs` before `acquisitions`: /acquisitions/aggregated is no acquisition's id.
_ROUTERS = (
    preparation.router,
    sections.router,
    rois.router,
    tasks.router,
    runs.router,
    acquisitions.router,
    tiles.router,
    quality.router,
    instruments.router,
)


def create_app(database: Database, token: str) -> FastAPI:
    """TEM DB on one database; every call but `/health` needs the token."""
    app = FastAPI(title="TEM DB", version=version("em-platform"))
    app.state.database = database
    # Level 1: pages of tiles are MBs, and the reader waits for their packing.
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=1)
    app.add_middleware(GunzipMiddleware)
    # The last one added is the outermost: nothing is unpacked without the token.
    app.add_middleware(TokenAuth, token=token)
    for path in OPEN:
        app.add_api_route(path, _health, methods=["GET"])
    api = APIRouter(prefix=_PREFIX)
    api.add_api_route("/", _about, methods=["GET"])
    for router in _ROUTERS:
        api.include_router(router)
    app.include_router(api)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(IntegrityError, _in_conflict)
    app.add_exception_handler(DataError, _not_storable)
    # SQLite's driver raises it of integers beyond 64 bits.
    app.add_exception_handler(OverflowError, _not_storable)
    app.add_exception_handler(SQLAlchemyError, _database_unavailable)
    return app


def _health(request: Request) -> JSONResponse:
    database: Database = request.app.state.database
    if database.answers():
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "database is away"}, status_code=503)


def _about() -> dict[str, str]:
    models = version("temdb-models")
    return {"name": "em-platform TEM DB", "api": "v2", "models": models}


def _not_valid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    first: Any = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return _refusal(422, f"{place}: {first['msg']}")


def _in_conflict(_: Request, error: Exception) -> JSONResponse:
    # Routes look first; this one is for two that looked at the same time.
    return _refusal(409, f"it contradicts what is there ({_reason(error)})")


def _not_storable(_: Request, error: Exception) -> JSONResponse:
    return _refusal(422, f"a value cannot be kept ({_reason(error)})")


def _database_unavailable(_: Request, error: Exception) -> JSONResponse:
    log.error("temdb: the database does not serve (%s)", _reason(error))
    answer = _refusal(503, f"the database does not serve ({_reason(error)}); ask again")
    # In seconds (RFC 9110, 10.2.3).
    answer.headers["Retry-After"] = "2"
    return answer


def _reason(error: Exception) -> str:
    # The driver's own words: SQLAlchemy adds the statement with all its values.
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def _refusal(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"detail": f"TEM DB: {sentence}"}, status_code=status)


def run(settings: Settings, *, name: str = "temdb") -> None:
    """Bring the database up to date, then serve until SIGTERM or Ctrl-C.

    Raises
    ------
    ConfigError
        The port is taken, or the database's URL is none.
    StorageError
        The database cannot be reached.
    """
    temdb = settings.temdb
    url = database_url(settings)
    refuse_damaged_at(url, who="temdb", without=WITHOUT)
    migrate(url)
    token = token_of(settings.home, "temdb", temdb.token.get_secret_value())
    database = Database(url)
    try:
        serve(
            create_app(database, token),
            name=name,
            host=temdb.host,
            port=temdb.port,
            trusted_proxies=settings.web.trusted_proxies,
        )
    finally:
        database.close()


class TokenAuth:
    """Lets through who shows the token, as Bearer or X-API-Key; all ask for health."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # What is no call, such as the server's start, has no headers.
        if scope["type"] != "http" or scope["path"] in OPEN or self._is_known(scope):
            await self._app(scope, receive, send)
            return
        refusal = JSONResponse(
            {
                "detail": "TEM DB: the token is missing or wrong; send it as "
                "'Authorization: Bearer ...' or 'X-API-Key: ...'"
            },
            status_code=401,
            headers={"WWW-Authenticate": "Bearer"},
        )
        await refusal(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        if is_bearer(headers.get("authorization"), self._token):
            return True
        return is_token(headers.get("x-api-key", ""), self._token)


class GunzipMiddleware:
    """Gives the application the bodies of requests as they were before gzip."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if headers.get("content-encoding", "").lower() != "gzip":
            await self._app(scope, receive, send)
            return
        try:
            body = await _unzipped(receive)
        except zlib.error as error:
            sentence = f"TEM DB: the body is no whole gzip stream ({error})"
            await _refuse(400, sentence, scope, receive, send)
            return
        if body is None:
            sentence = f"TEM DB: the body is larger than {_MOST_BYTES} bytes; split it"
            await _refuse(413, sentence, scope, receive, send)
            return
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def give() -> Message:
            # After the body may come a disconnect, of which only the server knows.
            return messages.pop() if messages else await receive()

        await self._app(scope, give, send)


async def _unzipped(receive: Receive) -> bytes | None:
    """The whole body; None where it is too large."""
    # 16 more makes zlib expect the head of gzip (zlib.h, inflateInit2).
    unzip = zlib.decompressobj(16 + zlib.MAX_WBITS)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        # One byte beyond the limit shows that it is crossed; 0 would mean no limit.
        part = unzip.decompress(message.get("body", b""), _MOST_BYTES + 1 - size)
        size += len(part)
        if size > _MOST_BYTES or unzip.unconsumed_tail:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            break
    # To zlib a stream that is cut short is only a pause.
    if not unzip.eof:
        raise zlib.error("it ends early")
    return b"".join(parts)


async def _refuse(
    status: int, sentence: str, scope: Scope, receive: Receive, send: Send
) -> None:
    await JSONResponse({"detail": sentence}, status_code=status)(scope, receive, send)
