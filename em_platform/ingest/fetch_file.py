"""One remote file into one local file that is whole or absent."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
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
from em_platform.ingest.manifest import Look, Manifest, SavedFile
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
    published,
)
from em_platform.ingest.web import Web
from em_platform.model.ingest import FetchedFile, RemoteFile

log = logging.getLogger(__name__)


class Stopped(Exception):
    """Something else went wrong, or the user has had enough."""


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
        It came whole, but is not what the source has published; it was renamed.
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

    def cached_file(self) -> FetchedFile | None:
        """The file, where it is complete and unchanged; sends no request."""
        saved = self._item.manifest.file(self._name)
        if saved is None or saved.state != "whole" or not self._path.is_file():
            return None
        # Length and time, no digest: a look must not read terabytes.
        found = self._path.stat()
        same = (found.st_size, found.st_mtime_ns) == (saved.size_bytes, saved.mtime_ns)
        return saved.fetched() if same and self._still_offered(saved) else None

    def look(self) -> Look:
        """What is still to be done; 0 where no size is stated."""
        saved = self._item.manifest.file(self._name)
        begun = saved is not None and saved.state == "partial"
        # An interrupted file resumes from the address that it began from.
        self._offer = self._addresses.first(saved.url if saved and begun else "")
        size = self._offer.size_bytes or 0
        if saved is None or not self._goes_on(saved, self._offer):
            return Look(size_bytes=size, to_come_bytes=size, room_bytes=size)
        come = covered(self._item.manifest.parts(self._name))
        taken = 0
        if self._partial.exists():
            taken = self._partial.stat().st_blocks * 512  # POSIX: blocks of 512 bytes
        return Look(
            size_bytes=size,
            to_come_bytes=size - come,
            # The room may be reserved before any byte of it has come.
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
            # Faults of the other side only: no mirror helps against a full disk.
            except (SourceError, ChecksumError) as error:
                offer = self._addresses.after(error)
        raise self._addresses.error()

    def _from(self, offer: Offer) -> FetchedFile:
        # Once more from the start: a file that changes twice is being written.
        for again in (True, False):
            try:
                return self._whole(offer)
            except Changed as change:
                if not again:
                    raise SourceUnavailable(
                        f"{self._item.who}: {offer.shown} changed twice while it was "
                        f"fetched ({change}); wait until it is complete, then run "
                        "again",
                        url=offer.shown,
                        reason=str(change),
                    ) from change
                log.warning("%s: %s changed (%s); it is fetched anew",
                            self._item.who, offer.shown, change)  # fmt: skip
            head = self._item.web.head(offer.url)
            offer = offer_of(offer.url, head, name=self._name)
            self._item.manifest.begin(offer.as_saved(self._name))
        raise AssertionError  # pragma: no cover

    def _whole(self, offer: Offer) -> FetchedFile:
        # Twice: what a power cut has taken from the disk comes again.
        for _ in range(2):
            with self._opened(offer) as descriptor:
                self._fill(descriptor, offer)
                parts = self._item.manifest.parts(self._name)
                with ThreadPoolExecutor(1, "sync") as beside:
                    # The disk writes while the digests are computed.
                    synced = beside.submit(os.fsync, descriptor)
                    digests = read_back(descriptor, parts, md5=bool(self._remote.md5))
                    with written(self._partial, who=self._item.who):
                        # A write that failed late shows in the sync alone.
                        synced.result()
                size_bytes = covered(parts)
                if not digests.broken and offer.size_bytes in (None, size_bytes):
                    return self._finish(offer, digests, size_bytes=size_bytes)
            # Only these: the next round fetches them and nothing else.
            self._item.manifest.forget_parts(self._name, digests.broken)
            log.warning("%s: %d parts of %s are not on the disk as they were written",
                        self._item.who, len(digests.broken), self._path)  # fmt: skip
        raise StorageError(
            f"{self._item.who}: {self._partial} gives back other bytes than were "
            "written, twice; check the disk",
            url=str(self._partial),
        )

    @contextmanager
    def _opened(self, offer: Offer) -> Iterator[int]:
        """The half-written file, as long as it will be, with its finished parts."""
        manifest, name = self._item.manifest, self._name
        saved = manifest.file(name)
        with written(self._partial, who=self._item.who):
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            if saved is not None and self._goes_on(saved, offer):
                manifest.go_on(offer.as_saved(self._name))
                if not self._partial.exists() and self._path.exists():
                    # Killed after the file was put in place and before that was noted.
                    self._path.rename(self._partial)
            else:
                self._partial.unlink(missing_ok=True)
                manifest.begin(offer.as_saved(self._name))
            # Without O_TRUNC: the finished parts stay.
            descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            with written(self._partial, who=self._item.who):
                reserve(descriptor, offer.size_bytes)
            yield descriptor
        finally:
            os.close(descriptor)

    def _goes_on(self, saved: SavedFile, offer: Offer) -> bool:
        """Whether the bytes of before are of the same file as what is offered."""
        if saved.state != "partial" or saved.size_bytes != offer.size_bytes:
            return False
        parts = self._item.manifest.parts(self._name)
        path = self._partial if self._partial.exists() else self._path
        # A file that ends before its last part has lost bytes.
        if parts and (not path.exists() or path.stat().st_size < parts[-1].stop):
            return False
        if saved.url != offer.shown:
            # ETags of two servers cannot be compared.
            digest = self._remote.sha256 or self._remote.md5
            # A published digest decides in the end; else the dates must agree.
            return bool(digest) or saved.modified == offer.modified != ""
        if saved.etag or offer.etag:
            return saved.etag == offer.etag
        return saved.modified == offer.modified

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
                # Parts of before would overlap with the stream.
                self._item.manifest.begin(offer.as_saved(self._name))
            else:
                return
        halt = threading.Event()
        write = self._writer(descriptor, halt)
        most_bytes = round(self._item.transfer.max_gb_per_item * 1e9)
        part = fetch_stream(
            self._item.web, offer, name=self._name, write=write, most_bytes=most_bytes
        )
        with written(self._partial, who=self._item.who):
            # A stream of before may have been longer.
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
            # The descriptor closes next; another file may then get its number.
            wait(futures)
            raise

    def _writer(
        self, descriptor: int, halt: threading.Event
    ) -> Callable[[int, bytes], None]:
        def write(at: int, block: bytes) -> None:
            # `halt` is of this file, `stop` of all files of the item.
            if halt.is_set() or self._item.stop.is_set():
                raise Stopped
            with written(self._partial, who=self._item.who):
                write_at(descriptor, at, block)
            self._item.came(len(block))

        return write

    def _finish(
        self, offer: Offer, digests: Digests, *, size_bytes: int
    ) -> FetchedFile:
        kind, promised = published(
            self._remote, verify=self._item.transfer.verify_checksums
        )
        whole = put_in_place(
            self._partial,
            self._path,
            saved=replace(
                offer.as_saved(self._name),
                size_bytes=size_bytes,
                sha256=digests.sha256,
                md5=digests.md5,
                checked_against=kind,
            ),
            promised=promised,
            manifest=self._item.manifest,
            who=self._item.who,
        )
        return whole.fetched()

    def _still_offered(self, saved: SavedFile) -> bool:
        """Whether the entry is still about the file that is saved."""
        remote = self._remote
        same_place = saved.url == shown(remote.url)
        kind, promised = published(
            self._remote, verify=self._item.transfer.verify_checksums
        )
        return (
            remote.size_bytes in (None, saved.size_bytes)
            # ETags of a mirror say nothing about those of the first address.
            and (not same_place or not saved.etag or remote.etag in ("", saved.etag))
            and promised.lower() in ("", saved.md5 if kind == "md5" else saved.sha256)
        )
