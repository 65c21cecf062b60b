"""Migrations, and what the tables themselves refuse."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from em_platform.errors import ConfigError, StorageError
from em_platform.temdb.columns import Base, uuid7
from em_platform.temdb.database import (
    Database,
    alembic_config,
    engine_of,
    migrate,
)


def test_an_empty_file_is_brought_to_the_present_tables(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'temdb.sqlite'}"
    migrate(url)
    migrate(url)
    engine = engine_of(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": "temdb_version"}
        )
        assert compare_metadata(context, Base.metadata) == []
        inspector = sa.inspect(connection)
        for table in Base.metadata.tables.values():
            rules = {
                str(rule.name)
                for rule in table.constraints
                if isinstance(rule, sa.CheckConstraint)
            }
            found = inspector.get_check_constraints(table.name)
            assert {rule["name"] for rule in found} == rules
    engine.dispose()


def test_every_migration_can_be_taken_back(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'temdb.sqlite'}"
    migrate(url)
    engine = engine_of(url)
    with engine.execution_options(em_writer=True).begin() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    with engine.connect() as connection:
        assert sa.inspect(connection).get_table_names() == ["temdb_version"]
    engine.dispose()


@pytest.mark.parametrize("dialect", ["sqlite://", "postgresql+psycopg://"])
def test_the_statements_can_be_written_without_a_database(
    dialect: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = alembic_config()
    config.set_main_option("sqlalchemy.url", dialect)
    command.upgrade(config, "head", sql=True)
    written = capsys.readouterr().out
    assert written.count("CREATE TABLE") == len(Base.metadata.tables) + 1
    assert ("JSONB" in written) == dialect.startswith("postgresql")


def test_a_run_with_an_end_and_no_status_is_refused_by_the_table(
    database: Database,
) -> None:
    rule = sa.text(
        "SELECT sql FROM sqlite_master WHERE name = 'acquisitions' AND type = 'table'"
    )
    with database.reading() as session:
        assert "(status IS NULL) = (end_time IS NULL)" in session.scalar(rule)
    with pytest.raises(sa.exc.IntegrityError), database.writing() as session:
        session.execute(sa.text("PRAGMA defer_foreign_keys = ON"))
        session.execute(
            sa.text(
                "INSERT INTO acquisitions (acquisition_id, run_id, montage_id, "
                "acquisition_task_id, microscope_id, kind, hardware_settings, "
                "acquisition_settings, qc_state, transfer_state, start_time, "
                "created_at, status) VALUES ('a', 'r', 'm', 't', 's', 'montage', "
                "'{}', '{}', 'pending', 'not_started', '2026-01-01', '2026-01-01', "
                "'complete')"
            )
        )


def test_a_url_of_no_database_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"correct temdb\.database"):
        engine_of("oracle://somewhere")
    with pytest.raises(ConfigError, match=r"correct temdb\.database"):
        engine_of("no url at all")


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "temdb.sqlite"
    folder.mkdir()
    with pytest.raises(StorageError, match="could not be brought up to date"):
        migrate(f"sqlite:///{folder}")


def test_new_keys_grow_and_never_meet() -> None:
    keys = [uuid7() for _ in range(5000)]
    assert keys == sorted(set(keys))
    assert {key.version for key in keys} == {7}
    assert {key.variant for key in keys} == {"specified in RFC 4122"}
