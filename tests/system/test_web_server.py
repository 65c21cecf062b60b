"""Dagster's web server behind its gate, as `up` and the containers start it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from em_platform.processes import Child, Supervisor, listens
from tests.chromium import chromium, needs_chromium
from tests.forwarding import WEB_UI, let_in
from tests.ports import reserve_port
from tests.second_user import PAGES, as_another_user

CHANGE = "mutation { setNuxSeen }"
READ = "{ shouldShowNux }"

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("web") / "home"


@pytest.fixture(scope="module")
def url(home: Path) -> Iterator[str]:
    """The web UI of this account, with nothing in it."""
    port = reserve_port()
    (home / "dagster").mkdir(parents=True)
    environment = {
        "EM_HOME": str(home),
        "DAGSTER_HOME": str(home / "dagster"),
        "FORWARDED_ALLOW_IPS": "*",  # uvicorn's own: it is to say nothing here
    }
    server = Child(
        name="web",
        arguments=(
            *(sys.executable, "-m", "em_platform.resources.web_server"),
            *("--empty-workspace", "-h", "127.0.0.1", "-p", str(port)),
        ),
        environment=environment,
        ready=lambda _: listens("127.0.0.1", port),
    )
    with Supervisor(home / "logs") as supervisor:
        supervisor.start(server, timeout_s=60)
        yield f"http://127.0.0.1:{port}"


def ask(url: str, query: str, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{url}/graphql", json={"query": query}, headers=named)


def test_a_program_of_this_account_may_ask_and_change(url: str) -> None:
    assert ask(url, CHANGE).json() == {"data": {"setNuxSeen": True}}
    assert ask(url, READ, origin=url).json() == {"data": {"shouldShowNux": False}}
    assert httpx.get(f"{url}/server_info").status_code == 200


def test_a_foreign_page_may_not(url: str) -> None:
    answers = {
        "page": ask(url, CHANGE, origin="http://evil.example"),
        "port": ask(url, CHANGE, origin="http://127.0.0.1:9"),
        "sandbox": ask(url, READ, origin="null"),
        "name": ask(url, READ, host="evil.example"),
        "form": httpx.post(f"{url}/graphql", content=b"", params={"query": CHANGE}),
        "text": httpx.post(
            f"{url}/graphql",
            content=CHANGE.encode(),
            headers={"content-type": "application/graphql"},
        ),
        "picture": httpx.get(f"{url}/graphql", params={"query": CHANGE}),
        "report": httpx.post(f"{url}/report_asset_materialization/tiles"),
    }
    found = {name: answer.status_code for name, answer in answers.items()}
    assert found == {
        "page": 403,
        "port": 403,
        "sandbox": 403,
        "name": 421,
        "form": 415,
        "text": 415,
        "picture": 405,
        "report": 415,
    }
    assert all(answer.json()["error"] for answer in answers.values())


def test_changes_are_sent_to_own_pages_only(url: str) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect
    from websockets.typing import Origin, Subprotocol

    where = f"{url.replace('http', 'ws')}/graphql"
    spoken = [Subprotocol("graphql-ws")]
    with connect(where, origin=Origin(url), subprotocols=spoken) as socket:
        socket.send('{"type": "connection_init"}')
        assert "connection_ack" in str(socket.recv(10))
    with pytest.raises(InvalidStatus, match="403"):
        connect(where, origin=Origin("http://evil.example"), subprotocols=spoken)


def test_another_computer_is_asked_for_the_password(url: str, home: Path) -> None:
    # As a proxy on this computer says where a request comes from.
    elsewhere = httpx.Client(base_url=url, headers={"X-Forwarded-For": "192.0.2.7"})
    with elsewhere as browser:
        refused = browser.post("/graphql", json={"query": READ})
        assert (refused.status_code, "Dagster's web UI" in refused.text) == (401, True)
        person = browser.get("/runs", headers={"accept": "text/html"})
        assert person.headers["location"] == "/login"
        page = browser.get("/login")
        assert "Dagster&#x27;s web UI" in page.text
        wrong = browser.post("/api/login", json={"password": "guess"})
        assert (wrong.status_code, "tokens/web" in wrong.text) == (401, True)
        password = (home / "tokens" / "web").read_text()
        browser.post("/api/login", json={"password": password}).raise_for_status()
        assert browser.post("/graphql", json={"query": READ}).status_code == 200


@pytest.mark.parametrize("name", ["server_info", "graphql", "logs/x.out"])
def test_another_user_of_this_computer_is_asked_for_it_too(url: str, name: str) -> None:
    address = f"{url}/{name}"
    status, _ = as_another_user(PAGES, urls=[address])[address]
    assert status == 401


def test_no_header_of_a_proxy_lets_another_user_in(url: str) -> None:
    """round3 4.1: nor one that names the port of a connection of this account."""
    assert let_in(int(url.rpartition(":")[2]), WEB_UI) == []


def test_what_a_proxy_passes_on_needs_the_password_whosever_the_proxy_is(
    url: str,
) -> None:
    """round3 4.1: a proxy of this account was taken for this account."""
    for name in ("Forwarded", "X-Real-IP", "X-Forwarded-Host", "Via"):
        assert ask(url, READ, **{name: "127.0.0.1"}).status_code == 401


@needs_chromium
def test_the_pages_work_in_a_browser(url: str, home: Path) -> None:
    complaints: list[str] = []
    received: list[Any] = []

    def listen(socket: Any) -> None:
        socket.on("framereceived", lambda frame: received.append(frame))

    with chromium() as browser:
        page = browser.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("websocket", listen)
        page.goto(f"{url}/runs")
        page.get_by_text(re.compile("No runs", re.I)).first.wait_for(timeout=60_000)
        stranger = browser.new_context(extra_http_headers={"X-Forwarded-For": "::2"})
        form = stranger.new_page()
        form.on("pageerror", lambda error: complaints.append(str(error)))
        form.goto(f"{url}/runs")
        form.get_by_label("Password").fill("guess")
        form.get_by_role("button", name="Log in").click()
        form.get_by_role("alert").get_by_text("is not that of").wait_for()
        form.get_by_label("Password").fill((home / "tokens" / "web").read_text())
        form.get_by_role("button", name="Log in").click()
        form.wait_for_url(lambda reached: "login" not in reached, timeout=60_000)
    assert any("connection_ack" in str(frame) for frame in received), received
    assert not complaints


def test_without_the_gate_nothing_is_served(home: Path) -> None:
    """Where Dagster makes its application by another name the process ends."""
    program = (
        "from dagster_webserver import cli\n"
        "from em_platform.resources import web_server\n"
        "del cli.create_app_from_workspace_process_context\n"
        "web_server.main(['--empty-workspace', '-p', '1'])\n"
    )
    ended = subprocess.run(
        (sys.executable, "-c", program),
        env={**os.environ, "EM_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "AttributeError" in ended.stderr
