"""A public source: its items, their entries and voxels, progress of transfers."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from em_platform.formats import Region, Volume
from em_platform.model.ingest import Entry, RawItem
from em_platform.model.volume import Tag, VolumeInfo


class Progress(Protocol):
    """Called from any thread."""

    def total(self, size_bytes: int) -> None:
        """So many bytes will come in all."""
        ...

    def came(self, size_bytes: int) -> None:
        """So many more have come."""
        ...


class Silent:
    """Nobody listens."""

    def total(self, size_bytes: int) -> None:
        """Forget it."""

    def came(self, size_bytes: int) -> None:
        """Forget it."""


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


Lengths = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """The voxels of one volume with other information."""

    volume: Volume
    info: VolumeInfo

    def read(self, region: Region) -> NDArray[Any]:
        """The voxels of a region, `(z, y, x)`."""
        return self.volume.read(region)


def described(volume: Volume, entry: Entry, *, override: Lengths | None) -> Volume:
    """The volume, with the entry's voxel size and origin where it states none.

    `override` overrides both.
    """
    own = volume.info
    known = voxel_size(own.voxel_size_nm, entry.voxel_size_nm)
    info = own.model_copy(
        update={
            "voxel_size_nm": override or known,
            "origin_nm": own.origin_nm if any(own.origin_nm) else entry.origin_nm,
        }
    )
    return volume if info == own else Described(volume=volume, info=info)


def voxel_size(stated: Lengths | None, known: Lengths | None) -> Lengths | None:
    """The file's own edge along each axis, else that which the source states."""
    if stated is None or known is None:
        return stated or known
    # 0 is an edge that is not known, such as the thickness of a plane.
    z, y, x = (own or other for own, other in zip(stated, known, strict=True))
    return z, y, x


def with_tags(entry: Entry, tags: Mapping[str, Tag]) -> Entry:
    """The entry with what its file says of the imaging and the source does not."""
    plain = {
        name: value if isinstance(value, str | int | float | bool) else str(value)
        for name, value in tags.items()
        if value != ""
    }
    # What the source says stands above the tags of its file.
    update: dict[str, Any] = {"additional": {**plain, **entry.additional}}
    if entry.imaging_start_date is None:
        update["imaging_start_date"] = _date(tags.get("imaging_date"))
    return entry.model_copy(update=update)


def _date(tag: Tag | None) -> date | None:
    try:
        return date.fromisoformat(str(tag)) if tag else None
    # Files write dates in many ways; the item is good without one.
    except ValueError:
        return None
