"""Whose a connection within this computer is, by the kernel's own table."""

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from em_platform.storage import owners
from em_platform.storage.owners import owner_of_client, owners_of_server


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


def test_without_sock_diag_the_list_of_all_connections_says_it(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object) -> None:
        raise OSError(errno.EPROTONOSUPPORT, "the kernel is without it")

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
