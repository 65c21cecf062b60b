"""Catalog records of what the platform made."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import JsonValue

from em_platform.model import (
    Check,
    Montage,
    MontageFit,
    Review,
    review_of,
)
from em_platform.model.dataset import (
    CoreMetadata,
    DagsterProvenance,
    DatasetFiles,
    DatasetMetadata,
    DatasetQuality,
    DatasetRecord,
    Provenance,
    Status,
    StoredLevel,
    TechnicalMetadata,
)
from em_platform.model.volume import VoxelStatistics
from em_platform.storage.layout import StorageOptions

if TYPE_CHECKING:
    import zarr

# Beside the names of public sources: where the microscope is the source.
_SOURCE = "acquisition"


@dataclass(frozen=True, slots=True, kw_only=True)
class MosaicLevels:
    """The levels from the finest on; sizes in px, in the order y, x."""

    levels: tuple[StoredLevel, ...]
    chunk_px: tuple[int, ...]
    shard_px: tuple[int, ...] | None
    size_bytes: int
    """Of all its files."""
    statistics: VoxelStatistics
    """Of level 0 with its background, where no tile is."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of level 0."""
        return self.levels[0].shape


def mosaic_levels(
    url: str, *, pixel_nm: float | None, options: StorageOptions
) -> MosaicLevels:
    """The levels of the mosaic at `url`, as the image states them.

    Raises
    ------
    FormatError
        There is no such image.
    """
    # Zarr and OpenCV: who lists or searches records needs neither.
    from fsspec.core import url_to_fs

    from em_platform.formats import describe, open_level

    options = dict(options)
    paths = describe(url, storage_options=options).paths
    images = [open_level(url, n, storage_options=options) for n in range(len(paths))]
    levels = tuple(
        StoredLevel(
            path=paths[number],
            shape=image.shape,
            # Each level of a mosaic halves both edges.
            voxel_size_nm=(pixel_nm * 2**number,) * 2 if pixel_nm else None,
        )
        for number, image in enumerate(images)
    )
    filesystem, path = url_to_fs(url, **options)
    return MosaicLevels(
        levels=levels,
        chunk_px=images[0].chunks,
        shard_px=images[0].shards,
        size_bytes=int(filesystem.du(path)),
        statistics=_statistics(images[0]),
    )


def _statistics(image: "zarr.Array[Any]") -> VoxelStatistics:
    """Read level 0 once, shard by shard; measured as volumes are when written.

    At write time shards are made on workers and resumed in part, and a manifest would
    have to carry the figures; reading 37 Mpix back takes 0.09 CPU-s (decision 25).
    """
    import numpy as np

    from em_platform.imaging.voxel_statistics import Measured, statistics_of

    measured = Measured()
    height, width = image.shards or image.chunks
    for row, y in enumerate(range(0, image.shape[0], height)):
        for column, x in enumerate(range(0, image.shape[1], width)):
            pixels = np.ascontiguousarray(image[y : y + height, x : x + width])
            # `Measured` takes volumes; a mosaic is one of one plane.
            measured.add((row, column), pixels[None], first=0)
    return statistics_of(measured, image.shape, image.dtype)


def record_id(source: str, source_id: str) -> UUID:
    """The id of a dataset: the same each time, another one for each dataset."""
    return uuid5(NAMESPACE_URL, f"em-platform:{source}:{source_id}")


def dataset_record(
    montage: Montage,
    fit: MontageFit,
    *,
    url: str,
    image: MosaicLevels,
    recorded_at: datetime,
    checks: Iterable[Check] = (),
    preview: str = "",
    dagster: DagsterProvenance | None = None,
    parameters: dict[str, JsonValue] | None = None,
) -> DatasetRecord:
    """The record of one mosaic; the same mosaic gives the same record.

    It needs review where a check of severity ERROR failed, and else is complete.

    `image` describes the mosaic at `url`, `preview` is a picture of it. `recorded_at`
    is the time of creation where the montage itself has none (see
    `record_files.first_recorded`); no clock is read here. `dagster` is the step that
    records it, `parameters` are the settings by which it was made.
    """
    checks = tuple(checks)
    review = review_of(checks)
    record = record_id(_SOURCE, montage.acquisition_id)
    created = _in_utc(montage.ended_at or montage.started_at or recorded_at)
    core = _core(montage, image.shape)
    technical = _technical(image, montage.pixel_nm)
    provenance = Provenance(
        download_url=url,
        processing_pipeline=f"em-platform {version('em-platform')} stitching",
        internal_zarr_path=image.levels[0].path,
        uuid=record,
        dagster=dagster,
        parameters=parameters or {},
    )
    quality = _quality(montage, fit, core=core, checks=checks, review=review)
    return DatasetRecord(
        id=record,
        source=_SOURCE,
        source_id=montage.acquisition_id,
        key=montage.acquisition_id,
        status=Status.COMPLETE if review.passed else Status.NEEDS_REVIEW,
        created_at=created,
        updated_at=created,
        metadata=DatasetMetadata(
            core=core, technical=technical, provenance=provenance, quality=quality
        ),
        files=DatasetFiles(volume=url, preview=preview or None),
        additional_metadata=_additional(montage, fit),
    )


def _core(montage: Montage, shape: tuple[int, ...]) -> CoreMetadata:
    started = montage.started_at or montage.ended_at
    edge = montage.pixel_nm
    return CoreMetadata(
        description=_description(montage),
        dataset_title=f"Montage {montage.montage_id}",
        volume_shape=shape,
        axes=("y", "x"),
        voxel_size_nm=(edge, edge) if edge else None,
        # Tiles are mapped to 8 bits before they are matched.
        data_type="uint8",
        modality=montage.modality or "EM",
        imaging_start_date=started.date() if started else None,
    )


def _technical(image: MosaicLevels, edge: float | None) -> TechnicalMetadata:
    values = image.statistics
    return TechnicalMetadata(
        file_size_bytes=image.size_bytes,
        # The mosaic's writer has no other codec.
        compression="zstd",
        codec="zstd",
        chunk_size=image.chunk_px,
        shards=image.shard_px,
        zarr_format=3,
        levels=image.levels,
        dtype="uint8",
        global_mean=values.mean,
        min=values.minimum,
        max=values.maximum,
        mean=values.mean,
        std=values.std,
        content_sha256=values.content_sha256,
        dimensions_nm=tuple(n * edge for n in image.shape) if edge else None,
        file_format="OME-Zarr 0.5",
    )


def _additional(
    montage: Montage, fit: MontageFit
) -> dict[str, str | int | float | bool]:
    known: dict[str, str | int | float | bool] = {
        "microscope": montage.microscope,
        "montage_id": montage.montage_id,
        "tiles": len(fit.placements),
    }
    if montage.magnification is not None:
        known["magnification"] = montage.magnification
    return known


def _description(montage: Montage) -> str:
    return (
        f"Montage {montage.montage_id} of {len(montage.tiles)} tiles of "
        f"{montage.tile_size.width_px} x {montage.tile_size.height_px} px, microscope "
        f"{montage.microscope}"
    )


def _in_utc(moment: datetime | None) -> datetime | None:
    """A time without zone, as microscopes write it, is taken as UTC."""
    if moment is None or moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=UTC)


def _quality(
    montage: Montage,
    fit: MontageFit,
    *,
    core: CoreMetadata,
    checks: tuple[Check, ...],
    review: Review,
) -> DatasetQuality:
    unknown = [
        f"{name} is not known"
        for name, value in (
            ("voxel_size_nm", core.voxel_size_nm),
            ("imaging_start_date", core.imaging_start_date),
        )
        if value is None
    ]
    values = {c.name: c.value for c in checks if c.value is not None}
    kept = sum(match.kept for match in fit.matches)
    return DatasetQuality(
        # The schema ends at 1, also with more tiles than were planned.
        completeness_score=min(
            1.0, len(fit.placements) / max(1, montage.expected_tiles)
        ),
        validation_errors=(
            *(failure.sentence for failure in montage.failures),
            *(check.sentence for check in checks if not check.passed),
            *unknown,
        ),
        review_reasons=review.reasons,
        metrics={
            "residual_px": fit.residual_px,
            "edges_kept": float(kept),
            "edges_dropped": float(len(fit.matches) - kept),
            **values,
        },
    )
