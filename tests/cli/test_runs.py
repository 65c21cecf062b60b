import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from em_platform.cli.runs import montage_runs


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
    runs = montage_runs(url, "m-0001")
    assert (runs.status, runs.is_over, runs.seconds) == (status, is_over, 2.5)
