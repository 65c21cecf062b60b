import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from dagster_graphql.schema import create_schema
from graphql import parse, validate

from em_platform.acquisition.operator import run_results
from em_platform.acquisition.operator.run_results import result_of
from em_platform.errors import SourceUnavailable


@pytest.fixture
def web_ui() -> Iterator[Callable[..., str]]:
    """Serve what Dagster's web UI answers: runs first, then the events of one."""
    servers: list[ThreadingHTTPServer] = []

    def serve(runs: list[dict[str, str]], events: list[dict[str, Any]]) -> str:
        class Answers(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                asked = json.loads(self.rfile.read(length))
                if "runsOrError" in asked["query"]:
                    found: dict[str, Any] = {"runsOrError": {"results": runs}}
                else:
                    found = {"logsForRun": {"events": events}}
                body = json.dumps({"data": found}).encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        threading.Thread(target=server.serve_forever).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("query", [run_results._RUNS, run_results._CHECKS])
def test_dagster_understands_the_questions(query: str) -> None:
    schema = create_schema().graphql_schema
    assert validate(schema, parse(query)) == []


def test_a_montage_without_a_run_has_no_result_yet(
    web_ui: Callable[..., str],
) -> None:
    assert result_of(web_ui([], []), "m-1") is None


def test_a_failed_check_is_told_in_its_words(web_ui: Callable[..., str]) -> None:
    check = {
        "checkName": "seams_are_closed",
        "success": False,
        "severity": "ERROR",
        "description": "a seam of 9 px",
    }
    events = [
        {"__typename": "AssetCheckEvaluationEvent", "evaluation": check},
        {
            "__typename": "AssetCheckEvaluationEvent",
            "evaluation": check | {"success": True},
        },
    ]
    url = web_ui([{"runId": "r1", "status": "SUCCESS"}], events)
    assert result_of(url, "m-1") == {
        "run_id": "r1",
        "status": "success",
        "is_over": True,
        "failed": ["seams_are_closed: a seam of 9 px"],
    }


def test_a_run_that_goes_on_is_not_over(web_ui: Callable[..., str]) -> None:
    runs = [
        {"runId": "r2", "status": "FAILURE"},
        {"runId": "r1", "status": "STARTED"},
    ]
    result = result_of(web_ui(runs, []), "m-1")
    assert result is not None
    assert (result["run_id"], result["is_over"]) == ("r1", False)


def test_a_web_ui_that_is_away_may_be_asked_again(
    free_port: Callable[[], int],
) -> None:
    with pytest.raises(SourceUnavailable, match="no answer"):
        result_of(f"http://127.0.0.1:{free_port()}", "m-1")
