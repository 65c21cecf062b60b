"""TEM DB as a real process, on SQLite and on a PostgreSQL server of the test's own."""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from temdb.client import TEMdbClient, TEMdbClientError
from temdb.models import AcquisitionUpdate

from em_platform.errors import SourceRefused
from em_platform.model import AcquisitionUpload, UploadedTile, UsedInstrument
from em_platform.temdb.database import engine_of, migrate
from em_platform.temdb.register import Register
from em_platform.temdb.tables import Base
from tests.ports import reserve_port
from tests.postgres import serving_postgres
from tests.rig import fork_server
from tests.uploads import new_match, new_tile, new_upload

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
TOKEN = "secret-of-the-tests"


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """URL of an empty server."""
    with serving_postgres() as (url, _):
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'temdb.sqlite'}"
    url: str = request.getfixturevalue("postgres")
    engine = engine_of(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    engine.dispose()
    return url


@pytest.fixture
def service(database: str, tmp_path: Path) -> Iterator[str]:
    """Base URL of `em-platform service temdb` on that database."""
    port = reserve_port()
    environment = {
        **os.environ,
        "EM_HOME": str(tmp_path / "home"),
        "EM_TEMDB__PORT": str(port),
        "EM_TEMDB__DATABASE": database,
        "EM_TEMDB__TOKEN": TOKEN,
    }
    read, written = os.pipe()
    with (tmp_path / "temdb.log").open("wb") as errors:
        process = fork_server().start(
            "temdb",
            (sys.executable, "-m", "em_platform", "service", "temdb"),
            imports=("em_platform.cli.processes", "em_platform.temdb.app"),
            environment=environment,
            output=written,
            errors=errors.fileno(),
        )
    os.close(written)
    with open(read) as output:
        line = output.readline()
        assert line == "ready temdb\n", (tmp_path / "temdb.log").read_text()
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def montage(name: str = "m-1-t1") -> AcquisitionUpload:
    used = UsedInstrument(magnification=2000)
    return new_upload(name, specimen_id="mouse-1", instrument=used)


def tile(index: int) -> UploadedTile:
    return new_tile(
        index,
        row=index // 40,
        column=index % 40,
        focus=0.5 if index == 77 else 0.9,
        matches=(new_match(column=index - 1),),
    )


def test_an_empty_database_gets_the_tables_of_the_models(database: str) -> None:
    errors: list[Exception] = []

    def bring_up() -> None:
        try:
            migrate(database)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=bring_up) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    engine = engine_of(database)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": "temdb_version"}
        )
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_a_montage_is_registered_listed_and_judged(service: str) -> None:
    register = Register(service, TOKEN)
    for _ in range(2):
        register.ensure_acquisition(montage())
        register.put_tiles("m-1-t1", [tile(n) for n in range(1500)])
        register.finish("m-1-t1", status="complete")
        register.set_transfer("m-1-t1", "complete")
    known = register.run_of("m-1-t1")
    assert known is not None
    assert (known.tile_count, known.status) == (1500, "complete")
    assert register.supersede("m-1-t1") == "m-1-r2"
    assert dict(register.task_counts()) == {"pending": 1}

    async def act() -> list[Any]:
        async with TEMdbClient(service, api_key=TOKEN) as client:
            tiles = await client.acquisition.get_all_tiles("m-1-t1", page_limit=400)
            first = await client.acquisition.list(magnification=2000, limit=1)
            assert first.acquisitions[0].acquisition_id == "m-1-t1"
            low = {"param_tile_focus_lt": 0.6, "param_tile_match_quality_lt": 4}
            page = await client.acquisition.list(**low)
            assert page.metadata["total_count"] == 1
            again = AcquisitionUpdate(status="failed")
            with pytest.raises(TEMdbClientError, match="409"):
                await client.acquisition.update("m-1-t1", again)
            full = await client.acquisition.get_with_full_metadata("m-1-t1")
            assert full.section["section_id"] == "mouse-1-media_S1"
            return tiles

    tiles = asyncio.run(act())
    assert [each.raster_index for each in tiles] == list(range(1500))
    url = f"{service}/api/v2/qc/m-1-t1"
    headers = {"X-API-Key": TOKEN}
    low = requests.get(
        f"{url}/low-quality-tiles?focus_lt=0.6&std_lt=0", headers=headers, timeout=60
    )
    assert [each["raster_index"] for each in low.json()] == [77]
    shown = requests.get(f"{url}/heatmap/focus_score", headers=headers, timeout=60)
    assert len(shown.json()) == 38
    assert shown.json()[37][-1] is None  # 1500 tiles do not fill 38 rows of 40
    assert shown.json()[1][37] == pytest.approx(0.5)


def test_of_many_that_end_a_run_one_wins(service: str) -> None:
    Register(service, TOKEN).ensure_acquisition(montage())
    answers: list[str] = []

    def end(status: str) -> None:
        try:
            Register(service, TOKEN).finish("m-1-t1", status=status)  # type: ignore[arg-type]
        except SourceRefused as error:
            answers.append(str(error))
        else:
            answers.append(status)

    states = ("complete", "aborted", "failed") * 2
    threads = [threading.Thread(target=end, args=(state,)) for state in states]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = {answer for answer in answers if answer in states}
    assert len(won) == 1
    assert sum("written once" in answer for answer in answers) == 4


def test_a_wrong_token_is_refused_by_the_real_service(service: str) -> None:
    with pytest.raises(SourceRefused, match="refused our token"):
        Register(service, "guess").ensure_acquisition(montage())
    assert requests.get(f"{service}/health", timeout=60).json() == {"status": "ok"}


def test_what_is_registered_lies_in_the_database(database: str, service: str) -> None:
    Register(service, TOKEN).ensure_acquisition(montage())
    engine = engine_of(database)
    with engine.connect() as connection:
        count = connection.scalar(sa.text("SELECT count(*) FROM acquisitions"))
        version = connection.scalar(sa.text("SELECT version_num FROM temdb_version"))
    engine.dispose()
    assert (count, version) == (1, "0002")
