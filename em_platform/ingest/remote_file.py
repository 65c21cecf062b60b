"""A file at its source and its mirrors: what each offers, its bytes by parts."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import requests

from em_platform.errors import (
    PlatformError,
    SourceError,
    SourceRefused,
    SourceUnavailable,
)
from em_platform.formats import pieces_of
from em_platform.ingest.http_answers import Cut, shown
from em_platform.ingest.manifest import Part, SavedFile
from em_platform.ingest.web import AS_IT_IS, FileHead, Web
from em_platform.model.ingest import RemoteFile
from em_platform.storage.crc32 import crc32

Write = Callable[[int, bytes], None]
"""Takes bytes and their place in the file."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
# Apache serves such files with a Content-Encoding, as if the packing were its own.
_PACKED_NAMES = (".gz", ".tgz", ".z", ".bz2", ".xz")


class Changed(Exception):
    """The file is not the one that began to come."""


class NoRanges(Exception):
    """The server sends the whole file when it is asked for a part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A file at one address, as the server promised it; `size_bytes` may be unknown."""

    url: str
    size_bytes: int | None
    etag: str = ""
    modified: str = ""

    @property
    def shown(self) -> str:
        """The address without passwords and tokens, for sentences and records."""
        return shown(self.url)

    def as_saved(self, name: str) -> SavedFile:
        """The record of a file that begins to come from here."""
        return SavedFile(
            name=name,
            url=self.shown,
            size_bytes=self.size_bytes,
            etag=self.etag,
            modified=self.modified,
        )

    @property
    def condition(self) -> str:
        """What makes the server send the whole file if it is another one by now.

        A weak ETag may not stand there (RFC 9110, 13.1.5).
        """
        weak = self.etag.startswith("W/")
        return self.etag if self.etag and not weak else self.modified

    def check_same(self, response: requests.Response) -> None:
        """Whether an answer is about the file that was promised; else Changed."""
        etag = response.headers.get("ETag", "")
        modified = response.headers.get("Last-Modified", "")
        if self.etag and etag:
            # A server that compresses on the way weakens the tag of the same file.
            if self.etag.removeprefix("W/") != etag.removeprefix("W/"):
                raise Changed(f"its ETag was {self.etag} and is {etag}")
        elif self.modified and modified and self.modified != modified:
            raise Changed(f"it was of {self.modified} and is of {modified}")


def offer_of(url: str, head: FileHead, *, name: str) -> Offer:
    """What is promised by a HEAD; a packed file is that which the name says."""
    size = head.size_bytes
    if head.content_encoding and _is_packed(name):
        size = head.length_bytes
    return Offer(url=url, size_bytes=size, etag=head.etag, modified=head.modified)


def published(remote: RemoteFile, *, verify: bool) -> tuple[str, str]:
    """What a file is compared by, and what the source has published of that."""
    if verify and remote.sha256:
        return "sha256", remote.sha256
    if verify and remote.md5:
        return "md5", remote.md5
    return "length", ""


def missing_ranges(
    size_bytes: int, parts: Sequence[Part], *, part_bytes: int
) -> tuple[tuple[int, int], ...]:
    """What is between the parts, cut into pieces of `part_bytes` at most."""
    gaps = []
    at = 0
    # The empty part at the end closes the last gap.
    for start, stop in (*((p.start, p.stop) for p in sorted(parts)), (size_bytes,) * 2):
        gaps += [(s, min(s + part_bytes, start)) for s in range(at, start, part_bytes)]
        at = max(at, stop)
    return tuple(gaps)


def fetch_part(
    web: Web, offer: Offer, span: tuple[int, int], *, name: str, write: Write
) -> Part:
    """Fetch the bytes from `span[0]` to before `span[1]`.

    A connection that is cut goes on where it was, not at the part's beginning.

    Raises
    ------
    Changed, NoRanges
        Nothing else can be done with this offer.
    """
    at, stop = span
    found = 0

    # Made at each try: a cut part resumes at the byte that it reached.
    def headers() -> dict[str, str]:
        asked = {**AS_IT_IS, "Range": f"bytes={at}-{stop - 1}"}
        return asked | ({"If-Range": offer.condition} if offer.condition else {})

    def take(response: requests.Response) -> None:
        nonlocal at, found
        _check_range(response, offer, span=(at, stop), name=name)
        for piece in pieces_of(response, unpack=False):
            # A server may send more than it was asked for.
            block = piece[: stop - at]
            write(at, block)
            found = crc32(block, found)
            at += len(block)
            if at == stop:
                return
        raise Cut(f"{stop - at} bytes of a part are missing")

    # 200 and 416 are no failures here: `_check_range` says what they mean.
    web.exchange(offer.url, take, headers=headers, expected=(200, 206, 416))
    return Part(span[0], stop, found)


def fetch_stream(
    web: Web, offer: Offer, *, name: str, write: Write, most_bytes: int
) -> Part:
    """Fetch the whole file in one stream; one that is cut starts from the beginning.

    A body that is compressed on its way is unpacked, except where the file itself is a
    packed one, which some servers announce in the same way.

    Raises
    ------
    Changed
        The server has another file by now.
    SourceRefused
        It promised no length, and sends more than `most_bytes`.
    """

    def take(response: requests.Response) -> Part:
        offer.check_same(response)
        unpack = bool(response.headers.get("Content-Encoding")) and not _is_packed(name)
        at = found = 0
        for block in pieces_of(response, unpack=unpack):
            _check_length(web.who, offer, at + len(block), most_bytes=most_bytes)
            write(at, block)
            found = crc32(block, found)
            at += len(block)
        if offer.size_bytes is not None and at != offer.size_bytes:
            raise Cut(f"{at} bytes came, {offer.size_bytes} were promised")
        return Part(0, at, found)

    return web.exchange(offer.url, take, headers=AS_IT_IS)


def _check_length(who: str, offer: Offer, length: int, *, most_bytes: int) -> None:
    """Stop a stream that goes on, before it fills the disk."""
    if offer.size_bytes is not None:
        if length > offer.size_bytes:
            raise Cut(f"more than the {offer.size_bytes} bytes came that were promised")
    elif length > most_bytes:
        raise SourceRefused(
            f"{who}: {offer.shown} goes on behind {most_bytes} bytes, expected an end; "
            "raise ingest.transfer.max_gb_per_item or take the item off",
            url=offer.shown,
        )


def _check_range(
    response: requests.Response, offer: Offer, *, span: tuple[int, int], name: str
) -> None:
    start, stop = span
    if response.status_code == 416:
        raise Changed(f"it ends before byte {start}, {offer.size_bytes} were promised")
    # Before the status: a 200 is also how If-Range answers for a changed file.
    offer.check_same(response)
    if response.status_code == 200:
        raise NoRanges
    if response.headers.get("Content-Encoding", "identity") != "identity":
        # A range of a compressed body is no range of the file.
        if not _is_packed(name):
            raise NoRanges
    sent = response.headers.get("Content-Range", "")
    found = _CONTENT_RANGE.fullmatch(sent)
    if found is None or int(found[1]) != start:
        raise Cut(f"bytes {start}-{stop - 1} were asked for, {sent or 'others'} sent")
    if found[3].isdigit() and int(found[3]) != offer.size_bytes:
        raise Changed(f"it had {offer.size_bytes} bytes and has {found[3]}")


def _is_packed(name: str) -> bool:
    return name.lower().endswith(_PACKED_NAMES)


def covered(parts: Iterable[Part]) -> int:
    """How many bytes the parts have together."""
    return sum(part.stop - part.start for part in parts)


log = logging.getLogger(__name__)


class Addresses:
    """Asks one address after the other what it promises, as far as that is needed."""

    def __init__(self, remote: RemoteFile, web: Web, *, who: str) -> None:
        self._remote = remote
        self._web = web
        self._who = who
        self._failures: list[PlatformError] = []
        self._offers: Iterator[Offer] = iter(())

    def first(self, preferred: str = "") -> Offer:
        """What the first that answers promises; `preferred` is asked first of all.

        Raises
        ------
        SourceRefused, SourceUnavailable
            None answers.
        """
        urls = [self._remote.url, *self._remote.mirrors]
        # Stable: only the preferred one changes its place.
        urls.sort(key=lambda url: shown(url) != preferred)
        self._failures.clear()
        self._offers = self._offered(urls)
        offer = next(self._offers, None)
        if offer is None:
            raise self.error()
        return offer

    def after(self, failure: PlatformError) -> Offer | None:
        """What the next one promises, now that one has failed; None where all have."""
        self._failures.append(failure)
        offer = next(self._offers, None)
        if offer is not None:
            log.warning("%s; it is fetched from %s", failure, offer.shown)
        return offer

    def error(self) -> PlatformError:
        """The one failure, or one that names all of them."""
        if len(self._failures) == 1:
            return self._failures[0]
        last = self._failures[-1]
        # One address that may recover makes another run worth its time.
        retryable = any(failure.retryable for failure in self._failures)
        kind = SourceUnavailable if retryable else SourceRefused
        each = "; ".join(str(failure).partition("; ")[0] for failure in self._failures)
        return (kind if isinstance(last, SourceError) else type(last))(
            f"{self._who}: none of {len(self._failures)} addresses served "
            f"{self._remote.name} ({each}); run again later or name another mirror",
            name=self._remote.name,
        )

    def _offered(self, urls: list[str]) -> Iterator[Offer]:
        """The promises; what is none, or of another size, is noted as a failure."""
        wanted = self._remote.size_bytes
        for url in urls:
            try:
                head = self._web.head(url)
            except SourceError as error:
                self._failures.append(error)
                continue
            offer = offer_of(url, head, name=self._remote.name)
            if offer.size_bytes is None:
                # With the entry's size it can still come in parts.
                offer = replace(offer, size_bytes=wanted)
            if wanted in (None, offer.size_bytes):
                yield offer
                continue
            self._failures.append(
                SourceUnavailable(
                    f"{self._who}: {offer.shown} has {offer.size_bytes} bytes, its "
                    f"entry says {wanted}; take the entry again",
                    url=offer.shown,
                )
            )
