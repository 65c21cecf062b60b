"""The broker's login: as the settings say, else the token that the broker made."""

import os
from pathlib import Path

from em_platform.config import BrokerSettings
from em_platform.errors import ConfigError
from em_platform.storage.owners import owners_of_server
from em_platform.storage.tokens import read_token, token_in

USERNAME = "em-platform"
"""The user whose password is the token."""


def login_of(settings: BrokerSettings) -> tuple[str, str]:
    """User and password that a client shows; both empty where it has none.

    Raises
    ------
    ConfigError
        The token file cannot be read, or holds none.
    """
    # The broker makes it: one that a client made would be another than the broker's.
    if settings.token_file and not settings.username:
        token = read_token(Path(settings.token_file))
        return (USERNAME, token) if token else ("", "")
    return settings.username, settings.password.get_secret_value()


def login_asked_for(settings: BrokerSettings) -> tuple[str, str]:
    """As `login_of`, for the broker itself, which makes the token where none is.

    Raises
    ------
    ConfigError
        As `login_of`.
    """
    if settings.token_file and not settings.username:
        token_in(Path(settings.token_file))
    return login_of(settings)


def refuse_stranger(settings: BrokerSettings) -> None:
    """Show the token to no program that another account put at the broker's port.

    Raises
    ------
    ConfigError
        It listens there, on this computer.
    """
    file = Path(settings.token_file)
    # What is named as one of others may be another account's, or in a container.
    if not settings.embedded or settings.username or not os.access(file, os.R_OK):
        return
    owner = file.stat().st_uid
    others = owners_of_server(settings.host, settings.port) - {owner}
    if others:
        raise ConfigError(
            f"bus: {settings.host}:{settings.port}: account number {min(others)} "
            f"listens there, the broker of account {owner} was expected, who owns "
            f"{file}; set broker.port to a free one, or end what listens there"
        )
