"""Secrets of services: one line in a file of the home that only its owner may read."""

import os
import secrets
from pathlib import Path

from em_platform.errors import ConfigError


def token_of(home: Path, name: str, given: str) -> str:
    """The secret of the service `name`: as given, else one that is kept in `home`.

    A new one is made once, in a file that only its owner may read.

    Raises
    ------
    ConfigError
        The file cannot be read, or holds no token.
    """
    return given or token_in(Path(home).absolute() / "tokens" / name)


def token_in(path: Path) -> str:
    """The secret that a file holds, which is made where there is none.

    Raises
    ------
    ConfigError
        It cannot be read, or holds no token: an empty one would let everyone in.
    """
    token = read_token(path)
    if token is None:
        _make_token(path)
        token = read_token(path)
    if token is None:
        raise ConfigError(
            f"{path.name}: the token file {path} vanished as it was made; see who "
            "deletes it, and start again"
        )
    return token


def read_token(path: Path) -> str | None:
    """The secret that a file holds; None where there is no such file.

    Raises
    ------
    ConfigError
        It cannot be read, or holds no token.
    """
    name = path.name
    try:
        token = path.read_bytes().decode("utf-8", errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(
            f"{name}: the token file {path} cannot be read ({error.strerror}), one "
            "of this account was expected; start as the account that made it, or "
            "copy it there with mode 600"
        ) from error
    # A power cut may also leave as many NULs as there were letters.
    if not token or not token.isprintable() or "\N{REPLACEMENT CHARACTER}" in token:
        raise ConfigError(
            f"{name}: the token file {path} is empty or damaged, expected one line of "
            "text; delete it, and the next start makes a new one"
        )
    return token


def _make_token(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Not the process's number: in containers that share the home it is the same.
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(fresh, "x", opener=lambda p, f: os.open(p, f, 0o600)) as file:
            # 192 bits; no dash in front, which a command would take for an option.
            file.write(secrets.token_hex(24))
            file.flush()
            # Before the link: a power cut must not leave the name without the token.
            os.fsync(file.fileno())
        os.link(fresh, path)  # the first one wins, whole
    except FileExistsError:
        pass
    finally:
        fresh.unlink(missing_ok=True)
