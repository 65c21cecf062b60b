"""Where one file may be fetched: the source itself, then its mirrors."""

import logging
from collections.abc import Iterator
from dataclasses import replace

from em_platform.errors import (
    PlatformError,
    SourceError,
    SourceRefused,
    SourceUnavailable,
)
from em_platform.ingest.answers import shown
from em_platform.ingest.parts import Offer, offer_of
from em_platform.ingest.web import Web
from em_platform.model.ingest import RemoteFile

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
