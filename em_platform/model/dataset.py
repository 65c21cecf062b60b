"""The catalog's record of one dataset, version 3.

A superset of the draft-07 schema (v2) of macroscope's catalogs: every record that v2
accepts is accepted, and one that says only what v2 can say is accepted by v2. What is
not known is left out of the written file, never null, as v2 wants it.
"""

import re
from datetime import date
from enum import StrEnum
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from em_platform.model.base import Model
from em_platform.model.modality import Modality

SCHEMA_VERSION = "3.0"
# What the core of a record whose volume stands says at least.
NEEDED_WHEN_COMPLETE = ("volume_shape", "data_type")
# Values that say nothing; a record leaves their fields out.
# 0 and False are none of them: they say something.
_UNSAID: tuple[Any, ...] = (None, "", (), [], {})
# RFC 3986 as far as its form shows: a scheme, and no blanks after it.
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"{}|\\^`]+")


class Status(StrEnum):
    """How far a dataset is."""

    PENDING = "pending"
    PROCESSING = "processing"
    SAVING_DATA = "saving-data"
    COMPLETE = "complete"
    NEEDS_REVIEW = "needs_review"
    FAILED = "failed"
    CANCELLED = "cancelled"


# The volume stands; one that needs review failed a check, so that a person decides.
WITH_VOLUME = (Status.COMPLETE, Status.NEEDS_REVIEW)


def is_uri(text: str) -> bool:
    """Whether the text is an absolute URI (RFC 3986: scheme, then legal characters)."""
    return _URI.fullmatch(text) is not None


def voxel_size_zyx(value: Any) -> Any:
    """A voxel size in the order z, y, x, also from the object `{x, y, z}` of v2.

    An object that names no length at all is no voxel size: None.
    """
    if isinstance(value, dict) and set(value) <= set("zyx"):
        return tuple(value[axis] for axis in "zyx" if axis in value) or None
    return tuple(value) if isinstance(value, list) else value


def _filled(text: str) -> str:
    if not text:
        raise ValueError("is empty, a text was expected")
    return text


def _uri(text: str) -> str:
    if not is_uri(text):
        raise ValueError(f"{text!r} is not a URI")
    return text


class VoxelSizeXyz(Model):
    """The other form that v2 knows; the schema shows it, no record keeps it."""

    x: float = Field(default=0, ge=0)
    y: float = Field(default=0, ge=0)
    z: float = Field(default=0, ge=0)


_Lengths = Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field()]
_Counts = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field()]
# As many as version 2 allows.
_Axes = Field(min_length=2, max_length=4)
Shape = Annotated[_Counts, _Axes]
VoxelSize = Annotated[
    Annotated[_Lengths, _Axes] | None,
    BeforeValidator(
        voxel_size_zyx,
        json_schema_input_type=Annotated[_Lengths, _Axes] | VoxelSizeXyz,
    ),
]
Sha256 = Annotated[str, Field(pattern=r"^[a-f0-9]{64}$")]
Uri = Annotated[str, AfterValidator(_uri), Field(json_schema_extra={"format": "uri"})]
# Not `min_length`, which would stand in the schema: version 2 allows it empty.
Name = Annotated[str, AfterValidator(_filled)]
Source = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]


class RecordPart(Model):
    """A part of a record: what is None or empty is not written."""

    @model_serializer(mode="wrap")
    def _serialized(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written = handler(self)
        return {key: value for key, value in written.items() if value not in _UNSAID}


class RecordProgress(RecordPart):
    """How far the work is."""

    percentage: float | None = Field(default=None, ge=0, le=100)
    current_step: str = ""
    estimated_completion: AwareDatetime | None = None


class RecordedError(RecordPart):
    """Why the last try failed, and how many tries came after a failed one."""

    message: str = ""
    traceback: str = ""
    retry_count: int = Field(default=0, ge=0)


class CoreMetadata(RecordPart):
    """What the dataset shows; all sizes in the order of `axes`, (z) y x.

    Only `description` is needed until the record is complete.
    """

    description: str = Field(min_length=1)
    dataset_title: str = ""
    volume_shape: Shape | None = None
    voxel_size_nm: VoxelSize = None
    axes: tuple[str, ...] = ()
    origin_nm: tuple[float, ...] | None = Field(
        default=None, min_length=2, max_length=4
    )
    """Centre of the first voxel in the whole of which this is a crop."""
    data_type: (
        Literal[
            "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
            "float32", "float64",
        ]
        | None
    ) = None  # fmt: skip
    modality: Modality | None = None
    imaging_start_date: date | None = None
    organism: str = ""
    sample: str = ""
    license: str = ""
    citation: str = ""
    doi: str = ""


class StoredLevel(RecordPart):
    """One level of a pyramid."""

    path: str
    shape: Shape
    voxel_size_nm: VoxelSize = None


class SourceFile(RecordPart):
    """One file of the source as it was fetched."""

    name: str
    url: str = ""
    size_bytes: int | None = Field(default=None, ge=0)
    sha256: Sha256 | None = None
    etag: str = ""


class TechnicalMetadata(RecordPart):
    """How the dataset is stored, and what its voxels say."""

    file_size_bytes: int | None = Field(default=None, ge=0)
    sha256: Sha256 | None = None
    """Of the primary data file as it was fetched."""
    compression: (
        Literal["none", "gzip", "lz4", "blosc", "zarr", "zstd"] | None
    ) = None  # fmt: skip
    chunk_size: _Counts | None = None
    dtype: str | None = None
    """The type in the source, before any conversion."""
    global_mean: float | None = None
    dimensions_nm: _Lengths | None = None
    file_format: str | None = None
    """Format of `files.volume`, such as `OME-Zarr 0.5`."""
    container: str | None = None
    """What the source serves, such as `DM3`, `TIFF`, `Zarr v2`."""
    zarr_format: Literal[2, 3] | None = None
    shards: _Counts | None = None
    codec: str | None = None
    levels: tuple[StoredLevel, ...] = ()
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    std: float | None = Field(default=None, ge=0)
    histogram: str | None = None
    """Where the histogram lies, as `<file>#<field>`."""
    files: tuple[SourceFile, ...] = ()
    bytes_downloaded: int | None = Field(default=None, ge=0)
    duration_s: float | None = Field(default=None, ge=0)
    content_sha256: Sha256 | None = None
    """Of shape, type and voxels: equal voxels, equal text."""


class DagsterProvenance(RecordPart):
    """Which step of which run wrote the record."""

    run_id: str = ""
    asset_key: str = ""
    partition: str = ""
    code_version: str = ""


class Provenance(RecordPart):
    """Where the dataset comes from."""

    download_url: Uri | None = None
    processing_pipeline: str | None = None
    internal_zarr_path: str | None = None
    uuid: UUID | None = None
    snapshot: str | None = None
    """Where the source's own answers are kept."""
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    parents: tuple[str, ...] = ()
    """Ids or URLs of the datasets that this one is made from."""
    dagster: DagsterProvenance | None = None


class DatasetQuality(RecordPart):
    """How good it is; `validation_errors` are sentences.

    `review_reasons` are those of the failed checks for which it needs review.
    """

    completeness_score: float | None = Field(default=None, ge=0, le=1)
    validation_errors: tuple[str, ...] = ()
    review_reasons: tuple[str, ...] = ()
    metrics: dict[str, JsonValue] = Field(default_factory=dict)


class DatasetMetadata(RecordPart):
    """All that is known of a dataset."""

    core: CoreMetadata
    # Frozen, so that all records may share one default.
    technical: TechnicalMetadata = TechnicalMetadata()
    provenance: Provenance = Provenance()
    quality: DatasetQuality = DatasetQuality()


class DatasetFiles(RecordPart):
    """Where its parts lie; `preview` is a small picture."""

    volume: str | None = None
    raw: str | None = None
    metadata: str | None = None
    preview: str | None = None
    additional: dict[str, JsonValue] = Field(default_factory=dict)


class CiMetadata(RecordPart):
    """Which CI run made the record, as the source projects write it."""

    commit_sha: str | None = None
    commit_ref: str | None = None
    pipeline_id: str | None = None
    pipeline_url: str | None = None
    triggered_by: str | None = None
    workflow_name: str | None = None
    processing_environment: str | None = None
    runner_os: str | None = None
    github_repository: str | None = None
    github_event_name: str | None = None


class DatasetRecord(RecordPart):
    """One dataset in the catalog.

    `id` follows from source and key. `source_id` is the source's own name, which
    several datasets may share (crops of one volume); `key` is the path-safe name that
    none shares, empty in records of v2.
    """

    schema_version: str = Field(default=SCHEMA_VERSION, pattern=r"^\d+(\.\d+)*$")
    id: UUID
    source: Source
    source_id: Name
    key: str = ""
    status: Status
    created_at: AwareDatetime
    updated_at: AwareDatetime | None = None
    progress: RecordProgress | None = None
    error: RecordedError | None = None
    metadata: DatasetMetadata
    files: DatasetFiles = DatasetFiles()
    aliases: tuple[str, ...] = ()
    ci_metadata: CiMetadata | None = None
    additional_metadata: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete_is_complete(self) -> Self:
        core = self.metadata.core
        missing = [n for n in NEEDED_WHEN_COMPLETE if getattr(core, n) is None]
        if self.status in WITH_VOLUME and missing:
            raise ValueError(
                f"catalog: {self.source} {self.source_id} is {self.status} without "
                f"{' and '.join(missing)}; say them, or use another status"
            )
        return self
