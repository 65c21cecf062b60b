"""Files of older records brought to version 3, each whole or untouched."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from em_platform.catalog.migrate import migrate
from em_platform.catalog.record_files import json_bytes
from em_platform.catalog.repository import json_files, parsed
from em_platform.errors import RecordError
from em_platform.storage import atomic

KEPT = ".before-v3"
"""The end of the name of a record as it was before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MigratedFile:
    """One file's record as version 3 and what changed; or why there is none."""

    path: Path
    content: dict[str, Any] | None = None
    remarks: tuple[str, ...] = ()
    trouble: str = ""

    @property
    def is_changed(self) -> bool:
        """Whether the record is another one than before."""
        return bool(self.remarks)


def migrated_files(paths: Iterable[Path]) -> Iterator[MigratedFile]:
    """Every record of files and folders as version 3; nothing is written."""
    for path in paths:
        for file in json_files(path) if path.is_dir() else [path]:
            yield _migrated(file)


def write_migrated(done: MigratedFile) -> None:
    """Put the new record in place of the old one, where it is another one.

    The old one, which we did not make, is kept as `<name>.before-v3`.
    """
    if not done.is_changed:
        return
    kept = done.path.with_name(f"{done.path.name}{KEPT}")
    if not kept.exists():
        atomic.write_bytes(kept, done.path.read_bytes())
    atomic.write_bytes(done.path, json_bytes(done.content))


def _migrated(path: Path) -> MigratedFile:
    found = parsed(path.read_bytes(), str(path))
    if found.trouble:
        return MigratedFile(path=path, trouble=found.trouble)
    written_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    try:
        done = migrate(found.content, recorded_at=written_at)
    except RecordError as error:
        return MigratedFile(path=path, trouble=str(error))
    return MigratedFile(path=path, content=done.content, remarks=done.remarks)
