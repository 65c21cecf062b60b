"""A client that speaks STOMP byte by byte; a certificate for 127.0.0.1."""

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from em_platform.config import BrokerSettings
from em_platform.messaging.broker import Broker

SETTINGS = BrokerSettings(port=0, heart_beat_s=0)


class Client:
    """Speaks STOMP byte by byte."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._buffer = b""

    def send(self, command: str, body: bytes = b"", **headers: str) -> None:
        lines = [command, *(f"{k.replace('_', '-')}:{v}" for k, v in headers.items())]
        self.send_bytes("\n".join(lines).encode() + b"\n\n" + body + b"\0")

    def send_bytes(self, content: bytes) -> None:
        self.socket.sendall(content)

    def login(self, version: str = "1.2", **headers: str) -> dict[str, str]:
        self.send("CONNECT", accept_version=version, host="x", **headers)
        command, answer, _ = self.read()
        assert command == "CONNECTED", answer
        return answer

    def subscribe(self, destination: str, name: str = "0", **headers: str) -> None:
        self.send(
            "SUBSCRIBE", id=name, destination=destination, receipt="sub", **headers
        )
        assert self.read()[0] == "RECEIPT"

    def read(self) -> tuple[str, dict[str, str], bytes]:
        """The next frame that the broker sent."""
        self._buffer = self._buffer.lstrip(b"\r\n")
        while b"\n\n" not in self._buffer:
            self._receive()
        head, _, rest = self._buffer.partition(b"\n\n")
        command, *lines = head.decode().split("\n")
        headers = dict(reversed([tuple(x.split(":", 1)) for x in lines]))
        self._buffer = rest
        length = int(headers["content-length"])
        while len(self._buffer) <= length:
            self._receive()
        body, self._buffer = self._buffer[:length], self._buffer[length + 1 :]
        return command, headers, body

    def bodies(self, count: int) -> list[bytes]:
        return [self.read()[2] for _ in range(count)]

    def is_quiet(self) -> bool:
        """Whether nothing more comes: a receipt overtakes nothing."""
        self.send("BEGIN", transaction="quiet", receipt="quiet")
        self.send("ABORT", transaction="quiet")
        return self.read()[1].get("receipt-id") == "quiet"

    def is_closed(self, timeout_s: float = 5.0) -> bool:
        self.socket.settimeout(timeout_s)
        try:
            return self.socket.recv(65536) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.socket.close()

    def _receive(self) -> None:
        received = self.socket.recv(65536)
        assert received, f"the broker closed; unread: {self._buffer!r}"
        self._buffer += received


@pytest.fixture
def connect() -> Iterator[Callable[[Broker], Client]]:
    with ExitStack() as stack:

        def open_client(broker: Broker) -> Client:
            client = Client(broker.port)
            stack.callback(client.close)
            return client

        yield open_client


@pytest.fixture
def quiet_broker() -> Iterator[Broker]:
    with Broker(SETTINGS) as broker:
        yield broker


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate and its key; skipped without openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed; it makes the test's certificate")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key
