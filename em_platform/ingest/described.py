"""A volume with what its source knows of it and its file does not say."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from numpy.typing import NDArray

from em_platform.formats import Region, Volume
from em_platform.model.ingest import Entry
from em_platform.model.volume import Tag, VolumeInfo

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

    `override` stands above both.
    """
    told = volume.info
    known = voxel_size(told.voxel_size_nm, entry.voxel_size_nm)
    info = told.model_copy(
        update={
            "voxel_size_nm": override or known,
            "origin_nm": told.origin_nm if any(told.origin_nm) else entry.origin_nm,
        }
    )
    return volume if info == told else Described(volume=volume, info=info)


def voxel_size(stated: Lengths | None, known: Lengths | None) -> Lengths | None:
    """The file's own edge along each axis, else that which the source tells."""
    if stated is None or known is None:
        return stated or known
    z, y, x = (own or told for own, told in zip(stated, known, strict=True))
    return z, y, x


def with_tags(entry: Entry, tags: Mapping[str, Tag]) -> Entry:
    """The entry with what its file says of the imaging and the source does not."""
    plain = {
        name: value if isinstance(value, str | int | float | bool) else str(value)
        for name, value in tags.items()
        if value != ""
    }
    update: dict[str, Any] = {"additional": {**plain, **entry.additional}}
    if entry.imaging_start_date is None:
        update["imaging_start_date"] = _date(tags.get("imaging_date"))
    return entry.model_copy(update=update)


def _date(tag: Tag | None) -> date | None:
    try:
        return date.fromisoformat(str(tag)) if tag else None
    except ValueError:
        return None
