"""What a person wants to know of each step of an ingest, in the order of interest."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from em_platform.assets.metadata import (
    Metadata,
    code,
    human_bytes,
    picture_file,
    place,
    record_summary,
    short,
    table,
)
from em_platform.formats import local_path
from em_platform.model.ingest import Entry, RawItem, VolumeItem
from em_platform.model.volume import VoxelStatistics
from em_platform.storage import Store

__all__ = ["entry_summary", "raw_summary", "record_summary", "volume_summary"]

# Eight heights and nothing: a histogram as text, for a column in Dagster.
_BARS = " ▁▂▃▄▅▆▇█"
# Four of the 256 bins a column.
_COLUMNS = 64


def entry_summary(entry: Entry, url: str) -> Metadata:
    """What the source says: title, size, voxel, whose it is, and where it says so."""
    stated: dict[str, str] = {
        "organism": entry.organism,
        "sample": entry.sample,
        "license": entry.license,
        "doi": entry.doi,
        "also known as": ", ".join(entry.aliases),
    }
    summary: Metadata = {
        "title": entry.title,
        "page": dg.MetadataValue.url(entry.url),
        "modality": entry.modality,
        "shape (z, y, x)": _times(entry.shape) if entry.shape else "not stated",
        "voxel (z, y, x)": _lengths(entry.voxel_size_nm),
        "to fetch": human_bytes(entry.estimated_bytes),
        **{name: text for name, text in stated.items() if text},
        "files": len(entry.files),
        "source's own answer": place(url),
    }
    if entry.array is not None:
        summary["array"] = entry.array.url
        if entry.array.crop is not None:
            corner, shape = entry.array.crop
            summary["crop"] = f"{_times(shape)} at {_times(corner)}"
    if entry.estimated_bytes is not None:
        summary["bytes to fetch"] = entry.estimated_bytes
    return summary


def raw_summary(
    entry: Entry, raw: RawItem, *, folder: Path, seconds: float
) -> Metadata:
    """What came over the network, how fast, and what is there."""
    rate = raw.fetched_bytes / 1e6 / seconds if seconds else 0.0
    summary: Metadata = {
        "size": human_bytes(raw.size_bytes),
        "fetched now": human_bytes(raw.fetched_bytes),
        "MB/s": short(rate),
        "bytes": raw.size_bytes,
        "bytes fetched now": raw.fetched_bytes,
        "seconds": round(seconds, 2),
    }
    if raw.files:
        rows = [
            (f.name, human_bytes(f.size_bytes), f.checked_against, f.sha256[:12])
            for f in raw.files
        ]
        summary["files"] = table(("file", "size", "checked by", "sha256"), rows)
        summary["folder"] = dg.MetadataValue.path(str(folder))
    elif entry.array is not None:
        summary["read in place from"] = entry.array.url
    if raw.expected_chunks is not None:
        summary["chunks"] = raw.expected_chunks
        summary["chunks missing"] = raw.missing_chunks
    return summary


def volume_summary(item: VolumeItem, store: Store, preview: str) -> Metadata:
    """Its middle from three sides, sizes, grey levels, and how to look at the whole.

    The picture is kept in the store under the name `preview`.
    """
    from em_platform.ome_zarr import mid_sections

    written, url = item.written, item.written.url
    local, stored = local_path(url), written.size_bytes
    voxels = written.shape[0] * written.shape[1] * written.shape[2]
    plain = voxels * _itemsize(written.dtype)
    rows = [
        (level.path, _times(level.shape), _lengths(level.voxel_size_nm))
        for level in written.levels
    ]
    return {
        **picture_file(
            "preview",
            mid_sections(url, storage_options=store.options),
            shows="mid-sections",
            store=store,
            name=preview,
        ),
        "open it with": code(f"em-platform view {local or url}"),
        "path": place(url),
        "shape (z, y, x)": f"{_times(written.shape)} {written.dtype}",
        "voxel (z, y, x)": _lengths(written.voxel_size_nm),
        "origin (z, y, x)": _lengths(written.origin_nm),
        "size": f"{human_bytes(stored)} on disk, {human_bytes(plain)} of voxels",
        "grey levels": _histogram(written.statistics),
        "levels": table(("level", "shape", "voxel"), rows),
        "chunk, shard": f"{_times(written.chunk_shape)}, {_times(written.shard_shape)}",
        "compression": written.compression,
        "bytes": stored,
        "voxels": voxels,
        "seconds": round(written.seconds, 2),
        "CPU seconds": round(written.cpu_seconds, 2),
        "MB/s": short(plain / 1e6 / written.seconds if written.seconds else 0.0),
        "sha256 of the voxels": written.statistics.content_sha256,
    }


def _histogram(statistics: VoxelStatistics) -> dg.MetadataValue:
    """The grey levels as a line of bars, in text; empty ends are left out."""
    counts = statistics.histogram
    step = max(1, len(counts) // _COLUMNS)
    summed = [sum(counts[at : at + step]) for at in range(0, len(counts), step)]
    low, high = statistics.histogram_range
    most = max(summed, default=0) or 1  # it divides below
    # Rounded up: a single voxel already shows.
    bars = "".join(_BARS[-(-8 * count // most)] for count in summed)
    return dg.MetadataValue.md(
        f"`{low:g}` `{bars}` `{high:g}`\n\n"
        f"mean {statistics.mean:.4g}, standard deviation {statistics.std:.4g}, "
        f"from {statistics.minimum:g} to {statistics.maximum:g}, "
        f"{len(statistics.blank_sections)} blank sections"
    )


def _itemsize(dtype: str) -> int:
    import numpy as np

    return int(np.dtype(dtype).itemsize)


def _times(lengths: Sequence[int]) -> str:
    return " x ".join(map(str, lengths))


def _lengths(lengths: Sequence[float] | None) -> str:
    if lengths is None:
        return "not stated"
    return f"{' x '.join(f'{length:g}' for length in lengths)} nm"
