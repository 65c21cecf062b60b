"""Room on the disk for what is fetched: looked at before, told plainly within."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from em_platform.errors import StorageError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_GB = 1e9


def check_space(
    folder: Path, missing_bytes: int, *, reserve_gb: float, who: str
) -> None:
    """Whether so much more fits on the disk of `folder`.

    Raises
    ------
    StorageError
        Less than `reserve_gb` would stay free.
    """
    free_bytes = shutil.disk_usage(folder).free
    need_bytes = missing_bytes + reserve_gb * _GB
    if missing_bytes and need_bytes > free_bytes:
        raise StorageError(
            f"{who}: {gb(missing_bytes)} are needed and {reserve_gb:g} GB are to stay "
            f"free, but {folder} has {gb(free_bytes)}; free "
            f"{gb(need_bytes - free_bytes)}, or name a larger disk in "
            "ingest.transfer.raw_folder",
            missing_bytes=missing_bytes,
            free_bytes=free_bytes,
            reserve_gb=reserve_gb,
        )


@contextmanager
def written(path: Path, *, who: str) -> Iterator[None]:
    """Make a StorageError of what the disk says while `path` is written."""
    try:
        yield
    except OSError as error:
        full = error.errno in _NO_ROOM
        cure = "free space" if full else "check access to it"
        raise StorageError(
            f"{who}: {path} could not be written ({error.strerror or error}); {cure} "
            "or name another folder in ingest.transfer.raw_folder, then run again: "
            "what has come is kept",
            url=str(path),
        ) from error


def gb(size_bytes: float) -> str:
    """A size in words, such as `1.2 GB` or `35 MB` (powers of ten)."""
    if size_bytes >= _GB:
        return f"{size_bytes / _GB:,.1f} GB"
    if size_bytes >= 1e6:
        return f"{size_bytes / 1e6:.1f} MB"
    return f"{size_bytes / 1e3:.1f} kB"
