"""A service's HTTP side: says when it serves, ends in order, keeps its secret."""

import signal
import subprocess
import sys
import urllib.request

import pytest

from em_platform.errors import ConfigError
from em_platform.processes import free_port
from em_platform.processes.web import is_bearer, is_token, serve

PROGRAM = """
import sys
from fastapi import FastAPI
from em_platform.processes.web import serve

app = FastAPI()

@app.get("/")
def hello() -> str:
    return "hello"

serve(app, name="hello", host="127.0.0.1", port=int(sys.argv[1]))
print("cleaned up", flush=True)
"""


def test_a_service_says_when_it_serves_and_cleans_up_on_sigterm() -> None:
    port = free_port("127.0.0.1")
    with subprocess.Popen(
        (sys.executable, "-c", PROGRAM, str(port)), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready hello\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
            assert answer.read() == b'"hello"'
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "cleaned up\n"
    assert process.returncode == 0


def test_a_taken_port_is_said_in_one_sentence() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(
            ConfigError, match=f"port {port} on 127.0.0.1 cannot be had"
        ):
            serve(None, name="page", host="127.0.0.1", port=port)


@pytest.mark.parametrize("header", ["Bearer ", "Bearer", "bearer  ", None])
def test_no_token_is_none_that_can_be_shown(header: str | None) -> None:
    assert not is_bearer(header, "")
    assert not is_token("", "")


@pytest.mark.parametrize(
    ("header", "good"),
    [
        ("Bearer secret", True),
        ("bearer secret", True),
        ("Bearer wrong", False),
        ("Basic secret", False),
        ("", False),
        (None, False),
    ],
)
def test_only_the_right_token_is_taken(header: str | None, good: bool) -> None:
    assert is_bearer(header, "secret") is good
