"""A local file being fetched: disk space, bytes written, digests, moved into place."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from em_platform.errors import ChecksumError, StorageError
from em_platform.ingest.manifest import Manifest, Part, SavedFile
from em_platform.storage.crc32 import crc32

# Disk full, quota used up, or larger than the file system's largest file.
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
            "the finished parts are kept",
            url=str(path),
        ) from error


def gb(size_bytes: float) -> str:
    """A size in words, such as `1.2 GB` or `35 MB` (powers of ten)."""
    if size_bytes >= _GB:
        return f"{size_bytes / _GB:,.1f} GB"
    if size_bytes >= 1e6:
        return f"{size_bytes / 1e6:.1f} MB"
    return f"{size_bytes / 1e3:.1f} kB"


# The digests are fed block by block: a file of any size needs 1 MiB of memory.
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """Of a whole file; `broken` parts are not what was written there."""

    sha256: str
    md5: str
    broken: tuple[Part, ...]


def read_back(descriptor: int, parts: Sequence[Part], *, md5: bool) -> Digests:
    """Read a file once, part by part, and say what is in it.

    Parts come in any order, and so the digest of the whole can only be taken at the
    end. The file is mostly still in memory then: 3.4 GB took 4 s here, and minutes to
    come. In return each byte has made the way to the disk and back before it is called
    right, also those that an earlier process has fetched.
    """
    whole = hashlib.sha256()
    # Compares, protects nothing; a FIPS build of OpenSSL asks for the word.
    other = hashlib.md5(usedforsecurity=False)
    broken = []
    for part in sorted(parts):
        found = 0
        for at in range(part.start, part.stop, _BLOCK_BYTES):
            block = os.pread(descriptor, min(_BLOCK_BYTES, part.stop - at), at)
            found = crc32(block, found)
            whole.update(block)
            if md5:
                other.update(block)
        if found != part.crc32:
            broken.append(part)
    return Digests(
        sha256=whole.hexdigest(),
        md5=other.hexdigest() if md5 else "",
        broken=tuple(broken),
    )


# What file systems without posix_fallocate answer (posix_fallocate(3)).
_NOT_HERE = {errno.EOPNOTSUPP, errno.EINVAL}


def reserve(descriptor: int, size_bytes: int | None) -> None:
    """Take the room for all of a file now, so that a full disk is known at once."""
    if size_bytes is None:
        return
    now = os.fstat(descriptor).st_size
    # A longer file of before would keep its old end.
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
        # With its place: threads share the descriptor's position.
        count = os.pwrite(descriptor, left, at)
        left, at = left[count:], at + count


def put_in_place(
    partial: Path,
    path: Path,
    *,
    saved: SavedFile,
    promised: str,
    manifest: Manifest,
    who: str,
) -> SavedFile:
    """Let a synced, whole file become `path`, and note that.

    `promised` is its published digest, of the kind that `saved.checked_against` names;
    or nothing.

    Raises
    ------
    ChecksumError
        It is another one; the file is renamed to `<name>.bad` beside `path`.
    """
    found = saved.md5 if saved.checked_against == "md5" else saved.sha256
    with written(path, who=who):
        if promised and promised.lower() != found:
            bad = path.with_name(f"{path.name}.bad")
            partial.replace(bad)
            # Noted, so that the next run fetches it anew.
            manifest.end(replace(saved, state="bad"))
            raise ChecksumError(
                f"{who}: {saved.url} came with {saved.checked_against} {found}, "
                f"{promised} is published; it was renamed to {bad}: run again, and "
                "tell the source if it stays so",
                url=saved.url,
                found=found,
                expected=promised,
            )
        partial.replace(path)
        # The name is on the disk before the manifest calls the file whole.
        _sync_folder(path.parent)
        mtime_ns = path.stat().st_mtime_ns
    whole = replace(saved, state="whole", mtime_ns=mtime_ns)
    manifest.end(whole)
    return whole


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
