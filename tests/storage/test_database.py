import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from em_platform.errors import ConfigError
from em_platform.storage.database import engine_of, one_writer, shown


@pytest.mark.parametrize("url", ["mysql://x", "oracle://somewhere", "no url at all"])
def test_a_url_of_no_database_is_one_sentence(url: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{url}' is no URL .* correct temdb\.x"):
        engine_of(url, setting="temdb.x")


def test_a_password_is_not_shown() -> None:
    assert "secret" not in shown("postgresql://me:secret@host/name")
    with pytest.raises(ConfigError) as refused:
        engine_of("mysql://me:secret@host/name", setting="temdb.x")
    assert "secret" not in str(refused.value)


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    engine = engine_of(f"sqlite:///{tmp_path / 'new' / 'file'}", setting="temdb.x")
    with one_writer(engine, lock=1) as connection:
        connection.execute(text("CREATE TABLE counts (n INTEGER)"))
        connection.execute(text("INSERT INTO counts VALUES (0)"))

    def count() -> None:
        for _ in range(20):
            with one_writer(engine, lock=1) as connection:
                n = connection.execute(text("SELECT n FROM counts")).scalar_one()
                connection.execute(text("UPDATE counts SET n = :n"), {"n": n + 1})

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT n FROM counts")).scalar_one() == 80
    engine.dispose()


def test_a_new_file_is_opened_by_several_at_once(tmp_path: Path) -> None:
    """Without a retry about one round in eight met "database is locked"."""
    for attempt in range(40):
        url = f"sqlite:///{tmp_path / str(attempt)}"
        together = threading.Barrier(6)
        opened: list[int] = []

        def connect(url: str, together: threading.Barrier, opened: list[int]) -> None:
            engine = engine_of(url, setting="temdb.x")
            together.wait()
            with engine.connect() as connection:
                opened.append(connection.execute(text("SELECT 1")).scalar_one())
            engine.dispose()

        threads = [
            threading.Thread(target=connect, args=(url, together, opened))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert opened == [1] * 6
