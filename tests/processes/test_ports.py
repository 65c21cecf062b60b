import socket

from em_platform.processes import free_port, listens


def test_a_port_that_is_taken_is_replaced_by_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        assert listens("127.0.0.1", taken)
        found = free_port("127.0.0.1", taken)
        assert found != taken
        assert not listens("127.0.0.1", found)


def test_a_free_port_is_kept() -> None:
    wanted = free_port("127.0.0.1")
    assert free_port("127.0.0.1", wanted) == wanted
