"""The stand-in answers as neuPrint does: asked by neuprint-python itself."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from em_platform.standins.flyem import HEMIBRAIN, TOKEN, Neuprint, certificates
from em_platform.standins.http import Server
from em_platform.standins.messages import refuse_in_json


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    return certificates(tmp_path_factory.mktemp("neuprint") / "certificates")


@pytest.fixture
def server(tls: tuple[ssl.SSLContext, Path]) -> Iterator[Server]:
    with Server("neuprint", Neuprint(), refuse=refuse_in_json, tls=tls[0]) as running:
        yield running


def asked(
    server: Server, path: str, authority: Path, *, token: str = TOKEN
) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return requests.get(
        server.url + path, headers=headers, verify=str(authority), timeout=10
    )


def test_neuprints_own_client_gets_datasets_meta_and_regions(
    server: Server, tls: tuple[ssl.SSLContext, Path]
) -> None:
    from neuprint import Client, fetch_meta, fetch_primary_rois

    client: Any = Client(server.url, HEMIBRAIN, TOKEN, verify=str(tls[1]))
    assert client.fetch_version() == "1.7.7"
    assert client.fetch_server_info() is False
    assert set(client.fetch_datasets()[HEMIBRAIN]) == {
        *("uuid", "last-mod", "ROIs", "superLevelROIs", "info", "logo", "hidden")
    }
    meta = fetch_meta(client=client)
    assert (meta["dataset"], meta["tag"]) == ("hemibrain", "v1.2.1")
    assert meta["roiHierarchy"]["name"] == "hemibrain"
    assert set(fetch_primary_rois(client=client)) <= set(meta["roiInfo"])


def test_only_the_token_opens(server: Server, tls: tuple[ssl.SSLContext, Path]) -> None:
    path = "/api/dbmeta/datasets"
    assert asked(server, path, tls[1], token="").status_code == 401
    refused = asked(server, path, tls[1], token="old")
    assert refused.status_code == 401
    assert refused.json() == {"message": "invalid or expired jwt"}
    assert asked(server, path, tls[1]).status_code == 200


def test_the_version_is_not_there_where_the_service_has_moved(
    server: Server, tls: tuple[ssl.SSLContext, Path]
) -> None:
    server.handler = Neuprint(version=None)
    assert asked(server, "/api/version", tls[1]).status_code == 404


def test_its_certificate_is_its_own(
    server: Server, tls: tuple[ssl.SSLContext, Path]
) -> None:
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(server.url, timeout=10)
    again, authority = certificates(tls[1].parent)
    assert authority == tls[1]
    assert isinstance(again, ssl.SSLContext)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"cypher": "MATCH (n) RETURN n", "dataset": HEMIBRAIN}, "no answer is known"),
        ({"cypher": "MATCH (n) RETURN n", "dataset": "fish"}, "no dataset fish"),
        ([], "not formatted correctly"),
    ],
)
def test_other_questions_are_refused(
    server: Server, tls: tuple[ssl.SSLContext, Path], body: Any, words: str
) -> None:
    response = requests.post(
        f"{server.url}/api/custom/custom",
        json=body,
        headers={"Authorization": f"Bearer {TOKEN}"},
        verify=str(tls[1]),
        timeout=10,
    )
    assert response.status_code == 400
    assert words in response.json()["error"]
