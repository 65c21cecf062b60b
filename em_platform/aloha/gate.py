"""Lets nobody in who does not show the token."""

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from em_platform.processes.web import is_bearer

_SENTENCE = (
    "aloha: no token or a wrong one was shown, 'Authorization: Bearer <token>' was "
    "expected; the token is aloha.token, else it stands in tokens/aloha under home"
)


class Gate:
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
