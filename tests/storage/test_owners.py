"""Whose a connection within this computer is, by the kernel's own table."""

import errno
import json
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from em_platform.storage import owners
from em_platform.storage.owners import owner_of_client, owners_of_server
from tests.second_user import NOBODY, as_another_user, skip_without_root


@pytest.fixture(params=["127.0.0.1", "::1"])
def host(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(host: str) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        yield listener


def test_the_owner_of_a_connection_is_known_while_it_lasts(
    server: socket.socket, host: str
) -> None:
    here = server.getsockname()[:2]
    with socket.create_connection(here) as client:
        there = client.getsockname()[:2]
        assert owner_of_client(there, here) == os.geteuid()
        # What listens is no client, and the server's end is not the client's.
        assert owner_of_client(here, here) is None
    # Closed by the client, it belongs to nobody: the table shows root.
    assert owner_of_client(there, here) is None


# Each asks from the port of this account's connection, where it can have it.
ASK_WHOSE = """
found = []
for host in given["from"]:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            client.bind((host, given["port"]))
        except OSError:
            client.bind((host, 0))
        client.connect(tuple(given["server"]))
        found.append(json.loads(client.recv(20)))
"""


def test_beside_our_connection_that_of_another_account_is_theirs(
    server: socket.socket, host: str
) -> None:
    """round3 4.1: also from the same port of another address of this computer."""
    skip_without_root()  # before a thread waits for the other account
    here = server.getsockname()[:2]
    addresses = [host] if ":" in host else [host, "127.0.0.2"]

    def answer() -> None:
        for _ in addresses:
            connection, there = server.accept()
            with connection:
                owned_by = {owner_of_client(there[:2], here)}
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(owners, "_ask", absent)
                    owned_by.add(owner_of_client(there[:2], here))
                connection.sendall(json.dumps([*owned_by]).encode())

    with socket.create_connection(here) as own, server.accept()[0]:
        port = own.getsockname()[1]
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        named = {"from": addresses, "port": port, "server": here}
        found = as_another_user(ASK_WHOSE, **named)
        thread.join()
        assert owner_of_client((host, port), here) == os.geteuid()
    assert found == [[NOBODY]] * len(addresses)


def absent(*_: object) -> None:
    raise OSError(errno.EPROTONOSUPPORT, "the kernel is without it")


def test_without_sock_diag_the_list_of_all_connections_says_it(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners, "_ask", absent)
    here = server.getsockname()[:2]
    with socket.create_connection(here) as client:
        there = client.getsockname()[:2]
        assert owner_of_client(there, here) == os.geteuid()
    assert owner_of_client(there, here) is None


def test_the_owner_of_a_server_is_known(server: socket.socket, host: str) -> None:
    port = server.getsockname()[1]
    assert owners_of_server(host, port) == {os.geteuid()}
    server.close()
    assert owners_of_server(host, port) == set()


def test_a_server_at_all_addresses_is_found_at_loopback() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        assert owners_of_server("localhost", port) == {os.geteuid()}


@pytest.mark.parametrize("client", ["10.0.0.7", "example.org", ""])
def test_nothing_is_known_of_other_computers(client: str) -> None:
    assert owner_of_client((client, 4000), ("127.0.0.1", 3000)) is None
    assert owners_of_server(client, 3000) == set()
