import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from em_platform.cli.runs import (
    CheckOutcome,
    PartitionRuns,
    complaints,
    partition_runs,
    progress,
)


def answers(will_retry: str, *steps: str) -> dict[str, object]:
    tags = [{"key": "dagster/will_retry", "value": will_retry}]
    run = {
        "runId": "r",
        "status": "FAILURE",
        "startTime": 1.0,
        "endTime": 3.5,
        "tags": tags,
    }
    events = [{"__typename": "ExecutionStepSuccessEvent", "stepKey": s} for s in steps]
    return {"runsOrError": {"results": [run]}, "logsForRun": {"events": events}}


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A web UI that tells of one failed run, and whether another follows it."""

    class WebUi(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            content = json.dumps({"data": answers(*request.param)}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), WebUi)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("url", "status", "is_over"),
    [
        (("true", "mosaic"), "QUEUED", False),
        (("false", "mosaic"), "FAILURE", True),
        (("false", "mosaic", "dataset_record"), "QUEUED", False),
    ],
    indirect=["url"],
)
def test_a_run_that_was_killed_is_not_over_before_its_successor(
    url: str, status: str, is_over: bool
) -> None:
    runs = partition_runs(url, "m-0001")
    assert (runs.status, runs.is_over, runs.seconds) == (status, is_over, 2.5)


def test_progress_is_what_has_changed_a_line_each() -> None:
    waits = PartitionRuns()
    queued = PartitionRuns(status="QUEUED")
    begun = PartitionRuns(status="STARTED", assets=["tiles"])
    failed = PartitionRuns(
        status="FAILURE", assets=["tiles", "ebi/raw"], failures=["mosaic: no room"]
    )
    assert list(progress("m-0001", waits, queued)) == []
    assert list(progress("m-0001", queued, begun)) == [
        "m-0001: run started",
        "m-0001:   tiles",
    ]
    assert list(progress("m-0001", begun, begun)) == []
    assert list(progress("m-0001", begun, failed)) == [
        "m-0001: run failure",
        "m-0001:   raw",
        "m-0001:   mosaic: no room",
    ]


def test_complaints_name_the_severity_of_each_check_that_did_not_pass() -> None:
    checks = [
        CheckOutcome(name="a", passed=True, is_error=True, sentence="well"),
        CheckOutcome(name="b", passed=False, is_error=True, sentence="2 of 4 missing"),
        CheckOutcome(name="c", passed=False, is_error=False, sentence="a bit dark"),
    ]
    runs = PartitionRuns(checks={check.name: check for check in checks})
    assert list(complaints(runs)) == ["ERROR: 2 of 4 missing", "warning: a bit dark"]
