"""What stands before TEM DB: who may ask, and bodies that come compressed."""

import hmac
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers

from em_platform.processes.web import is_bearer

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset(("/health", "/api/v2/health"))
_MOST_BYTES = 512 * 2**20


class TokenAuth:
    """Lets through who shows the token, as Bearer or X-API-Key; all ask for health."""

    def __init__(self, app: App, token: str) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
        shown = headers.get("x-api-key", "")
        return hmac.compare_digest(shown.encode(), self._token.encode())


class Unzipped:
    """Gives the application the bodies of requests as they were before gzip."""

    def __init__(self, app: App) -> None:
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

        async def give() -> MutableMapping[str, Any]:
            return messages.pop() if messages else await receive()

        await self._app(scope, give, send)


async def _unzipped(receive: Receive) -> bytes | None:
    """The whole body; None where it is too large."""
    unzip = zlib.decompressobj(16 + zlib.MAX_WBITS)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        part = unzip.decompress(message.get("body", b""), _MOST_BYTES + 1 - size)
        size += len(part)
        if size > _MOST_BYTES or unzip.unconsumed_tail:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            break
    if not unzip.eof:
        raise zlib.error("it ends early")
    return b"".join(parts)


async def _refuse(
    status: int, sentence: str, scope: Scope, receive: Receive, send: Send
) -> None:
    await JSONResponse({"detail": sentence}, status_code=status)(scope, receive, send)
