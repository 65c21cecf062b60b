"""The catalog's record of one dataset.

A superset of the draft-07 schema (v2) that macroscope's catalogs use
(`schemas/metadata_schema.json`: required fields, enumerations, ranges), with `source`
extended by our own and with what v2 cannot say left out instead of made up.
"""

from datetime import date, datetime
from enum import StrEnum
from typing import Literal
from uuid import UUID

from pydantic import Field

from em_platform.model.base import Model


class Status(StrEnum):
    """How far a dataset is."""

    PENDING = "pending"
    PROCESSING = "processing"
    SAVING_DATA = "saving-data"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"


class CoreMetadata(Model):
    """What the dataset shows; shape and voxel size in the order of the axes (z)yx."""

    description: str = Field(min_length=1)
    volume_shape: tuple[int, ...] = Field(min_length=2, max_length=4)
    voxel_size_nm: tuple[float, ...] | None = Field(
        default=None, min_length=2, max_length=4
    )
    data_type: Literal[
        "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
        "float32", "float64",
    ]  # fmt: skip
    modality: Literal["EM", "FIB-SEM", "SEM", "TEM", "STEM", "cryo-EM"]
    imaging_start_date: date | None = None


class TechnicalMetadata(Model):
    """How the dataset is stored."""

    file_size_bytes: int | None = Field(default=None, ge=0)
    sha256: str | None = Field(default=None, pattern=r"^[a-f0-9]{64}$")
    compression: Literal["none", "gzip", "lz4", "blosc", "zarr"] | None = None
    chunk_size: tuple[int, ...] | None = None
    dtype: str | None = None
    global_mean: float | None = None
    dimensions_nm: tuple[float, ...] | None = None
    file_format: str | None = None


class Provenance(Model):
    """Where the dataset comes from."""

    download_url: str | None = None
    processing_pipeline: str | None = None
    internal_zarr_path: str | None = None
    uuid: UUID | None = None


class DatasetQuality(Model):
    """How good it is; `validation_errors` are sentences."""

    completeness_score: float | None = Field(default=None, ge=0, le=1)
    validation_errors: tuple[str, ...] = ()
    metrics: dict[str, float] = Field(default_factory=dict)


class DatasetMetadata(Model):
    """All that is said of a dataset."""

    core: CoreMetadata
    technical: TechnicalMetadata = TechnicalMetadata()
    provenance: Provenance = Provenance()
    quality: DatasetQuality = DatasetQuality()


class DatasetFiles(Model):
    """Where its parts lie."""

    volume: str | None = None
    raw: str | None = None
    metadata: str | None = None
    additional: dict[str, str] = Field(default_factory=dict)


class DatasetRecord(Model):
    """One dataset in the catalog; `id` follows from source and source_id."""

    id: UUID
    source: Literal["acquisition", "ebi", "epfl", "flyem", "idr", "openorganelle"]
    source_id: str = Field(min_length=1)
    status: Status
    created_at: datetime | None = None
    updated_at: datetime | None = None
    metadata: DatasetMetadata
    files: DatasetFiles = DatasetFiles()
    additional_metadata: dict[str, str | int | float | bool] = Field(
        default_factory=dict
    )
