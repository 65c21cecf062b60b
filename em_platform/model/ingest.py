"""What passes between the steps of an ingest: entry -> raw -> volume -> record."""

from datetime import date
from typing import Any, Literal, TypeAlias

from pydantic import Field

from em_platform.model.base import Model
from em_platform.model.volume import Tag, WrittenVolume


class RemoteFile(Model):
    """One file that a source offers."""

    name: str
    """A relative path that is unique in its entry."""
    url: str
    mirrors: tuple[str, ...] = ()
    size_bytes: int | None = Field(default=None, ge=0)
    etag: str = ""
    """Of `url`, when it was described; another one means another file."""
    sha256: str = ""
    """As the source publishes it; empty where it does not."""
    md5: str = ""


Snapshot: TypeAlias = dict[str, Any]
"""Answers of a source as they came, by the name of a file or a question."""


class RemoteArray(Model):
    """An array that is read in place, chunk by chunk.

    `crop` is the corner and the shape (z, y, x) in voxels of that array.
    """

    url: str
    format: str
    """`zarr`, `n5`, `precomputed`, `dvid`."""
    crop: tuple[tuple[int, int, int], tuple[int, int, int]] | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class Entry(Model):
    """What a source says of one item; either `files` are fetched or `array` is read.

    `key` is path-safe and is the item's partition. `source_id` is the source's own
    name. `voxel_size_nm` is z, y, x. `aliases` are names under which others know it.
    `snapshot` holds the source's answers as they came.
    """

    source: str
    key: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    source_id: str
    title: str
    url: str
    description: str = ""
    modality: str = "EM"
    content: Literal["grey", "labels"] = "grey"
    """Labels keep their values on every level of the pyramid."""
    shape: tuple[int, int, int] | None = None
    dtype: str | None = None
    voxel_size_nm: tuple[float, float, float] | None = None
    origin_nm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    imaging_start_date: date | None = None
    organism: str = ""
    sample: str = ""
    license: str = ""
    citation: str = ""
    doi: str = ""
    aliases: tuple[str, ...] = ()
    files: tuple[RemoteFile, ...] = ()
    stated_files: int | None = Field(default=None, ge=0)
    """How many files there should be, where the source says so elsewhere."""
    array: RemoteArray | None = None
    estimated_bytes: int | None = Field(default=None, ge=0)
    """What will be fetched; None where the source does not say."""
    additional: dict[str, str | int | float | bool] = Field(default_factory=dict)
    snapshot: Snapshot = Field(default_factory=dict)


class FetchedFile(Model):
    """One file that lies whole and checked below the item's raw folder."""

    name: str
    url: str
    size_bytes: int
    sha256: str
    etag: str = ""
    modified: str = ""
    checked_against: str = ""
    """`sha256`, `md5`, or `length`: what the source let us compare."""


class RawItem(Model):
    """What was fetched for an entry, or what a look at its array found.

    `fetched_bytes` came over the network in this call; 0 when all was there.
    """

    files: tuple[FetchedFile, ...] = ()
    expected_chunks: int | None = None
    missing_chunks: int | None = None
    missing: tuple[str, ...] = ()
    """Names of missing chunks or files, at most 100 of them."""
    chunks_with_md5: int = 0
    """Whose bytes are compared with what the store states of them."""
    size_bytes: int = 0
    fetched_bytes: int = 0
    digest: str = ""
    """Of names, sizes and ETags of an array's chunks, where the store lists them."""


class VolumeItem(Model):
    """A volume that was written, and from what.

    `fingerprint` names what went in; `stated_voxel_nm` and `tags` are what the file
    itself stated.
    """

    written: WrittenVolume
    fingerprint: str
    stated_voxel_nm: tuple[float, float, float] | None = None
    tags: dict[str, Tag] = Field(default_factory=dict)


class Estimate(Model):
    """What an item would cost; None where nobody can say beforehand."""

    source: str
    key: str
    title: str
    fetch_bytes: int | None
    volume_bytes: int | None
    already_there: bool
