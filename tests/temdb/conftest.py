"""A TEM DB on SQLite that listens on a real port, and the published client to it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from temdb.client import TEMdbClient

from em_platform.temdb.app import create_app
from em_platform.temdb.database import Database, migrate
from em_platform.temdb.register import Register
from tests.temdb import entries

TOKEN = "secret-of-the-tests"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """An empty one, up to date."""
    url = f"sqlite:///{tmp_path / 'temdb.sqlite'}"
    migrate(url)
    database = Database(url)
    yield database
    database.close()


@pytest.fixture
def server(
    database: Database, served: Callable[..., AbstractContextManager[str]]
) -> Iterator[str]:
    """The base URL of a server on that database."""
    with served(create_app(database, TOKEN)) as address:
        yield address


@pytest.fixture
def register(server: str) -> Register:
    """Ours, with the right token."""
    return Register(server, TOKEN)


@pytest.fixture(scope="session")
def lab() -> ModuleType:
    """`entries.py`, whose names are those of the tests' own variables."""
    return entries


Act = Callable[[TEMdbClient], Awaitable[Any]]


@pytest.fixture
def call(server: str) -> Callable[[Act], Any]:
    """Run a coroutine on the published client."""

    def run(act: Act) -> Any:
        async def inner() -> Any:
            async with TEMdbClient(server, api_key=TOKEN) as client:
                return await act(client)

        return asyncio.run(inner())

    return run
