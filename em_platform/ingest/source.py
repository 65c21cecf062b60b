"""One public source: what it has, what it says of it, and how to read it."""

from pathlib import Path
from typing import Protocol

from em_platform.formats import Volume
from em_platform.ingest.progress import Progress
from em_platform.model.ingest import Entry, RawItem


class Source(Protocol):
    """Everything that differs from source to source.

    Raises
    ------
    SourceUnavailable
        The source is down, slow or throttles, after all retries.
    SourceRefused
        It says no (404, 401, 403), or has no such item.
    FormatError
        Its answer, or a file of it, is not what it should be.
    """

    name: str

    def list(self) -> tuple[str, ...]:
        """Keys of the items that are wanted: those configured, and those found."""
        ...

    def describe(self, key: str) -> Entry:
        """What the source says of one item; nothing of its pixels is fetched."""
        ...

    def fetch(self, entry: Entry, folder: Path, progress: Progress) -> RawItem:
        """Bring the entry's files below `folder`, or look whether its array is whole.

        What an earlier call has fetched is not fetched again.
        """
        ...

    def open(self, entry: Entry, folder: Path) -> Volume:
        """The item's voxels, to be read lazily."""
        ...
