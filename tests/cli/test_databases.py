"""Damaged databases are named before anything starts, each with what is to be done."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from em_platform.acquisition.buffer.journal import Journal as BufferJournal
from em_platform.acquisition.pipeline.journal import Journal as PipelineJournal
from em_platform.acquisition.recorder import ledger_of
from em_platform.acquisition.recorder import run as run_recorder
from em_platform.aloha.journal import Journal as AlohaJournal
from em_platform.cli.console_output import ConsoleOutput
from em_platform.cli.databases import refuse_damaged_databases
from em_platform.cli.live import live_microscope, microscope_processes
from em_platform.cli.platform import running_platform
from em_platform.config import BrokerSettings, Settings
from em_platform.errors import StorageError
from em_platform.processes.single_instance import claim_home
from em_platform.temdb.app import run as run_temdb
from em_platform.temdb.database import database_url, migrate

NAMES = ("recorder", "temdb", "pipeline", "buffer", "aloha")


@pytest.fixture
def settings(home: Path, free_port: Callable[[], int]) -> Settings:
    """With all five databases, made as their services make them."""
    settings = Settings(home=home, broker=BrokerSettings(port=free_port()))
    claim_home(settings)
    ledger_of(settings).close()
    migrate(database_url(settings))
    for name, journal in (
        ("pipeline", PipelineJournal),
        ("buffer", BufferJournal),
        ("aloha", AlohaJournal),
    ):
        journal(home / name / "journal.sqlite").close()
    return settings


def file_of(home: Path, name: str) -> Path:
    alone = home / f"{name}.sqlite"
    return alone if alone.exists() else home / name / "journal.sqlite"


def damage(home: Path, *names: str) -> None:
    """Write over a page in the middle, as a failing disk does; the head stays."""
    for name in names:
        path = file_of(home, name)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        content = bytearray(path.read_bytes())
        content[4096 : 2 * 4096] = b"\xa5" * 4096
        path.write_bytes(content)


def test_whole_ones_and_none_at_all_are_no_trouble(
    settings: Settings, tmp_path: Path
) -> None:
    refuse_damaged_databases(settings, microscope=True)
    refuse_damaged_databases(Settings(home=tmp_path / "new"), microscope=True)
    assert not (tmp_path / "new").exists()
    elsewhere = {"recorder_url": "postgresql://me@127.0.0.1/nowhere"}
    acquisition = settings.acquisition.model_copy(update=elsewhere)
    away = settings.model_copy(update={"acquisition": acquisition})
    refuse_damaged_databases(away, microscope=False)


def test_each_damaged_database_is_named_before_anything_starts(
    settings: Settings,
) -> None:
    """round3 1.3.4: of five damaged files only TEM DB's was named, after 30 s."""
    damage(settings.home, *NAMES)
    before = {name: file_of(settings.home, name).read_bytes() for name in NAMES}
    starts = (
        lambda: microscope_processes(settings),
        lambda: live_microscope(settings, ConsoleOutput()),
    )
    for start in starts:
        with pytest.raises(StorageError) as caught, start():
            pass
        sentence = str(caught.value)
        assert sentence.startswith("found 5 damaged databases: (1) recorder: its")
        for name in NAMES:
            assert f"{name}: its database {file_of(settings.home, name)} is" in sentence
        assert sentence.count("put a backup in its place, or move it away") == 5
        assert "start the database" not in sentence
    assert before == {n: file_of(settings.home, n).read_bytes() for n in NAMES}


def test_up_names_the_recorders_alone(settings: Settings) -> None:
    """round3 1.3.4: with recorder and aloha damaged everything was ready."""
    damage(settings.home, "recorder", "aloha")
    with pytest.raises(StorageError, match=r"^recorder: its database"):
        running_platform(settings).__enter__()
    with pytest.raises(StorageError, match=r"found 2 damaged .* recorder: .* aloha: "):
        refuse_damaged_databases(settings, microscope=True)


@pytest.mark.parametrize("name", NAMES)
def test_each_service_looks_at_its_own(settings: Settings, name: str) -> None:
    damage(settings.home, name)
    journals = {"pipeline": PipelineJournal, "buffer": BufferJournal}
    journals |= {"aloha": AlohaJournal}
    with pytest.raises(StorageError, match=rf"^{name}: its database .* is damaged"):
        if name == "recorder":
            run_recorder(settings, reconcile_s=30.0)
        elif name == "temdb":
            run_temdb(settings)
        else:
            journals[name](file_of(settings.home, name))


def test_a_locked_database_is_not_damaged(settings: Settings) -> None:
    with closing(sqlite3.connect(file_of(settings.home, "buffer"))) as other:
        other.execute("BEGIN EXCLUSIVE")
        refuse_damaged_databases(settings, microscope=True)
