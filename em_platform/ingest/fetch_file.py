"""One remote file into one local file that is whole or absent."""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from em_platform.config import TransferSettings
from em_platform.errors import (
    ChecksumError,
    SourceError,
    SourceUnavailable,
    StorageError,
)
from em_platform.ingest.http_answers import shown
from em_platform.ingest.local_file import (
    Digests,
    put_in_place,
    read_back,
    reserve,
    write_at,
    written,
)
from em_platform.ingest.manifest import Held, Manifest, Part
from em_platform.ingest.remote_file import (
    Addresses,
    Changed,
    NoRanges,
    Offer,
    covered,
    fetch_part,
    fetch_stream,
    missing_ranges,
    offer_of,
)
from em_platform.ingest.web import Web
from em_platform.model.ingest import FetchedFile, RemoteFile

log = logging.getLogger(__name__)


class Stopped(Exception):
    """Something else went wrong, or the user has had enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A file's size, what of it is still to come, and what of the disk that takes.

    The room for a file that has begun is taken already.
    """

    size_bytes: int
    to_come_bytes: int
    room_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What the files of one item share; `pool` fetches their parts."""

    who: str
    folder: Path
    web: Web
    transfer: TransferSettings
    manifest: Manifest
    pool: Executor
    came: Callable[[int], None]
    stop: threading.Event


class FileFetch:
    """One file of an item: looked at, fetched, checked and put in its place.

    Raises
    ------
    SourceRefused, SourceUnavailable
        None of its addresses served it.
    ChecksumError
        It came whole, but is not what the source has published; it was set aside.
    StorageError
        The disk is full, or does not keep what is written.
    """

    def __init__(self, item: Item, remote: RemoteFile) -> None:
        self._item = item
        self._remote = remote
        self._name = remote.name
        self._path = item.folder / remote.name
        self._partial = self._path.with_name(f"{self._path.name}.partial")
        self._addresses = Addresses(remote, item.web, who=item.who)
        self._offer: Offer | None = None

    def there(self) -> FetchedFile | None:
        """The file, where it came whole before and is still as it was; asks nobody."""
        held = self._item.manifest.file(self._name)
        if held is None or held.state != "whole" or not self._path.is_file():
            return None
        found = self._path.stat()
        same = (found.st_size, found.st_mtime_ns) == (held.size_bytes, held.mtime_ns)
        return _fetched(held) if same and self._still_offered(held) else None

    def look(self) -> Look:
        """What is still to be done; 0 where nobody says a size."""
        held = self._item.manifest.file(self._name)
        begun = held is not None and held.state == "partial"
        # Where it began it goes on.
        self._offer = self._addresses.first(held.url if held and begun else "")
        size = self._offer.size_bytes or 0
        if held is None or not self._goes_on(held, self._offer):
            return Look(size_bytes=size, to_come_bytes=size, room_bytes=size)
        come = covered(self._item.manifest.parts(self._name))
        taken = 0
        if self._partial.exists():
            taken = self._partial.stat().st_blocks * 512
        return Look(
            size_bytes=size,
            to_come_bytes=size - come,
            room_bytes=max(0, size - max(come, taken)),
        )

    def fetch(self) -> FetchedFile:
        """Bring it here, from the first of its addresses that serves it."""
        if self._offer is None:
            self.look()
        offer = self._offer
        while offer is not None:
            try:
                return self._from(offer)
            except (SourceError, ChecksumError) as error:
                offer = self._addresses.after(error)
        raise self._addresses.error()

    def _from(self, offer: Offer) -> FetchedFile:
        for again in (True, False):
            try:
                return self._whole(offer)
            except Changed as change:
                if not again:
                    raise SourceUnavailable(
                        f"{self._item.who}: {offer.shown} changed twice while it was "
                        f"fetched ({change}); wait until nobody writes it, then run "
                        "again",
                        url=offer.shown,
                        reason=str(change),
                    ) from change
                log.warning("%s: %s changed (%s); it is fetched anew",
                            self._item.who, offer.shown, change)  # fmt: skip
            head = self._item.web.head(offer.url)
            offer = offer_of(offer.url, head, name=self._name)
            self._item.manifest.begin(self._held(offer))
        raise AssertionError  # pragma: no cover

    def _whole(self, offer: Offer) -> FetchedFile:
        for _ in range(2):
            with self._opened(offer) as descriptor:
                self._fill(descriptor, offer)
                parts = self._item.manifest.parts(self._name)
                digests = self._synced_and_read(descriptor, parts)
                size_bytes = covered(parts)
                if not digests.broken and offer.size_bytes in (None, size_bytes):
                    return self._finish(offer, digests, size_bytes=size_bytes)
            self._item.manifest.forget_parts(self._name, digests.broken)
            log.warning("%s: %d parts of %s are not on the disk as they were written",
                        self._item.who, len(digests.broken), self._path)  # fmt: skip
        raise StorageError(
            f"{self._item.who}: {self._partial} gives back other bytes than were "
            "written, twice; check the disk",
            url=str(self._partial),
        )

    def _synced_and_read(self, descriptor: int, parts: Sequence[Part]) -> Digests:
        """What lies on the disk for good; the disk writes while we count."""
        with ThreadPoolExecutor(1, "sync") as beside:
            synced = beside.submit(os.fsync, descriptor)
            digests = read_back(descriptor, parts, md5=bool(self._remote.md5))
            with written(self._partial, who=self._item.who):
                synced.result()
        return digests

    @contextmanager
    def _opened(self, offer: Offer) -> Iterator[int]:
        """The half-written file, as long as it will be, with its finished parts."""
        manifest, name = self._item.manifest, self._name
        held = manifest.file(name)
        with written(self._partial, who=self._item.who):
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            if held is not None and self._goes_on(held, offer):
                manifest.go_on(self._held(offer))
                if not self._partial.exists() and self._path.exists():
                    # Killed after the file was put in place and before that was noted.
                    self._path.rename(self._partial)
            else:
                self._partial.unlink(missing_ok=True)
                manifest.begin(self._held(offer))
            descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            with written(self._partial, who=self._item.who):
                reserve(descriptor, offer.size_bytes)
            yield descriptor
        finally:
            os.close(descriptor)

    def _goes_on(self, held: Held, offer: Offer) -> bool:
        """Whether what has come before is of the same file as what is offered."""
        if held.state != "partial" or held.size_bytes != offer.size_bytes:
            return False
        parts = self._item.manifest.parts(self._name)
        path = self._partial if self._partial.exists() else self._path
        if parts and (not path.exists() or path.stat().st_size < parts[-1].stop):
            return False
        if held.url != offer.shown:
            # ETags of two servers cannot be compared.
            published = self._remote.sha256 or self._remote.md5
            return bool(published) or held.modified == offer.modified != ""
        if held.etag or offer.etag:
            return held.etag == offer.etag
        return held.modified == offer.modified

    def _fill(self, descriptor: int, offer: Offer) -> None:
        """Bring all that is missing; all of it is noted in the end."""
        if offer.size_bytes is not None:
            try:
                self._fill_by_parts(descriptor, offer, size_bytes=offer.size_bytes)
            except NoRanges:
                log.warning(
                    "%s: %s does not send parts; it comes in one stream, and from its "
                    "beginning when that is cut",
                    *(self._item.who, offer.shown),
                )
                self._item.manifest.begin(self._held(offer))
            else:
                return
        halt = threading.Event()
        write = self._writer(descriptor, halt)
        part = fetch_stream(self._item.web, offer, name=self._name, write=write)
        with written(self._partial, who=self._item.who):
            os.ftruncate(descriptor, part.stop)
        self._item.manifest.add_part(self._name, part)

    def _fill_by_parts(self, descriptor: int, offer: Offer, *, size_bytes: int) -> None:
        item = self._item
        halt = threading.Event()
        write = self._writer(descriptor, halt)

        def fetch(span: tuple[int, int]) -> None:
            if halt.is_set() or item.stop.is_set():
                raise Stopped
            part = fetch_part(item.web, offer, span, name=self._name, write=write)
            item.manifest.add_part(self._name, part)

        spans = missing_ranges(
            size_bytes,
            item.manifest.parts(self._name),
            part_bytes=max(1, round(item.transfer.part_mb * 1e6)),
        )
        futures = [item.pool.submit(fetch, span) for span in spans]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            halt.set()
            for future in futures:
                future.cancel()
            wait(futures)
            raise

    def _writer(
        self, descriptor: int, halt: threading.Event
    ) -> Callable[[int, bytes], None]:
        def write(at: int, block: bytes) -> None:
            if halt.is_set() or self._item.stop.is_set():
                raise Stopped
            with written(self._partial, who=self._item.who):
                write_at(descriptor, at, block)
            self._item.came(len(block))

        return write

    def _finish(
        self, offer: Offer, digests: Digests, *, size_bytes: int
    ) -> FetchedFile:
        kind, promised = self._published()
        whole = put_in_place(
            self._partial,
            self._path,
            held=replace(
                self._held(offer),
                size_bytes=size_bytes,
                sha256=digests.sha256,
                md5=digests.md5,
                checked_against=kind,
            ),
            promised=promised,
            manifest=self._item.manifest,
            who=self._item.who,
        )
        return _fetched(whole)

    def _published(self) -> tuple[str, str]:
        """What the file is compared by, and what the source has published of that."""
        if self._item.transfer.verify_checksums:
            if self._remote.sha256:
                return "sha256", self._remote.sha256
            if self._remote.md5:
                return "md5", self._remote.md5
        return "length", ""

    def _still_offered(self, held: Held) -> bool:
        """Whether the entry is still about the file that is held."""
        remote = self._remote
        same_place = held.url == shown(remote.url)
        kind, promised = self._published()
        return (
            remote.size_bytes in (None, held.size_bytes)
            and (not same_place or not held.etag or remote.etag in ("", held.etag))
            and promised.lower() in ("", held.md5 if kind == "md5" else held.sha256)
        )

    def _held(self, offer: Offer) -> Held:
        return Held(
            name=self._name,
            url=offer.shown,
            size_bytes=offer.size_bytes,
            etag=offer.etag,
            modified=offer.modified,
        )


def _fetched(held: Held) -> FetchedFile:
    return FetchedFile(
        name=held.name,
        url=held.url,
        size_bytes=held.size_bytes or 0,
        sha256=held.sha256,
        etag=held.etag,
        modified=held.modified,
        checked_against=held.checked_against,
    )
