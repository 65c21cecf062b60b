"""The files of an item, brought to a local folder: ranged, resumable, checked."""

import logging
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    Executor,
    Future,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TypeVar

from em_platform.config import Settings, TransferSettings
from em_platform.errors import ConfigError, FormatError, OutputRefused
from em_platform.ingest.fetch_file import FileFetch, Item, Stopped
from em_platform.ingest.local_file import check_space, gb, written
from em_platform.ingest.manifest import NAME, Manifest
from em_platform.ingest.manifest import NAME as MANIFEST
from em_platform.ingest.source import Progress
from em_platform.ingest.web import Web
from em_platform.model.ingest import Entry, FetchedFile, RawItem, RemoteFile
from em_platform.processes.single_instance import try_lock

log = logging.getLogger(__name__)

T = TypeVar("T")
S = TypeVar("S")

# A file lock gives no notice when it is free; a download takes seconds or hours.
_LOOK_AGAIN_S = 0.5


def fetch_files(
    entry: Entry, folder: Path, *, web: Web, settings: Settings, progress: Progress
) -> RawItem:
    """Bring all files of an entry below `folder`.

    Each file comes in parts, several at once; a finished part is noted in the
    folder's manifest and never asked for again, whenever this ends. A file that is
    whole and untouched costs no request. A second process that fetches the same item
    waits for the first.

    Raises
    ------
    SourceRefused, SourceUnavailable
        A file is not served, at none of its addresses.
    ChecksumError
        A file is not what the source has published; it is renamed to `.bad`.
    StorageError
        There is no room for it; the finished parts are kept.
    ConfigError
        It is larger than `max_gb_per_item`.
    FormatError
        A name would lead out of the folder.
    OutputRefused
        A file of one of the names is there and was not fetched by this program.
    """
    who = f"{entry.source} {entry.key}"
    transfer = settings.ingest.transfer
    # Before anything is written: a name may lead out of the folder.
    check_names((file.name for file in entry.files), who=who)
    sizes = [file.size_bytes or 0 for file in entry.files]
    # As far as the entry names sizes: refused before any request.
    _check_limit(sum(sizes), transfer, who=who)
    with written(folder, who=who):
        folder.mkdir(parents=True, exist_ok=True)
    counter = _Counter(progress)
    with (
        _locked(folder, who=who),
        Manifest(folder, who=who) as manifest,
        ThreadPoolExecutor(transfer.parts_at_once, "part") as pool,
    ):
        _refuse_foreign(entry.files, folder, manifest, who=who)
        item = Item(
            who=who,
            folder=folder,
            web=web,
            transfer=transfer,
            manifest=manifest,
            pool=pool,
            came=counter.came,
            stop=threading.Event(),
        )
        files = _fetch_all(item, entry.files, progress)
    return RawItem(
        files=files,
        size_bytes=sum(file.size_bytes for file in files),
        fetched_bytes=counter.size_bytes,
    )


def remove_fetched(folder: Path, *, who: str) -> None:
    """Delete what `fetch_files` has brought into a folder; what else is there stays."""
    if not (folder / NAME).exists():
        return
    with Manifest(folder, who=who) as manifest:
        names = [saved.name for saved in manifest.files()]
    for name in names:
        for path in _places(folder, name):
            path.unlink(missing_ok=True)
    # Last: after a kill it still names the files that are left.
    for path in folder.glob(f"{NAME}*"):
        path.unlink(missing_ok=True)
    folders = [path for path in folder.rglob("*") if path.is_dir()]
    # Reversed: inner folders come before those that hold them.
    for path in (*sorted(folders, reverse=True), folder):
        with suppress(OSError):  # something else is in it
            path.rmdir()


def _places(folder: Path, name: str) -> tuple[Path, ...]:
    """Where the file of a name is, when it is whole, while it comes, and if bad."""
    return tuple(folder / f"{name}{ending}" for ending in ("", *OURS))


def _refuse_foreign(
    files: Sequence[RemoteFile], folder: Path, manifest: Manifest, *, who: str
) -> None:
    for file in files:
        if manifest.file(file.name) is not None:
            continue
        found = [path for path in _places(folder, file.name) if path.exists()]
        if found:
            raise OutputRefused(
                f"{who}: {found[0]} is there and was not fetched by em-platform; move "
                "it away, or name another folder in ingest.transfer.raw_folder"
            )


def _fetch_all(
    item: Item, remotes: Sequence[RemoteFile], progress: Progress
) -> tuple[FetchedFile, ...]:
    """Files that are there, and those that are brought now; in the entry's order."""
    found = {remote.name: FileFetch(item, remote).cached_file() for remote in remotes}
    missing = [FileFetch(item, r) for r in remotes if found[r.name] is None]
    if missing:
        # Not the pool of parts: files that wait for their parts would fill it for ever.
        with ThreadPoolExecutor(item.transfer.parts_at_once, "file") as pool:
            looked = _each(pool, FileFetch.look, missing, stop=item.stop)
            there = sum(file.size_bytes for file in found.values() if file is not None)
            whole = there + sum(look.size_bytes for look in looked)
            # Once more: the HEADs have named the sizes that the entry did not.
            _check_limit(whole, item.transfer, who=item.who)
            check_space(
                item.folder,
                sum(look.room_bytes for look in looked),
                reserve_gb=item.transfer.reserve_gb,
                who=item.who,
            )
            left = sum(look.to_come_bytes for look in looked)
            progress.total(left)
            log.info("%s: %d of %d files are fetched, %s",
                     item.who, len(missing), len(remotes), gb(left))  # fmt: skip
            fetched = _each(pool, FileFetch.fetch, missing, stop=item.stop)
        found |= {file.name: file for file in fetched}
    return tuple(file for file in found.values() if file is not None)


def _each(
    pool: Executor,
    do: Callable[[S], T],
    things: Sequence[S],
    *,
    stop: threading.Event,
) -> list[T]:
    """`do` of each, at the same time; the first that fails stops all others."""
    futures = [pool.submit(do, thing) for thing in things]
    try:
        for future in as_completed(futures):
            future.result()
    # Ctrl-C as well: the threads would go on fetching.
    except BaseException as error:
        stop.set()
        for future in futures:
            future.cancel()
        # Those that run still write files and manifest.
        wait(futures)
        cause = _cause(error, futures)
        if cause is error:
            raise
        # `Stopped` as its context would hide what went wrong.
        raise cause from None
    return [future.result() for future in futures]


def _cause(error: BaseException, futures: Sequence[Future[T]]) -> BaseException:
    """What went wrong, where `error` may only say that something else did."""
    if not isinstance(error, Stopped):
        return error
    others = (f.exception() for f in futures if f.done() and not f.cancelled())
    real = (other for other in others if other and not isinstance(other, Stopped))
    return next(real, error)


def _check_limit(size_bytes: int, transfer: TransferSettings, *, who: str) -> None:
    if size_bytes > transfer.max_gb_per_item * 1e9:
        raise ConfigError(
            f"{who}: it has {gb(size_bytes)}, at most {transfer.max_gb_per_item:g} GB "
            "are allowed; raise ingest.transfer.max_gb_per_item or take the item off "
            "the list",
            size_bytes=size_bytes,
        )


class _Counter:
    """Counts what came over the network, for all threads."""

    def __init__(self, progress: Progress) -> None:
        self.size_bytes = 0
        self._progress = progress
        self._lock = threading.Lock()

    def came(self, size_bytes: int) -> None:
        # `+=` is several steps, between which another thread may come.
        with self._lock:
            self.size_bytes += size_bytes
        # Outside of the lock: a report may wait for the pipe that it writes to.
        self._progress.came(size_bytes)


@contextmanager
def _locked(folder: Path, *, who: str) -> Iterator[None]:
    """Hold the item for the block; wait for another process that holds it."""
    # Beside the folder, which `remove_fetched` may take away.
    lock = folder.with_name(f".{folder.name}.lock")
    warned = False
    while True:
        with try_lock(lock) as free:
            if free:
                yield
                return
        if not warned:
            log.warning("%s: another process fetches it; this one waits", who)
            warned = True
        time.sleep(_LOOK_AGAIN_S)


_MOST_BYTES = 240
"""Of one name, so that a suffix has room: file systems allow 255."""
OURS = (".partial", ".bad")


def check_names(names: Iterable[str], *, who: str) -> None:
    """Whether all names stay in their folder, and no two are the same file.

    Raises
    ------
    FormatError
        A name leads out, is none, belongs to us, or is there twice.
    """
    seen: dict[str, str] = {}
    for name in names:
        wrong = _wrong(name)
        # The same to a disk that ignores case or the way in which accents are written.
        same = unicodedata.normalize("NFC", name).casefold()
        if not wrong and same in seen:
            wrong = f"is the same file as {seen[same]!r}"
        if wrong:
            raise FormatError(
                f"{who}: the source names a file {name[:200]!r}, which {wrong}; tell "
                "the source, or take the item off the list",
                name=name[:200],
            )
        seen[same] = name


def _wrong(name: str) -> str:
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or ".." in parts:
        return "leads out of its folder"
    if not name or "" in parts or "." in parts:
        return "is no name"
    # Control and format characters, and halves of pairs that UTF-8 cannot hold.
    if any(unicodedata.category(letter) in ("Cc", "Cf", "Cs") for letter in name):
        return "holds letters that are not seen"
    if any(len(part.encode()) > _MOST_BYTES for part in parts):
        return f"is longer than {_MOST_BYTES} bytes"
    first = PurePosixPath(name).parts[0]
    # Any beginning: SQLite keeps `-wal` and `-shm` files beside its own.
    if name.endswith(OURS) or first.startswith((MANIFEST, ".")):
        return "is a name of the platform's own"
    return ""
