"""Dagster's history in SQLite, in which the step logs of ended runs are packed.

Dagster keeps one SQLite file a run: 200 kB, half of it empty tables. Packed it is a
tenth of that. What a run made, what its checks found and its state stand in
`index.db` too, which is never packed. See decision 31.
"""

import lzma
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from dagster import (
    AssetCheckKey,
    AssetKey,
    DagsterEventType,
    Field,
    PartitionsDefinition,
    StringSource,
)
from dagster._core.events import ASSET_CHECK_EVENTS
from dagster._core.storage.asset_check_state import AssetCheckState
from dagster._core.storage.event_log import (
    DynamicPartitionsTable,
    SqliteEventLogStorage,
)
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules import SqliteScheduleStorage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import ColumnElement, Connection, Engine, and_, func, select, text

from em_platform.resources.check_states import CheckStates
from em_platform.storage.atomic import write_bytes

events = SqlEventLogStorageTable.c
_INDEX = "index"
# A partition that is deleted counts so much longer.
_FRESH_S = 5.0
# Whether no later run asked the same check of the same partition.
_LAST_WORD = """SELECT EXISTS (
    SELECT 1 FROM asset_check_executions a WHERE a.run_id = :run AND NOT EXISTS (
        SELECT 1 FROM asset_check_executions b WHERE b.asset_key = a.asset_key
        AND b.check_name = a.check_name AND b.partition IS a.partition AND b.id > a.id
    )
)"""


_MOST_ENGINES = 20
"""An engine with its statements has a megabyte, and each run has one of its own."""


def _keep_engines(module: Any) -> None:
    """Let a module of Dagster make an engine once for each file.

    It makes one for each connection. What SQLAlchemy has compiled stays with an engine,
    so each query was compiled anew, which took longer than all else. They hold no
    connection, so that threads and forks can share them.
    """
    make, kept = module.create_engine, dict[str, Engine]()

    def engine_of(url: str, **options: Any) -> Engine:
        if len(kept) >= _MOST_ENGINES:
            kept.clear()
        name = f"{url} {options}"
        return kept.get(name) or kept.setdefault(name, make(url, **options))

    module.create_engine = engine_of


_QUESTIONS: Mapping[type, Sequence[str]] = {
    SqliteScheduleStorage: (
        *("has_instigators_table", "_has_instigators_table"),
        *("has_secondary_index_table", "has_built_index"),
    ),
    SqliteRunStorage: ("has_run_stats_index_cols", "has_built_index"),
    SqliteEventLogStorage: (
        *("has_table", "has_secondary_index"),
        "_has_asset_key_col_on_connection",
    ),
}


def _ask_once(kind: type, question: str) -> None:
    """Let a storage remember that its file has a table, a column or an index.

    Dagster asks before most queries, as a file may be of an older version: half of what
    its daemon does while nothing happens. What is there stays; "no" is asked again.
    """
    ask = getattr(kind, question)

    def answer(storage: Any, *given: Any) -> bool:
        # A connection is no part of the question.
        key = (question, *(each for each in given if isinstance(each, str)))
        known: set[Any] = storage.__dict__.setdefault("_found_in_file", set())
        if key not in known and ask(storage, *given):
            known.add(key)
        return key in known

    setattr(kind, question, answer)


# Here, as each process that opens the history loads this module.
for _module in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
    _keep_engines(_module)
for _kind, _questions in _QUESTIONS.items():
    for _question in _questions:
        _ask_once(_kind, _question)


# Dagster does not promise to keep this class (decision 31);
# tests/orchestration/test_run_logs.py notices.
class PackedRunLogs(SqliteEventLogStorage):
    """Dagster's own storage; whoever asks for a packed log has it unpacked first.

    It also answers the pages of checks for 10,000 montages in seconds.
    """

    def __init__(
        self, base_dir: str, inst_data: ConfigurableClassData | None = None
    ) -> None:
        self._known: set[tuple[str, str]] = set()
        self._known_at = float("-inf")
        self._states = CheckStates(Path(base_dir) / "checks")
        super().__init__(base_dir, inst_data)

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
            # Without it Dagster's own commands keep nothing: a folder beside the home.
            home = os.environ.get("DAGSTER_HOME") or ".em_platform/without_dagster_home"
            folder = Path(home).absolute() / folder
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

    def delete_events(self, run_id: str) -> None:
        """Delete what a run wrote, with what its checks found, which Dagster leaves."""
        super().delete_events(run_id)
        found = AssetCheckExecutionsTable
        with self.index_connection() as index:
            counted = index.execute(text(_LAST_WORD), {"run": run_id}).scalar()
            index.execute(found.delete().where(found.c.run_id == run_id))
        if counted:
            self._states.forget()

    def packed(self, *, before: float) -> list[str]:
        """Ids of the runs whose logs were packed before that time (since 1970)."""
        found = self._folder.glob("*.db.xz")
        return sorted(
            path.name.removesuffix(".db.xz")
            for path in found
            if path.stat().st_mtime < before
        )

    def has_dynamic_partition(
        self, partitions_def_name: str, partition_key: str
    ) -> bool:
        """Whether there is such a partition.

        The page of a check asks it of each; Dagster opens the file twice for an answer,
        minutes for 10,000 montages.
        """
        if time.monotonic() - self._known_at > _FRESH_S:
            columns = DynamicPartitionsTable.c["partitions_def_name", "partition"]
            with self.index_connection() as index:
                rows = index.execute(select(*columns))
                self._known = {(name, key) for name, key in rows}
            self._known_at = time.monotonic()
        if (partitions_def_name, partition_key) in self._known:
            return True
        # It may have been added since.
        return super().has_dynamic_partition(partitions_def_name, partition_key)

    def get_checkpointed_asset_check_state(
        self, keys: Sequence[AssetCheckKey]
    ) -> Mapping[AssetCheckKey, AssetCheckState]:
        """What was found of each check when it was last asked for; else nothing.

        Without it Dagster reads the whole history of a check for each view of a page.
        """
        highest, count = func.max(DynamicPartitionsTable.c.id), func.count()
        query = select(highest - count).select_from(DynamicPartitionsTable)
        with self.index_connection() as index:
            deleted = index.execute(query).scalar()
        self._states.begin(deleted=deleted or 0)
        return {key: self._states.state(key) for key in keys}

    def get_asset_check_state(
        self, keys: Sequence[tuple[AssetCheckKey, PartitionsDefinition[Any] | None]]
    ) -> Mapping[AssetCheckKey, AssetCheckState]:
        """The state of each check for each of its partitions."""
        names = [key for key, _ in keys]
        with self._states.lock:
            newest = self._newest({key.asset_key.to_string() for key in names})
            known = self.get_checkpointed_asset_check_state(names)
            if self._states.is_newest(names, newest):
                return known
            states: dict[AssetCheckKey, AssetCheckState] = {}
            # One at a time: of several Dagster begins where the last one stands, and
            # a check that was never made stands at the beginning.
            for each in keys:
                states |= super().get_asset_check_state([each])
            self._states.keep(states, newest)
        return states

    def last_check_event(self) -> int:
        """The number of the newest event of any check; 0 where there was none."""
        kinds = [kind.value for kind in ASSET_CHECK_EVENTS]
        with self.index_connection() as index:
            return _last_event(index, events.dagster_event_type.in_(kinds))

    def _newest(self, assets: set[str]) -> tuple[int, int]:
        """The newest events that can change the state of a check of these assets."""
        made = DagsterEventType.ASSET_MATERIALIZATION.value
        of_assets = events.asset_key.in_(sorted(assets))
        with self.index_connection() as index:
            is_made = and_(of_assets, events.dagster_event_type == made)
            last_made = _last_event(index, is_made)
        return self.last_check_event(), last_made

    def wipe_asset(self, asset_key: AssetKey) -> None:
        """Delete what is known of an asset."""
        super().wipe_asset(asset_key)
        self._states.forget()

    def get_all_run_ids(self) -> Sequence[str]:
        """The packed ones too, so that `dagster instance migrate` finds all."""
        return sorted({*super().get_all_run_ids(), *self.packed(before=float("inf"))})

    def wipe(self) -> None:
        """Delete the whole history."""
        for run_id in self.packed(before=float("inf")):
            self.forget(run_id)
        self._states.forget()
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


def _last_event(index: Connection, where: ColumnElement[bool]) -> int:
    return int(index.execute(select(func.max(events.id)).where(where)).scalar() or 0)
