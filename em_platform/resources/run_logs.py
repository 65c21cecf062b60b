"""Dagster's history in SQLite, in which the step logs of ended runs are packed.

Dagster keeps one SQLite file a run: 200 kB, half of it empty tables. Packed it is a
tenth of that. What a run made, what its checks said and its state stand in
`index.db` too, which is never packed. See decision 31.
"""

import lzma
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from dagster import Field, StringSource
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, text

from em_platform.errors import ConfigError
from em_platform.storage.atomic import write_bytes

_INDEX = "index"


# Dagster does not promise to keep this class (decision 31);
# tests/orchestration/test_run_logs.py notices.
class PackedRunLogs(SqliteEventLogStorage):
    """Dagster's own storage; whoever asks for a packed log has it unpacked first."""

    @classmethod
    def config_type(cls) -> Any:
        """`base_dir`: where the files lie; relative paths begin at DAGSTER_HOME."""
        return {"base_dir": Field(StringSource)}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Any
    ) -> Self:
        """The storage that dagster.yaml describes."""
        folder = Path(os.path.expanduser(config_value["base_dir"]))
        if not folder.is_absolute():
            home = os.environ.get("DAGSTER_HOME")
            if not home:
                raise ConfigError(
                    f"history: {folder} is no absolute path, and DAGSTER_HOME is not "
                    "set; set it to the folder of dagster.yaml"
                )
            folder = home / folder
        return cls(str(folder), inst_data)

    def unpacked(self, *, quiet_s: float) -> list[str]:
        """Ids of the runs whose logs are not packed, nor were used for `quiet_s`."""
        before, found = time.time() - quiet_s, []
        for path in Path(self._base_dir).glob("*.db"):
            # Without a name: the events that belong to no run.
            if path.stem not in (_INDEX, "", ".db"):
                with suppress(FileNotFoundError):  # unpacked or deleted meanwhile
                    if path.stat().st_mtime < before:
                        found.append(path.stem)
        return sorted(found)

    def pack(self, run_id: str) -> bool:
        """Pack the log of a run that has ended; False where a process has it open."""
        path = Path(self.path_for_shard(run_id))
        try:
            with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as log:
                # Refused while it is open elsewhere: what is written there would go.
                log.execute("PRAGMA journal_mode=DELETE").fetchall()
                log.execute("BEGIN EXCLUSIVE")
                self._folder.mkdir(exist_ok=True)
                write_bytes(self._packed(run_id), lzma.compress(log.serialize()))
                path.unlink()
        except sqlite3.OperationalError:
            return False
        return True

    def forget(self, run_id: str) -> None:
        """Delete the step log of a run; what it made stays in the index."""
        Path(self.path_for_shard(run_id)).unlink(missing_ok=True)
        self._packed(run_id).unlink(missing_ok=True)

    def packed(self, *, before: float) -> list[str]:
        """Ids of the runs whose logs were packed before that time (since 1970)."""
        found = self._folder.glob("*.db.xz")
        return sorted(
            path.name.removesuffix(".db.xz")
            for path in found
            if path.stat().st_mtime < before
        )

    def get_all_run_ids(self) -> Sequence[str]:
        """The packed ones too, so that `dagster instance migrate` finds all."""
        return sorted({*super().get_all_run_ids(), *self.packed(before=float("inf"))})

    def wipe(self) -> None:
        """Delete the whole history."""
        for run_id in self.packed(before=float("inf")):
            self.forget(run_id)
        super().wipe()

    @property
    def _folder(self) -> Path:
        return Path(self._base_dir) / "packed"

    def _packed(self, run_id: str) -> Path:
        return self._folder / f"{run_id}.db.xz"

    def _initdb(self, engine: Engine, for_index_shard: bool = False) -> None:
        # Events have 1 to 3 kB: of pages of 4 kB a third would stay empty. A run's own
        # file is mostly empty tables, of a page each.
        size = 16384 if (engine.url.database or "").endswith(f"/{_INDEX}.db") else 1024
        with engine.connect() as connection:
            # Without effect where the file has content.
            connection.execution_options(isolation_level="AUTOCOMMIT")
            if not connection.execute(text("PRAGMA page_count")).scalar():
                connection.execute(text(f"PRAGMA page_size={size}"))
                connection.execute(text("VACUUM"))
        super()._initdb(engine, for_index_shard)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        if shard != _INDEX and not os.path.exists(self.path_for_shard(shard)):
            self._unpack(shard)
        with super()._connect(shard) as connection:
            yield connection

    def _unpack(self, run_id: str) -> None:
        packed, path = self._packed(run_id), Path(self.path_for_shard(run_id))
        try:
            content = lzma.decompress(packed.read_bytes())
        except FileNotFoundError:  # a new run, or unpacked by another process
            return
        beside = self._folder / f".{run_id}.{os.getpid()}.{time.monotonic_ns()}"
        beside.write_bytes(content)
        # A link, not a rename: that could replace what another process has unpacked
        # and written to.
        with suppress(FileExistsError):
            os.link(beside, path)
        beside.unlink()
        packed.unlink(missing_ok=True)
