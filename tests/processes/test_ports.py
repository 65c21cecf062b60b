import socket
import stat
from pathlib import Path

import pytest

from em_platform.errors import ConfigError
from em_platform.processes import free_port, listens
from em_platform.processes.ports import listens_at, private_socket


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


def test_a_private_socket_stays_where_it_is_and_is_reached_by_one_account(
    tmp_path: Path,
) -> None:
    path = private_socket(tmp_path, "code")
    assert private_socket(tmp_path, "code") == path
    assert not listens_at(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert listens_at(path)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_long_path_is_replaced_by_a_short_one_of_this_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    long = tmp_path / ("long" * 20)
    path = private_socket(long, "code")
    try:
        assert len(str(path)) < 100
        assert private_socket(long, "code") == path != private_socket(tmp_path, "code")
        monkeypatch.setattr("os.geteuid", lambda: 4711)
        with pytest.raises(ConfigError, match="a folder of account 4711 was expected"):
            private_socket(long, "code")
    finally:
        path.parent.rmdir()
