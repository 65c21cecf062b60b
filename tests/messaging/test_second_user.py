"""Another account of this computer, and the broker of this one."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from em_platform.errors import BrokerUnavailable
from em_platform.messaging.broker import Broker
from em_platform.messaging.bus import Bus
from tests.ports import broker_at
from tests.second_user import NOBODY, PUBLISH, READ, as_another_user, open_the_way_to

SQUATTER = """
import os, socket, sys
os.setgroups([])
os.setgid({0})
os.setuid({0})
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listens", flush=True)
client, _ = server.accept()
client.settimeout(10)
print(client.recv(1000), flush=True)
"""


def test_another_user_can_neither_read_the_token_nor_publish(
    home: Path, free_port: Callable[[], int]
) -> None:
    settings = broker_at(free_port(), home)
    with Broker(settings) as broker, Bus(settings, "own") as bus:
        (home / "tokens").chmod(0o711)
        open_the_way_to(home)  # the file's own mode is asked for
        files = [settings.token_file]
        assert as_another_user(READ, files=files) == {files[0]: "refused"}
        bus.connect(5.0)
        logins = [[], ["em-platform", ""], ["em-platform", "guess"], ["", ""]]
        found = as_another_user(PUBLISH, port=settings.port, logins=logins)
        assert found == ["refused"] * 4
        statistics = broker.statistics()
        assert (statistics.received, statistics.refused) == (0, 4)


def test_another_users_program_at_our_port_is_not_shown_the_token(
    home: Path, free_port: Callable[[], int]
) -> None:
    settings = broker_at(free_port(), home)
    with Broker(settings.model_copy(update={"port": 0})):
        pass  # the token is made
    as_another_user("found = None")  # skips where there is no other
    with subprocess.Popen(
        (sys.executable, "-c", SQUATTER.format(NOBODY), str(settings.port)),
        stdout=subprocess.PIPE,
        text=True,
    ) as squatter:
        assert squatter.stdout is not None
        assert squatter.stdout.readline() == "listens\n"
        with Bus(settings, "own") as bus:
            with pytest.raises(BrokerUnavailable, match=f"number {NOBODY} listens"):
                bus.connect(5.0)
        squatter.kill()
        assert squatter.stdout.read() == ""
