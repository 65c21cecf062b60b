"""neuPrint is asked over TLS by those who have a token, and only by them."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from em_platform.config import FlyemSettings, TransferSettings
from em_platform.errors import (
    ConfigError,
    FormatError,
    SourceRefused,
    SourceUnavailable,
)
from em_platform.ingest.neuprint import ask_neuprint
from em_platform.standins.faults import Fault
from em_platform.standins.flyem import HEMIBRAIN, TOKEN, Neuprint, certificates
from em_platform.standins.http import Server
from em_platform.standins.messages import as_json, refuse_in_json

TRANSFER = TransferSettings(retries=1, backoff_s=0.01, timeout_s=5)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    return certificates(tmp_path_factory.mktemp("neuprint") / "certificates")


@pytest.fixture
def server(tls: tuple[ssl.SSLContext, Path]) -> Iterator[Server]:
    handler = Neuprint()
    with Server("neuprint", handler, refuse=refuse_in_json, tls=tls[0]) as running:
        yield running


@pytest.fixture
def settings(server: Server, tls: tuple[ssl.SSLContext, Path]) -> FlyemSettings:
    return FlyemSettings(
        neuprint_url=server.url,
        neuprint_token=SecretStr(TOKEN),
        neuprint_certificate=str(tls[1]),
    )


def changed(settings: FlyemSettings, **values: Any) -> FlyemSettings:
    return settings.model_copy(update=values)


def test_a_dataset_comes_with_its_version_and_its_regions(
    settings: FlyemSettings,
) -> None:
    found = ask_neuprint(settings, TRANSFER)
    assert found is not None
    assert found["dataset"] == HEMIBRAIN
    assert found["uuid"] == "31597f95a2cf4a3689e71d8d51b5b41e"
    assert found["last_modified"] == "2021-10-06 16:32:29"
    assert found["version"] == "1.7.7"
    assert {"FB", "CX", "AL-DC3", "a'L(R)"} <= set(found["regions"])
    assert set(found["primary_regions"]) < set(found["regions"])


def test_nobody_is_asked_without_a_token(
    settings: FlyemSettings, server: Server
) -> None:
    assert (
        ask_neuprint(changed(settings, neuprint_token=SecretStr("")), TRANSFER) is None
    )
    assert server.requests.count() == 0


def test_the_json_document_that_neuprint_shows_is_a_token_too(
    settings: FlyemSettings,
) -> None:
    shown = SecretStr(f'{{"token": "{TOKEN}"}}')
    assert ask_neuprint(changed(settings, neuprint_token=shown), TRANSFER)
    half = SecretStr(f'{{"token": "{TOKEN}')
    with pytest.raises(ConfigError, match="neither a token nor the JSON") as caught:
        ask_neuprint(changed(settings, neuprint_token=half), TRANSFER)
    assert TOKEN not in str(caught.value)


def test_a_wrong_token_is_reported_in_one_sentence_and_not_tried_again(
    settings: FlyemSettings, server: Server
) -> None:
    wrong = changed(settings, neuprint_token=SecretStr("old"))
    with pytest.raises(SourceRefused) as caught:
        ask_neuprint(wrong, TRANSFER)
    assert str(caught.value) == (
        f'flyem: {server.url}/api/dbmeta/datasets answered 401 ({{"message": "invalid '
        'or expired jwt"}); give its token, or one that is still valid, in ingest.flyem'
    )
    assert server.requests.count() == 1


def test_a_service_without_a_version_is_asked_all_the_same(
    settings: FlyemSettings, server: Server
) -> None:
    server.handler = Neuprint(version=None)
    found = ask_neuprint(settings, TRANSFER)
    assert found is not None
    assert found["version"] == ""
    assert found["uuid"]


def test_a_certificate_that_nobody_vouches_for_is_refused_unless_reported(
    settings: FlyemSettings,
) -> None:
    with pytest.raises(SourceRefused, match="has a certificate that is not trusted"):
        ask_neuprint(changed(settings, neuprint_certificate=""), TRANSFER)
    assert ask_neuprint(changed(settings, neuprint_certificate="false"), TRANSFER)


def test_a_dataset_or_an_address_that_cannot_be_is_reported(
    settings: FlyemSettings, server: Server
) -> None:
    with pytest.raises(ConfigError, match="Dataset 'hemibrain:v9' does not exist"):
        ask_neuprint(changed(settings, neuprint_dataset="hemibrain:v9"), TRANSFER)
    plain = server.url.replace("https", "http")
    with pytest.raises(ConfigError, match="Server must be https, not http"):
        ask_neuprint(changed(settings, neuprint_url=plain), TRANSFER)


def test_what_is_not_neuprint_is_reported(
    settings: FlyemSettings, server: Server
) -> None:
    server.handler = lambda request: as_json({HEMIBRAIN: "?"})
    with pytest.raises(FormatError, match=r"words that are not neuPrint's"):
        ask_neuprint(settings, TRANSFER)


def test_a_service_that_is_down_is_asked_again_then_given_up(
    settings: FlyemSettings, server: Server
) -> None:
    server.faults.add(Fault("status", times=1))
    assert ask_neuprint(settings, TRANSFER)
    server.faults.add(Fault("status"))
    with pytest.raises(SourceUnavailable, match="answered 503"):
        ask_neuprint(settings, TRANSFER)
