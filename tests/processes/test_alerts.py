"""One alert by each way, to real servers."""

import socketserver
import threading
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from em_platform.config.services import AlertSettings
from em_platform.errors import ConfigError, SourceUnavailable
from em_platform.processes.alerts import Alert, send, send_all
from tests.webhook import Webhook

ALERT = Alert(
    kind="check_failed",
    subject="m-1-t1\nBcc: x@y",
    sentences=("Missing: 2 of 16 tiles; image them again.",),
    page="/runs/abc",
)
TEXT = "em-platform: check failed: m-1-t1 Bcc: x@y\n" + ALERT.sentences[0]


class Mailbox(socketserver.StreamRequestHandler):
    """Takes letters as RFC 5321 asks."""

    letters: list[str]

    def handle(self) -> None:
        self._say("220 here")
        for line in iter(self.rfile.readline, b""):
            word = line[:4].upper()
            if word == b"DATA":
                self._say("354 go on")
                lines = iter(self.rfile.readline, b".\r\n")
                self.letters.append(b"".join(lines).decode())
            self._say("221 bye" if word == b"QUIT" else "250 ok")

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


@pytest.fixture
def mail_port() -> Iterator[int]:
    Mailbox.letters = []
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mailbox) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        yield server.server_address[1]
        server.shutdown()


def test_a_webhook_gets_what_happened_and_slack_its_line() -> None:
    with Webhook().serving() as webhook:
        send(ALERT, webhook.url, AlertSettings())
        send(ALERT, f"slack+{webhook.url}", AlertSettings())
    whole, line = webhook.received
    assert whole == {"text": TEXT, **ALERT.model_dump(mode="json")}
    assert line == {"text": TEXT}


def test_an_e_mail_has_one_subject_whatever_a_name_holds(mail_port: int) -> None:
    settings = AlertSettings(
        smtp_host="127.0.0.1", smtp_port=mail_port, sender="em@lab"
    )
    send(ALERT, "mailto:ops@lab", settings)
    [letter] = Mailbox.letters
    assert "Subject: em-platform: check failed: m-1-t1 Bcc: x@y\r\n" in letter
    assert "\nBcc:" not in letter
    assert "To: ops@lab\r\n" in letter
    assert "Missing: 2 of 16 tiles" in letter
    assert "/runs/abc" in letter


@pytest.mark.parametrize(
    ("target", "error", "sentence"),
    [
        ("ftp://x/y", ConfigError, "'ftp' is no way to send; use https://"),
        ("http://127.0.0.1:9/secret", SourceUnavailable, "127.0.0.1 did not take"),
    ],
)
def test_what_cannot_be_sent_says_so_without_the_key(
    target: str, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error) as found:
        send(ALERT, target, AlertSettings())
    assert sentence in str(found.value)
    assert "secret" not in str(found.value)


def test_one_dead_address_does_not_keep_the_alert_from_the_others() -> None:
    with Webhook().serving() as webhook:
        both = AlertSettings(to=SecretStr(f"http://127.0.0.1:9/x, {webhook.url}"))
        assert send_all([ALERT], both)
        assert len(webhook.received) == 1
    dead = AlertSettings(to=SecretStr("http://127.0.0.1:9/x"))
    assert not send_all([ALERT], dead)
