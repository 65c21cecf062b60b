"""Records of volumes: of a public source, of a simulation, of a reconstruction."""

import re
from collections.abc import Iterable
from datetime import date, datetime
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import Any

from em_platform.catalog.record_files import Parts, Record
from em_platform.catalog.records import record_id
from em_platform.model import Check
from em_platform.model.dataset import (
    CiMetadata,
    CoreMetadata,
    DagsterProvenance,
    DatasetFiles,
    DatasetMetadata,
    DatasetQuality,
    DatasetRecord,
    Provenance,
    SourceFile,
    Status,
    StoredLevel,
    TechnicalMetadata,
    is_uri,
)
from em_platform.model.ingest import Entry, RawItem
from em_platform.model.modality import MODALITIES
from em_platform.model.volume import WrittenVolume

AXES = ("z", "y", "x")
# Words of the schema; a codec that it lacks is kept in `codec`.
COMPRESSIONS = frozenset({"none", "gzip", "lz4", "blosc", "zarr", "zstd"})
# `blosc(zstd, 5)` -> `blosc`.
_WORD = re.compile(r"[a-z0-9]+")


def record_of_item(
    entry: Entry,
    raw: RawItem,
    written: WrittenVolume,
    *,
    created_at: datetime,
    checks: Iterable[Check] = (),
    raw_folder: str = "",
    snapshot_url: str = "",
    volume_json_url: str = "",
    preview: str = "",
    parameters: Record | None = None,
    dagster: DagsterProvenance | None = None,
    ci_metadata: CiMetadata | None = None,
) -> DatasetRecord:
    """The complete record of one item; the same arguments give the same record.

    `raw_folder` is where its files lie, `snapshot_url` where the source's answers are
    kept, `volume_json_url` where `written` is (its histogram is referred to there),
    `preview` a picture of its middle sections; `dagster`, `ci_metadata` name the run.
    """
    whole = record_of_volume(
        entry.source,
        entry.source_id,
        written,
        key=entry.key,
        core=_core_of_entry(entry),
        created_at=created_at,
        checks=checks,
        volume_json_url=volume_json_url,
        preview=preview,
        aliases=entry.aliases,
        additional=_additional(entry),
    )
    stated = whole.metadata
    provenance = {
        "download_url": _download_url(entry),
        "processing_pipeline": _pipeline("ingest"),
        "snapshot": snapshot_url or None,
        "parameters": {**_crop_of(entry), **(parameters or {})},
        "dagster": dagster,
    }
    metadata = {
        "technical": stated.technical.model_copy(update=_fetched(entry, raw)),
        "provenance": stated.provenance.model_copy(update=provenance),
        "quality": stated.quality.model_copy(update=_holes(stated.quality, raw)),
    }
    changes = {
        "metadata": stated.model_copy(update=metadata),
        "files": whole.files.model_copy(update={"raw": raw_folder or None}),
        "ci_metadata": ci_metadata,
    }
    return whole.model_copy(update=changes)


def record_of_volume(
    source: str,
    source_id: str,
    written: WrittenVolume,
    *,
    core: CoreMetadata,
    created_at: datetime,
    key: str = "",
    checks: Iterable[Check] = (),
    volume_json_url: str = "",
    preview: str = "",
    aliases: tuple[str, ...] = (),
    parents: tuple[str, ...] = (),
    additional: Record | None = None,
) -> DatasetRecord:
    """The complete record of any volume that was written, of whatever source.

    `core` says what only the maker knows (description, modality, organism ...); shape,
    type, voxel size and place are those of `written`.
    """
    checks = tuple(checks)
    core = core.model_copy(
        update={
            "volume_shape": written.shape,
            "voxel_size_nm": written.voxel_size_nm,
            "axes": AXES,
            "origin_nm": written.origin_nm,
            "data_type": written.dtype,
        }
    )
    record = record_id(source, key or source_id)
    provenance = Provenance(
        processing_pipeline=_pipeline(source),
        internal_zarr_path=written.levels[0].path,
        uuid=record,
        parents=parents,
    )
    metadata = DatasetMetadata(
        core=core,
        technical=_technical(written, volume_json_url),
        provenance=provenance,
        quality=_quality(core, checks),
    )
    return DatasetRecord(
        id=record,
        source=source,
        source_id=source_id,
        key=key or source_id,
        status=Status.COMPLETE,
        created_at=created_at,
        # No clock: the same volume gives the same record; `mark` sets the time.
        updated_at=created_at,
        metadata=metadata,
        files=DatasetFiles(volume=written.url, preview=preview or None),
        aliases=aliases,
        additional_metadata=dict(additional or {}),
    )


def _core_of_entry(entry: Entry) -> CoreMetadata:
    modality: Any = entry.modality if entry.modality in MODALITIES else "EM"
    started: date | None = entry.imaging_start_date
    return CoreMetadata(
        description=entry.description or entry.title or entry.source_id,
        dataset_title=entry.title,
        modality=modality,
        imaging_start_date=started,
        organism=entry.organism,
        sample=entry.sample,
        license=entry.license,
        citation=entry.citation,
        doi=entry.doi,
    )


def _additional(entry: Entry) -> Parts:
    """What the source says beside; also a modality that the schema has no word for."""
    stated = {**entry.additional, "page": entry.url}
    if entry.modality not in MODALITIES:
        stated["stated_modality"] = entry.modality
    return stated


def _technical(written: WrittenVolume, volume_json_url: str) -> TechnicalMetadata:
    voxels, values = written.voxel_size_nm, written.statistics
    lengths = (
        tuple(n * edge for n, edge in zip(written.shape, voxels, strict=True))
        if voxels
        else None
    )
    word = _WORD.match(written.compression.lower())
    # `zarr` is the schema's word for any codec inside a Zarr.
    compression: Any = word[0] if word and word[0] in COMPRESSIONS else "zarr"
    return TechnicalMetadata(
        file_size_bytes=written.size_bytes,
        compression=compression,
        codec=written.compression,
        chunk_size=written.chunk_shape,
        shards=written.shard_shape,
        dtype=written.dtype,
        # The name of version 2, beside `mean`.
        global_mean=values.mean,
        dimensions_nm=lengths,
        file_format="OME-Zarr 0.5",
        zarr_format=3,
        levels=tuple(
            StoredLevel(path=n.path, shape=n.shape, voxel_size_nm=n.voxel_size_nm)
            for n in written.levels
        ),
        min=values.minimum,
        max=values.maximum,
        mean=values.mean,
        std=values.std,
        histogram=_histogram(volume_json_url),
        duration_s=written.seconds,
        content_sha256=values.content_sha256,
    )


def _fetched(entry: Entry, raw: RawItem) -> Parts:
    """What the transfer adds; one file alone gives its digest to the whole."""
    files = tuple(
        SourceFile(
            name=f.name,
            url=f.url,
            size_bytes=f.size_bytes,
            sha256=f.sha256 or None,
            etag=f.etag,
        )
        for f in raw.files
    )
    suffixes = {PurePosixPath(f.name).suffix.lstrip(".").lower() for f in files}
    container = entry.array.format if entry.array else " ".join(sorted(suffixes))
    stated: Parts = {
        "files": files,
        "sha256": files[0].sha256 if len(files) == 1 else None,
        "container": container or None,
        "bytes_downloaded": raw.size_bytes,
    }
    return {**stated, "dtype": entry.dtype} if entry.dtype else stated


def _quality(core: CoreMetadata, checks: tuple[Check, ...]) -> DatasetQuality:
    """What failed and what is not known, each a sentence."""
    unknown = tuple(
        f"{name} is not known"
        for name in ("voxel_size_nm", "imaging_start_date", "license")
        if not getattr(core, name)
    )
    passed = [check.passed for check in checks if check.is_applicable]
    return DatasetQuality(
        completeness_score=sum(passed) / len(passed) if passed else None,
        validation_errors=(*(c.sentence for c in checks if not c.passed), *unknown),
        metrics={c.name: c.value for c in checks if c.value is not None},
    )


def _holes(quality: DatasetQuality, raw: RawItem) -> Parts:
    """With chunks counted, the score is the part of them that is there."""
    if not raw.expected_chunks or raw.missing_chunks is None:
        return {}
    counted = {
        "expected_chunks": raw.expected_chunks,
        "missing_chunks": raw.missing_chunks,
    }
    return {
        "completeness_score": 1 - raw.missing_chunks / raw.expected_chunks,
        "metrics": {**quality.metrics, **counted},
    }


def _download_url(entry: Entry) -> str | None:
    """The array, the one file, or the folder of all files; the page where none is."""
    if entry.array is not None:
        found = entry.array.url
    elif len(entry.files) == 1:
        found = entry.files[0].url
    else:
        folders = {file.url.rpartition("/")[0] for file in entry.files}
        found = folders.pop() if len(folders) == 1 else entry.url
    return found if is_uri(found) else None


def _crop_of(entry: Entry) -> Parts:
    if entry.array is None or entry.array.crop is None:
        return {}
    start, shape = entry.array.crop
    return {"crop_start_zyx": list(start), "crop_shape_zyx": list(shape)}


def _histogram(volume_json_url: str) -> str | None:
    if not volume_json_url:
        return None
    return f"{volume_json_url}#written.statistics.histogram"


def _pipeline(part: str) -> str:
    return f"em-platform {version('em-platform')} {part}"
