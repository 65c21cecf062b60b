"""Messages that wait for their handlers, without a broker."""

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from em_platform.messaging import mailboxes
from em_platform.messaging.mailboxes import Inbox

VERDICTS = ('{"status": "GOOD"}', '{"status": "STOP_NOW"}')


def test_a_message_waits_while_the_computer_fails_its_handler() -> None:
    """round3 1.3.2: it was dropped, with a traceback, when no descriptor was left."""
    inbox, tries, handled = Inbox(), [], threading.Event()

    def handle(message: Any, _: Mapping[str, str]) -> None:
        tries.append(message.status)
        if len(tries) < 3:
            with open("/dev/full", "wb", buffering=0) as file:
                file.write(b"x")  # always without room: full(4)
        if message.status == "STOP_NOW":
            handled.set()

    inbox.attach(("qc.status",), handle)
    for body in VERDICTS:
        inbox.take("qc.status", body, {})
    assert handled.wait(30)
    assert tries == ["GOOD"] * 3 + ["STOP_NOW"]
    assert inbox.failed == inbox.dropped == 0
    inbox.close()


def test_large_messages_do_not_fill_the_memory_while_a_handler_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mailboxes, "WAITING_BYTES", 1000)
    inbox, hangs, release = Inbox(), threading.Event(), threading.Event()

    def hang(*_: Any) -> None:
        hangs.set()
        release.wait(30)

    inbox.attach(("tile.preview",), hang)
    tile = '"tile_id": "a", "montage_id": "m", "row": 0, "column": 0, "overlap": 0'
    body = f'{{{tile}, "image": "{"x" * 200}"}}'
    for _ in range(1000 // len(body) + 3):
        inbox.take("tile.preview", body, {})
    assert hangs.wait(30)
    assert inbox.dropped == 3
    release.set()
    inbox.close()
