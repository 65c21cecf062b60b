"""Who may ask, and how a request may come."""

import gzip
import json
import re

import pytest
import requests

from em_platform.temdb.app import create_app

TOKEN = "secret-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize("path", ["/health", "/api/v2/health"])
def test_all_may_ask_for_health(server: str, path: str) -> None:
    answer = requests.get(server + path, timeout=30)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("headers", [BEARER, {"X-API-Key": TOKEN}])
def test_the_token_comes_as_bearer_or_as_key(
    server: str, headers: dict[str, str]
) -> None:
    answer = requests.get(f"{server}/api/v2/specimens", headers=headers, timeout=30)
    assert (answer.status_code, answer.json()) == (200, [])


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": "guess"},
        {"Authorization": "Bearer guess"},
        {"Authorization": TOKEN},
        {"Authorization": "Basic c2VjcmV0"},
    ],
)
@pytest.mark.parametrize("path", ["/api/v2/specimens", "/api/v2/", "/docs", "/other"])
def test_nothing_else_answers_without_it(
    server: str, headers: dict[str, str], path: str
) -> None:
    answer = requests.get(server + path, headers=headers, timeout=30)
    assert answer.status_code == 401
    assert "the token is missing or wrong" in answer.json()["detail"]
    made = requests.post(
        f"{server}/api/v2/specimens",
        json={"specimen_id": "S"},
        headers=headers,
        timeout=30,
    )
    assert made.status_code == 401
    kept = requests.get(f"{server}/api/v2/specimens", headers=BEARER, timeout=30)
    assert kept.json() == []


@pytest.mark.parametrize(
    "value", ["9" * 400, "-" + "9" * 400, "9" * 5000, "9" * 19, "1e30", "%00", "²"]
)
def test_what_no_database_keeps_is_refused_in_one_sentence(
    server: str, value: str
) -> None:
    """round3 4.8: an ROI of 400 digits was answered by 500; on every route."""
    routes = create_app(None, TOKEN).openapi()["paths"]  # type: ignore[arg-type]
    with requests.Session() as client:
        client.headers.update(BEARER)
        for path, methods in routes.items():
            place = re.sub(r"\{\w+\}", value, path)
            for method, described in methods.items():
                names = [p["name"] for p in described.get("parameters", ())]
                query = "&".join(f"{name}={value}" for name in names)
                for url in {server + place, f"{server}{place}?{query}"}:
                    answer = client.request(method, url, json={}, timeout=30)
                    assert answer.status_code < 500, (method, path, answer.text)


def test_a_body_that_is_cut_short_is_refused_in_one_sentence(server: str) -> None:
    body = gzip.compress(json.dumps({"specimen_id": "S"}).encode())
    headers = BEARER | {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    url = f"{server}/api/v2/specimens"
    cut = requests.post(url, data=body[:-12], headers=headers, timeout=30)
    assert cut.status_code == 400
    assert "no whole gzip stream" in cut.json()["detail"]
    nonsense = requests.post(url, data=b"nonsense", headers=headers, timeout=30)
    assert nonsense.status_code == 400
    whole = requests.post(url, data=body, headers=headers, timeout=30)
    assert whole.status_code == 201


def test_a_body_that_would_fill_the_memory_is_refused(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("em_platform.temdb.app._MOST_BYTES", 10_000)
    body = gzip.compress(b" " * 1_000_000)
    headers = BEARER | {"Content-Encoding": "gzip"}
    url = f"{server}/api/v2/specimens"
    answer = requests.post(url, data=body, headers=headers, timeout=30)
    assert answer.status_code == 413


def test_a_body_that_is_no_json_is_refused_in_one_sentence(server: str) -> None:
    headers = BEARER | {"Content-Type": "application/json"}
    url = f"{server}/api/v2/specimens"
    answer = requests.post(url, data=b"{", headers=headers, timeout=30)
    assert answer.status_code == 422
    assert isinstance(answer.json()["detail"], str)
