"""The broker's login: a token by default, which only its own account can read."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from em_platform.config import BrokerSettings, load_settings
from em_platform.errors import BrokerUnavailable, ConfigError
from em_platform.messaging import login
from em_platform.messaging.broker import Broker
from em_platform.messaging.bus import Bus
from em_platform.messaging.login import login_of

Connect = Callable[[Broker], Any]


def loaded(**overrides: str) -> BrokerSettings:
    given = {f"broker.{name}": text for name, text in overrides.items()}
    return load_settings(overrides=given).broker


def test_by_default_a_stranger_is_refused_and_an_own_program_is_not(
    home: Path, connect: Connect, free_port: Callable[[], int]
) -> None:
    settings = loaded(port=str(free_port()))
    with Broker(settings) as broker:
        stranger = connect(broker)
        stranger.send("CONNECT", **{"accept-version": "1.2"})
        command, headers, _ = stranger.read()
        assert (command, "passcode is wrong" in headers["message"]) == ("ERROR", True)
        with Bus(settings, "own") as bus:
            bus.connect(5.0)
    mode = stat.S_IMODE((home / "tokens" / "broker").stat().st_mode)
    assert mode == 0o600


def test_the_token_stays_when_the_broker_starts_again(
    home: Path, free_port: Callable[[], int]
) -> None:
    settings = loaded(port=str(free_port()))
    assert login_of(settings) == ("", "")  # no client makes a token
    with Broker(settings):
        first = login_of(settings)
    with Broker(settings):
        assert login_of(settings) == first


def test_another_computer_names_the_file_that_was_copied(
    home: Path, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    settings = loaded(port=str(free_port()))
    with Broker(settings) as broker:
        copy = tmp_path / "from-the-microscope"
        copy.write_bytes((home / "tokens" / "broker").read_bytes())
        there = {"embedded": "false", "port": str(broker.port)}
        with Bus(loaded(**there, token_file=str(copy)), "there") as bus:
            bus.connect(5.0)
        without = Bus(loaded(**there), "without")
        with without as bus, pytest.raises(BrokerUnavailable, match="token_file"):
            bus.connect(5.0)


def test_another_home_gets_the_reason_and_the_cure(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free_port: Callable[[], int],
) -> None:
    settings = loaded(port=str(free_port()))
    with Broker(settings):
        monkeypatch.setenv("EM_HOME", str(tmp_path / "other"))
        other = loaded(port=str(settings.port))
        with Bus(other, "one") as bus:
            with pytest.raises(BrokerUnavailable, match=r"wrong.*\(EM_HOME\)"):
                bus.connect(5.0)


@pytest.mark.parametrize(
    "own", [{"username": "scope", "password": "s"}, {"embedded": "false"}]
)
def test_a_broker_of_others_is_shown_no_token(home: Path, own: dict[str, str]) -> None:
    with Broker(loaded(port="0")):
        pass
    settings = loaded(**own)
    assert settings.token_file == ""
    assert login_of(settings) == (own.get("username", ""), own.get("password", ""))


def test_other_computers_are_served_with_the_token(home: Path) -> None:
    with Broker(loaded(host="0.0.0.0", port="0")) as broker:
        with Bus(loaded(port=str(broker.port)), "one") as bus:
            bus.connect(5.0)


def test_the_token_is_not_shown_to_another_accounts_program(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Broker(loaded(port="0")) as broker:
        settings = loaded(port=str(broker.port))
        # Another account cannot be had everywhere; see tests/system/test_two_users.py.
        monkeypatch.setattr(login, "owners_of_server", lambda *_: {4711})
        with Bus(settings, "one") as bus:
            with pytest.raises(BrokerUnavailable, match="account number 4711 listens"):
                bus.connect(5.0)
        assert broker.statistics().refused == 0  # it was not even asked


def test_a_damaged_token_file_stops_broker_and_client(home: Path) -> None:
    file = home / "tokens" / "broker"
    file.parent.mkdir()
    file.write_bytes(b"\0" * 32)
    with pytest.raises(ConfigError, match="is empty or damaged"):
        Broker(loaded(port="0"))
    with Bus(loaded(), "one") as bus:
        with pytest.raises(BrokerUnavailable, match="is empty or damaged"):
            bus.connect(5.0)
