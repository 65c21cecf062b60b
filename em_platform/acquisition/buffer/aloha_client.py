"""Speaks to aloha."""

import os
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from em_platform.errors import SourceRefused, SourceUnavailable
from em_platform.model import AcquisitionUpload, StoredTile

_CONNECT_S = 5.0
_PIECE = 256 * 1024
_LATER = {408, 425, 429}


class AlohaClient:
    """One aloha by its URL and token; safe to use from many threads.

    Raises
    ------
    SourceUnavailable
        It is down, slow, has no room, or its TEM database is down: ask again.
    SourceRefused
        It says no; `facts["status"]` is the HTTP status.
    """

    def __init__(
        self, url: str, token: str, *, timeout_s: float, parallel: int = 1
    ) -> None:
        self._base = f"{url.rstrip('/')}/api/v1/acquisitions"
        self._timeout = (_CONNECT_S, timeout_s)
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy stands between the two
        self._session.headers["Authorization"] = f"Bearer {token}"
        pool = HTTPAdapter(pool_maxsize=parallel + 1)
        self._session.mount("http://", pool)
        self._session.mount("https://", pool)

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def announce(self, upload: AcquisitionUpload) -> frozenset[str]:
        """Announce an acquisition; the tiles that are stored already."""
        answer = self._ask(
            "PUT",
            upload.acquisition_id,
            data=upload.model_dump_json().encode(),
            headers={"Content-Type": "application/json"},
        )
        return frozenset(answer["stored"])

    def send(
        self,
        acquisition_id: str,
        tile_id: str,
        frame: Path,
        *,
        sent: Callable[[int], None],
    ) -> StoredTile:
        """Send the file of one frame; `sent` gets each piece's bytes."""
        with frame.open("rb", buffering=0) as file:
            answer = self._ask(
                "PUT",
                f"{acquisition_id}/tiles/{tile_id}",
                data=_Body(file, sent),
                headers={"Content-Type": "image/tiff"},
            )
        return StoredTile.model_validate(answer)

    def complete(self, acquisition_id: str) -> int:
        """Have an acquisition verified and registered; how many tiles it has."""
        return int(self._ask("POST", f"{acquisition_id}/complete")["tiles"])

    def abort(self, acquisition_id: str, reason: str) -> None:
        """Have an acquisition registered as aborted."""
        self._ask("POST", f"{acquisition_id}/abort", params={"reason": reason})

    def _ask(self, method: str, place: str, **more: Any) -> dict[str, Any]:
        url = f"{self._base}/{place}"
        try:
            answer = self._session.request(
                method, url, timeout=self._timeout, allow_redirects=False, **more
            )
            body: Any = answer.json()
        except requests.exceptions.InvalidJSONError as error:
            raise SourceUnavailable(
                f"aloha at {url} did not answer in JSON ({error}); see that it is "
                "aloha that listens there (acquisition.buffer.url)"
            ) from error
        except requests.RequestException as error:
            raise SourceUnavailable(
                f"aloha at {url} does not serve ({_clause(error)}); see that it runs "
                "and that acquisition.buffer.url is right; it is tried again"
            ) from error
        if answer.status_code == requests.codes.ok and isinstance(body, dict):
            return body
        refusal = body.get("detail") if isinstance(body, dict) else body
        sentence = f"{refusal} (HTTP {answer.status_code} from {url})"
        if answer.status_code >= 500 or answer.status_code in _LATER:
            raise SourceUnavailable(sentence, status=answer.status_code)
        raise SourceRefused(sentence, status=answer.status_code)


class _Body:
    """A file's bytes in pieces; with a length, so that they are sent as they are."""

    def __init__(self, file: FileIO, sent: Callable[[int], None]) -> None:
        self._file = file
        self._sent = sent

    def __len__(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def __iter__(self) -> Iterator[bytes]:
        while piece := self._file.read(_PIECE):
            yield piece
            self._sent(len(piece))


def _clause(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return f"{type(error).__name__}: {reason or error}"[:200]
