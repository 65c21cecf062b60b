"""A file or folder is whole or absent: written beside, then renamed.

What is being written is named `.<name>.<host>.<process>.<random>.partial`. A process
that is killed leaves it behind; no reader looks at such names, and
`remove_leftovers` and `remove_leftovers_of` delete those whose process is gone.
"""

import ctypes
import errno
import glob
import os
import shutil
import socket
import uuid
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from em_platform.errors import StorageError

_SUFFIX = ".partial"
# renameat2(2): relative to the working folder; and two names change places.
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# An error of the system without a number is one of the file system, too.
_ANY = {None, *errno.errorcode}
# The disk is full, the quota is used up, a file grew too large, or it is read-only.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def write_bytes(path: Path, content: bytes) -> None:
    """Put `content` at `path` so that no reader ever sees a part of it.

    Raises
    ------
    StorageError
        The disk is full, the folder may not be written, or the like.
    """
    with whole_file(path) as own, _plain_errors(path), own.open("wb") as file:
        file.write(content)
        file.flush()
        # Before the rename: a power cut must not leave the name without its bytes.
        os.fsync(file.fileno())


def write_once(path: Path, content: bytes) -> bool:
    """Put `content` at `path` unless something is there; whether it was put.

    Of several processes only one gets True.

    Raises
    ------
    StorageError
        As of `write_bytes`.
    """
    own = beside(path)
    try:
        with _plain_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with own.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        with suppress(FileExistsError), _plain_errors(path, _ANY - {errno.EEXIST}):
            os.link(own, path)  # unlike a rename it fails where the name is taken
            return True
    finally:
        own.unlink(missing_ok=True)
    return False


def write_in_place(path: Path, content: bytes) -> None:
    """Put `content` at `path` where a part of it, or nothing, serves as well.

    Raises
    ------
    StorageError
        As of `write_bytes`.
    """
    with _plain_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write; it becomes `path` only when the block ends without error.

    For writers that take a file name. StorageError where there is no room for it.
    """
    with _plain_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    own = beside(path)
    try:
        # Other errors of the block pass: they may be of a file that it reads.
        with _plain_errors(path, _NO_ROOM):
            yield own
        with _plain_errors(path):
            own.replace(path)
    except BaseException:
        # Ctrl-C and a cancelled run leave nothing half-written either.
        own.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a folder to fill; it becomes `path` only when the block ends without error.

    A folder that already stands at `path` is replaced at that moment and not before.
    StorageError where there is no room for it.
    """
    own = beside(path)
    with _plain_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        own.mkdir()
    try:
        with _plain_errors(path, _NO_ROOM):
            yield own
        with _plain_errors(path):
            put_folder(own, path)
    except BaseException:
        shutil.rmtree(own, ignore_errors=True)
        raise


def remove_leftovers(folder: Path) -> int:
    """Delete under `folder` what killed processes left half-written; how many.

    What a living process of this machine, or any process of another machine, is
    writing stays.
    """
    removed = 0
    for parent, folders, files in os.walk(folder):
        for name in [n for n in (*folders, *files) if _is_orphan(n)]:
            _remove(Path(parent) / name)
            removed += 1
        # Unfinished images are for their next writer; whole ones have many files.
        folders[:] = [n for n in folders if not n.endswith((_SUFFIX, ".zarr"))]
    return removed


def remove_leftovers_of(path: Path) -> None:
    """Delete what killed processes left half-written of this one file or folder."""
    for own in path.parent.glob(f".{glob.escape(path.name)}.*{_SUFFIX}"):
        if _is_orphan(own.name):
            _remove(own)


def beside(path: Path) -> Path:
    """A name of this process alone, for what is to become `path`."""
    owner = f"{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
    return path.with_name(f".{path.name}.{owner}{_SUFFIX}")


def becomes(own: Path) -> Path | None:
    """What a path that `beside` has named is to become; None of any other path."""
    name, _ = _name_and_process(own.name)
    return own.with_name(name) if name else None


def _is_orphan(name: str) -> bool:
    _, process = _name_and_process(name)
    return process is not None and not _is_alive(process)


def _name_and_process(name: str) -> tuple[str, int | None]:
    """What is to be there, and who of this computer writes it; else nothing."""
    if not (name.startswith(".") and name.endswith(_SUFFIX)):
        return "", None
    host_and_process = f".{socket.gethostname()}."
    # From the right: the file's own name may have the host's in it.
    final, found, owner = name.removesuffix(_SUFFIX).rpartition(host_and_process)
    process = owner.partition(".")[0]
    if not (found and process.isdigit()):
        return "", None
    return final.removeprefix("."), int(process)


def _is_alive(process: int) -> bool:
    try:
        # Signal 0 is sent to no process: only its errors count (kill(2)).
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it lives, and is another user's
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def put_folder(new: Path, path: Path) -> None:
    """Let the finished folder `new` become `path`, in one step; an old one goes."""
    if not path.exists():
        new.rename(path)
        return
    if not _exchange(new, path):
        # No exchange on this file system: for a moment nothing stands at `path`.
        old = beside(path)
        path.rename(old)
        new.rename(path)
        new = old
    shutil.rmtree(new, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step (renameat2, man 2 rename); False if it cannot."""
    # Python has no call for it, and other systems than Linux have none at all.
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    names = os.fsencode(one), os.fsencode(other)
    status: int = libc.renameat2(
        _AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE
    )
    return status == 0


@contextmanager
def full_disk_errors(path: Path) -> Iterator[None]:
    """Make a StorageError of an OSError by which there is no room for `path`."""
    with _plain_errors(path, _NO_ROOM):
        yield


@contextmanager
def _plain_errors(path: Path, reasons: Container[int | None] = _ANY) -> Iterator[None]:
    """Make a StorageError of an OSError for one of `reasons` (errno); pass others."""
    try:
        yield
    except OSError as error:
        if error.errno not in reasons:
            raise
        raise StorageError(
            f"storage: {path} could not be written ({error.strerror or error}); "
            "free space or check access, then run again",
            url=str(path),
        ) from error
