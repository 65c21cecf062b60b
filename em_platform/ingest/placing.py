"""A local file on its way: room reserved, bytes written, checked, put in its place."""

import errno
import os
from dataclasses import replace
from pathlib import Path

from em_platform.errors import ChecksumError
from em_platform.ingest.manifest import Held, Manifest
from em_platform.ingest.space import written

_NOT_HERE = {errno.EOPNOTSUPP, errno.EINVAL}


def reserve(descriptor: int, size_bytes: int | None) -> None:
    """Take the room for all of a file now, so that a full disk is known at once."""
    if size_bytes is None:
        return
    now = os.fstat(descriptor).st_size
    if now > size_bytes:
        os.ftruncate(descriptor, size_bytes)
    elif now < size_bytes:
        try:
            os.posix_fallocate(descriptor, 0, size_bytes)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            os.ftruncate(descriptor, size_bytes)  # this file system reserves nothing


def write_at(descriptor: int, at: int, block: bytes) -> None:
    """Write all of `block`; a disk that is nearly full takes only a part at once."""
    left = memoryview(block)
    while left:
        count = os.pwrite(descriptor, left, at)
        left, at = left[count:], at + count


def put_in_place(
    partial: Path,
    path: Path,
    *,
    held: Held,
    promised: str,
    manifest: Manifest,
    who: str,
) -> Held:
    """Let a synced, whole file become `path`, and note that.

    `promised` is its published digest, of the kind that `held.checked_against` names;
    or nothing.

    Raises
    ------
    ChecksumError
        It is another one; the file is set aside as `<name>.bad` beside `path`.
    """
    found = held.md5 if held.checked_against == "md5" else held.sha256
    with written(path, who=who):
        if promised and promised.lower() != found:
            bad = path.with_name(f"{path.name}.bad")
            partial.replace(bad)
            manifest.end(replace(held, state="bad"))
            raise ChecksumError(
                f"{who}: {held.url} came with {held.checked_against} {found}, "
                f"{promised} is published; it was set aside as {bad}: run again, and "
                "tell the source if it stays so",
                url=held.url,
                found=found,
                expected=promised,
            )
        partial.replace(path)
        _sync_folder(path.parent)
        mtime_ns = path.stat().st_mtime_ns
    whole = replace(held, state="whole", mtime_ns=mtime_ns)
    manifest.end(whole)
    return whole


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
