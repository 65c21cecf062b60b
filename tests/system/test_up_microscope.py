"""`em-platform up --microscope`, and another command that uses its microscope."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from em_platform.acquisition.session.report import LiveReport
from em_platform.aloha.app import make_app
from em_platform.cli.runs import partition_runs
from em_platform.config import AlohaSettings, Settings
from em_platform.operator.api import application
from em_platform.processes.ports import private_socket
from em_platform.standins.world import World
from em_platform.temdb.app import create_app
from tests.docs.page_runner import run_page
from tests.forwarding import WEB_UI, let_in, routes_of
from tests.ports import reserve_port
from tests.second_user import (
    CALL,
    PAGES,
    PUBLISH,
    READ,
    as_another_user,
    open_the_way_to,
)

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


def test_acquire_uses_the_microscope_of_the_platform(
    make_platform,
    tmp_path: Path,
    wait_until: Callable[..., None],
    world: World,
    repository: Path,
) -> None:
    how_to = repository / "docs/how-to"
    with make_platform(tmp_path / ".em_platform") as platform:
        platform.environment |= world.environment | {"EM_INGEST__SOURCES": "ebi"}
        ports = {name: reserve_port() for name in ("operator", "aloha", "temdb")}
        port = ports["operator"]
        platform.environment |= {
            "EM_ACQUISITION__OPERATOR__PORT": str(port),
            "EM_ALOHA__PORT": str(ports["aloha"]),
            "EM_TEMDB__PORT": str(ports["temdb"]),
        }
        platform.start("--microscope")
        wait_until(
            lambda: "Ctrl-C ends all" in platform.output(),
            timeout_s=180,
            what=platform.output,
        )
        assert f"operator  http://127.0.0.1:{port}" in platform.output()
        another_user_is_kept_out(platform, f"http://127.0.0.1:{port}")
        no_header_lets_another_user_in(platform, ports, tmp_path)
        (output,) = run_page(
            how_to / "run-the-live-microscope.md",
            tmp_path,
            environment=platform.environment,
            replace={"--columns 2 --exit": "--columns 2 --exit --report report.json"},
            timeout_s=200,
        )
        assert "a microscope answers, it is used" in output
        assert f"operator's page at http://127.0.0.1:{port}" in output
        report = (tmp_path / "report.json").read_text()
        found = LiveReport.model_validate_json(report)
        assert found.is_good
        (made,) = found.montages
        wait_until(
            lambda: partition_runs(platform.url, made.acquisition_id).did_last_step,
            timeout_s=180,
            what=platform.output,
        )
        checks = partition_runs(platform.url, made.acquisition_id).checks
        assert checks["montage_is_complete"].passed, checks

        backfill(platform, how_to, made.acquisition_id, wait_until)

        again = subprocess.run(
            (sys.executable, "-m", "em_platform", "up", "--microscope"),
            env={**os.environ, **platform.environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert again.returncode == 1
        assert "a microscope already runs in" in again.stderr


def another_user_is_kept_out(platform: Any, page: str) -> None:
    """Neither tokens, nor messages, nor code, nor pages of a platform that runs."""
    tokens = platform.home / "tokens"
    tokens.chmod(0o711)
    open_the_way_to(platform.home)
    files = [str(file) for file in tokens.iterdir()]
    names = {"aloha", "broker", "operator", "temdb", "web"}
    assert names <= {Path(file).name for file in files}
    assert set(as_another_user(READ, files=files).values()) == {"refused"}
    port = int(platform.environment["EM_BROKER__PORT"])
    logins = [[], ["em-platform", "guess"]]
    found = as_another_user(PUBLISH, port=port, logins=logins)
    assert found == ["refused", "refused"]
    urls = [f"{page}/api/state", f"{page}/", f"{platform.url}/graphql", platform.url]
    pages = as_another_user(PAGES, urls=urls)
    assert [status for status, _ in pages.values()] == [401, 200, 401, 200]
    assert all("Password" in text for status, text in pages.values() if status == 200)
    code = private_socket(platform.home / "dagster", "code")
    code.parent.chmod(0o711)  # the socket's own mode is asked for
    assert as_another_user(CALL, sockets=[str(code)]) == {str(code): "refused"}


def no_header_lets_another_user_in(
    platform: Any, ports: dict[str, int], folder: Path
) -> None:
    """round3 4.1: on no route of any page, by no header that proxies send."""
    operator: Any = application(None, Settings(home=folder / "unused"), about={})  # type: ignore[arg-type]
    aloha: Any = make_app(
        None, token="", settings=AlohaSettings(), waiters=None, workers=None
    )  # type: ignore[arg-type]
    temdb = create_app(None, "")  # type: ignore[arg-type]
    pages = {
        ports["operator"]: routes_of(operator._app, open_paths={"/health"}),  # noqa: SLF001
        ports["aloha"]: routes_of(aloha, open_paths={"/api/v1/health"}),
        ports["temdb"]: routes_of(temdb, open_paths={"/health", "/api/v2/health"}),
        int(platform.environment["EM_WEB__PORT"]): WEB_UI,
    }
    for port, routes in pages.items():
        assert let_in(port, routes) == []


def backfill(
    platform: Any, how_to: Path, montage: str, wait_until: Callable[..., None]
) -> None:
    """Do what the pages on backfills say, for a montage and an item that are there."""
    environment = platform.environment
    ingest = (sys.executable, "-m", "em_platform", "ingest", "--item", "ebi/11759")
    subprocess.run(ingest, env=environment, check=True, timeout=100)
    folder = platform.home.parent
    with platform.instance() as instance:
        wait_until(
            lambda: instance.has_dynamic_partition("ebi_entries", "11759"),
            timeout_s=60,
            what=platform.output,
        )
        run_page(
            how_to / "backfill-a-montage.md",
            folder,
            environment=environment,
            replace={"ACQUISITION_ID": montage},
        )
        run_page(how_to / "backfill-a-source.md", folder, environment=environment)
        backfills = {
            each.partition_set_name: list(each.partition_names or ())
            for each in instance.get_backfills()
        }
    assert backfills == {
        "stitch_montages_partition_set": [montage],
        "ingest_ebi_partition_set": ["11759"],
    }
