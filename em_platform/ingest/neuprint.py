"""What neuPrint knows of a dataset of FlyEM, asked of it with a token."""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

import urllib3

from em_platform.config import FlyemSettings, TransferSettings
from em_platform.errors import ConfigError, FormatError, SourceRefused
from em_platform.ingest.http_answers import whole_body
from em_platform.ingest.web import Web

_WHO = "flyem"
# What reading an answer of another shape raises: it is then no such dataset.
_ODD_ANSWERS = (KeyError, TypeError, ValueError, IndexError, AttributeError)


class NeuprintDataset(TypedDict):
    """What neuPrint knows of a dataset; empty where it does not say."""

    dataset: str
    uuid: str
    last_modified: str
    info: str
    version: str
    """Of the service."""
    regions: list[str]
    primary_regions: list[str]


def ask_neuprint(
    settings: FlyemSettings, transfer: TransferSettings
) -> NeuprintDataset | None:
    """The dataset as neuPrint describes it; None without a token.

    Raises
    ------
    SourceRefused
        The token is not, or no more, good.
    SourceUnavailable
        neuPrint is down.
    ConfigError
        The address is not https, the token is half a JSON document, or there is no
        such dataset.
    FormatError
        It answers something else.
    """
    token = _plain(settings.neuprint_token.get_secret_value())
    if not token:
        return None
    web = Web(
        _WHO,
        settings,
        transfer,
        token=token,
        verify=_verify(settings.neuprint_certificate),
    )
    try:
        return _described(web, settings, token)
    except _ODD_ANSWERS as error:
        raise FormatError(
            f"{_WHO}: {settings.neuprint_url} tells of {settings.neuprint_dataset} in "
            f"words that are not neuPrint's ({error!r}); check "
            "ingest.flyem.neuprint_url",
            url=settings.neuprint_url,
        ) from error
    finally:
        web.close()


def _described(web: Web, settings: FlyemSettings, token: str) -> NeuprintDataset:
    from neuprint import fetch_all_rois, fetch_primary_rois

    client = _client(web, settings, token)
    known = client.fetch_datasets()[client.dataset]
    return {
        "dataset": client.dataset,
        "uuid": str(known["uuid"]),
        "last_modified": str(known.get("last-mod", "")),
        "info": str(known.get("info") or ""),
        "version": _version(client),
        "regions": [str(name) for name in fetch_all_rois(client=client)],
        "primary_regions": [str(name) for name in fetch_primary_rois(client=client)],
    }


def _client(web: Web, settings: FlyemSettings, token: str) -> Any:
    """neuprint-python's client with our transport."""
    from neuprint import Client  # takes two seconds

    class Polite(Client):  # type: ignore[misc]
        # Private, but the library sets no timeout and no retries (decision 15).
        def _fetch(self, url: str, json: Any = None, ispost: bool = False) -> _Answer:
            method = "POST" if ispost else "GET"
            take = partial(whole_body, _WHO)
            return _Answer(web.exchange(url, take, method=method, body=json))

    # The library remembers the datasets of a server until its process ends.
    Client.DATASETS_CACHE.clear()
    try:
        return Polite(settings.neuprint_url, settings.neuprint_dataset, token)
    except RuntimeError as error:
        words = " ".join(str(error).split())
        raise ConfigError(
            f"{_WHO}: neuPrint at {settings.neuprint_url} cannot be asked ({words}); "
            "correct ingest.flyem.neuprint_url or ingest.flyem.neuprint_dataset"
        ) from error


@dataclass(frozen=True, slots=True)
class _Answer:
    """What neuprint-python takes of an answer."""

    content: bytes


def _version(client: Any) -> str:
    """The version of the service, which not every service tells."""
    try:
        return str(client.fetch_version())
    # Some services answer 404 here and know their datasets all the same.
    except (SourceRefused, KeyError):
        return ""


def _plain(token: str) -> str:
    """The token itself, which neuPrint's page shows as JSON, `{"token": "..."}`."""
    # A JSON object has a colon, a token by itself has none.
    if ":" not in token:
        return token.strip().strip('"')
    try:
        return str(json.loads(token)["token"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{_WHO}: the neuPrint token is neither a token nor the JSON document "
            "with a token that neuPrint shows; correct ingest.flyem.neuprint_token"
        ) from error


def _verify(certificate: str) -> bool | str:
    """What to check the server's certificate against; `false`: do not check it."""
    if certificate.strip().lower() not in ("false", "no", "0"):
        return certificate or True
    # The user has chosen it; a warning for each request helps no one.
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    return False
