"""The page's HTTP application: files, present state, events, pictures, commands."""

import asyncio
import json
import logging
import mimetypes
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from em_platform.acquisition.frame_paths import frame_path, frames_folder
from em_platform.config import Settings
from em_platform.errors import (
    BrokerUnavailable,
    ControlRefused,
    FormatError,
    PlatformError,
    StorageError,
)
from em_platform.formats.image import read_image
from em_platform.imaging.contrast import stretch
from em_platform.operator.commands import (
    control_routes,
    queue_routes,
    run_routes,
)
from em_platform.operator.shared_board import SharedBoard
from em_platform.processes.gate import AuthMiddleware, AuthSettings, secrets_of
from em_platform.stitching.sidecar_files import processed_path

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
BATCH_S = 0.1
"""Changes go to a browser at most so often."""
_TICK_S = 2.0  # so late at most a page sees that the service hangs
# The page runs no script but its own, and in no other's frame.
_POLICY = (
    b"default-src 'self'; img-src 'self' blob: data:; object-src 'none'; "
    b"base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def application(
    shared: SharedBoard, settings: Settings, *, about: dict[str, Any]
) -> ASGIApp:
    """The whole application behind its gate.

    Each page gets `about` as it is: names and addresses that do not change.
    """
    app = FastAPI(title="Operator's page", docs_url=None, redoc_url=None)
    app.openapi_url = None  # no page describes the commands to whoever is not let in
    _answer_errors(app)
    app.include_router(_files())
    app.include_router(_state(shared, frames_folder(settings), about))
    for routes in (
        control_routes(shared),
        run_routes(shared),
        queue_routes(shared, settings),
    ):
        app.include_router(routes)
    chosen = settings.acquisition.operator
    password, cookie = secrets_of(settings.home, "operator", chosen.token)
    door = AuthSettings(
        name="operator",
        title="the operator's page",
        host=chosen.host,
        names=chosen.names,
        names_setting="acquisition.operator.names",
        password_setting="acquisition.operator.token",
        open_paths=("/health",),  # a supervisor asks for it
        policy=_POLICY,
        password=password,
        cookie=cookie,
    )
    return AuthMiddleware(app, door)


def _files() -> APIRouter:
    routes = APIRouter()

    @routes.get("/")
    def index() -> Response:
        return _file("index.html")

    @routes.get("/page/{name}")
    def file(name: str) -> Response:
        return _file(name)

    @routes.get("/health")
    def health() -> dict[str, str]:
        return {"status": "serves"}

    return routes


def _state(shared: SharedBoard, frames: Path, about: dict[str, Any]) -> APIRouter:
    routes = APIRouter(prefix="/api")

    @routes.get("/about")
    def about_page() -> dict[str, Any]:
        return about

    @routes.get("/state")
    def state() -> dict[str, Any]:
        with shared.locked() as board:
            return {**board.changes(0), "now": shared.now()}

    @routes.get("/events")
    async def events(request: Request) -> EventSourceResponse:
        return EventSourceResponse(_changes(shared), ping=15)

    @routes.get("/tiles/{row}/{column}")
    def tile(row: int, column: int) -> dict[str, Any]:
        found = shared.tile(row, column)
        if found is None:
            raise HTTPException(
                404, f"tile {row}, {column}: nothing is known of it yet"
            )
        return found

    @routes.get("/tiles/{row}/{column}/full")
    def full(row: int, column: int) -> Response:
        shown = shared.shown_tile(row, column)
        if shown is None:
            raise HTTPException(404, f"tile {row}, {column}: it is not imaged yet")
        try:
            content, kind = full_tile(frames, *shown)
        except (FormatError, StorageError, OSError) as error:
            raise HTTPException(
                404,
                f"tile {row}, {column}: {shown[1]} is not on this disk ({error}); "
                "see whether it was uploaded",
            ) from error
        # A minute only: the processed tile may take the raw one's place.
        keep = {"cache-control": "private, max-age=60", "x-tile": kind}
        return Response(content, media_type="image/png", headers=keep)

    @routes.get("/pictures/{name:path}")
    def picture(name: str) -> Response:
        found = shared.picture(name)
        if found is None:
            raise HTTPException(404, f"picture {name}: there is none yet")
        # Its address holds its version, so the browser may keep it.
        keep = {"cache-control": "private, max-age=3600"}
        return Response(found.content, media_type=found.media_type, headers=keep)

    return routes


_PERCENTILES = (0.1, 99.9)  # of a raw frame: a few hot pixels must not make it dark
_FASTEST = 1  # zlib: a 36 MP tile is encoded in 0.5 s, and read once


def full_tile(frames: Path, montage_id: str, tile_id: str) -> tuple[bytes, str]:
    """The processed tile as PNG, else its raw frame stretched to 8 bit, and which.

    Raises
    ------
    FormatError, StorageError
        Neither is on the disk: it was uploaded and deleted, or was never saved.
    """
    raw = frame_path(frames, montage_id, tile_id)
    processed = Path(processed_path(str(raw)))
    kind = "processed" if processed.is_file() else "raw"
    image = read_image(str(processed if kind == "processed" else raw))
    if image.dtype != np.uint8:
        low, high = np.percentile(image, _PERCENTILES)
        image = stretch(image, float(low), float(high))
    return bytes(imagecodecs.png_encode(image, level=_FASTEST)), kind


async def _changes(shared: SharedBoard) -> AsyncIterator[ServerSentEvent]:
    """First all, then what is new, in batches; a tick where nothing is."""
    seen, quiet_s = 0, 0.0
    while True:
        changes = shared.changes(seen)
        # one text for many changes: a fast montage would flood the browser
        if changes is not None:
            seen, quiet_s = changes["version"], 0.0
            text = json.dumps(changes, separators=(",", ":"))
            yield ServerSentEvent(data=text, event="changes")
        elif quiet_s >= _TICK_S:
            quiet_s = 0.0
            yield ServerSentEvent(data=json.dumps({"now": shared.now()}), event="tick")
        await asyncio.sleep(BATCH_S)
        quiet_s += BATCH_S


def _file(name: str) -> Response:
    path = PAGE / name
    # One of its names, not a path: of one too long the disk would raise an error.
    if name not in os.listdir(PAGE) or not path.is_file():
        raise HTTPException(404, f"page: it has no file {name[:100]}")
    kind = mimetypes.guess_type(name)[0]
    # a page of an older release would not understand the service
    return FileResponse(path, media_type=kind, headers={"cache-control": "no-cache"})


def _answer_errors(app: FastAPI) -> None:
    """Every error is JSON with one sentence."""

    @app.exception_handler(PlatformError)
    async def platform(_: Request, error: PlatformError) -> Response:
        status = 422
        if isinstance(error, ControlRefused):
            # 409: it makes no sense now; 403: control belongs to another
            status = 409 if error.facts.get("senseless") else 403
        # the page may try again: nothing was sent
        elif isinstance(error, BrokerUnavailable):
            status = 503
        return JSONResponse({"error": str(error), **error.facts}, status)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        sentence = first["msg"].removeprefix("Value error, ")
        where = f"{place}: " if place else ""
        return JSONResponse({"error": f"command: {where}{sentence}"}, 422)

    @app.exception_handler(Exception)
    async def unknown(_: Request, error: Exception) -> Response:
        log.error("operator: a request failed", exc_info=error)
        sentence = "page: an error of its own; see the log of the operator service"
        return JSONResponse({"error": sentence}, 500)
