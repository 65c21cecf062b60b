from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from em_platform.catalog.record_files import content_of
from em_platform.catalog.records import (
    MosaicLevels,
    dataset_record,
    mosaic_levels,
    record_id,
)
from em_platform.catalog.validate import Findings, judge_record
from em_platform.config import RenderSettings
from em_platform.model import (
    Check,
    Failure,
    Montage,
    MontageFit,
    Severity,
    Size,
    Tile,
    TilePlacement,
)
from em_platform.model.dataset import DatasetRecord, Status, StoredLevel
from em_platform.model.volume import VoxelStatistics
from em_platform.ome_zarr import write_pyramid
from em_platform.storage.manifest import Product

RECORDED = datetime(2026, 6, 1, tzinfo=UTC)
SIZE = Size(height_px=64, width_px=96)
IMAGE = MosaicLevels(
    levels=tuple(
        StoredLevel(
            path=str(n), shape=(64 >> n, 256 >> n), voxel_size_nm=(4.0 * 2**n,) * 2
        )
        for n in (0, 1)
    ),
    chunk_px=(64, 64),
    shard_px=(128, 128),
    size_bytes=16384,
    statistics=VoxelStatistics(
        minimum=3.0,
        maximum=250.0,
        mean=120.5,
        std=31.0,
        histogram=(0,) * 256,
        histogram_range=(0.0, 256.0),
        blank_sections=(),
        content_sha256="ab" * 32,
    ),
)


def montage(**more: Any) -> Montage:
    tiles = tuple(
        Tile(tile_id=n, uri=n, row=0, column=c, y_px=0, x_px=80 * c, size=SIZE)
        for c, n in enumerate("abc")
    )
    known = {
        "acquisition_id": "run1-0a",
        "montage_id": "run1",
        "tiles": tiles,
        "tile_size": SIZE,
        "pixel_nm": 4.0,
        "microscope": "sim",
        "magnification": 2000,
        "expected_tiles": 4,
        "started_at": datetime(2026, 3, 4, 5, 6, tzinfo=UTC),
        "failures": (Failure(item="d", error="FormatError", sentence="d: gone"),),
    }
    return Montage(**{**known, **more})


FIT = MontageFit(
    acquisition_id="run1-0a",
    placements=tuple(TilePlacement(tile_id=n, y_px=0, x_px=0) for n in "abc"),
    matches=(),
    residual_px=0.25,
)
BAD = Check(
    name="seams_are_closed",
    passed=False,
    severity=Severity.WARN,
    sentence="seams: 5 px at a-b",
    value=5.0,
)


def record(of: Montage) -> DatasetRecord:
    return dataset_record(
        of,
        FIT,
        url="file:///m.zarr",
        image=IMAGE,
        checks=(BAD,),
        recorded_at=RECORDED,
    )


def test_a_record_keeps_the_schema_and_all_rules() -> None:
    written = content_of(record(montage()))
    assert judge_record(written) == Findings()
    assert written["metadata"]["core"]["imaging_start_date"] == "2026-03-04"
    assert written["metadata"]["technical"]["file_size_bytes"] == 16384
    technical = written["metadata"]["technical"]
    assert [technical[n] for n in ("min", "max", "mean", "std")] == [3, 250, 120.5, 31]
    assert technical["content_sha256"] == "ab" * 32
    assert written["metadata"]["core"]["axes"] == ["y", "x"]
    assert written["metadata"]["technical"]["dimensions_nm"] == [256, 1024]
    assert written["metadata"]["technical"]["levels"][1] == {
        "path": "1",
        "shape": [32, 128],
        "voxel_size_nm": [8, 8],
    }
    assert written["metadata"]["quality"]["completeness_score"] == 0.75
    assert written["metadata"]["quality"]["metrics"]["seams_are_closed"] == 5.0
    assert written["metadata"]["quality"]["validation_errors"] == [
        "d: gone",
        "seams: 5 px at a-b",
    ]


def test_a_montage_that_failed_an_error_needs_review_and_says_why() -> None:
    lost = BAD.model_copy(
        update={"severity": Severity.ERROR, "sentence": "Missing: 1 of 4 tiles"}
    )
    made = dataset_record(
        montage(),
        FIT,
        url="file:///m.zarr",
        image=IMAGE,
        checks=(lost, BAD),
        recorded_at=RECORDED,
    )
    assert made.status is Status.NEEDS_REVIEW
    assert made.metadata.quality.review_reasons == ("Missing: 1 of 4 tiles",)
    assert judge_record(content_of(made)) == Findings()
    assert record(montage()).status is Status.COMPLETE, "a warning alone does not"


def test_the_same_mosaic_gives_the_same_record() -> None:
    assert record(montage()).model_dump_json() == record(montage()).model_dump_json()
    assert record(montage()).id == record_id("acquisition", "run1-0a")
    assert record_id("acquisition", "run1-0a") != record_id("acquisition", "run1-0b")


def test_a_record_has_the_modality_of_its_montage() -> None:
    made = [record(montage(modality=word)) for word in (None, "SEM", "light")]
    assert [each.metadata.core.modality for each in made] == ["EM", "SEM", "light"]
    assert judge_record(content_of(made[2])) == Findings()


def test_what_is_not_known_is_said_and_not_made_up() -> None:
    unknown = record(montage(pixel_nm=None, started_at=None, failures=()))
    assert unknown.created_at == RECORDED
    assert unknown.metadata.core.voxel_size_nm is None
    assert unknown.metadata.quality.validation_errors == (
        "seams: 5 px at a-b",
        "voxel_size_nm is not known",
        "imaging_start_date is not known",
    )


def test_a_time_without_zone_is_taken_as_utc() -> None:
    local = record(montage(started_at=datetime(2026, 3, 4, 5, 6)))
    assert local.created_at == datetime(2026, 3, 4, 5, 6, tzinfo=UTC)


def test_the_levels_are_those_of_the_image(tmp_path: Path) -> None:
    url = str(tmp_path / "m.zarr")
    settings = RenderSettings(chunk_px=16, shard_px=64)
    write_pyramid(
        url,
        (64, 96),
        dtype="uint8",
        render=lambda region: np.zeros([s.stop - s.start for s in region], np.uint8),
        settings=settings,
        name="m",
        product=Product(kind="mosaic", of="a test"),
        fingerprint="1",
    )
    found = mosaic_levels(url, pixel_nm=4.0, options={})
    assert found.shape == (64, 96)
    assert (found.chunk_px, found.shard_px) == ((16, 16), (64, 64))
    assert [level.shape for level in found.levels] == [
        (64, 96),
        (32, 48),
        (16, 24),
        (8, 12),
    ]
    assert found.levels[2].voxel_size_nm == (16, 16)


def test_the_statistics_are_those_of_all_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(5).integers(7, 240, (150, 200), np.uint8)
    found = []
    for shard_px in (64, 128):
        url = str(tmp_path / f"{shard_px}.zarr")
        write_pyramid(
            url,
            pixels.shape,
            dtype="uint8",
            render=lambda region: pixels[region],
            settings=RenderSettings(chunk_px=16, shard_px=shard_px),
            name="m",
            product=Product(kind="mosaic", of="a test"),
            fingerprint="1",
        )
        found.append(mosaic_levels(url, pixel_nm=4.0, options={}).statistics)
    for each in found:
        assert (each.minimum, each.maximum) == (pixels.min(), pixels.max())
        assert each.mean == pytest.approx(pixels.mean(), abs=1e-9)
        assert each.std == pytest.approx(pixels.std(), abs=1e-9)
    assert found[0].histogram == found[1].histogram
